"""What a method is made of beside its head: parts of the loss and of the training, each off by default."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from divfeat.config import CosineSchedule, Frame, Levels, Loss, Neck, Sampling, Second


@dataclass(frozen=True)
class Parts:
    """What a method adds to cross-entropy on a head: fields of `MethodConfig` of the same names, each off by default.

    `mixup`, `cutmix` and `sampling` replace settings of the study's training; at None these are as `train` says.
    """

    closed_first: float = 0.0
    closed_last: float = 0.0
    label_smoothing: float = 0.0
    logit_adjustment: float = 0.0
    scale: float = 0.0
    margin: float = 0.0
    focal: float = 0.0
    class_balanced: float = 0.0
    deferred: float = 0.0
    loss: Loss = "cross_entropy"
    feature_norm: bool = False
    frame: Frame = "simplex"
    gamma: float = 0.0
    s_min: float | str = "exact"
    neck: Neck = "linear"
    cosine: float = 0.0
    cosine_schedule: CosineSchedule = "constant"
    soft_labels: float = 0.0
    hierarchical_ce: float = 0.0
    levels: Levels = "none"
    pair_margin: float = 0.0
    mixup: float | None = None
    cutmix: float | None = None
    sampling: Sampling | None = None
    second: Second = "none"
    second_epochs: int = 0
    second_lr: float = 0.0
    exponent: float = 0.0
    prior_strength: float = 0.0
    m2m_start: float = 0.0
    m2m_beta: float = 0.0
    m2m_gamma: float = 0.0
    m2m_lambda: float = 0.0
    centroid_loss: float = 0.0

    @cached_property
    def on(self) -> frozenset[str]:
        """Names of the parts that do something."""
        return frozenset(name for name, value in self.other_than(OFF).items() if value not in (0, "natural"))

    @property
    def nothing_on_an_even_tree(self) -> bool:
        """Whether it is cross-entropy by another name where all classes are at one distance."""
        return self.second == "crm" or self.levels == "flamingo" or bool(self.hierarchical_ce)

    def other_than(self, base: Parts) -> dict[str, Any]:
        """The values in which this differs from `base`, by name."""
        return {name: value for name in NAMES if (value := getattr(self, name)) != getattr(base, name)}


NAMES = tuple(field.name for field in fields(Parts))
OFF = Parts()
