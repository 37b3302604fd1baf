"""How bad mistakes are against how many there are: confirmed methods with their intervals, and the trials of the search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from divfeat.report.arrays import Floats, finite, mean_sd
from divfeat.report.figures._canvas import (
    COLOURS,
    INK,
    MUTED,
    Place,
    canvas,
    label,
    legend,
    plain,
    save,
    say_empty,
    seeds_text,
    size_of,
)
from divfeat.report.figures.front import draw_steps, draw_trials, drawn_lines
from divfeat.report.figures.tradeoff import FAR
from divfeat.statistics import pareto_front, t_half_width

_AXES = ("accuracy (%)", "mistake severity, lower is better")
_LOOK = ("maximize", "minimize")
_SIZE = 8.5
#: Points of 1/72 inch from a point to its name.
_CLOSE = 9


def severity_by_accuracy(
    methods: Mapping[str, tuple[ArrayLike, ArrayLike]],
    path: Place,
    *,
    trials: Sequence[Mapping[str, Any]] = (),
    winner: int | None = None,
    level: float = 0.95,
) -> str:
    """Severity against accuracy of every method on test with intervals both ways, and of every trial on validation.

    Args:
        methods: name -> accuracy in percent and severity over seeds [S], the first of them the winner; NaN where missing.
        path: PNG to write, or what takes the figure.
        trials: As `pareto_front` takes them, of accuracy in percent and severity; without any there is one panel.
        winner: Number of the trial that won.
        level: Of the Student-t intervals.

    Returns:
        The caption, also printed on the figure.
    """
    figure, axes = canvas(1, 2 if trials else 1, width=11.6 if trials else 6.4, height=5.2)
    tables = {name: np.array([np.ravel(column) for column in pair], dtype=np.float64) for name, pair in methods.items()}
    told, named = _methods(axes[0, 0], tables, level)
    if trials:
        ax = axes[0, 1]
        counted = draw_trials(ax, trials, _LOOK, winner)
        outside = _near(ax, np.array([trial["values"] for trial in trials], dtype=np.float64))
        label(ax, "The search, on validation", *_AXES)
        legend(ax, drawn_lines(ax), loc="upper center", bbox_to_anchor=(0.5, -0.14), columns=2)
        far = f"; {outside} outside, more than {FAR:g} points below the best" if outside else ""
        told += f" Search: {counted}{far}; one seed a trial."
    if named:
        _names(axes[0, 0], *named)
    return save(figure, path, told)


def _methods(
    ax: Axes, tables: Mapping[str, Floats], level: float
) -> tuple[str, tuple[list[str], Floats, Floats] | None]:
    """The methods' means with their intervals; returns what the caption says of them, and names, means and halves of these."""
    found = {name: mean_sd(table)[0] for name, table in tables.items()}
    found = {name: mean for name, mean in found.items() if np.isfinite(mean).all()}
    label(ax, "Confirmed methods, on test", *_AXES)
    if not found:
        say_empty(ax, "no method with mistakes")
        return "No method has a severity.", None
    means = np.array(list(found.values()))
    front = pareto_front(means * (1, -1)).tolist()
    draw_steps(ax, means[front], _LOOK[0], linewidth=1.2, linestyle="--")
    halves = np.array([[_half(row, level) for row in tables[name]] for name in found])
    for place, (name, mean) in enumerate(found.items()):
        first = place == 0 and name == next(iter(tables))
        colour = COLOURS[1] if first else COLOURS[0] if place in front else MUTED
        face = colour if place in front else "white"
        ax.errorbar(
            mean[0], mean[1], halves[place, 1], halves[place, 0], fmt="o", color=colour, markerfacecolor=face, markersize=7,
            elinewidth=1.1, capsize=2, zorder=3 + first,
        )  # fmt: skip
    ax.margins(0.13)
    handles = [line for line in drawn_lines(ax) if line.get_label() == "Pareto front"]
    handles += [Line2D([], [], color=COLOURS[1], marker="o", linestyle="", label="winner")]
    legend(ax, handles, loc="upper center", bbox_to_anchor=(0.5, -0.14), columns=2)
    best = ", ".join(plain(list(found)[place], 40) for place in front)
    seeds = seeds_text([table[0] for table in tables.values()])
    told = f"Means with {100 * level:g} % Student-t intervals over {seeds}. Filled, on the front of the means: {best}."
    return told, (list(found), means, halves)


def _half(values: Floats, level: float) -> float:
    known = finite(values)
    return (
        t_half_width(float(mean_sd(known)[1]) / math.sqrt(len(known)), len(known) - 1, level) if len(known) > 1 else 0.0
    )


def _near(ax: Axes, values: Floats) -> int:
    """Leave what is far below the best accuracy outside the axes, which it would squeeze; returns how many trials that are."""
    values = values[np.isfinite(values).all(axis=1)]
    near = values[values[:, 0] >= values[:, 0].max(initial=-math.inf) - FAR]
    if len(near) == len(values):
        return 0
    for setter, column in ((ax.set_xlim, near[:, 0]), (ax.set_ylim, near[:, 1])):
        pad = 0.06 * float(np.ptp(column)) or 0.5
        setter(column.min() - pad, column.max() + pad)
    return len(values) - len(near)


def _names(ax: Axes, names: Sequence[str], means: Floats, halves: Floats) -> None:
    """A name beside each point where it covers the least of names, points and bars; a line leads to one that stands off."""
    size = size_of(ax)
    limits = np.array([ax.get_xlim(), ax.get_ylim()])
    ax.set_xlim(*limits[0])
    ax.set_ylim(*limits[1])
    points = (means - limits[:, 0]) / np.ptp(limits, axis=1) * size  # in points of 1/72 inch from the lower left corner
    bars = halves / np.ptp(limits, axis=1) * size
    taken = [_around(point, 5, 5) for point in points]
    crossed = [_around(point, across, 0.3) for point, (across, _) in zip(points, bars, strict=True)]
    crossed += [_around(point, 0.3, up) for point, (_, up) in zip(points, bars, strict=True)]
    for name, point, mean in zip(names, points, means, strict=True):
        text = plain(name, 26)
        half = np.array([0.28 * _SIZE * len(text), 0.6 * _SIZE])
        places = []
        for away, right, up in product((_CLOSE, 20, 34, 50), (1, -1), (1, -1)):
            box = _around(point + np.array([right * (away + half[0]), up * away]), *half)
            beyond = np.maximum(-np.array(box[:2]), 0).sum() + np.maximum(np.array(box[2:]) - size, 0).sum()
            cost = sum(_shared(box, other) for other in taken + crossed) + 10 * beyond + away
            places.append((cost, away, right, up, box))
        _, away, right, up, box = min(places, key=lambda place: place[0])
        taken.append(box)
        ax.annotate(
            text, mean, (right * away, up * away), textcoords="offset points", fontsize=_SIZE, color=INK, va="center",
            ha="left" if right > 0 else "right", zorder=5, annotation_clip=False,
            path_effects=[patheffects.withStroke(linewidth=2, foreground="white")],
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "shrinkB": 4} if away > _CLOSE else None,
        )  # fmt: skip


def _around(point: Floats, across: float, up: float) -> tuple[float, float, float, float]:
    """Box (left, bottom, right, top) of half that width and height about a point."""
    return float(point[0] - across), float(point[1] - up), float(point[0] + across), float(point[1] + up)


def _shared(one: Sequence[float], other: Sequence[float]) -> float:
    """Area that two boxes (left, bottom, right, top) share."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    return max(0.0, across) * max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
