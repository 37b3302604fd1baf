"""The figure of a search for two objectives: its trials, its Pareto front, and what misses a constraint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from divfeat.report.arrays import Floats, mean_sd
from divfeat.report.figures._canvas import COLOURS, INK, MUTED, Place, canvas, label, legend, plain, save, say_empty


def pareto_front(
    trials: Sequence[Mapping[str, Any]],
    path: Place,
    *,
    names: tuple[str, str],
    directions: tuple[str, str],
    baselines: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    winner: int | None = None,
) -> str:
    """Both objectives of every finished trial, with the front as a line of steps.

    Args:
        trials: {"number": int, "values": (float, float), "feasible": bool, "front": bool}; without both values none is drawn.
        path: PNG to write, or what takes the figure.
        names: of the objectives, with their units.
        directions: of the objectives, `maximize` or `minimize`.
        baselines: name -> values over seeds in both objectives, drawn at their means.
        winner: number of the trial that won.

    Returns:
        The caption, also printed on the figure.
    """
    figure, axes = canvas(width=8.0, height=5.0)
    ax = axes[0, 0]
    told = draw_trials(ax, trials, directions, winner)
    for place, (name, values) in enumerate((baselines or {}).items()):
        point = [float(mean_sd(np.atleast_1d(np.asarray(column, dtype=np.float64)))[0]) for column in values]
        if np.isfinite(point).all():
            colour = COLOURS[1 + place % (len(COLOURS) - 1)]
            ax.plot(*point, "D", color=colour, markersize=7, markerfacecolor="white", label=plain(name))
    label(ax, "The search over both objectives", plain(names[0]), plain(names[1]))
    legend(ax, drawn_lines(ax))
    better = " and ".join(
        f"{'more' if direction == 'maximize' else 'less'} of {name}"
        for name, direction in zip(("the first", "the second"), directions, strict=True)
    )
    caption = f"{told}; one seed a trial, looking for {better}."
    if baselines:
        caption += " Diamonds: means of baselines over the selection seeds."
    return save(figure, path, caption)


def draw_trials(
    ax: Axes, trials: Sequence[Mapping[str, Any]], directions: tuple[str, str], winner: int | None = None
) -> str:
    """Both values of every trial with the front as a line of steps; arguments as of `pareto_front`.

    Returns:
        How many trials there are, on the front, and short of a constraint, in words.
    """
    table = np.array([trial["values"] for trial in trials], dtype=np.float64).reshape(len(trials), 2)
    drawn = np.isfinite(table).all(axis=1)
    front, kept, won = (
        np.array([bool(test(trial)) for trial in trials], dtype=bool) & drawn
        for test in (lambda t: t["front"], lambda t: t["feasible"], lambda t: t["number"] == winner)
    )
    missed = drawn & ~kept
    ax.plot(*table[kept & ~front].T, "o", color=COLOURS[5], markersize=6, label="trial")
    ax.plot(*table[missed].T, "x", color=MUTED, markersize=6, label="infeasible trial")
    draw_steps(ax, table[front], directions[0], linewidth=1.5, marker="o", markersize=7)
    ax.plot(*table[won].T, "o", color=INK, markersize=13, markerfacecolor="none", markeredgewidth=1.6, label="winner")
    if not drawn.any():
        say_empty(ax, "no finished trial")
    text = f"{int(kept.sum())} trials, {int(front.sum())} of them on the front"
    return f"{text}; {int(missed.sum())} more miss a constraint (crosses)" if missed.any() else text


def draw_steps(ax: Axes, points: Floats, direction: str, **look: Any) -> None:
    """A front [P, 2] as a line of steps; `direction` of its first objective."""
    corners = points[np.argsort(points[:, 0])]
    # What a front reaches falls off at once beyond each of its points, towards the worse side of the first objective.
    where: Literal["pre", "post"] = "pre" if direction == "maximize" else "post"
    ax.step(corners[:, 0], corners[:, 1], where=where, color=COLOURS[0], label="Pareto front", **look)


def drawn_lines(ax: Axes) -> list[Line2D]:
    """Handles of the lines that hold a point."""
    return [line for line in ax.lines if len(np.atleast_1d(line.get_xdata()))]
