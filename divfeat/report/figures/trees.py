"""A tree of classes drawn from its root to its classes, bare or with the mistakes that go along its edges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from divfeat.report.arrays import Floats, mean_sd
from divfeat.report.figures._canvas import (
    COLOURS,
    INK,
    MUTED,
    Place,
    by_seed,
    canvas,
    label,
    plain,
    save,
    say_empty,
    seeds_text,
    size_of,
)

if TYPE_CHECKING:
    from divfeat.hierarchy import Hierarchy

#: Inches of a class by the number of classes up to which they hold; of more classes the figure is as high as it gets.
_ROWS = ((20, 0.24), (40, 0.17), (150, 0.125))
_HIGHEST = 19.0
#: Inches below which a name would lie on the next.
_LEAST_ROW = 0.1
_WIDEST_LINE = 6.0
#: From few mistakes to many; the palest still shows on white.
_FEW_TO_MANY = LinearSegmentedColormap.from_list("mistakes", ["#cfcfcf", COLOURS[4], COLOURS[1], "#5c1200"])


def tree(hierarchy: Hierarchy, path: Place) -> str:
    """The tree itself, from its root on the left to its classes on the right.

    Args:
        hierarchy: To draw.
        path: PNG to write, or what takes the figure.

    Returns:
        The caption, also printed on the figure.
    """
    row = _row(hierarchy)
    figure, axes = canvas(width=7.5, height=row * hierarchy.num_classes + 1.7)
    places = _draw(axes[0, 0], hierarchy, row)
    levels = ", ".join(map(str, hierarchy.sizes))
    label(axes[0, 0], f"{hierarchy.num_classes} classes; groups of its levels: {levels}")
    _name_inner(axes[0, 0], hierarchy, places, row)
    return save(figure, path, "Two classes have the distance at which their ways to the root meet.")


def mistakes_on_tree(methods: Mapping[str, ArrayLike], hierarchy: Hierarchy, path: Place) -> str:
    """The share of the mistakes that cross each edge of the tree, a tree a method.

    Args:
        methods: name -> share [nodes] or [nodes, S] over seeds of the mistakes that cross the edge above each node, as
            `divfeat.metrics.crossed_edges` gives it; NaN where a seed is missing or has no mistakes.
        hierarchy: Of the classes.
        path: PNG to write, or what takes the figure.

    Returns:
        The caption, also printed on the figure.

    Raises:
        ValueError: not one share, or one row of seeds, for each node.
    """
    tables = {name: 100 * by_seed(values, len(hierarchy.names)) for name, values in methods.items()}
    means = {name: mean_sd(table)[0] for name, table in tables.items()}
    highest = max((float(np.nanmax(mean)) for mean in means.values() if np.isfinite(mean).any()), default=1.0)
    norm = PowerNorm(0.5, 0.0, highest or 1.0)
    row, count = _row(hierarchy), max(len(methods), 1)
    figure, axes = canvas(1, count, width=6.2 * count + 0.4, height=row * hierarchy.num_classes + 2.5)
    for ax, (name, mean) in zip(axes[0], means.items(), strict=False):
        places = _draw(ax, hierarchy, row, mean, norm)
        worst = int(np.nanargmax(mean)) if np.isfinite(mean).any() else None
        told = (
            ""
            if worst is None
            else f": most, {mean[worst]:.1f}\N{NO-BREAK SPACE}%, above {plain(hierarchy.names[worst], 24)}"
        )
        label(ax, f"{plain(name, 60)}{told}")
    if methods:
        colours = ScalarMappable(norm, _FEW_TO_MANY)
        words = "mistakes that cross the edge (%)"
        look: dict = {"shrink": 0.4, "aspect": 30, "pad": 0.25 / figure.get_figheight(), "ticks": MaxNLocator(4)}
        figure.colorbar(colours, ax=axes, location="top", label=words, **look).outline.set_visible(False)
        for ax in axes[0]:
            _name_inner(ax, hierarchy, places, row)
    else:
        say_empty(axes[0, 0], "no predictions")
    seeds = f" Mean over {seeds_text([mean_sd(table, axis=0)[0] for table in tables.values()])}." if tables else ""
    caption = (
        "Test images predicted wrong: each goes from its class up to where the two ways meet and down to the class predicted, "
        f"and counts on every edge of that way.{seeds}"
    )
    return save(figure, path, caption)


def _row(hierarchy: Hierarchy) -> float:
    """Inches of a class."""
    count = hierarchy.num_classes
    return next((inches for most, inches in _ROWS if count <= most), _HIGHEST / count)


def _draw(
    ax: Axes, hierarchy: Hierarchy, row: float, percent: Floats | None = None, norm: PowerNorm | None = None
) -> Floats:
    """Edges from left to right between nodes at their heights, as wide and dark as their percent, where given, with the names of
    the classes where there is room; returns where each node is from the top."""
    heights, places = np.array(hierarchy.heights), _places(hierarchy)
    edges = np.arange(len(hierarchy.names) - 1)
    above = np.array(hierarchy.parents)[edges]
    spines = [
        ((heights[node], min(own)), (heights[node], max(own)))
        for node, children in enumerate(hierarchy.children)
        if (own := [places[child] for child in children])
    ]
    ax.add_collection(LineCollection(spines, colors=MUTED if percent is None else "#cfcfcf", linewidths=1.0, zorder=2))
    ways = [((heights[up], places[node]), (heights[node], places[node])) for node, up in zip(edges, above, strict=True)]
    if percent is None or norm is None:
        look: dict = {"colors": MUTED, "linewidths": 1.0}
    else:
        shown = np.nan_to_num(percent[:-1])
        strength = np.asarray(norm(shown), dtype=np.float64)
        widest = min(_WIDEST_LINE, 0.75 * 72 * row)
        look = {"colors": _FEW_TO_MANY(strength), "linewidths": 0.7 + (widest - 0.7) * strength}
    ax.add_collection(LineCollection(ways, zorder=3, capstyle="butt", **look))
    order = list(hierarchy.depth_first)
    names = [plain(hierarchy.classes[k], 24) for k in order] if row >= _LEAST_ROW else [""] * len(order)
    ax.yaxis.tick_right()
    ax.tick_params(axis="y", length=0, pad=2)
    ax.set_yticks(range(len(order)), names, fontsize=_size(row))
    ax.set_xlim(heights[-1] * 1.02, -0.02 * heights[-1])
    ax.set_ylim(hierarchy.num_classes - 0.3, -0.9)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    ax.grid(False, axis="y")
    ax.spines[["left", "right", "top"]].set_visible(False)
    label(ax, x="height: distance of two classes whose ways meet there")
    return places


def _size(row: float) -> float:
    """Of the classes' names."""
    return min(9.0, 72 * row * 0.85)


def _places(hierarchy: Hierarchy) -> Floats:
    """[nodes] from the top: classes one below the other, every other node amid its children."""
    places = np.zeros(len(hierarchy.names))
    places[list(hierarchy.depth_first)] = np.arange(hierarchy.num_classes)
    for node, children in enumerate(hierarchy.children):  # which come before their parents
        if children:
            places[node] = (places[children[0]] + places[children[-1]]) / 2
    return places


def _name_inner(ax: Axes, hierarchy: Hierarchy, places: Floats, row: float) -> None:
    """Names of inner nodes on their edges, as far as these are long, where their classes leave room."""
    holds, heights = hierarchy.subtrees().sum(1).tolist(), hierarchy.heights
    size = min(0.9 * _size(row), 8.0)
    step = size_of(ax)[0] / abs(np.diff(ax.get_xlim())[0])
    for node in range(hierarchy.num_classes, len(hierarchy.names) - 1):
        if holds[node] * row >= _LEAST_ROW:
            above = heights[hierarchy.parents[node]]
            letters = max(int(step * (above - heights[node]) / (0.57 * size)), 6)
            ax.annotate(
                plain(hierarchy.names[node], letters), (above, places[node]), (3, 2.5), textcoords="offset points", fontsize=size,
                color=INK, va="bottom", zorder=4, path_effects=[patheffects.withStroke(linewidth=2, foreground="white")],
            )  # fmt: skip
