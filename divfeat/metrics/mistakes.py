"""How bad mistakes are in a tree of classes: severity, hierarchical distance of the top ranks, accuracy on each level.

All samples count, those of the last batch too: the published code drops what does not fill a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from divfeat.errors import DataError
from divfeat.hierarchy import Hierarchy
from divfeat.metrics._inputs import check_integers, check_range, defined
from divfeat.metrics.accuracy import Confusion, ConfusionAccumulator, confusion

#: Ranks that the tables of both papers look at.
RANKS = (1, 5, 20)


@dataclass(frozen=True)
class Mistakes:
    """Of one set of samples; over no samples NaN.

    Attributes:
        confusion: Of the first rank.
        hierarchy: Of the classes.
        distance_at: k -> mean over all samples of the mean distance of the k classes with the highest scores; hits count as 0.
    """

    confusion: Confusion
    hierarchy: Hierarchy
    distance_at: dict[int, float]

    @property
    def top1(self) -> float:
        """Share of samples predicted right."""
        return float(self.confusion.top1)

    @property
    def severity(self) -> float:
        """Mean distance of the predicted class over the samples predicted wrong; NaN where none is."""
        return float(_severity(self.confusion, self.hierarchy))

    @property
    def by_level(self) -> list[float]:
        """Share of samples whose group is predicted right, on each level from the coarsest to the classes."""
        counts = self.confusion.counts
        levels = self.hierarchy.levels().to(counts.device)
        return [float((counts * (row[:, None] == row)).sum().double() / counts.sum()) for row in levels]


class MistakesAccumulator:
    """Streams `Mistakes`; an update never waits for an accelerator.

    Args:
        hierarchy: Of K classes, in label order.
        ranks: The k of `Mistakes.distance_at`; those above K are left out.

    Raises:
        DataError: from `update` and `merge` for shapes or classes that do not fit.
    """

    def __init__(self, hierarchy: Hierarchy, ranks: Sequence[int] = RANKS) -> None:
        self.hierarchy = hierarchy
        self.ranks = tuple(k for k in ranks if k <= hierarchy.num_classes)
        self._distances = hierarchy.distances().double()
        self._confusion = ConfusionAccumulator(hierarchy.num_classes)
        self._sums = torch.zeros(len(self.ranks), dtype=torch.float64)
        self._seen = 0

    @torch.no_grad()
    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Add a batch: scores [N, K], higher is better, and true classes int64 [N]. Of equal scores the first class leads."""
        _check_scores(scores, labels, self.hierarchy)
        check_range(labels, self.hierarchy.num_classes, wait=False)
        ranked = _ranked(scores, max(self.ranks, default=1))
        self._confusion.update(ranked[:, 0], labels)
        self._distances = self._distances.to(scores.device)
        distances = self._distances[labels.to(scores.device)[:, None], ranked]
        sums = [distances[:, :k].mean(1).sum() for k in self.ranks]
        self._sums = self._sums.to(scores.device) + (torch.stack(sums) if sums else 0.0)
        self._seen += len(labels)

    def merge(self, other: MistakesAccumulator) -> MistakesAccumulator:
        """Add all that another accumulator has seen; returns self."""
        if other.hierarchy != self.hierarchy or other.ranks != self.ranks:
            raise DataError("cannot merge mistakes of another hierarchy or of other ranks")
        self._confusion.merge(other._confusion)
        self._sums = self._sums + other._sums.to(self._sums.device)
        self._seen += other._seen
        return self

    def compute(self) -> Mistakes:
        """Of all batches so far."""
        means = (self._sums / self._seen if self._seen else self._sums * torch.nan).tolist()
        return Mistakes(self._confusion.compute(), self.hierarchy, dict(zip(self.ranks, means, strict=True)))


def mistake_severity(predictions: Tensor, labels: Tensor, hierarchy: Hierarchy) -> Tensor:
    """Mean distance between predicted and true class over the samples predicted wrong (Bertinetto et al., CVPR 2020; HAFrame,
    slides, "mistake severity").

    Args:
        predictions: int64 [N].
        labels: int64 [N].
        hierarchy: Of the classes, in label order.

    Returns:
        Float64 scalar, at least 1; NaN where nothing is predicted wrong.

    Raises:
        DataError: wrong shapes, or classes that the hierarchy does not have.
    """
    return _severity(confusion(predictions, labels, hierarchy.num_classes), hierarchy)


def hierarchical_distance_at_k(scores: Tensor, labels: Tensor, hierarchy: Hierarchy, k: int) -> Tensor:
    """Mean over all samples of the mean distance of the k classes with the highest scores (Bertinetto et al., CVPR 2020; HAFrame,
    slides, "hierarchical distance at k").

    At k = 1 it is the error times the severity; hits count as 0.

    Args:
        scores: [N, K], higher is better: logits, probabilities, or risks with their sign turned.
        labels: int64 [N].
        hierarchy: Of the classes, in label order.
        k: In [1, K].

    Returns:
        Float64 scalar.

    Raises:
        DataError: wrong shapes, no samples, classes that the hierarchy does not have, or k out of range.
    """
    if not 1 <= k <= hierarchy.num_classes:
        raise DataError(
            f"hierarchical distance at k={k}: k must lie in [1, {hierarchy.num_classes}], the number of classes"
        )
    check_integers(labels, None, "labels")
    check_range(labels, hierarchy.num_classes)
    accumulator = MistakesAccumulator(hierarchy, [k])
    accumulator.update(scores, labels)
    value = torch.tensor(accumulator.compute().distance_at[k], dtype=torch.float64)
    return defined(value, "hierarchical distance", "at least one sample")


def lowest_risk(logits: Tensor, hierarchy: Hierarchy) -> Tensor:
    """Scores that rank classes by their expected distance, at test time, on any trained model (CRM; Karthik et al., ICLR 2021).

    Args:
        logits: [..., N, K] of the model.
        hierarchy: Of the classes, in label order.

    Returns:
        Float64 [..., N, K]: minus the risk ``sum_j d(k, j) p_j`` with p the softmax, so that the highest is best.

    Raises:
        DataError: not one logit a class of the hierarchy.
    """
    if logits.shape[-1] != hierarchy.num_classes:
        raise DataError(f"logits of {logits.shape[-1]} classes for a hierarchy of {hierarchy.num_classes}")
    return -torch.softmax(logits.double(), -1) @ hierarchy.distances().double().to(logits.device)


def _severity(found: Confusion, hierarchy: Hierarchy) -> Tensor:
    counts = found.counts.double()
    distances = hierarchy.distances().to(counts.device)
    wrong = counts.sum() - counts.diagonal().sum()
    return (counts * distances).sum() / wrong


def _ranked(scores: Tensor, k: int) -> Tensor:
    return torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :k]


def _check_scores(scores: Tensor, labels: Tensor, hierarchy: Hierarchy) -> None:
    check_integers(labels, None, "labels")
    if scores.shape != (len(labels), hierarchy.num_classes):
        raise DataError(
            f"scores of shape {tuple(scores.shape)} for {len(labels)} labels and a hierarchy of {hierarchy.num_classes} classes: "
            "they are [samples, classes]"
        )
