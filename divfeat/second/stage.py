"""What a second stage is: from a trained network, the data and its settings to a network with other logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from divfeat.config import ExperimentConfig, TrainConfig
from divfeat.data.batches import Batches
from divfeat.data.prepare import PreparedData
from divfeat.errors import ConfigError
from divfeat.losses.objective import Objective
from divfeat.parts import Parts
from divfeat.pretrain import CHECKPOINT_SECONDS, EpochCallback, Learner, TrainResult, train
from divfeat.seeding import stream_seed
from divfeat.thresholds import ThresholdContext


@dataclass(frozen=True)
class FirstStage:
    """Where a second stage starts: the same on every rank.

    Attributes:
        learner: Trained, in evaluation mode, on its device.
        config: Of the whole experiment; its `train` is the first stage's.
        parts: Resolved settings of the method.
        data: Images of the experiment's role.
        rank: Of this process.
        world: How many there are.
        checkpoint: File of the second stage, written by rank 0 and read if present; None keeps none.
        on_epoch: Called on every rank after each epoch of the second stage.
        fresh: Seed to an untrained network of the same method, on the CPU, with its objective.
        on_checkpoint: Called on rank 0 with the file as soon as it is written.
        checkpoint_seconds: Between two of them.
    """

    learner: Learner
    config: ExperimentConfig
    parts: Parts
    data: PreparedData
    rank: int
    world: int
    checkpoint: Path | None
    on_epoch: EpochCallback | None
    fresh: Callable[[int], tuple[Learner, Objective]]
    on_checkpoint: Callable[[Path], None] | None = None
    checkpoint_seconds: float = CHECKPOINT_SECONDS

    @property
    def device(self) -> torch.device:
        """Of the network."""
        return next(self.learner.parameters()).device

    @property
    def counts(self) -> Tensor:
        """int64 [K] images of each class in the published training set, on the CPU."""
        return torch.as_tensor(self.data.class_counts)

    def seed(self, stream: str) -> int:
        """Of a stream of the second stage, which shares none with the first."""
        return stream_seed(self.config.seed, "second", stream)

    def settings(self, batch_size: int, **changes: Any) -> TrainConfig:
        """The second stage's own training: augmented as the first, unmixed, by default as cRT was published.

        Args:
            batch_size: Published one; no larger than the first stage's, since a small set would be left with few steps.
            changes: Fields of `TrainConfig` that differ.
        """
        settings = {
            "epochs": self.parts.second_epochs,
            "lr": self.parts.second_lr,
            "batch_size": min(batch_size, self.config.train.batch_size),
            "weight_decay": 5e-4,
            "schedule": "cosine",
            "warmup_epochs": 0.0,
            "clip_norm": None,
            "sampling": "balanced",
            "mixup": 0.0,
            "cutmix": 0.0,
        }
        return TrainConfig.model_validate(self.config.train.to_dict() | settings | changes)

    def batches(self, settings: TrainConfig) -> Batches:
        """The training images in an order of the second stage's own."""
        return Batches(
            self.data.train.images,
            self.data.train_labels,
            batch_size=settings.batch_size,
            seed=self.seed("order"),
            sampling=settings.sampling,
            paired=settings.mixes,
            rank=self.rank,
            world=self.world,
            device=self.device,
        )

    def train(self, learner: Learner, objective: Objective, settings: TrainConfig, **options: Any) -> TrainResult:
        """`divfeat.pretrain.train` on this stage's streams and checkpoint.

        Args:
            learner: What learns; parameters that ask for no gradient stay what they are.
            objective: Its loss.
            settings: As `settings` gives them.
            options: Further arguments of `train`; `batches` replaces the usual ones.
        """
        arguments: dict[str, Any] = {
            "batches": self.batches(settings),
            "tau_plus": torch.zeros(len(self.counts), dtype=torch.float64),
        }
        return train(
            learner,
            objective,
            config=settings,
            seed=self.seed("augment"),
            data=self.data.split_hash,
            checkpoint=self.checkpoint,
            on_checkpoint=self.on_checkpoint,
            checkpoint_seconds=self.checkpoint_seconds,
            on_epoch=self.on_epoch,
            **arguments | options,
        )


class SecondStage:
    """Base of the second stages.

    Attributes:
        settings: Fields of `MethodConfig` that it reads, and their published values.
    """

    settings: ClassVar[Mapping[str, Any]] = {}

    def check_parts(self, name: str, frame: bool, parts: Parts) -> None:
        """Refuse a first stage after which this means nothing, or settings that leave nothing of it.

        Args:
            name: Of the method, for the message.
            frame: Whether its axes are frozen.
            parts: Resolved.

        Raises:
            ConfigError: with the reason and the remedy.
        """

    def check(self, config: ExperimentConfig, parts: Parts, classes: ThresholdContext) -> None:
        """Refuse an experiment or classes that it cannot work on, before anything is trained.

        Args:
            config: With the settings of training that its method replaces.
            parts: Of the method.
            classes: Their training images, and their tree.

        Raises:
            ConfigError: with the reason and the remedy.
        """

    def epochs(self, parts: Parts, epochs: int) -> int:
        """How many it adds to the first stage's `epochs`."""
        return parts.second_epochs

    def trainings(self, parts: Parts, epochs: int) -> float:
        """What it costs, roughly, in trainings of the first stage's length.

        Args:
            parts: Resolved.
            epochs: Of the first stage.
        """
        return 0.0

    def run(self, first: FirstStage) -> tuple[Learner, TrainResult]:
        """The network that is scored, and how it was trained (an empty result where nothing was)."""
        raise NotImplementedError


def check_epochs(second: str, parts: Parts) -> None:
    """Refuse to leave out the training of a second stage.

    Raises:
        ConfigError: no epochs.
    """
    if not parts.second_epochs:
        raise ConfigError(
            f"method.second_epochs=0: {second!r} is trained in two stages, and this leaves no epoch for the second; give at "
            "least 1, or method.second='none' for the first stage alone"
        )


def check_present(second: str, class_counts: Tensor, why: str) -> None:
    """Refuse classes without training images.

    Raises:
        ConfigError: names the classes.
    """
    absent = [str(k) for k, count in enumerate(class_counts.tolist()) if count == 0]
    if absent:
        raise ConfigError(
            f"method.second={second!r} {why}, but {len(absent)} of {len(class_counts)} classes have no training images "
            f"(class {', '.join(absent[:5])}): leave those classes out of the data"
        )
