"""Ray as the executor of jobs: it places what a source hands out and tells the source what became of it."""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from divfeat.cluster.pool import Pool
from divfeat.cluster.source import JobSource
from divfeat.data.prepare import PreparedData
from divfeat.errors import ConfigError

#: Cores of the process that drives a training spanning workers; it only waits.
DRIVER_CPUS = 0.1
#: Longest wait for a cluster to answer.
_ANSWER_SECONDS = 10.0


@dataclass(frozen=True)
class Capacity:
    """What the nodes offer and one trial takes.

    Attributes:
        nodes: (CPUs, GPUs) of each node; a worker lies on one node, the workers of a trial may lie on several.
        workers: Of one trial.
        cpus: Of each worker.
        gpus: Of each worker.
    """

    nodes: Sequence[tuple[float, float]]
    workers: int
    cpus: float
    gpus: float

    @property
    def trials(self) -> int:
        """How many trials fit at a time; trials over several workers also need a place for the process that drives them."""
        room = [self._workers_on(*node) for node in self.nodes]
        for trials in range(sum(room) // self.workers, 0, -1):
            left, drivers = trials * self.workers, 0
            for (cpus, _), fit in zip(self.nodes, room, strict=True):
                placed = min(fit, left)
                left -= placed
                drivers += int((cpus - placed * self.cpus + 1e-6) // DRIVER_CPUS)
            if self.workers == 1 or drivers >= trials:
                return trials
        return 0

    def _workers_on(self, cpus: float, gpus: float) -> int:
        fits = [int((cpus + 1e-6) // self.cpus)]
        if self.gpus:
            fits.append(int((gpus + 1e-6) // self.gpus))
        return min(fits)

    def concurrency(self, asked: int | None) -> int:
        """Trials at a time.

        Args:
            asked: By the user; None takes what fits.

        Raises:
            ConfigError: not one trial fits, or not as many as were asked for.
        """
        each = f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"
        needs = (
            f"a trial takes {each}"
            if self.workers == 1
            else (f"a trial takes {self.workers} workers of {each} and {DRIVER_CPUS:g} CPU to drive them")
        )
        has = "the nodes have " + ", ".join(f"{cpus:g} CPUs and {gpus:g} GPUs" for cpus, gpus in self.nodes)
        if self.trials < 1:
            raise ConfigError(
                f"no trial fits: {needs}, {has}; lower --workers-per-trial, --gpus-per-worker or execution.cpus_per_worker"
            )
        if asked is not None and asked > self.trials:
            raise ConfigError(f"--max-concurrent {asked} does not fit: {needs}, {has}; at most {self.trials} fit")
        return asked or self.trials


def this_machine() -> tuple[float, float]:
    """CPUs and GPUs that Ray would find here."""
    return float(len(os.sched_getaffinity(0))), float(torch.cuda.device_count())


class RayExecutor:
    """A connection to Ray that runs one queue of jobs after another.

    Args:
        workers: Workers of one trial.
        cpus: Cores of each worker.
        gpus: GPUs of each worker.
        address: Of a running cluster, or None to start one here.
        storage: Folder for Ray's own files of this study.
        max_concurrent: Trials at a time; None takes what fits.
        progress_timeout: Seconds of silence after which a trial is taken to hang; None follows what is heard.

    Raises:
        ConfigError: no cluster at the address, or the trials do not fit on it.
    """

    def __init__(
        self,
        *,
        workers: int,
        cpus: float,
        gpus: float,
        address: str | None,
        storage: Path,
        max_concurrent: int | None,
        progress_timeout: float | None = None,
    ) -> None:
        self.workers, self.cpus, self.gpus, self.storage = workers, cpus, gpus, storage
        self.progress_timeout = progress_timeout
        self._owns_cluster = not ray.is_initialized()
        self._pool: Pool | None = None
        if self._owns_cluster:
            _connect(address, spanning=workers > 1)
        elif workers > 1 and not ray.init(ignore_reinit_error=True).dashboard_url:
            raise ConfigError(
                "Ray was started in this process before, without its dashboard, without which trials over several workers would "
                "wait for ever; call ray.shutdown() first, or use --workers-per-trial 1"
            )
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        offered = [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes]
        try:
            self.concurrent = Capacity(offered, workers, cpus, gpus).concurrency(max_concurrent)
        except ConfigError:
            self.close()
            raise
        self._data: dict[str, ray.ObjectRef] = {}
        if workers == 1:
            self._pool = Pool(self.concurrent, cpus, gpus, progress_timeout)

    def begin(self) -> None:
        """Start the processes of trials ahead of the first one, while the driver has other things to do."""
        if self._pool is not None:
            self._pool.begin()

    def share(self, role: str, data: PreparedData) -> None:
        """Put the images of a role in the object store, once a node, read by every trial without a copy."""
        self._data[role] = ray.put(data)

    def run(self, source: JobSource, role: str) -> None:
        """Run everything `source` hands out on the data of `role`; returns when all have ended or it is stopping."""
        if self._pool is not None:
            self._pool.run(source, self._data[role])
            return
        from divfeat.cluster.tuner import run_over_workers  # Tune and Train take a second to import

        run_over_workers(
            source,
            self._data[role],
            self.storage,
            concurrent=self.concurrent,
            driver_cpus=DRIVER_CPUS,
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
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    try:
        if address is None:
            # "local": without it Ray would join any cluster that runs on this machine.
            context = ray.init(address="local", include_dashboard=spanning, **settings)
        else:
            _check_answers(address)
            context = ray.init(address=address, runtime_env={"env_vars": variables}, **settings)
    except (ConnectionError, ValueError, RuntimeError) as error:
        place = f"--address {address}" if address else "starting Ray on this machine"
        raise ConfigError(f"{place}: {error}; leave --address out to run on this machine") from error
    if spanning and not context.dashboard_url:
        ray.shutdown()
        raise ConfigError(
            f"--address {address}: this cluster has no dashboard, without which trials over several workers would wait for "
            "ever; start it with the dashboard, or use --workers-per-trial 1"
        )


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
