"""How near class means have come to a frame of any shape: angles between them, and self-duality."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from divfeat.errors import DataError
from divfeat.hierarchy import Hierarchy
from divfeat.metrics.statistics import check_frame


@dataclass(frozen=True)
class AngularCollapse:
    """Cosines between class means minus those of the frame, over pairs of classes i < j (HAFrame, slides, "neural collapse").

    Attributes:
        mean_absolute: Mean of their absolute values.
        std_signed: Standard deviation of the differences, as in the published code.
        std_absolute: Of their absolute values, as on the slides.
    """

    mean_absolute: Tensor
    std_signed: Tensor
    std_absolute: Tensor


def angular_collapse(means: Tensor, frame: Tensor) -> AngularCollapse:
    """How far the angles between class means are from those of a frame; 0 at collapse to it.

    Means are taken as they are: centred ones of a hierarchy-aware frame would miss it, since its axes do not sum to zero.

    Args:
        means: [K, D], class means of features.
        frame: [dim, K]; only the cosines count, so that dim may be another than D.

    Returns:
        Float64 scalars over the pairs of classes whose means are there (NaN stands for an absent class); NaN where no pair is.

    Raises:
        DataError: not as many means as axes, or fewer than two classes.
    """
    if means.ndim != 2 or frame.ndim != 2 or len(means) != frame.shape[1] or len(means) < 2:
        raise DataError(
            f"class means {tuple(means.shape)} and frame {tuple(frame.shape)}: they are [K, D] and [dim, K] for the same K >= 2"
        )
    rows, columns = torch.triu_indices(len(means), len(means), 1, device=means.device)
    difference = (cosines_between(means) - cosines_between(frame.T.to(means.device)))[rows, columns]
    difference = difference[~difference.isnan()]
    if not len(difference):
        nothing = torch.tensor(torch.nan, dtype=torch.float64)
        return AngularCollapse(nothing, nothing, nothing)
    absolute = difference.abs()
    return AngularCollapse(absolute.mean(), difference.std(unbiased=False), absolute.std(unbiased=False))


def cophenetic_correlation(means: Tensor, hierarchy: Hierarchy) -> Tensor:
    """How well the angles between class means follow the distances of a tree, whatever the axes (Sokal and Rohlf, 1962).

    Pearson's correlation, over pairs of classes, of one minus the cosine of their means with their distance in the tree: 1 where
    means of near classes are near in proportion, 0 where the tree says nothing of them.

    Args:
        means: [K, D], raw class means of features; NaN stands for an absent class, which is left out.
        hierarchy: Of the K classes.

    Returns:
        Float64 scalar, NaN where either is the same for all pairs.

    Raises:
        DataError: not as many means as the tree has classes.
    """
    if means.ndim != 2 or len(means) != hierarchy.num_classes:
        raise DataError(
            f"class means {tuple(means.shape)}: the tree has {hierarchy.num_classes} classes, and they are [K, D]"
        )
    rows, columns = torch.triu_indices(len(means), len(means), 1, device=means.device)
    apart = torch.stack([1 - cosines_between(means), hierarchy.distances().to(means.device).double()])[:, rows, columns]
    apart = apart[:, ~apart.isnan().any(0)]
    apart = apart - apart.mean(1, keepdim=True)
    lengths = apart.norm(dim=1)
    if not len(apart.T) or float(lengths.min()) <= _NO_SPREAD * len(apart.T):
        return torch.tensor(torch.nan, dtype=torch.float64)
    return apart[0] @ apart[1] / lengths.prod()


#: Cosines that differ by less are rounding.
_NO_SPREAD = 1e-12


def self_duality(means: Tensor, frame: Tensor, *, squared: bool = False) -> Tensor:
    """``|| W / ||W||_F - H / ||H||_F ||_F`` between classifier and class means (NC3; HAFrame, slides).

    Args:
        means: [K, D], raw class means.
        frame: [D, K].
        squared: The square of it, which is what the published code logs.

    Returns:
        Float64 scalar.

    Raises:
        DataError: shapes that do not fit.
    """
    check_frame(frame, means.shape[-1], len(means))
    weights, features = frame.T.double().to(means.device), means.double()
    gap = (weights / weights.norm() - features / features.norm()).norm()
    return gap.square() if squared else gap


def cosines_between(rows: Tensor) -> Tensor:
    """Cosines between the rows [K, D]: float64 [K, K]."""
    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    return unit @ unit.T
