"""What a probe is fitted on, checked: shapes, labels, finite numbers, absent classes, standardisation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from divfeat.errors import DataError

Pair = tuple[Any, Any]  # features [N, D], labels [N]: tensors or arrays
#: Up to this N * D * K an evaluation in float64 takes some 10 ms on one core; above, float32 saves over half of it.
FLOAT64_WORK = 2**24


@dataclass(frozen=True)
class Task:
    """Training data as the solvers see it, and the way back.

    Attributes:
        features: float Tensor[N, D], standardised if asked.
        labels: int64 Tensor[N] in 0..C-1, numbering the classes that occur.
        classes: int64 Tensor[C], their labels.
        total: K, classes the user counts.
        offset: Tensor[D] and scale: Tensor[D], with features = (user's features - offset) / scale.
        sets: the sets to score, untouched features beside labels in 0..K-1.
    """

    features: Tensor
    labels: Tensor
    classes: Tensor
    total: int
    offset: Tensor
    scale: Tensor
    sets: Mapping[str, tuple[Tensor, Tensor]]

    def expand(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The classifier [D, K], [K] of the user's features; an absent class has bias -inf, where the infimum lies."""
        weight = weight / self.scale[:, None]
        bias = bias - self.offset @ weight
        full_weight = weight.new_zeros(len(weight), self.total)
        full_bias = bias.new_full((self.total,), -math.inf)
        full_weight[:, self.classes] = weight
        # A constant added to every bias changes nothing; the zero-sum one is reported.
        full_bias[self.classes] = bias - bias.mean()
        return full_weight, full_bias

    def restrict(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of `expand`, from any dtype and device; a class absent there starts at the lowest bias."""
        weight, bias = weight.to(self.features)[:, self.classes], bias.to(self.features)[self.classes]
        finite = bias[bias.isfinite()]
        bias = torch.where(bias.isfinite(), bias, finite.min() if len(finite) else bias.new_zeros(()))
        return weight * self.scale[:, None], bias + self.offset @ weight


def prepare(
    train: Pair, sets: Mapping[str, Pair], num_classes: int | None, dtype: torch.dtype | None, standardize: bool
) -> Task:
    """Check and convert everything; see `linear_probe` for the arguments and errors."""
    features, labels = _pair("train", train, None)
    others = {name: _pair(name, pair, features) for name, pair in sets.items()}
    highest = max(int(part.max()) for part in (labels, *(pair[1] for pair in others.values())))
    total = highest + 1 if num_classes is None else num_classes
    if highest >= total:
        raise DataError(f"label {highest} does not fit num_classes={total}; labels run from 0 to num_classes - 1")
    classes, compact = labels.unique(return_inverse=True)
    if len(classes) < 2:
        raise DataError(f"train has samples of class {int(classes[0])} only; a probe needs two classes")
    if dtype is None:
        small = features.numel() * len(classes) <= FLOAT64_WORK and features.device.type != "mps"
        dtype = torch.float64 if small else torch.float32
    features = _finite("train", features, dtype)
    offset, scale = features.new_zeros(features.shape[1]), features.new_ones(features.shape[1])
    if standardize:
        deviation, offset = torch.std_mean(features, 0, correction=0)
        # A constant column has a deviation of rounding size, not zero: dividing by it would amplify noise.
        varies = deviation > 8 * torch.finfo(dtype).eps * features.abs().amax(0)
        scale = torch.where(varies, deviation, scale)
        features = (features - offset) / scale
    scored = {name: (_finite(name, pair[0], dtype), pair[1]) for name, pair in others.items()}
    return Task(features, compact, classes, total, offset, scale, scored)


def _pair(name: str, pair: Pair, like: Tensor | None) -> tuple[Tensor, Tensor]:
    """Features [N, D] and int64 labels [N] on the training features' device, their shapes checked."""
    features, labels = torch.as_tensor(pair[0]).detach(), torch.as_tensor(pair[1]).detach()
    if features.ndim != 2 or labels.ndim != 1 or len(features) != len(labels) or features.numel() == 0:
        raise DataError(
            f"{name}: features {tuple(features.shape)} and labels {tuple(labels.shape)} must be [N, D] and [N], "
            "not empty"
        )
    if like is not None and features.shape[1] != like.shape[1]:
        raise DataError(f"{name}: {features.shape[1]} features a sample, but train has {like.shape[1]}")
    if features.is_complex() or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DataError(f"{name}: features must be real and labels integers, not {features.dtype} and {labels.dtype}")
    device = features.device if like is None else like.device
    features, labels = features.to(device), labels.to(device, torch.int64)
    if int(labels.min()) < 0:
        raise DataError(f"{name}: label {int(labels.min())} is negative; drop unlabelled samples first")
    return features, labels


def _finite(name: str, features: Tensor, dtype: torch.dtype) -> Tensor:
    features = features.to(dtype)
    bad = ~features.square().sum(1).isfinite()
    if bool(bad.any()):
        raise DataError(
            f"{name}: {int(bad.sum())} of {len(bad)} samples have NaN, infinite or enormous features (squares "
            f"overflow {dtype}), the first at row {int(bad.nonzero()[0])}; did the extractor diverge?"
        )
    return features
