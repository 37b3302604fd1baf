"""One experiment over several workers: Ray Train around the same `run_spec` that a single worker calls."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import Any

import ray
from ray import train
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from divfeat.cluster.faults import Attempts, Patience, fault_from
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
    run_spec(spec, data, train.report, rank=rank, every_epochs=max(1, epochs // _REPORTS))


def run_spanning(
    spec: TrialSpec, data: ray.ObjectRef, storage: Mapping[str, Any], progress_timeout: float | None = None
) -> None:
    """Run `spec` on `spec.workers` workers and wait; reports travel to Tune through Ray Train.

    Workers that are lost begin again from the checkpoint, a while later each time. Workers that hang end this process, which
    Tune begins again.

    Args:
        spec: What to run.
        data: Images in the object store.
        storage: For Ray Train's own files, see `divfeat.cluster.place.ray_storage`.
        progress_timeout: Seconds of silence after which the workers are taken to hang; None follows what is heard.

    Raises:
        TrainingFailedError: the workers were lost again and again without getting further.
    """
    resources = {"CPU": spec.cpus} | ({"GPU": spec.gpus} if spec.gpus else {})
    run, attempts = Outside(spec.folder, spec.store), Attempts()
    threading.Thread(target=_end_if_hung, args=(run, Patience(progress_timeout)), daemon=True).start()
    while True:
        trainer = TorchTrainer(
            worker_loop,
            train_loop_config={"spec": spec.to_json(), "data": data},
            scaling_config=train.ScalingConfig(
                num_workers=spec.workers, use_gpu=spec.gpus > 0, resources_per_worker=resources
            ),
            run_config=train.RunConfig(
                name=f"train_{spec.key}",
                **storage,
                failure_config=train.FailureConfig(max_failures=0),
                callbacks=[TuneReportCallback()],  # type: ignore[list-item]
            ),
        )
        try:
            trainer.fit()
            return
        except Exception as error:
            if run.recorded():
                return  # the trial's own fault: its record says so
            fault = fault_from(error)
            run.note_fault(fault.kind, fault.cause)
            attempts.reached(spec.key, run.epochs())
            pause = attempts.lost(spec.key, fault)
            if pause is None:
                raise
        time.sleep(pause)


def _end_if_hung(run: Outside, patience: Patience) -> None:
    """End this process when the workers' event log has not grown for long."""
    seen, at = -1, time.monotonic()
    while not run.recorded():
        time.sleep(_WATCH_SECONDS if run.store is None else _WATCH_STORE_SECONDS)
        size = run.said()
        if size != seen:
            if seen > 0:
                patience.heard(time.monotonic() - at)
            seen, at = size, time.monotonic()
        elif time.monotonic() - at > patience.seconds:
            run.note_fault("hung", f"no epoch for {time.monotonic() - at:.0f} s")
            os._exit(1)
