"""One experiment over several workers: Ray Train around the same `run_spec` that a single worker calls."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import train
from ray.train import UserCallback
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.tune.integration.ray_train import TuneReportCallback

from divfeat.cluster.faults import Attempts, Fault, Patience, fault_from
from divfeat.cluster.place import Outside
from divfeat.cluster.trial import TrialSpec, run_spec
from divfeat.config import ExperimentConfig

#: Words to the driver over a whole training: every rank must report equally often, so the clock cannot decide.
_REPORTS = 20
#: How often to look whether they still speak: in a folder, in a store.
_WATCH_SECONDS, _WATCH_STORE_SECONDS = 1.0, 10.0


def worker_loop(settings: dict[str, Any]) -> None:
    """What Ray Train runs on every rank."""
    spec = TrialSpec.from_json(settings["spec"])
    epochs = ExperimentConfig.model_validate(spec.experiment).train.epochs
    data = ray.get(settings["data"])
    rank = train.get_context().get_world_rank()
    train.report({"key": spec.key, "events": []})  # they have their places
    run_spec(spec, data, train.report, rank=rank, every_epochs=max(1, epochs // _REPORTS))


def run_spanning(
    spec: TrialSpec,
    data: ray.ObjectRef,
    storage: Mapping[str, Any],
    progress_timeout: float | None = None,
    since: float = 0.0,
) -> None:
    """Run `spec` on `spec.workers` workers and wait; reports travel to Tune through Ray Train.

    Workers that are lost begin again from the checkpoint, a while later each time; where `spec.fewest` allows it, with as many as
    have a place, and with more as soon as there is one. Workers that hang end this process, which Tune begins again. A trial that
    is lost again and again without getting further is given up, which its last fault says: this returns.

    Args:
        spec: What to run.
        data: Images in the object store.
        storage: For Ray Train's own files, see `divfeat.cluster.place.ray_storage`.
        progress_timeout: Seconds of silence after which the workers are taken to hang; None follows what is heard.
        since: Wall clock from which faults count: those of earlier sessions are forgiven.
    """
    run, attempts = Outside(spec.folder, spec.store), Attempts()
    for row in run.faults():  # of processes before this one
        if row["time"] >= since:
            attempts.reached(spec.key, row.get("epochs", 0))
            if attempts.lost(spec.key, fault := Fault(row["kind"], row["cause"])) is None:
                run.note_fault(fault.kind, fault.cause, epochs=run.epochs(), given_up=True)
                return
    with tempfile.TemporaryDirectory(prefix="divfeat-") as folder:
        begun = Path(folder) / "begun"
        threading.Thread(target=_end_if_hung, args=(run, Patience(progress_timeout), begun), daemon=True).start()
        _until_done(spec, data, storage, run, attempts, begun)


def _until_done(
    spec: TrialSpec, data: ray.ObjectRef, storage: Mapping[str, Any], run: Outside, attempts: Attempts, begun: Path
) -> None:
    resources = {"CPU": spec.cpus} | ({"GPU": spec.gpus} if spec.gpus else {})
    while True:
        trainer = TorchTrainer(
            worker_loop,
            train_loop_config={"spec": spec.to_json(), "data": data},
            scaling_config=train.ScalingConfig(
                use_gpu=spec.gpus > 0, resources_per_worker=resources, **_number_of_workers(spec)
            ),
            run_config=train.RunConfig(
                name=f"train_{spec.key}",
                **storage,
                failure_config=train.FailureConfig(max_failures=0),
                callbacks=[TuneReportCallback(), _Begun(begun), _Ended(begun)],  # type: ignore[list-item]
            ),
        )
        try:
            trainer.fit()
            return
        except Exception as error:
            if run.recorded():
                return  # the trial's own fault: its record says so
            fault, epochs = fault_from(error), run.epochs()
            attempts.reached(spec.key, epochs)
            pause = attempts.lost(spec.key, fault)
            run.note_fault(fault.kind, fault.cause, epochs=epochs, **({"given_up": True} if pause is None else {}))
            if pause is None:
                return
        begun.unlink(missing_ok=True)
        time.sleep(pause)


def _number_of_workers(spec: TrialSpec) -> dict[str, Any]:
    if spec.fewest in (None, spec.workers):
        return {"num_workers": spec.workers}
    # Growing costs what came after the last checkpoint.
    return {
        "num_workers": (spec.fewest, spec.workers),
        "elastic_resize_monitor_interval_s": 2 * spec.checkpoint_seconds,
    }


class _Begun(UserCallback):
    """Notes that all workers are there; Ray runs it on the node of the process that waits for them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """A word of theirs."""
        self.path.touch()


class _Ended(WorkerGroupCallback):
    """Notes that they are not: Ray Train begins groups anew by itself, to grow or when a node says that it goes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def after_worker_group_shutdown(self, worker_group_context: Any) -> None:
        """They were ended."""
        self.path.unlink(missing_ok=True)

    after_worker_group_abort = after_worker_group_shutdown


def _end_if_hung(run: Outside, patience: Patience, begun: Path) -> None:
    """End this process when the workers' event log has not grown for long; while they have no place, nobody hangs."""
    seen, at = -1, time.monotonic()
    while True:
        time.sleep(_WATCH_SECONDS if run.store is None else _WATCH_STORE_SECONDS)
        if not begun.exists():
            at = time.monotonic()
            continue
        try:
            if run.recorded():
                return
            size = run.said()
        except OSError:  # storage is away: what they wrote cannot be seen
            at = time.monotonic()
            continue
        if size != seen:
            if seen > 0:
                patience.heard(time.monotonic() - at)
            seen, at = size, time.monotonic()
        elif time.monotonic() - at > patience.seconds:
            try:
                run.note_fault("hung", f"no epoch for {time.monotonic() - at:.0f} s", epochs=run.epochs())
            finally:
                os._exit(1)
