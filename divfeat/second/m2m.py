"""M2m: Major-to-minor translation (Kim et al. 2020, arXiv:2004.00431).

The first stage's network is g. The second stage trains another network f from the start, with the first stage's settings
and loss, and for its last epochs with every class alike and images that g and f have translated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from divfeat.config import ExperimentConfig
from divfeat.data.augment import Augment
from divfeat.data.batches import Batch, BatchStream
from divfeat.errors import ConfigError
from divfeat.parts import Parts
from divfeat.pretrain import Learner, TrainResult
from divfeat.second.stage import FirstStage, SecondStage, check_present
from divfeat.second.translation import STEPS, Translation
from divfeat.thresholds import ThresholdContext, family_named


class SwitchedBatches:
    """One stream before an epoch, another from then on; their steps are as many."""

    def __init__(self, before: BatchStream, after: BatchStream, start: int) -> None:
        self.before, self.after, self.start = before, after, start

    @property
    def steps_per_epoch(self) -> int:
        """Of either."""
        return self.before.steps_per_epoch

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from `start_step` on."""
        return (self.before if epoch < self.start else self.after).epoch(epoch, start_step)


class MajorToMinor(SecondStage):
    """Released settings for CIFAR-10-LT: from epoch 160 of 200, beta 0.999, gamma 0.9, lambda 0.5."""

    settings: ClassVar[Mapping[str, Any]] = {"m2m_start": 0.8, "m2m_beta": 0.999, "m2m_gamma": 0.9, "m2m_lambda": 0.5}

    def check_parts(self, name: str, frame: bool, parts: Parts) -> None:
        """Needs probabilities."""
        if parts.loss != "cross_entropy":
            raise ConfigError(
                f"method.second='m2m' follows the probabilities of a softmax, and method.loss={parts.loss!r} of {name!r} has "
                "none: use crt, lws or ncm here"
            )

    def check(self, config: ExperimentConfig, parts: Parts, classes: ThresholdContext) -> None:
        """Needs epochs left after the start, unmixed images, thresholds that stand still, and classes of several sizes."""
        check_present("m2m", classes.class_counts, "translates images into every class")
        epochs = config.train.epochs
        if first_epoch(parts, epochs) >= epochs:
            raise ConfigError(
                f"method.second='m2m' translates images in the last {1 - parts.m2m_start:.3g} of the epochs, and "
                f"train.epochs={epochs} leaves none of them: raise train.epochs, or lower method.m2m_start={parts.m2m_start:g}"
            )
        if config.train.mixes:
            raise ConfigError(
                "method.second='m2m' replaces whole images, and train.mixup or train.cutmix would mix them: set both to 0"
            )
        if family_named(config.method.thresholds.family).moves:
            raise ConfigError(
                f"method.second='m2m' trains two networks, and the thresholds of family {config.method.thresholds.family!r} "
                "move with the features of one: use a family that stands still"
            )
        if len(set(classes.class_counts.tolist())) == 1:
            raise ConfigError(
                f"method.second='m2m' translates images of larger classes into smaller ones, and all have "
                f"{classes.class_counts[0]} training images: set data.imbalance, or leave m2m out"
            )

    def epochs(self, parts: Parts, epochs: int) -> int:
        """As many again."""
        return epochs

    def trainings(self, parts: Parts, epochs: int) -> float:
        """A training, and the translation's passes through two networks on most images of its last epochs."""
        return 1 + 2 * STEPS * (1 - first_epoch(parts, epochs) / epochs)

    def run(self, first: FirstStage) -> tuple[Learner, TrainResult]:
        """Trains f."""
        parts, settings, data = first.parts, first.config.train, first.data
        learner, objective = first.fresh(first.seed("network"))
        learner.to(first.device)
        start = first_epoch(parts, settings.epochs)
        translation = Translation(
            first.learner.eval().requires_grad_(False),
            learner,
            data.train.images,
            data.train_labels,
            first.counts,
            beta=parts.m2m_beta,
            gamma=parts.m2m_gamma,
            weight=parts.m2m_lambda,
            start=start,
            augment=Augment(settings.augment, cutout=settings.cutout, seed=first.seed("seeds")),
            seed=first.seed("translation"),
        )
        balanced = settings.model_copy(update={"sampling": "balanced"})
        batches = SwitchedBatches(first.batches(settings), first.batches(balanced), start)
        trained = first.train(learner, objective, settings, batches=batches, translation=translation)
        return learner, trained


def first_epoch(parts: Parts, epochs: int) -> int:
    """The epoch (from 0) from which images are translated."""
    return math.ceil(parts.m2m_start * epochs - 1e-9)
