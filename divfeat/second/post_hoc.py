"""Post-hoc logit adjustment: v - tau log pi on the trained logits (Menon et al. 2021, equation 9)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from divfeat.config import ExperimentConfig
from divfeat.errors import ConfigError
from divfeat.losses.functional import at_least_float32
from divfeat.models import Head
from divfeat.parts import Parts
from divfeat.pretrain import Learner, TrainResult
from divfeat.second.stage import FirstStage, SecondStage, check_present
from divfeat.thresholds import ThresholdContext


class AdjustedHead(Head):
    """The logits of a head less an offset a class."""

    offset: Tensor

    def __init__(self, head: Head, offset: Tensor) -> None:
        """Copies `offset` [K]."""
        super().__init__()
        self.head = head
        self.length = head.length
        self.register_buffer("offset", offset.detach().clone())

    @property
    def axes(self) -> Tensor:
        """The head's: [D, K]."""
        return self.head.axes

    @property
    def bias(self) -> Tensor | None:
        """The head's less the offset: [K]."""
        bias = self.head.bias
        return -self.offset if bias is None else bias - self.offset

    def score(self, features: Tensor) -> Tensor:
        """Features [..., N, D] as `forward` returns them to logits [..., N, K]."""
        return at_least_float32(self.head.score(features)) - self.offset


class PostHocAdjustment(SecondStage):
    """Takes the prior of the training set out of the logits."""

    settings: ClassVar[Mapping[str, Any]] = {"prior_strength": 1.0}

    def check_parts(self, name: str, frame: bool, parts: Parts) -> None:
        """Needs logits that hold the prior."""
        if parts.logit_adjustment:
            raise ConfigError(
                f"method.second='post_hoc' takes the prior out of the logits, and the loss of {name!r} (method.logit_adjustment="
                f"{parts.logit_adjustment:g}) has kept it out already: set one of the two to off"
            )
        if parts.loss != "cross_entropy":
            raise ConfigError(
                f"method.second='post_hoc' adjusts the logits of a softmax, and method.loss={parts.loss!r} has none: use crt, "
                "lws or ncm here"
            )

    def check(self, config: ExperimentConfig, parts: Parts, classes: ThresholdContext) -> None:
        """Needs a prior of every class."""
        check_present("post_hoc", classes.class_counts, "divides by every class's share")

    def run(self, first: FirstStage) -> tuple[Learner, TrainResult]:
        """Nothing is trained."""
        prior = torch.log(first.counts.double() / first.counts.sum())
        head = AdjustedHead(first.learner.head, (first.parts.prior_strength * prior).float().to(first.device))
        return Learner(first.learner.extractor, head), TrainResult()
