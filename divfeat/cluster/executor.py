"""Ray Tune as the executor of jobs: it places what a source hands out and tells the source what became of it."""

from __future__ import annotations

import logging
import os
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray
import torch
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from divfeat.cluster.spanning import run_spanning
from divfeat.cluster.trial import TrialSpec, run_spec
from divfeat.data.prepare import PreparedData
from divfeat.errors import ConfigError

#: Cores of the process that drives a training spanning workers; it only waits.
DRIVER_CPUS = 0.1
#: Longest wait for a cluster to answer.
_ANSWER_SECONDS = 10.0
#: Times a trial is started again after infrastructure failed.
_RETRIES = 3


class JobSource(Protocol):
    """Hands out trials and hears what becomes of them; called from the driver's one thread."""

    def next(self) -> TrialSpec | None:
        """The next trial, or None when there are no more, or, while `waiting`, none that may start now."""

    @property
    def waiting(self) -> bool:
        """Whether trials are left that others must make room for."""

    def heard(self, key: str, events: Sequence[dict[str, Any]]) -> bool:
        """New epochs of a trial; returns whether it should stop here."""

    def ended(self, key: str, lost: bool) -> None:
        """A trial has ended; `lost` when infrastructure failed for good, else its record is on disk."""

    def stopping(self) -> bool:
        """Whether to start nothing more and stop what runs."""


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

    Raises:
        ConfigError: no cluster at the address, or the trials do not fit on it.
    """

    def __init__(
        self, *, workers: int, cpus: float, gpus: float, address: str | None, storage: Path, max_concurrent: int | None
    ) -> None:
        self.workers, self.cpus, self.gpus, self.storage = workers, cpus, gpus, storage
        self._owns_cluster = not ray.is_initialized()
        if self._owns_cluster:
            _connect(address, spanning=workers > 1)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        offered = [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes]
        try:
            self.concurrent = Capacity(offered, workers, cpus, gpus).concurrency(max_concurrent)
        except ConfigError:
            self.close()
            raise
        self._data: dict[str, ray.ObjectRef] = {}

    def share(self, role: str, data: PreparedData) -> None:
        """Put the images of a role in the object store, once a node, read by every trial without a copy."""
        self._data[role] = ray.put(data)

    def run(self, source: JobSource, role: str) -> None:
        """Run everything `source` hands out on the data of `role`; returns when all have ended or it is stopping."""
        scratch = self.storage / "tune"
        queue = _Queue(source)
        storage, data, spanning = self.storage, [self._data[role]], self.workers > 1

        def trainable(config: dict[str, Any]) -> None:
            spec = TrialSpec.from_json(config["spec"])
            if spanning:
                run_spanning(spec, data[0], storage / "train")
            else:
                run_spec(spec, ray.get(data[0]), tune.report)

        resources = {"cpu": DRIVER_CPUS} if spanning else {"cpu": self.cpus, "gpu": self.gpus}
        tuner = tune.Tuner(
            tune.with_resources(trainable, resources),
            tune_config=tune.TuneConfig(
                search_alg=queue,
                scheduler=_Scheduler(queue),
                num_samples=-1,
                max_concurrent_trials=self.concurrent,
                reuse_actors=not spanning,
            ),
            run_config=tune.RunConfig(
                name="queue",
                storage_path=str(scratch),
                verbose=0,
                stop=_StopAll(source),
                failure_config=tune.FailureConfig(max_failures=_RETRIES),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            ),
        )
        try:
            tuner.fit()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)  # the ledger is the truth; Tune's snapshot is never read

    def close(self) -> None:
        """Leave the cluster, or end the one started here."""
        if self._owns_cluster:
            ray.shutdown()


def _connect(address: str | None, *, spanning: bool) -> None:
    """Start Ray here, or join a cluster. Training over workers needs the dashboard, whose State API frees the placement
    group of a stopped trial; without it the next trial would wait for ever."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
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


class _Unpickled:
    """Pickles as an empty shell: Tune's snapshot, which pickles all it is given, is never read."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Queue(_Unpickled, Searcher):
    """Tune's view of a source: suggestions are trials, results are epochs."""

    def __init__(self, source: JobSource) -> None:
        super().__init__(metric=None, mode=None)
        self.source = source
        self.keys: dict[str, str] = {}
        self.stopped: set[str] = set()

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict, **spec: Any) -> bool:
        """Nothing to take over: objectives are the source's business."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next trial."""
        if self.source.stopping():
            return Searcher.FINISHED
        spec = self.source.next()
        if spec is None:
            return None if self.source.waiting else Searcher.FINISHED  # None: Tune asks again
        self.keys[trial_id] = spec.key
        return {"spec": spec.to_json()}

    def heard(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Called by the scheduler, which alone may stop a trial."""
        events = result.get("events") or []
        return self.source.heard(self.keys[trial_id], events)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial has ended, whichever way."""
        self.source.ended(self.keys[trial_id], lost=bool(error))

    def save(self, checkpoint_path: str) -> None:
        """Tune's snapshot holds nothing of ours."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""


class _Scheduler(_Unpickled, FIFOScheduler):
    """Asks the source after every report whether the trial goes on."""

    def __init__(self, queue: _Queue) -> None:
        super().__init__()
        self.queue = queue

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Stop or continue."""
        stop = self.queue.heard(trial.trial_id, result)
        return TrialScheduler.STOP if stop else TrialScheduler.CONTINUE


class _StopAll(_Unpickled, Stopper):
    """Ends what runs once the source is stopping; checkpoints stay."""

    def __init__(self, source: JobSource) -> None:
        self.source = source

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Single trials are the scheduler's business."""
        return False

    def stop_all(self) -> bool:
        """Whether everything ends."""
        return self.source.stopping()
