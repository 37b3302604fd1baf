"""Where in a tree of classes mistakes go: the edges that each crosses."""

from __future__ import annotations

from torch import Tensor

from divfeat.errors import DataError
from divfeat.hierarchy import Hierarchy
from divfeat.metrics.accuracy import Confusion


def crossed_edges(found: Confusion, hierarchy: Hierarchy) -> Tensor:
    """Share of the mistakes that cross the edge above each node.

    A mistake goes from the true class up to the lowest common ancestor and down to the predicted class, and crosses every edge
    on that way once. So the shares add up to the mean length of that way, and those below the root to twice the share of the
    mistakes that no group of the coarsest level holds.

    Args:
        found: Confusion of the K classes.
        hierarchy: Of them, in label order.

    Returns:
        Float64 [nodes], in the order of `Hierarchy.names`, 0 for the root; NaN where nothing is predicted wrong.

    Raises:
        DataError: a confusion of another number of classes.
    """
    counts = found.counts.double().cpu()
    if len(counts) != hierarchy.num_classes:
        raise DataError(f"a confusion of {len(counts)} classes for a hierarchy of {hierarchy.num_classes}")
    below = hierarchy.subtrees().double()
    # The way crosses the edge above a node where one of its two ends lies below, and the other does not.
    ends = below @ (counts.sum(0) + counts.sum(1))
    both = ((below @ counts) * below).sum(1)
    return (ends - 2 * both) / (counts.sum() - counts.diagonal().sum())
