"""What one group of classes gains against what the other loses: every trial of the search and of the tuned baselines."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from divfeat.report.arrays import Floats, mean_sd
from divfeat.report.figures._canvas import COLOURS, MUTED, Place, canvas, label, legend, plain, save, say_empty

#: Points of balanced accuracy below the best from which on a trial lies outside: collapsed ones would squeeze the others.
FAR = 15.0
_MARKERS = "ovs^Dp"


def group_tradeoff(
    trials: Mapping[str, tuple[ArrayLike, ArrayLike]],
    path: Place,
    *,
    means: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    sizes: tuple[int, int],
    names: tuple[str, str] = ("major", "minor"),
) -> str:
    """Accuracy of the second group against that of the first, a point a trial, over lines of equal balanced accuracy.

    Args:
        trials: method -> percent of its trials [T] in the first and in the second group, NaN where a trial has none.
        path: PNG to write, or what takes the figure.
        means: method -> percent over seeds [S] in both groups, drawn at their means: baselines that were not tuned.
        sizes: Classes of the groups.
        names: Of the groups.

    Returns:
        The caption, also printed on the figure.
    """
    names = (plain(names[0]), plain(names[1]))
    figure, axes = canvas(width=7.6, height=5.0)
    ax = axes[0, 0]
    share = sizes[0] / sum(sizes)
    best: dict[str, tuple[float, float, float]] = {}
    handles, outside = [], 0
    for place, (name, values) in enumerate(trials.items()):
        first, second = (np.asarray(column, dtype=np.float64).reshape(-1) for column in values)
        found = np.isfinite(first) & np.isfinite(second)
        if not found.any():
            continue
        balanced = share * first + (1 - share) * second
        top = int(np.nanargmax(balanced))
        best[name] = (float(balanced[top]), float(first[top]), float(second[top]))
        handles += ax.plot(
            first[found], second[found], _MARKERS[place % len(_MARKERS)], color=COLOURS[place % len(COLOURS)],
            markersize=6.5, alpha=0.85, markeredgecolor="white", markeredgewidth=0.6, label=plain(name), zorder=6 - min(place, 3),
        )  # fmt: skip
    for place, (name, values) in enumerate((means or {}).items(), start=len(trials)):
        point = [float(mean_sd(np.atleast_1d(np.asarray(column, dtype=np.float64)))[0]) for column in values]
        if np.isfinite(point).all():
            colour = COLOURS[place % len(COLOURS)]
            handles += ax.plot(
                *point, "*", color=colour, markersize=13, markeredgecolor="white", label=plain(name), zorder=4
            )
    if handles:
        drawn = np.concatenate([np.column_stack(line.get_data()) for line in handles]).astype(np.float64)
        balanced = drawn @ [share, 1 - share]
        near = balanced >= balanced.max() - FAR
        outside = int((~near).sum())
        handles += _levels(ax, drawn[near], share)
    else:
        say_empty(ax, "no finished trial")
    label(
        ax,
        f"What {names[1]} classes gain and {names[0]} classes lose",
        *(f"accuracy of {n} classes (%)" for n in names),
    )
    legend(ax, handles)
    told = "; ".join(
        f"{plain(name)} {balanced:.1f} ({names[0]} {first:.1f}, {names[1]} {second:.1f})"
        for name, (balanced, first, second) in sorted(best.items(), key=lambda item: -item[1][0])
    )
    caption = f"Best trial of each, balanced accuracy: {told}. " if told else ""
    stars = " Stars: methods that are not tuned, means over the selection seeds." if means else ""
    far = f" Outside: {outside}, more than {FAR:g} points below the best." if outside else ""
    return save(figure, path, f"{caption}Validation, one seed a trial.{far}{stars}")


def _levels(ax: Axes, drawn: Floats, share: float) -> list:
    """Lines of equal balanced accuracy at round values between the worst point and the best; one handle for all."""
    limits = [
        (column.min() - 0.06 * max(np.ptp(column), 1), column.max() + 0.06 * max(np.ptp(column), 1))
        for column in drawn.T
    ]
    ax.set_xlim(*limits[0])
    ax.set_ylim(*limits[1])
    balanced = drawn @ [share, 1 - share]
    step = next((size for size in (1, 2, 5, 10) if np.ptp(balanced) / size <= 6), 20)
    lines: list = []
    x = np.array(limits[0])
    for level in np.arange(np.floor(balanced.min() / step), np.ceil(balanced.max() / step) + 1) * step:
        lines = ax.plot(x, (level - share * x) / (1 - share), "-", color=MUTED, linewidth=0.7, alpha=0.5, zorder=1,
                        label=f"equal balanced accuracy, {step} points apart")  # fmt: skip
    return lines
