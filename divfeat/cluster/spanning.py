"""One experiment over several workers: Ray Train around the same `run_spec` that a single worker calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
from ray import train
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from divfeat.cluster.trial import TrialSpec, run_spec
from divfeat.config import ExperimentConfig

#: Words to the driver over a whole training: every rank must report equally often, so the clock cannot decide.
_REPORTS = 20


def worker_loop(settings: dict[str, Any]) -> None:
    """What Ray Train runs on every rank."""
    spec = TrialSpec.from_json(settings["spec"])
    epochs = ExperimentConfig.model_validate(spec.experiment).train.epochs
    data = ray.get(settings["data"])
    rank = train.get_context().get_world_rank()
    run_spec(spec, data, train.report, rank=rank, every_epochs=max(1, epochs // _REPORTS))


def run_spanning(spec: TrialSpec, data: ray.ObjectRef, storage: Path) -> None:
    """Run `spec` on `spec.workers` workers and wait; reports travel to Tune through Ray Train.

    Raises:
        TrainingFailedError: the workers were lost; a retry goes on from the checkpoint.
    """
    resources = {"CPU": spec.cpus} | ({"GPU": spec.gpus} if spec.gpus else {})
    trainer = TorchTrainer(
        worker_loop,
        train_loop_config={"spec": spec.to_json(), "data": data},
        scaling_config=train.ScalingConfig(
            num_workers=spec.workers, use_gpu=spec.gpus > 0, resources_per_worker=resources
        ),
        run_config=train.RunConfig(
            name=f"train_{spec.key}",
            storage_path=str(storage),
            failure_config=train.FailureConfig(max_failures=0),
            callbacks=[TuneReportCallback()],  # type: ignore[list-item]
        ),
    )
    try:
        trainer.fit()
    except Exception:
        if not (Path(spec.folder) / "record.json").exists():
            raise  # infrastructure: Tune retries
