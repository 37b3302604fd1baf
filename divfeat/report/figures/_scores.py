"""The score of each trial over one number of it: a marker a way of letting go, and what lies far outside on the edge."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from divfeat.report.arrays import Floats
from divfeat.report.figures._canvas import COLOURS, MUTED, RELEASES, frame, plain, say_empty

#: Percent below the best from which on a score lies outside: collapsed trials would squeeze the others.
FAR = 15.0


def score_points(
    ax: Axes, x: Floats, scores: Floats, releases: Sequence[str], coneless: Floats, *, suffix: str, minimize: bool
) -> int:
    """Draw the trials, and trials without cones as a line at their mean; frames the scores.

    Args:
        ax: To draw on.
        x: [T] of the trials, finite.
        scores: [T] objective, finite.
        releases: [T] ways of letting go.
        coneless: [C] objective of trials without cones on the same seed.
        suffix: unit of the objective.
        minimize: whether less of it is better.

    Returns:
        How many trials lie outside, drawn hollow on the edge.
    """
    names: NDArray[np.str_] = np.array(list(releases), dtype=str)
    if len(scores):
        sign = -1.0 if minimize else 1.0
        frame(ax, sign * np.concatenate([scores, coneless]))
        if minimize:
            ax.set_ylim(*(-limit for limit in reversed(ax.get_ylim())))
        elif "%" in suffix:
            ax.set_ylim(bottom=max(ax.get_ylim()[0], float(scores.max()) - FAR))
    else:
        say_empty(ax, "no finished trial")
    low, high = ax.get_ylim()
    edge = high if minimize else low
    outside = (scores > high) | (scores < low)
    for name in (name for name in dict.fromkeys([*RELEASES, *names.tolist()]) if name in names):
        colour, marker = RELEASES.get(name, (COLOURS[3], "D"))
        mine = names == name
        ax.plot(x[mine & ~outside], scores[mine & ~outside], marker, color=colour, markersize=6, alpha=0.85,
                markeredgecolor="white", markeredgewidth=0.6, label=plain(name or "trial"), zorder=3)  # fmt: skip
        if (mine & outside).any():  # an empty line outside the clip would still claim room in the layout
            ax.plot(x[mine & outside], np.full((mine & outside).sum(), edge), marker, color=colour, markersize=6,
                    markerfacecolor="white", clip_on=False, zorder=4)  # fmt: skip
    if len(coneless):
        ax.axhline(float(coneless.mean()), color=MUTED, linestyle="--", linewidth=1.4, label="no cones, same seed")
    return int(outside.sum())
