"""Accuracy over all samples, by class, by group of classes, and balanced; all from one table of confusion counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from divfeat.errors import DataError
from divfeat.metrics._inputs import check_integers, check_range, class_count, class_sums, defined

Groups = Tensor | Mapping[str, Tensor]
"""Group index of each class, int64 [K], or name -> bool mask of classes [K] (masks may overlap)."""


@dataclass(frozen=True)
class Confusion:
    """Confusion counts and the accuracies that follow; an accuracy over no samples is NaN.

    Attributes:
        counts: int64 [K, K]; row the label, column the prediction.
    """

    counts: Tensor

    @property
    def support(self) -> Tensor:
        """Samples of each class, int64 [K]."""
        return self.counts.sum(dim=1)

    @property
    def absent(self) -> int:
        """Number of classes without a sample."""
        return int((self.support == 0).sum())

    @property
    def top1(self) -> Tensor:
        """Share of samples predicted right, float64 scalar."""
        return self.counts.diagonal().sum().double() / self.counts.sum()

    @property
    def by_class(self) -> Tensor:
        """Share of each class's samples predicted right (recall), float64 [K]; NaN for absent classes."""
        return self.counts.diagonal().double() / self.support

    @property
    def balanced(self) -> Tensor:
        """Mean of `by_class` over present classes, float64 scalar."""
        return self.by_class.nanmean()

    def by_group(self, groups: Groups) -> dict[str, Tensor]:
        """Accuracy over the samples of each group, float64 scalars; see `accuracy_by_group`."""
        right, support = self.counts.diagonal(), self.support
        masks = _masks(groups, self.counts.shape[0])
        return {
            name: (right * mask.to(right.device)).sum().double() / (support * mask.to(right.device)).sum()
            for name, mask in masks.items()
        }


def _masks(groups: Groups, num_classes: int) -> dict[str, Tensor]:
    if isinstance(groups, Tensor):
        check_integers(groups, None, "groups")
        groups = {str(group): groups == group for group in groups.unique().tolist()}
    for name, mask in groups.items():
        if mask.shape != (num_classes,) or mask.dtype != torch.bool:
            raise DataError(
                f"group {name!r} has shape {tuple(mask.shape)} and dtype {mask.dtype}: pass one entry for each of the "
                f"{num_classes} classes, a group index or a bool mask"
            )
    return dict(groups)


class ConfusionAccumulator:
    """Streams `Confusion`: K x K int64 counts; an update never waits for an accelerator.

    Args:
        num_classes: K, with labels and predictions in [0, K).

    Raises:
        DataError: from `update` and `merge` for shapes or classes that do not fit.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    @torch.no_grad()
    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Add a batch: predicted and true classes, int64 [N] each."""
        check_integers(labels, None, "labels")
        check_integers(predictions, labels.shape[0], "predictions")
        check_range(labels, self.num_classes, wait=False)
        check_range(predictions, self.num_classes, "predictions", wait=False)
        cells = labels.to(predictions.device).long() * self.num_classes + predictions
        counts = class_sums(torch.ones_like(cells), cells, self.num_classes**2).view_as(self._counts)
        self._counts = self._counts.to(counts.device) + counts  # moves to the predictions' device

    def merge(self, other: ConfusionAccumulator) -> ConfusionAccumulator:
        """Add all that another accumulator has seen; returns self."""
        if other.num_classes != self.num_classes:
            raise DataError(f"cannot merge a confusion of {other.num_classes} classes into {self.num_classes}")
        self._counts = self._counts + other._counts.to(self._counts.device)
        return self

    def compute(self) -> Confusion:
        """The counts of all batches so far."""
        return Confusion(self._counts.clone())


def confusion(predictions: Tensor, labels: Tensor, num_classes: int | None = None) -> Confusion:
    """`Confusion` of predicted and true classes, int64 [N] each.

    `num_classes` None means one more than the largest label or prediction. Raises `DataError` for wrong shapes or
    classes.
    """
    check_integers(labels, None, "labels")
    check_integers(predictions, labels.shape[0], "predictions")
    if num_classes is None:
        num_classes = max(class_count(labels, None), class_count(predictions, None))
    check_range(labels, num_classes)
    check_range(predictions, num_classes, "predictions")
    accumulator = ConfusionAccumulator(num_classes)
    accumulator.update(predictions, labels)
    return accumulator.compute()


def accuracy(predictions: Tensor, labels: Tensor) -> Tensor:
    """Top-1 accuracy: share of samples with prediction = label.

    Args:
        predictions: int64 [N].
        labels: int64 [N].

    Returns:
        float64 scalar in [0, 1].

    Raises:
        DataError: wrong shapes, or no samples.
    """
    check_integers(labels, None, "labels")
    check_integers(predictions, labels.shape[0], "predictions")
    return defined((predictions == labels.to(predictions.device)).double().mean(), "accuracy", "at least one sample")


def accuracy_by_class(predictions: Tensor, labels: Tensor, num_classes: int | None = None) -> Tensor:
    """Accuracy of each class, float64 [K], NaN for absent classes. Arguments and errors are those of `confusion`."""
    return confusion(predictions, labels, num_classes).by_class


def balanced_accuracy(predictions: Tensor, labels: Tensor, num_classes: int | None = None) -> Tensor:
    """Mean accuracy of the present classes, float64 scalar. Arguments and errors are those of `confusion`."""
    return confusion(predictions, labels, num_classes).balanced


def accuracy_by_group(predictions: Tensor, labels: Tensor, groups: Groups) -> dict[str, float]:
    """Accuracy over the samples of each group of classes (many / medium / few, major / minor).

    Over samples, not over classes: the two agree where classes have equally many samples, as in the published test
    sets. For the other, average `accuracy_by_class` over a group's classes.

    Args:
        predictions: int64 [N] in [0, K).
        labels: int64 [N] in [0, K).
        groups: group index of each class, int64 [K], or name -> bool mask of classes [K].

    Returns:
        Group name (an index as text) -> accuracy; NaN for a group without samples.

    Raises:
        DataError: wrong shapes, labels, predictions or groups.
    """
    sizes = {groups.shape[0]} if isinstance(groups, Tensor) else {mask.shape[0] for mask in groups.values()}
    if len(sizes) != 1:
        raise DataError(f"the groups' masks have lengths {sorted(sizes)}: pass one entry for each class in every mask")
    counts = confusion(predictions, labels, sizes.pop())
    return {name: float(value) for name, value in counts.by_group(groups).items()}
