"""Ray Tune as the executor of trials that span workers: each is a Ray Train run, which a Tune trial drives."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from divfeat import environment
from divfeat.cluster.faults import Fault
from divfeat.cluster.place import Outside, ray_storage
from divfeat.cluster.source import JobSource
from divfeat.cluster.spanning import run_spanning
from divfeat.cluster.stall import Stall
from divfeat.cluster.trial import TrialSpec
from divfeat.errors import StorageLostError
from divfeat.storage import Store

_TUNE_FOLDER = "tune"
#: Processes that drive one trial, one after another: what its workers suffer is counted by them, from the last that got further.
_DRIVERS = 30

#: What Tune is told while it runs: no files of its own, no hand on SIGINT, nothing printed.
_TUNE = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_SIGINT_HANDLER": "1", "RAY_AIR_NEW_OUTPUT": "0"}


def run_over_workers(
    source: JobSource,
    data: ray.ObjectRef,
    storage: Path | Store,
    *,
    concurrent: int,
    driver: Mapping[str, float],
    stall: Stall,
    progress_timeout: float | None = None,
) -> None:
    """Run everything `source` hands out on `data`; returns when all have ended or it is stopping.

    Args:
        source: Of the trials.
        data: Images in the object store.
        storage: The study's folder, or its store, for Ray's own files of it.
        concurrent: Trials at a time.
        driver: Resources of the process that drives a trial: where a cluster has safe nodes, those of a safe node.
        stall: Says when no trial has a place.
        progress_timeout: Seconds of silence after which a trial is taken to hang; None follows what is heard.
    """
    trains = ray_storage(storage, "train")
    since = time.time()
    queue = _Queue(source, since)
    held = [data]

    def trainable(config: dict[str, Any]) -> None:
        run_spanning(TrialSpec.from_json(config["spec"]), held[0], trains, progress_timeout, since)

    tuner = tune.Tuner(
        tune.with_resources(trainable, tune.PlacementGroupFactory([dict(driver)])),
        tune_config=tune.TuneConfig(
            search_alg=queue, scheduler=_Scheduler(queue), num_samples=-1, max_concurrent_trials=concurrent
        ),
        run_config=tune.RunConfig(
            name="queue",
            **ray_storage(storage, _TUNE_FOLDER),
            verbose=0,
            progress_reporter=_Silent(),
            stop=_StopAll(source, queue, stall),
            failure_config=tune.FailureConfig(max_failures=_DRIVERS),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
        ),
    )
    try:
        with environment.defaults(_TUNE):  # put back: a notebook may have other business with Tune
            tuner.fit()
    finally:
        _remove(storage)


def _remove(storage: Path | Store) -> None:
    """What Tune leaves: the ledger is the truth, and its snapshot is never read."""
    if isinstance(storage, Path):
        shutil.rmtree(storage / _TUNE_FOLDER, ignore_errors=True)
        return
    with contextlib.suppress(StorageLostError):  # who needs the storage will say so
        storage.delete_prefix(_TUNE_FOLDER)


class _Silent(tune.ProgressReporter):
    """Reports nothing: Tune's own choice in a notebook clears the cell and leaves an empty output for each queue."""

    def should_report(self, trials: Any, done: bool = False) -> bool:
        """Never."""
        return False

    def report(self, trials: Any, done: bool, *system: Any) -> None:
        """Nothing."""


class _Unpickled:
    """Pickles as an empty shell: Tune's snapshot, which pickles all it is given, is never read."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Queue(_Unpickled, Searcher):
    """Tune's view of a source: suggestions are trials, results are epochs."""

    def __init__(self, source: JobSource, since: float = 0.0) -> None:
        super().__init__(metric=None, mode=None)
        self.source, self.since = source, since
        self.keys: dict[str, str] = {}
        self.runs: dict[str, Outside] = {}
        self.placed: set[str] = set()  # that have spoken

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
        self.runs[trial_id] = Outside(spec.folder, spec.store)
        return {"spec": spec.to_json()}

    def heard(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Called by the scheduler, which alone may stop a trial."""
        events = result.get("events") or []
        if trial_id not in self.placed:  # its workers have their places from their first word at the latest
            self.placed.add(trial_id)
            self.source.placed(self.keys[trial_id])
        return self.source.heard(self.keys[trial_id], events)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial has ended, whichever way."""
        given_up = [
            row for row in self.runs.pop(trial_id).faults() if row.get("given_up") and row["time"] >= self.since
        ]
        lost = Fault("worker", "the process that drives its workers was lost again and again") if error else None
        if given_up:
            lost = Fault(given_up[-1]["kind"], given_up[-1]["cause"])
        self.placed.discard(trial_id)
        self.source.ended(self.keys[trial_id], lost)

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

    def __init__(self, source: JobSource, queue: _Queue, stall: Stall) -> None:
        self.source, self.queue, self.stall = source, queue, stall

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Single trials are the scheduler's business."""
        return False

    def stop_all(self) -> bool:
        """Whether everything ends."""
        if (stuck := self.stall.look(self._any_placed)) is not None:
            self.source.stuck(stuck)
        return self.source.stopping()

    def _any_placed(self) -> bool:
        """Workers that are lost later are told by their process alone, which waits for others: then the nodes are counted."""
        return not self.queue.runs or bool(self.queue.placed and self.stall.capacity().trials)
