"""Ray as the executor of jobs: it places what a source hands out and tells the source what became of it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray

from divfeat import environment
from divfeat.cluster.autoscaler import WAIT_SECONDS, Autoscaler, find_autoscaler, wait_for_trial
from divfeat.cluster.capacity import DRIVER_RESOURCE, SMALLER, Capacity
from divfeat.cluster.pool import Pool
from divfeat.cluster.source import JobSource
from divfeat.cluster.stall import STALL_SECONDS, Stall
from divfeat.data.prepare import PreparedData
from divfeat.errors import ConfigError
from divfeat.provenance import COMMIT_VARIABLE, commit
from divfeat.storage import Store

#: Where Ray tells a process that `ray job submit` started what it was submitted with.
_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
#: Longest wait for a cluster to answer.
_ANSWER_SECONDS = 10.0


class RayExecutor:
    """A connection to Ray that runs one queue of jobs after another.

    Args:
        workers: Workers of one trial.
        fewest: With which a trial goes on while there is no place for all of them; None waits for all.
        cpus: Cores of each worker.
        gpus: GPUs of each worker.
        address: Of a running cluster, or None to start one here.
        storage: The study's folder, or its store, for Ray's own files of it.
        max_concurrent: Trials at a time; None takes what fits, with all nodes that an autoscaler may add.
        wait_for_nodes: Seconds to wait for the place of a first trial; None is `WAIT_SECONDS` under an autoscaler, else 0.
        progress_timeout: Seconds of silence after which a trial is taken to hang; None follows what is heard.

    Attributes:
        concurrent: Trials at a time.

    Raises:
        ConfigError: no cluster at the address, or the trials do not fit on it, whatever its autoscaler may add.
    """

    def __init__(
        self,
        *,
        workers: int,
        cpus: float,
        gpus: float,
        address: str | None,
        storage: Path | Store,
        max_concurrent: int | None,
        wait_for_nodes: float | None = None,
        progress_timeout: float | None = None,
        fewest: int | None = None,
    ) -> None:
        self.workers, self.cpus, self.gpus, self.storage, self.fewest = workers, cpus, gpus, storage, fewest
        self.progress_timeout = progress_timeout
        self._owns_cluster = not ray.is_initialized()
        self._pool: Pool | None = None
        self._scaler: Autoscaler | None = None
        if self._owns_cluster:
            _connect(address, spanning=workers > 1)
        elif workers > 1 and not ray.init(ignore_reinit_error=True).dashboard_url:
            raise ConfigError(
                "Ray was started in this process before, without its dashboard, without which trials over several workers would "
                "wait for ever; call ray.shutdown() first, or use --workers-per-trial 1"
            )
        if address is not None or not self._owns_cluster:
            self._scaler = find_autoscaler()
        self._wait_seconds = (WAIT_SECONDS if self._scaler else 0.0) if wait_for_nodes is None else wait_for_nodes
        self._stall_seconds = self._wait_seconds if self._scaler or wait_for_nodes is not None else STALL_SECONDS
        self._say: Callable[[str], None] = lambda text: None
        try:
            self.concurrent = self._concurrency(max_concurrent)
        except ConfigError:
            self.close()
            raise
        self._data: dict[str, ray.ObjectRef] = {}
        if workers == 1:
            self._pool = Pool(self.concurrent, cpus, gpus, progress_timeout)

    def capacity(self, *, head_only: bool = False) -> Capacity:
        """What the nodes that there are now offer, and one trial takes."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        places = [int(node[DRIVER_RESOURCE]) for node in nodes if DRIVER_RESOURCE in node]
        counted = [node for node in nodes if not head_only or "node:__internal_head__" in node]
        offered = [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in counted]
        return Capacity(offered, self.workers, self.cpus, self.gpus, sum(places) if places else None, self.fewest)

    def _concurrency(self, asked: int | None) -> int:
        now = self.capacity()
        if self._scaler is None and (not self._wait_seconds or now.trials):
            return now.concurrency(asked)
        if self._scaler is None or not self._scaler.types:  # nobody knows which nodes may come
            return asked or max(1, now.trials)
        most = max(now.trials, self.capacity(head_only=True).with_more(self._scaler.nodes).trials)
        if most < (asked or 1):
            what = "no trial fits" if most < 1 else f"--max-concurrent {asked} does not fit"
            raise ConfigError(
                f"{what}: {now.needs}, {now.has}, beside {self._scaler}; "
                + (f"at most {most} fit" if most else f"{SMALLER}, or give the cluster larger nodes")
            )
        return asked or most

    def wait(self, say: Callable[[str], None], stopping: Callable[[], bool]) -> None:
        """Wait until there is a place for one trial, which an autoscaler makes.

        Args:
            say: Told what is missing, now and then.
            stopping: Whether to wait no longer.

        Raises:
            ConfigError: none in time, with what is missing.
        """
        self._say = say
        if self.capacity().trials < 1:
            wait_for_trial(self.capacity, self._scaler, self._wait_seconds, say, stopping)

    def begin(self) -> None:
        """Start the processes of trials ahead of the first one, as many as there is room for now."""
        if self._pool is not None:
            self._pool.begin(min(self.concurrent, max(1, self.capacity().trials)))

    def share(self, role: str, data: PreparedData) -> None:
        """Put the images of a role in the object store, once a node, read by every trial without a copy."""
        self._data[role] = ray.put(data)

    def run(self, source: JobSource, role: str) -> None:
        """Run everything `source` hands out on the data of `role`; returns when all have ended, it is stopping, or no trial has
        had a place for as long as one is waited for."""
        stall = Stall(self.capacity, self._scaler, self._stall_seconds, self._say)
        if self._pool is not None:
            self._pool.run(source, self._data[role], stall)
            return
        from divfeat.cluster.tuner import run_over_workers  # Tune and Train take a second to import

        run_over_workers(
            source,
            self._data[role],
            self.storage,
            concurrent=self.concurrent,
            driver=self.capacity().bundles[-1],
            stall=stall,
            progress_timeout=self.progress_timeout,
        )

    def node_types(self) -> dict[str, int]:
        """Node type, as the cluster's file calls it -> nodes that are there; `local` for those without a type."""
        kinds = (node.get("Labels", {}).get("ray.io/node-group") or "local" for node in ray.nodes() if node["Alive"])
        return dict(Counter(kinds))

    def close(self) -> None:
        """Leave the cluster, or end the one started here."""
        if self._pool is not None:
            self._pool.close()
        if self._owns_cluster:
            ray.shutdown()


def _connect(address: str | None, *, spanning: bool) -> None:
    """Start Ray here, or join a cluster. Training over workers needs the dashboard, whose State API frees the placement
    group of a stopped trial; without it the next trial would wait for ever."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Not yet the default everywhere, and announced: a trial that asks for no GPU sees the machine as it is.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    settings: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    variables = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    if (found := commit()) != "unknown":
        variables[COMMIT_VARIABLE] = found  # other nodes may have the code without its history
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    try:
        if address is None:
            # "local": without it Ray would join any cluster that runs on this machine.
            with _loopback():
                context = ray.init(address="local", include_dashboard=spanning, **settings)
        else:
            _check_answers(address)
            context = ray.init(address=address, runtime_env={"env_vars": _not_sent(variables)}, **settings)
    except (ConnectionError, ValueError, RuntimeError) as error:
        place = f"--address {address}" if address else "starting Ray on this machine"
        raise ConfigError(f"{place}: {error}; leave --address out to run on this machine") from error
    if spanning and not context.dashboard_url:
        ray.shutdown()
        raise ConfigError(
            f"--address {address}: this cluster has no dashboard, without which trials over several workers would wait for "
            "ever; start it with the dashboard, or use --workers-per-trial 1"
        )


def _not_sent(variables: dict[str, str]) -> dict[str, str]:
    """Without those that `ray job submit` was told to set: Ray refuses a variable that is given twice."""
    job = json.loads(os.environ.get(_JOB, "{}"))
    sent = (job.get("runtime_env") or {}).get("env_vars") or {}
    return {name: value for name, value in variables.items() if name not in sent}


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """Have Ray listen on the loopback interface alone: otherwise all of its servers are open to the network.

    It does so by itself on systems on which it makes no clusters of several machines, which one started for a study is not
    either; there is no other switch. Whoever sets the variable keeps what it says.
    """
    constants = ray._private.ray_constants
    name = constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before = constants.ENABLE_RAY_CLUSTER
    if name not in os.environ:
        constants.ENABLE_RAY_CLUSTER = False
    try:
        with environment.defaults({name: "0"}):
            yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


def _check_answers(address: str) -> None:
    """Refuse an address where nothing listens: Ray itself would wait for minutes.

    Raises:
        ConnectionError: with the reason; not for names such as `auto`, which Ray looks up.
    """
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(f"nothing answers there ({error})") from error
