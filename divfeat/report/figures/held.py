"""What the cones of each trial held of the loss, against what it scored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from divfeat.report.arrays import Floats
from divfeat.report.figures._canvas import Place, canvas, label, legend, plain, save
from divfeat.report.figures._scores import score_points

#: Percent of the loss below which cones took away as good as nothing.
LITTLE = 5.0


def score_by_held_loss(
    held: ArrayLike,
    scores: ArrayLike,
    releases: Sequence[str],
    path: Place,
    *,
    coneless: ArrayLike = (),
    metric: str = "validation accuracy",
    suffix: str = " (%)",
    minimize: bool = False,
) -> str:
    """Objective of each trial against the share of its cross-entropy that images inside their cone carried.

    Args:
        held: [T] percent of the cross-entropy of the whole training; trials with NaN in it or in `scores` are left out.
        scores: [T] objective.
        releases: [T] ways of letting go.
        path: PNG to write, or what takes the figure.
        coneless: [C] objective of trials without cones on the same seed, drawn as a line at their mean.
        metric: what the objective is.
        suffix: its unit.
        minimize: whether less of it is better.

    Returns:
        The caption, also printed on the figure.
    """
    x, y = (np.asarray(column, dtype=np.float64).reshape(-1) for column in (held, scores))
    names = np.array(list(releases), dtype=str)
    known = np.isfinite(x) & np.isfinite(y)
    x, y, names = x[known], y[known], names[known]
    without = np.asarray(coneless, dtype=np.float64).reshape(-1)
    without = without[np.isfinite(without)]
    figure, axes = canvas()
    ax = axes[0, 0]
    outside = score_points(ax, x, y, names.tolist(), without, suffix=suffix, minimize=minimize)
    ax.set_xlim(-3, 103)
    label(
        ax,
        f"{plain(metric)[:1].upper()}{plain(metric)[1:]} against what the cones held",
        "share of the cross-entropy carried by images inside their cone (%)",
        f"{plain(metric)}{suffix}",
    )
    legend(ax)
    return save(figure, path, _caption(x, y, names, without, outside, minimize))


def _caption(x: Floats, y: Floats, names: NDArray[np.str_], without: Floats, outside: int, minimize: bool) -> str:
    if not len(y):
        return "No trial tells what its cones held."
    best = int(np.argmin(y) if minimize else np.argmax(y))
    caption = (
        f"{len(y)} trials with cones, one seed each, over the whole training. Best: {y[best]:.4g} at {x[best]:.1f} %."
    )
    little = x < LITTLE
    if little.any() and len(without):
        away = np.abs(y - without.mean())
        told = [
            f"{plain(name or 'trial')} {int(mine.sum())}, {away[mine].max():.3g}"
            for name in dict.fromkeys(sorted(names.tolist()))
            if (mine := little & (names == name)).any()
        ]
        caption += (
            f" Trials whose cones held less than {LITTLE:g} % of the loss, and how far from no cones the farthest scored: "
            f"{'; '.join(told)}."
        )
    if outside:
        caption += f" Hollow: {outside} outside the axis, drawn on its edge."
    return caption
