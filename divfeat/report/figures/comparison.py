"""Figures of the comparison with a baseline: gain of each class, paired differences of each seed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from divfeat.report.figures._canvas import (
    COLOURS,
    INK,
    MUTED,
    by_seed,
    canvas,
    label,
    legend,
    mean_sd,
    plain,
    save,
    say_empty,
    seeds_text,
)

VERDICT_COLOURS = {"better": COLOURS[2], "worse": COLOURS[1], "equivalent": COLOURS[0]}
"""Colour of each verdict; grey for the others."""


def gain_by_class(
    winner: ArrayLike,
    baseline: ArrayLike,
    counts: ArrayLike,
    path: str | Path,
    *,
    baseline_name: str = "baseline",
    boundary: int = 50,
) -> str:
    """Accuracy gain of each class over a baseline, classes by falling training count (figure 5 of the HingeCE paper).

    Args:
        winner: [K] or [K, S] accuracy of each class, percent.
        baseline: [K] or [K, S], the same seeds.
        counts: [K] training images of each class.
        path: PNG to write.
        baseline_name: name of the baseline.
        boundary: classes with at most this many training images are minor.

    Returns:
        The caption, also printed on the figure.
    """
    size = np.asarray(counts, dtype=np.float64).reshape(-1)
    gain = by_seed(winner, len(size)) - by_seed(baseline, len(size))
    order = np.argsort(-size, kind="stable")
    size = size[order]
    mean, sd = mean_sd(gain[order])
    minor = size <= boundary
    places = np.arange(len(size))
    figure, axes = canvas(2, 1, width=8.6, height=5.4, sharex=True, height_ratios=[3, 1])
    upper, lower = axes[:, 0]
    kinds = ((~minor, COLOURS[0], "major"), (minor, COLOURS[1], "minor"))
    handles: list[Any] = []
    for some, colour, name in kinds:
        if not some.any():
            continue
        upper.bar(places[some], np.nan_to_num(mean[some]), width=0.85, color=colour, alpha=0.85, linewidth=0)
        if len(size) <= 30 and gain.shape[1] > 1:
            upper.errorbar(places[some], mean[some], sd[some], fmt="none", ecolor=INK, elinewidth=0.9, capsize=2)
        lower.bar(places[some], size[some], width=1.0, color=colour, alpha=0.45, linewidth=0)
        average = mean_sd(mean[some])[0]
        text = f"{name}: {int(some.sum())} class{'es' * (int(some.sum()) != 1)}"
        if np.isfinite(average):
            edges = (places[some][0] - 0.5, places[some][-1] + 0.5)
            upper.plot(edges, (average, average), color=INK, linewidth=1.4, linestyle="--", zorder=4)
            text += f", mean {average:+.1f}".replace("-", "−")
        handles.append(Patch(color=colour, alpha=0.85, label=text))
    if not np.isfinite(mean).any():
        say_empty(upper)
    else:
        handles.append(Line2D([], [], color=INK, linestyle="--", linewidth=1.4, label="mean of the group"))
    upper.axhline(0, color=INK, linewidth=0.9)
    lower.axhline(boundary, color=MUTED, linestyle=":", linewidth=1.2)
    if size.size and (size > 0).all():
        lower.set_yscale("log")
        lower.set_ylim(size.min() / 2, size.max() * 1.5)
    lower.set_xlim(-0.7, max(len(size) - 0.3, 0.7))
    lower.grid(False, axis="x")
    upper.grid(False, axis="x")
    label(upper, f"Accuracy gain of each class over {plain(baseline_name)}", y="gain (points)")
    label(lower, x="class, by falling number of training images (rank)", y="training\nimages")
    legend(upper, handles, columns=3, loc="lower left", bbox_to_anchor=(0.0, -0.12))
    bars_text = "; whiskers: one standard deviation" if len(size) <= 30 and gain.shape[1] > 1 else ""
    caption = f"Mean over {seeds_text([gain.shape[1]])}{bars_text}; minor: at most {boundary} training images (dotted)."
    return save(figure, path, caption)


def confirmation(comparisons: Mapping[str, Mapping[str, Any]], path: str | Path, *, margin: float = 0.5) -> str:
    """Paired test differences of each seed with their interval, one row a baseline, zero line and margin band.

    Args:
        comparisons: baseline -> {"differences": [S] points, "mean", "low", "high": points, "verdict": str, "level":
            float}: the fields of `statistics.Comparison` (its `__dict__` will do).
        path: PNG to write.
        margin: equivalence margin, points.

    Returns:
        The caption, also printed on the figure.
    """
    rows = max(len(comparisons), 1)
    figure, axes = canvas(width=8.6, height=1.9 + 0.62 * rows)
    ax = axes[0, 0]
    ax.axvspan(-margin, margin, color=MUTED, alpha=0.12, linewidth=0)
    ax.axvline(0, color=INK, linewidth=1.1)
    seeds, levels, shown = [], set(), [-1.6 * margin, 1.6 * margin]
    for place, entry in enumerate(comparisons.values()):
        verdict = str(entry["verdict"])
        colour = VERDICT_COLOURS.get(verdict, MUTED)
        points = np.asarray(entry["differences"], dtype=np.float64).reshape(-1)
        seeds.append(len(points))
        points = points[np.isfinite(points)]
        ax.plot(
            points, np.full(len(points), place + 0.2), "|", color=colour, markersize=9, markeredgewidth=1.2, alpha=0.7
        )
        mean, low, high = (float(entry[key]) for key in ("mean", "low", "high"))
        shown += [v for v in (*points.tolist(), mean, low, high) if np.isfinite(v)]
        if np.isfinite(low) and np.isfinite(high):
            levels.add(round(100 * float(entry["level"]), 2))
            ax.plot([low, high], [place, place], color=colour, linewidth=2.4, solid_capstyle="butt")
        if np.isfinite(mean):
            ax.plot(mean, place, "o", color=colour, markersize=7)
        found = f"{verdict}\n{mean:+.2f} [{low:+.2f}, {high:+.2f}]".replace("-", "−") if np.isfinite(low) else verdict
        ax.text(1.015, place, plain(verdict) + found[len(verdict) :], transform=ax.get_yaxis_transform(), fontsize=8.5,
                va="center", color=INK)  # fmt: skip
    if not comparisons:
        say_empty(ax, "no baseline")
    ax.set_yticks(range(len(comparisons)), [plain(name, 28) for name in comparisons])
    ax.set_ylim(rows - 0.45, -0.55)
    ax.grid(False, axis="y")
    pad = 0.05 * (max(shown) - min(shown)) or 0.5
    ax.set_xlim(min(shown) - pad, max(shown) + pad)
    label(ax, "Confirmation: winner minus baseline on test", "paired difference (points)")
    level = f" {' and '.join(f'{value:g}' for value in sorted(levels))} %" if levels else ""
    caption = (
        f"Tick: one seed ({seeds_text(seeds)}); dot and line: mean with its{level} Student-t interval; grey band: "
        f"margin of ±{margin:g} points."
    )
    return save(figure, path, caption)
