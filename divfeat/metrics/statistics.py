"""Class statistics in one exact pass: counts, means and mean squared deviations, and the measures that need no more.

Batches are merged by Chan's update (Chan, Golub and LeVeque 1983) in float64. E[hh^T] - mu mu^T would cancel
catastrophically exactly where collapse happens; deviations from the batch's own means do not.
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
    exact,
    exact_blocks,
    exact_device,
)

COINCIDENT = 1e-12
"""Spread over size (both Frobenius norms) up to which points are one point: float64 rounding, not geometry."""


def centred_rows(rows: Tensor) -> Tensor:
    """Rows [P, D] less their unweighted mean; exactly zero where nothing but rounding is left."""
    centred = rows - rows.mean(dim=0)
    coincident = centred.norm() <= COINCIDENT * rows.norm()
    return torch.where(coincident, torch.zeros_like(centred), centred)


def simplex_gap(product: Tensor) -> Tensor:
    """||P/||P||_F - (I - 11^T/K)/sqrt(K-1)||_F of a K x K product: 0 for a simplex, NaN where P is 0 or K < 2."""
    k = product.shape[0]
    if k < 2:
        return product.new_tensor(math.nan)
    target = (torch.eye(k, dtype=product.dtype, device=product.device) - 1 / k) / math.sqrt(k - 1)
    return (product / product.norm() - target).norm()


@dataclass(frozen=True)
class ClassStatistics:
    """First and second moments of features by class, and the measures that follow from them.

    Measures leave out absent classes; those about spread (`cdnv`) also leave out classes of a single sample, which
    carry no information about variance. `absent` and `singletons` say how many. An undefined measure is NaN.

    Attributes:
        counts: samples of each class, int64 [K].
        means: class means, float64 [K, D]; NaN for an absent class.
        variances: mean squared distance to the class mean (the trace of the class covariance), float64 [K]; NaN for
            an absent class.
    """

    counts: Tensor
    means: Tensor
    variances: Tensor

    @property
    def present(self) -> Tensor:
        """Classes with a sample, bool [K]."""
        return self.counts > 0

    @property
    def spread(self) -> Tensor:
        """Classes with two samples or more, bool [K]: the ones whose variance means something."""
        return self.counts > 1

    @property
    def absent(self) -> int:
        """Number of classes without a sample."""
        return int((self.counts == 0).sum())

    @property
    def singletons(self) -> int:
        """Number of classes with exactly one sample."""
        return int((self.counts == 1).sum())

    def nc2(self) -> Tensor:
        """Distance of the centred class means from a simplex, scalar in [0, 2]; see `divfeat.metrics.nc2`."""
        centred = centred_rows(self.means[self.present])
        return simplex_gap(centred @ centred.T)

    def nc3(self, frame: Tensor) -> Tensor:
        """Distance of the class means from duality with the frame [D, K], scalar; see `divfeat.metrics.nc3`."""
        check_frame(frame, self.means.shape[1], self.means.shape[0])
        axes = exact(frame).to(self.means.device).T[self.present]
        return simplex_gap(axes @ centred_rows(self.means[self.present]).T)

    def cdnv(self) -> Tensor:
        """Class-distance normalised variance, scalar >= 0; see `divfeat.metrics.cdnv`."""
        return self.cdnv_by_class()[self.spread].mean()

    def cdnv_by_class(self) -> Tensor:
        """What each class adds to the CDNV, v_i times the mean of d_ij^-2 over the other classes: float64 [K].

        The CDNV is its mean over the classes of two samples or more. NaN for the others, which count for none, and
        where fewer than two are left.
        """
        means, variances = self.means[self.spread], self.variances[self.spread]
        shares = torch.full_like(self.variances, math.nan)
        k = means.shape[0]
        if k < 2:
            return shares
        # The mean over pairs of (v_i + v_j) / (2 d_ij^2) is sum_i v_i sum_{j != i} d_ij^-2 over K(K-1): row blocks of
        # distances suffice. Distances by difference, not by inner products, which cancel for close means.
        found = torch.empty_like(variances)
        rows = max(1, 2**22 // k)
        for first in range(0, k, rows):
            block = slice(first, first + rows)
            squared = torch.cdist(means[block], means, compute_mode="donot_use_mm_for_euclid_dist").square()
            squared[torch.arange(squared.shape[0]), torch.arange(k)[block]] = math.inf
            found[block] = (variances[block, None] / squared).sum(dim=1) / (k - 1)
        shares[self.spread] = found
        return shares


def check_frame(frame: Tensor, dim: int, num_classes: int | None = None) -> None:
    """Raise `DataError` unless a frame is [..., D, K] for these features and classes."""
    if frame.ndim < 2 or frame.shape[-2] != dim or num_classes not in (None, frame.shape[-1]):
        raise DataError(
            f"the frame has shape {tuple(frame.shape)}: pass [D, K] with D = {dim}"
            + (f" and K = {num_classes}" if num_classes is not None else "")
            + ", one column a class (a linear layer's weight transposed)"
        )


class ClassStatisticsAccumulator:
    """Streams `ClassStatistics`: one pass, any batch sizes, exact in float64.

    Args:
        num_classes: K, with labels in [0, K).

    Raises:
        DataError: from `update` for wrong shapes or labels, from `compute` when no batch came.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._counts: Tensor | None = None
        self._means = self._squares = torch.empty(0)

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch: features [N, D] of any floating dtype, labels int64 [N]."""
        check_features(features, labels)
        check_range(labels, self.num_classes)
        labels = labels.to(exact_device(features))
        counts = class_counts(labels, self.num_classes)
        means = torch.zeros((self.num_classes, features.shape[1]), dtype=torch.float64, device=labels.device)
        for block, kinds in exact_blocks(features, labels):
            means.index_add_(0, kinds, block)
        means /= counts.clamp_min(1)[:, None]
        squares = means.new_zeros(self.num_classes)
        for block, kinds in exact_blocks(features, labels, means):
            squares.index_add_(0, kinds, block.square_().sum(dim=1))
        self._add(counts, means, squares)

    def merge(self, other: ClassStatisticsAccumulator) -> ClassStatisticsAccumulator:
        """Add all that another accumulator has seen; returns self."""
        if other.num_classes != self.num_classes:
            raise DataError(f"cannot merge statistics of {other.num_classes} classes into {self.num_classes}")
        if other._counts is not None:
            self._add(other._counts, other._means, other._squares)
        return self

    def _add(self, counts: Tensor, means: Tensor, squares: Tensor) -> None:
        if self._counts is None:
            self._counts, self._means, self._squares = counts.clone(), means.clone(), squares.clone()
            return
        if means.shape != self._means.shape:
            raise DataError(f"features have {means.shape[1]} dimensions where {self._means.shape[1]} came before")
        device = self._counts.device
        counts, means, squares = counts.to(device), means.to(device), squares.to(device)
        total = self._counts + counts
        share = counts.double() / total.clamp_min(1)  # int64 / int64 would be float32
        delta = means - self._means
        self._squares += squares + delta.square().sum(dim=1) * self._counts * share
        self._means += delta.mul_(share[:, None])
        self._counts = total

    def compute(self) -> ClassStatistics:
        """The statistics of all batches so far."""
        if self._counts is None:
            raise DataError("no batch was added: call update before compute")
        absent = self._counts == 0
        return ClassStatistics(
            counts=self._counts.clone(),
            means=self._means.masked_fill(absent[:, None], math.nan),
            variances=(self._squares / self._counts.clamp_min(1)).masked_fill(absent, math.nan),
        )


def class_statistics(features: Tensor, labels: Tensor, num_classes: int | None = None) -> ClassStatistics:
    """Counts, means and variances by class: `ClassStatistics` of features [N, D] and labels int64 [N].

    `num_classes` None means one more than the largest label. Raises `DataError` for wrong shapes or labels.
    """
    check_features(features, labels)
    accumulator = ClassStatisticsAccumulator(class_count(labels, num_classes))
    for batch in chunks(features, labels):
        accumulator.update(*batch)
    return accumulator.compute()


def check_same_pass(first: ClassStatistics, second: ClassStatistics) -> None:
    """Raise `DataError` unless two second passes stand on one first pass."""
    same_counts = torch.equal(first.counts, second.counts.to(first.counts.device))
    same_means = torch.equal(first.means.nan_to_num(), second.means.to(first.means.device).nan_to_num())
    if not (same_counts and same_means):
        raise DataError("cannot merge second passes over different class means: give both the same merged statistics")
