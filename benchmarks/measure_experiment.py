"""An experiment's wall time, as a trial runs it, beside the bare forward, backward and optimizer steps of its training.

Ours is everything from the start of the run in MLflow to its end there: order, augmentation, normalisation, metrics of each
epoch, collapse at log-spaced epochs, checkpoint, event log, features, probes, record, tracking in an sqlite file. The bare
loop has the same network, objective, optimizer and sizes of batches, on batches that lie there normalised.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.made import prepared
from benchmarks.rows import Row, paired, with_processor
from divfeat.config import DataConfig, ExperimentConfig, MethodConfig, ModelConfig, ThresholdSpec, TrainConfig
from divfeat.data.prepare import PreparedData, prepare
from divfeat.experiment import build
from divfeat.models import Taps
from divfeat.study_config import SearchConfig

REPEATS = 3
GOAL = 1.05
Heard = Callable[[Sequence[Mapping[str, Any]]], None]
_GATE = MethodConfig(
    name="hinge_ce", release="gate", thresholds=ThresholdSpec(family="global", angles={"tau": math.radians(65)})
)


class Tracked:
    """A study's ledger and its MLflow file, in a folder of its own; made once, as a study does.

    Args:
        folder: Empty.
    """

    def __init__(self, folder: Path) -> None:
        from divfeat.search.followers import TrackingFollower
        from divfeat.search.ledger import Ledger
        from divfeat.tracking import Tracker

        self.ledger = Ledger(folder)
        tracker = Tracker.open(folder, "benchmark")
        tracker.study_run({})
        self.follower = TrackingFollower(tracker, self.ledger, SearchConfig())

    def run(self, config: ExperimentConfig, data: PreparedData, heard: Heard = lambda events: None) -> float:
        """One experiment, as trial and driver run it together; here they take turns on one thread.

        Args:
            config: Of the role `search`.
            data: Its images.
            heard: Told the epochs that the driver is told.

        Returns:
            Seconds of its training steps alone, with order, augmentation and the metrics of each epoch.
        """
        from divfeat.cluster.trial import TrialSpec, run_spec
        from divfeat.search.jobs import Job

        job = Job(config, "search", "benchmark", number=config.seed)
        folder, stages = self.ledger.run_folder(job.key), self.ledger.stages
        spec = TrialSpec(job.key, config.to_dict(), str(folder), str(stages), cpus=torch.get_num_threads())

        def report(word: Mapping[str, Any]) -> None:
            if word["events"]:
                self.follower.heard(job, word["events"])
                heard(word["events"])

        self.follower.started(job)
        run_spec(spec, data, report)
        record = self.ledger.record(job.key)
        assert record is not None and record["status"] == "completed", record
        self.follower.finished(job, record, fresh=True)
        return float(record["provenance"]["training_seconds"])


def batches_of(config: ExperimentConfig, data: PreparedData) -> list[tuple[Tensor, Tensor]]:
    """An epoch's batches as the bare loop takes them: normalised float32 images and labels."""
    learner, _ = build(config, data)
    steps = -(-len(data.train) // config.train.batch_size)
    images, labels = torch.tensor(data.train.images), torch.tensor(data.train_labels)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return [
        (learner.extractor.normalise(images[rows]).contiguous(memory_format=torch.channels_last), labels[rows])
        for rows in order.tensor_split(steps)
    ]


def bare(config: ExperimentConfig, data: PreparedData, batches: list[tuple[Tensor, Tensor]]) -> None:
    """The steps alone, as many as `config` takes."""
    learner, method = build(config, data)
    learner.to(memory_format=torch.channels_last)
    extractor, head, objective = learner.extractor, learner.head, method.objective
    train = config.train
    optimizer = torch.optim.SGD(
        learner.parameters(),
        lr=train.lr,
        momentum=train.momentum,
        nesterov=train.nesterov,
        weight_decay=train.weight_decay,
        fused=True,
    )
    learner.train()
    for _ in range(train.epochs):
        for images, labels in batches:
            before = extractor.backbone(images)
            outputs = head(Taps(before, before if extractor.projector is None else extractor.projector(before)))
            loss = objective(outputs.features, outputs.logits, labels).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()


def cases(small: bool) -> Iterator[tuple[str, ExperimentConfig, PreparedData]]:
    """What is run, by name."""
    epochs = 2 if small else 30
    digits = DataConfig(source="digits", train_level="coarse", probe_level="fine", val_per_class=36)
    yield (
        "digits_cnn on digits",
        ExperimentConfig(
            data=digits,
            model=ModelConfig(backbone="digits_cnn"),
            method=_GATE,
            train=TrainConfig(epochs=epochs, batch_size=64),
        ),
        prepare(digits, "search"),
    )
    data = prepared(100 if small else 1500, 100 if small else 500)
    yield (
        "resnet8 on 32x32",
        ExperimentConfig(
            data=data.config,
            model=ModelConfig(backbone="resnet8"),
            method=_GATE,
            train=TrainConfig(epochs=epochs, batch_size=128, augment="crop_flip"),
        ),
        data,
    )


def measure(repeats: int, small: bool) -> Iterator[Row]:
    """Two rows a network: the whole experiment, and its training steps alone with what the loop does around them."""
    for name, config, data in cases(small):
        batches = batches_of(config, data)
        loops: list[float] = []
        own_processor: list[float] = []
        bare_processor: list[float] = []
        seeds = iter(range(10_000))
        with tempfile.TemporaryDirectory() as folder:
            study = Tracked(Path(folder))
            short = config.model_copy(update={"train": config.train.model_copy(update={"epochs": 1})})
            study.run(short, data)  # imports, and the first use of what is made once
            bare(short, data, batches)

            def ours(study: Tracked = study, config: ExperimentConfig = config, data: PreparedData = data) -> float:
                own = config.model_copy(update={"seed": next(seeds)})  # noqa: B023 - called before the next case
                return with_processor(lambda: loops.append(study.run(own, data)), own_processor)  # noqa: B023

            times = repeats if config.data.source == "digits" else (repeats + 1) // 2
            pairs = paired(
                ours,
                lambda config=config, data=data, batches=batches, kept=bare_processor: with_processor(  # type: ignore[misc]
                    lambda: bare(config, data, batches), kept
                ),
                times,
                warm_up=False,
            )
        setting = {
            "epochs": config.train.epochs,
            "images": len(data.train),
            "validation_images": len(data.evaluation),
            "batch_size": config.train.batch_size,
            "augment": config.train.augment,
            "threads": torch.get_num_threads(),
        }
        peer = "the same steps, bare"
        yield Row("experiment", name, peer, "s", pairs, "share", goal=GOAL, setting=setting)
        loop = [(own, other) for own, (_, other) in zip(loops, pairs, strict=True)]
        processor = list(zip(own_processor, bare_processor, strict=True))
        yield Row("experiment, processor time", name, peer, "s", processor, "share", setting=setting)
        yield Row("training loop in it", name, peer, "s", loop, "share", goal=GOAL, setting=setting)
