"""Figures of the comparison with a baseline: gain of each class, paired differences of each seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from divfeat.report.arrays import Floats, finite, mean_sd
from divfeat.report.figures._canvas import (
    COLOURS,
    INK,
    MUTED,
    Place,
    by_seed,
    canvas,
    label,
    legend,
    plain,
    save,
    say_empty,
    seeds_text,
)
from divfeat.report.words import interval, signed

VERDICT_COLOURS = {"better": COLOURS[2], "worse": COLOURS[1], "equivalent": COLOURS[0]}
"""Colour of each verdict; grey for the others."""


#: Up to so many classes each has its name and whiskers.
MOST_NAMED = 30


def gain_by_class(
    winner: ArrayLike,
    baseline: ArrayLike,
    path: Place,
    *,
    class_names: Sequence[str],
    counts: ArrayLike | None = None,
    boundary: int | None = None,
    baseline_name: str = "baseline",
    score: str = "accuracy",
) -> str:
    """Gain of each class over a baseline (figure 5 of the HingeCE paper).

    With a boundary the classes stand by falling training count, major and minor apart, as in the paper; else by falling
    gain.

    Args:
        winner: [K] or [K, S] score of each class, percent; NaN = missing.
        baseline: [K] or [K, S], the same seeds.
        path: PNG to write, or what takes the figure.
        class_names: K of them.
        counts: [K] training images of each class; needed where there is a boundary.
        boundary: classes with at most this many training images are minor; None where there are no such groups.
        baseline_name: name of the baseline.
        score: what the gain is one of.

    Returns:
        The caption, also printed on the figure.

    Raises:
        ValueError: not one value, or one row of seeds, for each class.
    """
    classes = len(class_names)
    gain = by_seed(winner, classes) - by_seed(baseline, classes)
    size = np.zeros(classes) if counts is None else np.asarray(counts, dtype=np.float64).reshape(-1)
    mean, sd = mean_sd(gain)
    order = np.argsort(-np.nan_to_num(mean, nan=-np.inf) if boundary is None else -size, kind="stable")
    mean, sd, size = mean[order], sd[order], size[order]
    places = np.arange(1, classes + 1)
    if boundary is None:
        figure, axes = canvas(width=8.6, height=4.6)
        groups = [(np.ones(classes, dtype=bool), COLOURS[0], "all")]
    else:
        figure, axes = canvas(2, 1, width=8.6, height=5.4, sharex=True, height_ratios=[3, 1])
        groups = [(size > boundary, COLOURS[0], "major"), (size <= boundary, COLOURS[1], "minor")]
        _class_sizes(axes[1, 0], size, boundary, groups)
    upper, lowest = axes[0, 0], axes[-1, 0]
    whiskers = classes <= MOST_NAMED and bool(np.isfinite(sd).any())
    handles: list[Any] = []
    for some, colour, name in groups:
        if not some.any():
            continue
        upper.bar(places[some], np.nan_to_num(mean[some]), width=0.85, color=colour, alpha=0.85, linewidth=0)
        if whiskers:
            upper.errorbar(places[some], mean[some], sd[some], fmt="none", ecolor=INK, elinewidth=0.9, capsize=2)
        average = float(mean_sd(mean[some])[0])
        text = f"{name}: {int(some.sum())} class{'es' * (int(some.sum()) != 1)}"
        if np.isfinite(average):
            edges = (places[some][0] - 0.5, places[some][-1] + 0.5)
            upper.plot(edges, (average, average), color=INK, linewidth=1.4, linestyle="--", zorder=4)
            text += f", mean {signed(average, 1)}"
        handles.append(Patch(color=colour, alpha=0.85, label=text))
    if not np.isfinite(mean).any():
        say_empty(upper)
    else:
        handles.append(Line2D([], [], color=INK, linestyle="--", linewidth=1.4, label="mean"))
    upper.axhline(0, color=INK, linewidth=0.9)
    upper.set_xlim(0.3, max(classes, 1) + 0.7)
    upper.grid(False, axis="x")
    label(upper, f"Gain of each class over {plain(baseline_name)}: {plain(score)}", y="gain (points)")
    rank = "falling gain" if boundary is None else "falling number of training images"
    if classes <= MOST_NAMED:
        names = [plain(class_names[k], 20) for k in order]
        slant = (
            {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names), default=0) > 4 else {}
        )
        lowest.set_xticks(places, names, **slant)
        label(lowest, x=f"class, by {rank}")
    else:
        label(lowest, x=f"rank of the class by {rank}")
    legend(upper, handles)
    seeds = seeds_text([np.where(np.isfinite(gain).any(axis=0), 1.0, np.nan)], "seed")
    caption = f"Mean over {seeds}{'; whiskers: one standard deviation' if whiskers else ''}. "
    if boundary is None:
        caption += "Sorting by what was measured exaggerates both ends."
    else:
        caption += f"Minor: at most {boundary} training images (dotted)."
    return save(figure, path, caption)


def _class_sizes(ax: Axes, size: Floats, boundary: int, groups: Sequence[tuple[Any, str, str]]) -> None:
    """Training images of each class, on a log scale, and the boundary."""
    for some, colour, _ in groups:
        ax.bar(1 + np.flatnonzero(some), size[some], width=1.0, color=colour, alpha=0.45, linewidth=0)
    ax.axhline(boundary, color=MUTED, linestyle=":", linewidth=1.2)
    if size.size and (size > 0).all():
        ax.set_yscale("log")
        ax.set_ylim(size.min() / 2, size.max() * 1.5)
        ends = sorted({size.min(), size.max()})
        ax.set_yticks(ends, [f"{end:g}" for end in ends])  # a log axis of one decade labels ticks over each other
        ax.minorticks_off()
    ax.grid(False, axis="x")
    label(ax, y="training\nimages")


def confirmation(
    comparisons: Mapping[str, Mapping[str, Any]],
    path: Place,
    *,
    margin: float = 0.5,
    where: str = "on test",
    suffix: str = " (points)",
) -> str:
    """Paired test differences of each seed with their interval, one row a baseline, zero line and margin band.

    Args:
        comparisons: baseline -> {"differences": [S] points, "mean", "low", "high": points, "verdict": str, "level":
            float}: the fields of `statistics.Comparison` (its `__dict__` will do).
        path: PNG to write, or what takes the figure.
        margin: equivalence margin, points.

    Returns:
        The caption, also printed on the figure.
    """
    rows = max(len(comparisons), 1)
    figure, axes = canvas(width=8.6, height=1.9 + 0.62 * rows)
    ax = axes[0, 0]
    ax.axvspan(-margin, margin, color=MUTED, alpha=0.12, linewidth=0)
    ax.axvline(0, color=INK, linewidth=1.1)
    seeds, levels, hollow, shown = [], set(), False, [-1.6 * margin, 1.6 * margin]
    for place, entry in enumerate(comparisons.values()):
        colour = VERDICT_COLOURS.get(str(entry["verdict"]), MUTED)
        points = np.asarray(entry["differences"], dtype=np.float64).reshape(-1)
        seeds.append(points)
        points = finite(points)
        ax.plot(
            points, np.full(len(points), place + 0.2), "|", color=colour, markersize=9, markeredgewidth=1.2, alpha=0.7
        )
        judged, found = draw_difference(ax, place, entry)
        shown += [*points.tolist(), *found]
        if judged:
            levels.add(round(100 * float(entry["level"]), 2))
        hollow |= not judged
    if not comparisons:
        say_empty(ax, "no baseline")
    ax.set_yticks(range(len(comparisons)), [plain(name, 28) for name in comparisons])
    ax.set_ylim(rows - 0.45, -0.55)
    ax.grid(False, axis="y")
    pad = 0.05 * (max(shown) - min(shown)) or 0.5
    ax.set_xlim(min(shown) - pad, max(shown) + pad)
    label(ax, f"Confirmation: winner minus baseline {where}", f"paired difference{suffix}")
    caption = f"Tick: one seed ({seeds_text(seeds)})"
    if levels:
        level = " and ".join(f"{value:g}" for value in sorted(levels))
        caption += f"; dot and line: mean with its {level} % Student-t interval"
    if hollow:
        caption += "; hollow dot: mean of the seeds there are, no verdict"
    return save(figure, path, f"{caption}; grey band: margin of ±{margin:g} points." if margin else f"{caption}.")


def draw_difference(
    ax: Axes, place: float, entry: Mapping[str, Any], *, between: str = "\n", digits: int = 2
) -> tuple[bool, list[float]]:
    """Mean and interval of one paired difference at height `place`, in words right of the axes.

    Args:
        ax: To draw on.
        place: Height in data units.
        entry: {"mean", "low", "high", "verdict"}, as of `statistics.Comparison`.
        between: Stands between the verdict and its numbers.
        digits: Of the numbers, after the point.

    Returns:
        Whether there is a verdict, without which no interval is drawn, and the finite values that the axis has to show.
    """
    verdict = str(entry["verdict"])
    colour = VERDICT_COLOURS.get(verdict, MUTED)
    mean, low, high = (float(entry[key]) for key in ("mean", "low", "high"))
    words, judged = plain(verdict), verdict != "no verdict"
    if judged and low == high:
        words = f"{signed(mean, digits)} in every seed"
    elif judged:
        ax.plot([low, high], [place, place], color=colour, linewidth=2.4, solid_capstyle="butt")
        words += f"{between}{signed(mean, digits)} {interval(low, high, digits)}"
    ax.plot(mean, place, "o", color=colour, markersize=7, markerfacecolor=colour if judged else "white")
    ax.text(1.015, place, words, transform=ax.get_yaxis_transform(), fontsize=8.5, va="center", color=INK)
    return judged, [value for value in (mean, *((low, high) if judged else ())) if np.isfinite(value)]
