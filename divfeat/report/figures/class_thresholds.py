"""Figures of thresholds that differ between classes: the angle of each class, the accuracy of each group against its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from divfeat.report.arrays import Floats
from divfeat.report.figures._canvas import (
    COLOURS,
    DASHES,
    INK,
    MUTED,
    angle_axis,
    baselines,
    canvas,
    label,
    legend,
    plain,
    save,
    say_empty,
)
from divfeat.report.figures.thresholds import TAU


def group_accuracy_by_threshold(
    tau_plus: Mapping[str, ArrayLike],
    accuracy: Mapping[str, ArrayLike],
    path: str | Path,
    *,
    baseline_accuracy: Mapping[str, Mapping[str, ArrayLike]] | None = None,
) -> str:
    """Accuracy of each group of classes against its own threshold, as figure 5c of the HingeCE paper.

    Args:
        tau_plus: group -> [T] radians, one a trial.
        accuracy: group -> [T] percent on validation; NaN = missing.
        path: PNG to write.
        baseline_accuracy: group -> name -> [S] percent, drawn as a line (mean) and band (one sd).

    Returns:
        The caption, also printed on the figure.
    """
    groups = list(tau_plus)
    columns = max(len(groups), 1)
    figure, axes = canvas(1, columns, width=2.2 + 3.7 * columns, height=4.4)
    finished = 0
    for place, group in enumerate(groups):
        ax = axes[0, place]
        degrees = np.degrees(np.asarray(tau_plus[group], dtype=np.float64).reshape(-1))
        values = np.asarray(accuracy[group], dtype=np.float64).reshape(-1)
        done = np.isfinite(degrees) & np.isfinite(values)
        finished = max(finished, int(done.sum()))
        lines = baselines(ax, (baseline_accuracy or {}).get(group, {}))
        if done.any():
            ax.plot(degrees[done], values[done], "o", color=COLOURS[0], markersize=6, alpha=0.75, markeredgecolor="white",
                    markeredgewidth=0.7, label="one trial", zorder=4)  # fmt: skip
        else:
            say_empty(ax)
        points = [line for line in ax.get_lines() if line not in lines]
        angle_axis(ax, degrees, f"τ⁺ of {plain(group)} classes")
        label(
            ax,
            f"{plain(group)[:1].upper()}{plain(group)[1:]} classes",
            y="validation accuracy (%)" if place == 0 else "",
        )
        if place == columns - 1:
            legend(ax, [*points, *lines])
    if not groups:
        say_empty(axes[0, 0])
    trials = f"{finished} finished trial{'s' * (finished != 1)}"
    return save(
        figure, path, f"{trials}, one seed each; the thresholds of the other groups differ too. Line and band: a baseline's mean "
        "and one standard deviation over seeds.",
    )  # fmt: skip


def angles_by_count(
    counts: ArrayLike,
    tau_plus: ArrayLike,
    path: str | Path,
    *,
    others: Mapping[str, ArrayLike] | None = None,
    boundary: int | None = None,
    name: str = "winner",
) -> str:
    """The angle of each class against its training images, of the winner and of what it was chosen among.

    Args:
        counts: [K] training images, at least 1.
        tau_plus: [K] radians of the winner.
        path: PNG to write.
        others: name -> [K] radians of the other candidates.
        boundary: classes with at most this many training images are minor; None where there are no such groups.
        name: of the winner.

    Returns:
        The caption, also printed on the figure.

    Raises:
        ValueError: not one angle for each class.
    """
    size = np.asarray(counts, dtype=np.float64).reshape(-1)
    order = np.argsort(-size, kind="stable").astype(np.int64)
    size, degrees = size[order], _degrees(tau_plus, order)
    figure, axes = canvas(width=7.6, height=5.4)
    ax = axes[0, 0]
    minor = size <= boundary if boundary is not None else np.zeros(len(size), dtype=bool)
    if len(size):
        ax.plot(size, degrees, color=INK, linewidth=0.9, zorder=3, label=plain(name, 70))
    else:
        say_empty(ax)
    for some, colour, group in ((~minor, COLOURS[0], "major"), (minor, COLOURS[1], "minor")):
        if some.any():
            text = (
                f"{group}: {int(some.sum())} class{'es' * (int(some.sum()) != 1)}"
                if boundary is not None
                else "one class"
            )
            ax.plot(size[some], degrees[some], "o", color=colour, markersize=5, markeredgecolor="white", markeredgewidth=0.6,
                    zorder=4, label=text)  # fmt: skip
    shown = [degrees]
    for place, (other, values) in enumerate((others or {}).items()):
        shown.append(_degrees(values, order))
        ax.plot(size, shown[-1], color=MUTED, linestyle=DASHES[place % len(DASHES)], linewidth=1.1,
                label=plain(other, 60))  # fmt: skip
    if boundary is not None:
        ax.axvline(boundary, color=MUTED, linestyle=":", linewidth=1.2)
    _count_axis(ax, size)
    angle_axis(ax, np.concatenate(shown), TAU, axis="y")
    label(ax, "Cone threshold of each class against its training images", x="training images of the class (log scale)")
    legend(ax, loc="upper left", bbox_to_anchor=(0.0, -0.16))
    caption = "Chosen on validation on further seeds"
    if others:
        caption += f"; grey: the {len(others)} candidate{'s' * (len(others) != 1)} it was chosen over"
    caption += f". Minor: at most {boundary} training images (dotted)." if boundary is not None else "."
    return save(figure, path, caption)


def _degrees(radians: ArrayLike, order: NDArray[np.int64]) -> Floats:
    values = np.degrees(np.asarray(radians, dtype=np.float64).reshape(-1))
    if len(values) != len(order):
        raise ValueError(f"{len(values)} angles for {len(order)} classes: give one a class")
    return values[order]


def _count_axis(ax: Axes, size: Floats) -> None:
    """Log scale, largest class left, round ticks inside the range and both ends."""
    ax.set_xscale("log")
    if not size.size or size.min() <= 0:
        return
    low, high = float(size.min()), float(size.max())
    ax.set_xlim(high * 1.15, low / 1.15)
    ticks = [mantissa * 10.0**power for power in range(7) for mantissa in (1, 2, 5)]
    ticks = [tick for tick in ticks if 1.25 * low < tick < high / 1.25]
    found = [low, *ticks, high] if high > low else [low]
    ax.set_xticks(found, [f"{tick:g}" for tick in found])
    ax.minorticks_off()
