"""Numerical rank of each class's features, (nuclear norm / Frobenius norm)^2: how many directions a class fills.

Singular values come from a float64 SVD. A Gram matrix would be cheaper but takes roots of eigenvalues that carry the
rounding of the largest one, and the error grows with D: worst for the collapsed classes that matter here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from divfeat.errors import DataError
from divfeat.metrics._inputs import (
    check_features,
    check_range,
    chunks,
    class_count,
    class_counts,
    defined,
    exact,
)
from divfeat.metrics.statistics import COINCIDENT


@dataclass(frozen=True)
class NumericalRankResult:
    """Numerical ranks by class and their means over the classes with a defined one.

    Attributes:
        uncentred: mean over classes of ||H_k||_*^2 / ||H_k||_F^2, float64 scalar; 1 under collapse. NaN if no class
            has one.
        centred: the same of H_k less the class mean; undefined for a collapsed class.
        by_class: uncentred ranks, float64 [K]; NaN for a class left out or of zero features.
        by_class_centred: centred ranks, float64 [K]; NaN for a class left out or collapsed.
        classes: classes used, those with two samples or more.
        absent: classes without a sample, left out.
        singletons: classes with one sample, left out: their rank is 1 whatever they hold.
        collapsed: classes used whose centred rank is undefined, left out of `centred`.
    """

    uncentred: Tensor
    centred: Tensor
    by_class: Tensor
    by_class_centred: Tensor
    classes: int
    absent: int
    singletons: int
    collapsed: int


class NumericalRankAccumulator:
    """Streams numerical ranks exactly, by a QR factor of each class.

    A class is kept as rows [1, h]; once they outnumber twice their length only the R factor of a QR decomposition
    stays, which has the same singular values. The leading column of ones is the trick for centring in the same pass:
    what QR leaves below the first row is the features' part orthogonal to it, that is H_k less its mean, to float64
    rounding of the features themselves.

    Memory is at most about min(n_k, 2 D + 2) x (D + 1) float64 a class and the time n_k D min(n_k, D): measure a
    fixed subset of a large set.

    Args:
        num_classes: K, with labels in [0, K).

    Raises:
        DataError: from `update` for wrong shapes or labels.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._counts = torch.zeros(num_classes, dtype=torch.int64)
        self._blocks: dict[int, list[Tensor]] = {}

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch: features [N, D] of any floating dtype, labels int64 [N]."""
        check_features(features, labels)
        check_range(labels, self.num_classes)
        features = exact(features)
        labels = labels.to(features.device)
        rows = torch.cat([torch.ones_like(features[:, :1]), features], dim=1)
        counts = class_counts(labels, self.num_classes).cpu()
        blocks = rows[labels.argsort(stable=True)].split(counts.tolist())
        self._counts += counts
        for label in counts.nonzero().flatten().tolist():
            # A clone, so that one small class does not keep the whole batch alive.
            self._add(label, [blocks[label].clone()])

    def merge(self, other: NumericalRankAccumulator) -> NumericalRankAccumulator:
        """Add all that another accumulator has seen; returns self."""
        if other.num_classes != self.num_classes:
            raise DataError(f"cannot merge numerical ranks of {other.num_classes} classes into {self.num_classes}")
        self._counts += other._counts
        for label, blocks in other._blocks.items():
            self._add(label, blocks)
        return self

    def _add(self, label: int, blocks: list[Tensor]) -> None:
        held = self._blocks.setdefault(label, [])
        width = (held or blocks)[0].shape[1]
        for block in blocks:
            if block.shape[1] != width:
                raise DataError(f"features have {block.shape[1] - 1} dimensions where {width - 1} came before")
            held.append(block.to(held[0].device) if held else block)
        if sum(block.shape[0] for block in held) > 2 * width:
            self._blocks[label] = [torch.linalg.qr(torch.cat(held), mode="r").R]

    @torch.no_grad()
    def class_ranks(self, *, centred: bool) -> Tensor:
        """Numerical rank of each class, float64 [K]; NaN for fewer than two samples or where it is undefined."""
        ranks = torch.full((self.num_classes,), math.nan, dtype=torch.float64)
        for label in (self._counts > 1).nonzero().flatten().tolist():
            ranks[label] = _rank(torch.cat(self._blocks[label]), centred=centred)
        return ranks

    def compute(self) -> NumericalRankResult:
        """Numerical ranks of all batches so far, centred and not (two SVDs a class)."""
        uncentred, centred = self.class_ranks(centred=False), self.class_ranks(centred=True)
        return NumericalRankResult(
            uncentred=uncentred.nanmean(),
            centred=centred.nanmean(),
            by_class=uncentred,
            by_class_centred=centred,
            classes=int((self._counts > 1).sum()),
            absent=int((self._counts == 0).sum()),
            singletons=int((self._counts == 1).sum()),
            collapsed=int(((self._counts > 1) & centred.isnan()).sum()),
        )


def _rank(rows: Tensor, *, centred: bool) -> float:
    """Numerical rank of features held as rows [1, h], or as an R factor of such rows."""
    size = rows[:, 1:].norm()
    if centred:
        rows = torch.linalg.qr(rows, mode="r").R[1:]
    values = rows[:, 1:]
    if not bool(size.isfinite()) or size == 0 or values.norm() <= COINCIDENT * size:
        return math.nan
    singular = torch.linalg.svdvals(values)
    return float(singular.sum().square() / singular.square().sum())


def numerical_rank(
    features: Tensor, labels: Tensor, num_classes: int | None = None, *, centred: bool = False
) -> Tensor:
    """Numerical rank averaged over classes: ||H_k||_*^2 / ||H_k||_F^2, nuclear and Frobenius norms.

    Source: the HingeCE paper, section 5, which does not say whether H_k is centred.
    Uncentred it is 1 under collapse and grows to min(n_k, D) with the directions that a class fills; centred it is
    undefined under collapse. Compare runs only at equal D and equal class sizes.

    Args:
        features: [N, D], any floating dtype, any device.
        labels: int64 [N].
        num_classes: K; None means one more than the largest label.
        centred: subtract each class's mean first.

    Returns:
        float64 scalar >= 1. Classes with fewer than two samples are left out, and so are classes of zero (centred:
        of coinciding) features; `NumericalRankAccumulator` counts them.

    Raises:
        DataError: wrong shapes or labels, or no class has a numerical rank.
    """
    check_features(features, labels)
    accumulator = NumericalRankAccumulator(class_count(labels, num_classes))
    for batch in chunks(features, labels):
        accumulator.update(*batch)
    value = accumulator.class_ranks(centred=centred).nanmean()
    return defined(
        value, "numerical_rank", "a class with two samples that are finite and not all zero (centred: equal)"
    )
