"""Angles between classes: the cosines that the axes have, beside those that the means of the features have come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from divfeat.report.arrays import Floats, mean_sd
from divfeat.report.figures._canvas import INK, MUTED, Place, canvas, label, plain, save, say_empty, seeds_text

if TYPE_CHECKING:
    from divfeat.hierarchy import Hierarchy

#: Classes up to which each has its name; of more, the groups have theirs where they are this share of the side.
MOST_NAMED, NAMED_GROUP = 30, 0.035


def class_cosines(methods: Mapping[str, tuple[ArrayLike, ArrayLike]], hierarchy: Hierarchy, path: Place) -> str:
    """Cosines between class axes (the target) and between class means, a row a method; neighbours in the tree side by side.

    Args:
        methods: name -> cosines [K, K] or [S, K, K] over seeds between the axes, and between the means of the training features;
            NaN where a class or a seed is missing.
        hierarchy: Of the K classes, in label order.
        path: PNG to write, or what takes the figure.

    Returns:
        The caption, also printed on the figure.
    """
    order = np.array(hierarchy.depth_first)
    groups = _groups(hierarchy, order)
    figure, axes = canvas(max(len(methods), 1), 2, width=10.0, height=4.7 * max(len(methods), 1) + 0.4)
    gaps, image = [], None
    for row, (name, pair) in zip(axes, methods.items(), strict=False):
        target, measured = (_by_seed(values) for values in pair)
        gap = _mean_difference(target, measured)
        gaps.append(gap)
        told = float(mean_sd(gap)[0])
        # Bound together, so that a line ends before it and not within.
        difference = f"mean absolute difference {told:.3f}".replace(" ", "\N{NO-BREAK SPACE}")
        titles = (
            f"{plain(name, 60)}: between class axes",
            f"between class means: {difference if np.isfinite(told) else 'not measured'}",
        )
        for ax, table, title in zip(row, (target, measured), titles, strict=True):
            mean = mean_sd(table, axis=0)[0][np.ix_(order, order)]
            image = ax.imshow(mean, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
            _mark(ax, groups, [hierarchy.classes[k] for k in order], names=ax is row[0])
            label(ax, title)
    if image is not None:
        figure.colorbar(image, ax=axes, shrink=0.7, aspect=32, label="cosine (no unit)").outline.set_visible(False)
    else:
        for ax in axes.flat:
            say_empty(ax, "no angles between classes")
    caption = (
        f"{hierarchy.num_classes} classes in the order of the tree; lines: the {len(groups)} groups of its coarsest level"
        if len(groups) < hierarchy.num_classes
        else f"{hierarchy.num_classes} classes in the order of the tree"
    )
    seeds = f"; mean over {seeds_text(gaps, 'matrix')}" if gaps else ""
    return save(figure, path, f"{caption}{seeds}. Difference: of cosines, over pairs of classes (angular collapse).")


def _by_seed(values: ArrayLike) -> Floats:
    """[K, K] or [S, K, K] -> [S, K, K]."""
    table = np.asarray(values, dtype=np.float64)
    return table if table.ndim == 3 else table[None]


def _mean_difference(target: Floats, measured: Floats) -> Floats:
    """[S] mean over pairs of classes of the absolute difference of cosines."""
    rows, columns = np.triu_indices(target.shape[-1], 1)
    return mean_sd(np.abs(measured - target)[:, rows, columns])[0]


def _groups(hierarchy: Hierarchy, order: Sequence[int] | np.ndarray) -> list[tuple[str, int, int]]:
    """Name, first place and number of classes of each group of the coarsest level that has more than one."""
    for level in range(1, hierarchy.height + 1):
        nodes = np.array(hierarchy.nodes_at(level))[np.asarray(order)]
        starts = [0, *(1 + np.flatnonzero(np.diff(nodes))).tolist()]
        if len(starts) > 1:
            break
    ends = [*starts[1:], len(nodes)]
    return [(hierarchy.names[nodes[start]], start, end - start) for start, end in zip(starts, ends, strict=True)]


def _mark(ax: Axes, groups: Sequence[tuple[str, int, int]], classes: Sequence[str], *, names: bool) -> None:
    """Lines between the groups; names of the classes, or of many classes those of the groups, at the left where asked."""
    count = len(classes)
    if len(groups) < count:
        for _, start, _ in groups[1:]:
            ax.axhline(start - 0.5, color=INK, linewidth=0.8)
            ax.axvline(start - 0.5, color=INK, linewidth=0.8)
    ax.grid(False)
    ax.tick_params(length=0, colors=MUTED)
    if count <= MOST_NAMED:
        size = 9.0 if count <= 15 else 6.5
        ax.set_xticks(range(count), [plain(name, 18) for name in classes], rotation=90, fontsize=size)
        ax.set_yticks(range(count), [plain(name, 18) if names else "" for name in classes], fontsize=size)
        return
    shown = [(name, start, size) for name, start, size in groups if len(groups) < count and size >= NAMED_GROUP * count]
    places = [start + (size - 1) / 2 for _, start, size in shown]
    words = [plain(name, 20) for name, _, _ in shown]
    ax.set_xticks(places, words, fontsize=8.5, rotation=0 if len(words) < 5 else 90)
    ax.set_yticks(
        places, words if names else [""] * len(words), fontsize=8.5, rotation=90 * (len(words) < 5), va="center"
    )
