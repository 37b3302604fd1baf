"""Figures over several studies: all their differences in one forest, and the score of every trial over its angle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from divfeat.report.arrays import Floats
from divfeat.report.figures._canvas import (
    INK,
    MUTED,
    RELEASES,
    angle_axis,
    canvas,
    label,
    legend,
    plain,
    save,
    say_empty,
)
from divfeat.report.figures._scores import score_points
from divfeat.report.figures.comparison import draw_difference
from divfeat.report.figures.thresholds import TAU
from divfeat.statistics import listed

#: Panels of angles beside each other.
_ACROSS = 2
#: Inches of a row of the forest, and of what stands above and below the rows of one measure.
_ROW, _AROUND = 0.27, 1.15


@dataclass(frozen=True)
class Differences:
    """The differences of one study, or of one pair of studies, by one measure.

    Attributes:
        title: What stands above the rows.
        measure: What is compared; one panel a measure, since different ones share no axis.
        unit: Behind "difference".
        digits: Of the numbers in words.
        margin: Of equivalence, 0 where there is none.
        rows: name -> {"mean", "low", "high", "verdict", "level"}: the fields of `statistics.Comparison`.
    """

    title: str
    measure: str
    unit: str
    digits: int
    margin: float
    rows: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Trials:
    """The finished trials of one study of one angle.

    Attributes:
        title: Of the panel.
        angles: [T] radians.
        scores: [T] objective, finite.
        releases: [T] ways of letting go.
        metric: What the objective is.
        suffix: Its unit.
        minimize: Whether less of it is better.
    """

    title: str
    angles: ArrayLike
    scores: ArrayLike
    releases: Sequence[str]
    metric: str
    suffix: str = " (%)"
    minimize: bool = False


def forest(groups: Sequence[Differences], path: str | Path, *, title: str, x: str) -> str:
    """All differences with their intervals, a row each, grouped by study; one panel a measure.

    Args:
        groups: In the order they are drawn.
        path: PNG to write.
        title: Of the figure.
        x: Of the horizontal axis, without unit.

    Returns:
        The caption, also printed on the figure.
    """
    measures = list(dict.fromkeys((group.measure, group.unit) for group in groups)) or [("", "")]
    panels = [[group for group in groups if (group.measure, group.unit) == measure] for measure in measures]
    heights = [sum(len(group.rows) + 1 for group in panel) * _ROW + _AROUND for panel in panels]
    figure, axes = canvas(len(panels), width=9.4, height=sum(heights) + 0.7, height_ratios=heights)
    levels: set[float] = set()
    hollow, banded = False, False
    for ax, (measure, unit), panel in zip(axes[:, 0], measures, panels, strict=True):
        hollow |= _forest_panel(ax, panel, levels)
        banded |= any(group.margin for group in panel)
        label(ax, f"{title}: {plain(measure)}" if measure else title, f"{x}{unit}")
    caption = "Dot: mean of the paired differences over seeds"
    if levels:
        shown = " or ".join(f"{level:g}" for level in sorted(levels))
        caption += f"; line: its Student-t interval at {shown} %"
    caption += "; hollow: no verdict" if hollow else ""
    caption += "; grey: the study's margin of equivalence" if banded else ""
    return save(figure, path, f"{caption}.")


def _forest_panel(ax: Axes, groups: Sequence[Differences], levels: set[float]) -> bool:
    """Draw the rows of one measure, add their levels to `levels`; returns whether some row has no verdict."""
    ax.axvline(0, color=INK, linewidth=1.1)
    names, places, shown, hollow = [], [], [0.0], False
    top = 0
    for group in groups:
        ax.text(0.0, top, plain(group.title, 80), transform=ax.get_yaxis_transform(), fontsize=9.5, weight="bold",
                va="center", color=INK, backgroundcolor="white", zorder=2.2)  # fmt: skip
        if group.margin and group.rows:
            ax.fill_betweenx(
                [top + 0.5, top + len(group.rows) + 0.5],
                -group.margin,
                group.margin,
                color=MUTED,
                alpha=0.12,
                linewidth=0,
            )
            shown += [-1.2 * group.margin, 1.2 * group.margin]
        for name, entry in group.rows.items():
            top += 1
            judged, found = draw_difference(ax, top, entry, between="  ", digits=group.digits)
            names.append(plain(name, 36))
            places.append(top)
            shown += found
            hollow |= not judged
            if judged:
                levels.add(round(100 * float(entry["level"]), 2))
        top += 1
    if not names:
        say_empty(ax, "no difference to show")
    ax.set_yticks(places, names)
    ax.set_ylim(max(top, 1) - 0.4, -0.6)
    ax.grid(False, axis="y")
    pad = 0.05 * (max(shown) - min(shown)) or 0.5
    ax.set_xlim(min(shown) - pad, max(shown) + pad)
    return hollow


def trials_by_threshold(panels: Sequence[Trials], path: str | Path) -> str:
    """Objective of every trial against its one angle, a panel a study, each with its own scores.

    Args:
        panels: One a study.
        path: PNG to write.

    Returns:
        The caption, also printed on the figure.

    Raises:
        ValueError: not one score and one way of letting go for each angle.
    """
    columns = max(min(len(panels), _ACROSS), 1)
    rows = max(-(-len(panels) // columns), 1)
    figure, axes = canvas(rows, columns, width=4.4 * columns + 1.2, height=3.9 * rows + 0.5)
    outside, counts = 0, []
    for ax, panel in zip(axes.flat, panels, strict=False):
        degrees = np.degrees(_column(panel.angles))
        scores = _column(panel.scores)
        if not len(degrees) == len(scores) == len(panel.releases):
            raise ValueError(
                f"{panel.title}: {len(degrees)} angles, {len(scores)} scores, {len(panel.releases)} releases"
            )
        coneless = scores[degrees == 0]
        outside += score_points(
            ax, degrees, scores, panel.releases, coneless, suffix=panel.suffix, minimize=panel.minimize
        )
        angle_axis(ax, degrees, TAU)
        label(ax, plain(panel.title), y=f"{plain(panel.metric)}{panel.suffix}")
        counts.append(f"{len(scores)} of {plain(panel.title)}")
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    handles: dict[str, Any] = {}
    for ax in axes.flat[: len(panels)]:
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    if panels:
        order = [*(name for name in RELEASES if name in handles), *(name for name in handles if name not in RELEASES)]
        legend(axes[0, columns - 1], [handles[name] for name in order])
    caption = "One point a trial, one seed each, on validation"
    caption += f"; finished trials: {listed(counts)}." if counts else "."
    if outside:
        caption += f" Hollow: {outside} outside the axis, drawn on its edge."
    return save(figure, path, caption)


def _column(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64).reshape(-1)
