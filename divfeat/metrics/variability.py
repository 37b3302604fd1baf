"""NC1, within-class over between-class variability (Papyan, Han and Donoho 2020), in two exact passes.

The first pass gives the class means (`ClassStatisticsAccumulator`), the second (`NC1Accumulator`) goes over the same
samples in the same state: evaluation mode, no augmentation, nothing dropped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from divfeat.errors import ConfigError, DataError
from divfeat.metrics._inputs import check_features, check_range, chunks, class_counts, defined, exact_blocks
from divfeat.metrics.statistics import ClassStatistics, centred_rows, check_same_pass, class_statistics

Weighting = Literal["pooled", "balanced"]

_DIRECTION = 1e-6
"""Singular values of the centred means below this share of the largest are no between-class directions (the
eigenvalues of the Gram matrix: 1e-12)."""

_OUTSIDE = 1e-8
"""Within-class energy off the kept directions, over the largest between-class variance, up to which it is rounding."""


@dataclass(frozen=True)
class NC1Result:
    """NC1 under both weightings, and what it was measured on.

    Attributes:
        pooled: Sigma_W averaged over samples, float64 scalar >= 0; NaN where NC1 is undefined.
        balanced: Sigma_W the mean of the classes' covariances, likewise.
        by_class: each class's own share tr(Sigma_k Sigma_B^+)/K, float64 [K]; NaN for a class left out. `balanced` is
            its mean and `pooled` its mean weighted by counts.
        rank: between-class directions kept.
        full_rank: min(K' - 1, D) for the K' classes used; a smaller `rank` means that the features fill a subspace.
        classes: K', the classes used: those with two samples or more.
        absent: classes without a sample, left out.
        singletons: classes with one sample, left out as they carry no information about variance.
        samples: samples used.
    """

    pooled: Tensor
    balanced: Tensor
    by_class: Tensor
    rank: int
    full_rank: int
    classes: int
    absent: int
    singletons: int
    samples: int


class NC1Accumulator:
    """Second pass of NC1: whitened within-class energy by class, K + K numbers of state.

    With centred means Mc = U S V^T, Sigma_B^+ = K V S^-2 V^T, so tr(Sigma_W Sigma_B^+)/K is the mean over samples of
    ||S^-1 V^T (h - mu_y)||^2. That is the K x K Gram formula tr((G^+)^2 A/N), G = Mc Mc^T, without squaring the
    condition number: a sum of squares, never negative, and no D x D covariance is formed. Directions are cut by rank,
    not by the relative tolerance of a float32 pinv, which drops true directions silently.

    Features that fill a subspace (dead units, a projector wider than its input) have fewer than min(K-1, D)
    directions; the cut is then exact since nothing varies off the subspace. Where means are affinely dependent
    while features do vary elsewhere, NC1 has no finite value and is NaN.

    Args:
        statistics: the first pass over the same samples.

    Raises:
        DataError: from `update` for wrong shapes or labels; from `compute` if the passes saw different samples.
    """

    def __init__(self, statistics: ClassStatistics) -> None:
        self.statistics = statistics
        self._num_classes, dim = statistics.means.shape
        centred = centred_rows(statistics.means[statistics.spread])
        self._classes = centred.shape[0]
        if self._classes >= 2 and bool(centred.isfinite().all()):
            _, scales, directions = torch.linalg.svd(centred, full_matrices=False)
        else:
            scales, directions = centred.new_zeros(0), centred.new_zeros((0, dim))
        self._full_rank = max(0, min(self._classes - 1, dim))
        kept = int((scales > _DIRECTION * scales[:1]).sum())
        self._rank = min(kept, self._full_rank)
        self._scales = scales[: self._rank]
        self._directions = directions[: self._rank].T.contiguous()
        self._energy = centred.new_zeros((2, self._num_classes))  # whitened, and along the kept directions
        self._seen = torch.zeros_like(statistics.counts)

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch of the second pass: features [N, D], labels int64 [N]."""
        check_features(features, labels)
        check_range(labels, self._num_classes)
        means = self.statistics.means
        features, labels = features.to(means.device), labels.to(means.device)
        energy = torch.zeros_like(self._energy)
        for block, kinds in exact_blocks(features, labels, means):
            along = block @ self._directions
            plain = along.square().sum(dim=1)
            energy.index_add_(1, kinds, torch.stack([along.div_(self._scales).square_().sum(dim=1), plain]))
        self._energy += energy
        self._seen += class_counts(labels, self._num_classes)

    def merge(self, other: NC1Accumulator) -> NC1Accumulator:
        """Add all that another accumulator on the same class statistics has seen; returns self."""
        check_same_pass(self.statistics, other.statistics)
        self._energy += other._energy.to(self._energy.device)
        self._seen += other._seen.to(self._seen.device)
        return self

    def compute(self) -> NC1Result:
        """NC1 of all samples of the first pass."""
        statistics, spread = self.statistics, self.statistics.spread
        if not torch.equal(self._seen, statistics.counts):
            raise DataError(
                f"the second pass of NC1 saw {int(self._seen.sum())} samples in other classes or numbers than the "
                f"{int(statistics.counts.sum())} of the first: pass the same features to both"
            )
        counts = statistics.counts.clamp_min(1)
        by_class = (self._energy[0] / counts).masked_fill(~spread, math.nan)
        if self._undefined():
            by_class = torch.full_like(by_class, math.nan)
        used = statistics.counts[spread]
        return NC1Result(
            pooled=(by_class[spread] * used).sum() / used.sum(),
            balanced=by_class[spread].mean(),
            by_class=by_class,
            rank=self._rank,
            full_rank=self._full_rank,
            classes=self._classes,
            absent=statistics.absent,
            singletons=statistics.singletons,
            samples=int(used.sum()),
        )

    def _undefined(self) -> bool:
        if self._rank == 0:
            return True
        if self._rank == self._full_rank:
            return False
        spread, counts = self.statistics.spread, self.statistics.counts
        total = (self.statistics.variances * counts)[spread].sum()
        outside = (total - self._energy[1, spread].sum()) / counts[spread].sum()
        return bool(outside > _OUTSIDE * self._scales[0].square() / self._classes)


def nc1(features: Tensor, labels: Tensor, num_classes: int | None = None, weighting: Weighting = "pooled") -> Tensor:
    """NC1, within-class over between-class variability: tr(Sigma_W Sigma_B^+)/K (Papyan et al. 2020).

    Sigma_B is the covariance of class means about their unweighted mean. 0 under full collapse. Compare runs only at
    equal D and at the same tap. A between-class direction that is only rounding (features stored in bfloat16) counts
    like any other, so measure on float32 features.

    Args:
        features: [N, D], any floating dtype, any device.
        labels: int64 [N].
        num_classes: K; None means one more than the largest label.
        weighting: "pooled" averages Sigma_W over samples, "balanced" over classes.

    Returns:
        float64 scalar >= 0. Classes with fewer than two samples are left out altogether (`NC1Result` counts them).

    Raises:
        DataError: wrong shapes or labels, or NC1 undefined: fewer than two classes of two samples, coinciding or
            affinely dependent means (eigenvalue ratio of the Gram matrix below 1e-12), features not finite.
        ConfigError: unknown weighting.
    """
    if weighting not in get_args(Weighting):
        raise ConfigError(f"nc1: weighting is {weighting!r}: pass one of {', '.join(get_args(Weighting))}")
    accumulator = NC1Accumulator(class_statistics(features, labels, num_classes))
    for batch in chunks(features, labels):
        accumulator.update(*batch)
    result = accumulator.compute()
    return defined(
        result.pooled if weighting == "pooled" else result.balanced,
        f"nc1 ({result.classes} usable classes, {result.rank} of {result.full_rank} between-class directions)",
        "finite features, two classes with two samples each, and class means in general position; cdnv needs less",
    )
