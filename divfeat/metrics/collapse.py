"""Neural collapse: NC2, NC3, NC4 and CDNV (Papyan et al. 2020; Zhu et al. 2021; Galanti et al. 2022).

One-shot functions of features [N, D] and labels [N]. NC2, NC3 and CDNV follow from one streamed pass
(`ClassStatisticsAccumulator`); NC4 takes a second one (`NC4Accumulator`), as NC1 does in `divfeat.metrics.variability`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from divfeat.errors import DataError
from divfeat.metrics._inputs import check_features, check_range, chunks, defined, exact
from divfeat.metrics.statistics import (
    ClassStatistics,
    centred_rows,
    check_frame,
    check_same_pass,
    class_statistics,
    simplex_gap,
)


@dataclass(frozen=True)
class NC4Result:
    """Agreement of two decision rules.

    Attributes:
        agreement: share of samples on which both rules agree, float64 scalar in [0, 1]; NaN without samples.
        samples: samples compared.
        absent: classes without a sample, which neither rule may choose.
    """

    agreement: Tensor
    samples: int
    absent: int


class NC4Accumulator:
    """Second pass of NC4: agreement of the linear rule and the nearest class mean, over the present classes.

    Args:
        statistics: the first pass, whose means are used; its samples may be others (train means, test samples).
        frame_or_weight: [D, K], columns the classes' axes (a linear layer's weight transposed).
        bias: [K] or None.

    Raises:
        DataError: for shapes or labels that do not fit.
    """

    def __init__(self, statistics: ClassStatistics, frame_or_weight: Tensor, bias: Tensor | None = None) -> None:
        num_classes, dim = statistics.means.shape
        check_frame(frame_or_weight, dim, num_classes)
        if bias is not None and bias.shape != (num_classes,):
            raise DataError(f"the bias has shape {tuple(bias.shape)}: pass [K] with K = {num_classes}")
        self.statistics = statistics
        device, present = statistics.means.device, statistics.present
        means = statistics.means[present]
        self._centre = means.mean(dim=0)
        self._means = means - self._centre  # inner products of centred means cancel less
        self._axes = exact(frame_or_weight).to(device)[:, present]
        self._bias = means.new_zeros(()) if bias is None else exact(bias).to(device)[present]
        self._tally = torch.zeros(2, dtype=torch.int64, device=device)  # agreed, seen

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor | None = None) -> None:
        """Add a batch: features [N, D]; the rules do not look at labels, which are checked if given."""
        if labels is not None:
            check_features(features, labels)
            check_range(labels, self.statistics.means.shape[0])
        features = exact(features).to(self._means.device)
        linear = (features @ self._axes + self._bias).argmax(dim=1)
        distance = self._means.square().sum(dim=1) - 2 * (features - self._centre) @ self._means.T
        agreed = (linear == distance.argmin(dim=1)).sum()
        self._tally += torch.stack([agreed, torch.full_like(agreed, features.shape[0])])

    def merge(self, other: NC4Accumulator) -> NC4Accumulator:
        """Add all that another accumulator on the same class statistics has seen; returns self."""
        check_same_pass(self.statistics, other.statistics)
        self._tally += other._tally.to(self._tally.device)
        return self

    def compute(self) -> NC4Result:
        """The agreement over all batches so far."""
        agreed, seen = self._tally.double()
        finite = bool(self._means.isfinite().all())
        return NC4Result(agreed / seen if finite else seen * math.nan, int(seen), self.statistics.absent)


@torch.no_grad()
def nearest_mean_agreement(features: Tensor, labels: Tensor, predictions: Tensor) -> Tensor:
    """NC4 of any classifier: the share of samples that it gives the class whose mean is nearest.

    Args:
        features: [N, D].
        labels: int64 [N], whose means are taken.
        predictions: int64 [N] of the classifier.

    Returns:
        float64 scalar in [0, 1].
    """
    means = class_statistics(features, labels).means
    # An absent class has no mean: as in `NC4Accumulator`, nothing is nearest to it.
    distance = torch.cdist(exact(features), means).nan_to_num(nan=math.inf)
    return (distance.argmin(dim=1) == predictions).double().mean()


def nc2(features: Tensor, labels: Tensor | None = None, num_classes: int | None = None) -> Tensor:
    """NC2, distance of the class means from a simplex (Zhu et al. 2021): ||MM^T/||MM^T||_F - (I-11^T/K)/sqrt(K-1)||_F.

    M holds the class means less their unweighted mean. 0 for an equiangular tight frame of any size and rotation.

    Args:
        features: [N, D]; or, without labels, the K points themselves [K, D] (class means, a classifier's weight).
        labels: int64 [N] or None.
        num_classes: K; None means one more than the largest label. Absent classes are left out.

    Returns:
        float64 scalar in [0, 2].

    Raises:
        DataError: wrong shapes or labels, fewer than two classes, or means that coincide.
    """
    needs = "finite features and two classes whose means differ"
    if labels is not None:
        return defined(class_statistics(features, labels, num_classes).nc2(), "nc2", needs)
    check_features(features, torch.zeros(features.shape[:1], dtype=torch.int64))
    centred = centred_rows(exact(features))
    return defined(simplex_gap(centred @ centred.T), "nc2", needs)


def nc3(features: Tensor, labels: Tensor, frame: Tensor) -> Tensor:
    """NC3, self-duality of means and frame (Zhu et al. 2021): ||WM^T/||WM^T||_F - (I-11^T/K)/sqrt(K-1)||_F.

    W holds the frame's columns as rows, M the class means less their unweighted mean. With a fixed frame this measures
    the alignment of the features alone.

    Args:
        features: [N, D].
        labels: int64 [N] in [0, K). Absent classes are left out of both W and M.
        frame: [D, K], one column a class (a linear layer's weight transposed).

    Returns:
        float64 scalar in [0, 2].

    Raises:
        DataError: wrong shapes or labels, fewer than two classes, or means that coincide.
    """
    check_features(features, labels)
    check_frame(frame, features.shape[1])
    statistics = class_statistics(features, labels, frame.shape[1])
    return defined(statistics.nc3(frame), "nc3", "finite features and two classes whose means differ")


def nc4(features: Tensor, labels: Tensor, frame_or_weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """NC4, share of samples on which the linear rule picks the class of the nearest mean (Papyan et al. 2020).

    Papyan et al. plot the disagreement, one minus this. Both rules choose among the present classes.

    Args:
        features: [N, D].
        labels: int64 [N] in [0, K): they define the means.
        frame_or_weight: [D, K], one column a class (a linear layer's weight transposed).
        bias: [K] or None.

    Returns:
        float64 scalar in [0, 1]; 1 under collapse.

    Raises:
        DataError: wrong shapes or labels, or no samples.
    """
    check_features(features, labels)
    check_frame(frame_or_weight, features.shape[1])
    statistics = class_statistics(features, labels, frame_or_weight.shape[1])
    accumulator = NC4Accumulator(statistics, frame_or_weight, bias)
    for batch in chunks(features, labels):
        accumulator.update(*batch)
    return defined(accumulator.compute().agreement, "nc4", "finite features and at least one sample")


def cdnv(features: Tensor, labels: Tensor, num_classes: int | None = None) -> Tensor:
    """Class-distance normalised variance: mean over pairs of (v_i + v_j)/(2 ||mu_i - mu_j||^2) (Galanti et al. 2022).

    v is the mean squared distance to the class mean. Free of scale, rotation and dimension, and needs one pass.

    Args:
        features: [N, D].
        labels: int64 [N].
        num_classes: K; None means one more than the largest label.

    Returns:
        float64 scalar >= 0, infinite where two means coincide. Classes with fewer than two samples are left out.

    Raises:
        DataError: wrong shapes or labels, or fewer than two classes of two samples.
    """
    value = class_statistics(features, labels, num_classes).cdnv()
    return defined(value, "cdnv", "finite features and two classes with two samples each that are not one point")
