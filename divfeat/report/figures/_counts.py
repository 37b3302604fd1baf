"""What figures over class counts share: the axis, bands of groups of classes, one series a method, many classes in bins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import blended_transform_factory
from numpy.typing import ArrayLike

from divfeat.report.arrays import Floats, mean_of, mean_sd, sd_of
from divfeat.report.figures._canvas import COLOURS, INK, MUTED, by_seed, plain

#: Up to so many classes each has its own point and whiskers in a line; more are averaged over neighbours in size.
MOST_POINTS = 30
#: Up to so many classes each point has its name.
MOST_NAMES = 12
#: Bins of neighbouring classes where there are more than `MOST_POINTS`.
BINS = 10

Partitions = Sequence[Mapping[str, ArrayLike]]
"""Ways to part the classes: group -> bool [K], the groups of larger classes first."""


def count_axis(ax: Axes, size: Floats) -> None:
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


def bands(ax: Axes, counts: ArrayLike, partitions: Partitions) -> None:
    """Every second group shaded and named: the first partition above the data, the second at the foot with dotted edges.

    Call it after `count_axis`, whose limits the outer groups reach.
    """
    size = np.asarray(counts, dtype=np.float64).reshape(-1)
    if not size.size or size.min() <= 0:
        return
    place = blended_transform_factory(ax.transData, ax.transAxes)
    for row, groups in enumerate(partitions):
        members = [(name, size[np.asarray(mask, dtype=bool)]) for name, mask in groups.items()]
        members = [(name, some) for name, some in members if some.size]
        edges = [float(np.sqrt(a.min() * b.max())) for (_, a), (_, b) in pairwise(members)]
        edges = [ax.get_xlim()[0], *edges, ax.get_xlim()[1]]
        for number, (name, _) in enumerate(members):
            left, right = edges[number], edges[number + 1]
            if row == 0 and number % 2:
                ax.axvspan(right, left, color=COLOURS[1], alpha=0.07, linewidth=0, zorder=0)
            if row and number:
                ax.axvline(
                    left, ymax=0.94, color=MUTED, linestyle=":", linewidth=1.0, zorder=1
                )  # clear of the names above
            ax.text(float(np.sqrt(left * right)), 0.985 - 0.97 * row, plain(name, 16), transform=place, ha="center",
                    va="bottom" if row else "top", fontsize=8, color=MUTED, zorder=1)  # fmt: skip


def binned(size: Floats, table: Floats) -> tuple[Floats, Floats, int]:
    """Classes by falling size, averaged over neighbours where they are too many for a point each.

    Args:
        size: [K].
        table: [K, S].

    Returns:
        Sizes [P] (geometric mean of a bin), values [P, S], and classes a bin (1: a point is a class).
    """
    order = np.argsort(-size, kind="stable")
    size, table = size[order], table[order]
    if len(size) <= MOST_POINTS:
        return size, table, 1
    parts = np.array_split(np.arange(len(size)), BINS)
    places = np.array([float(np.exp(np.log(np.maximum(size[part], 1)).mean())) for part in parts])
    return places, np.stack([mean_sd(table[part], axis=0)[0] for part in parts]), len(parts[0])


def series(ax: Axes, counts: ArrayLike, values: ArrayLike, *, shift: float = 0.0, **look: Any) -> None:
    """A method's mean over seeds against class count with one standard deviation.

    Args:
        ax: Where to draw.
        counts: [K].
        values: [K, S] or [K].
        shift: Share of its size by which a point is moved aside, so that whiskers of several methods stand apart.
        look: Of the line: `color`, `label`, ....
    """
    size = np.asarray(counts, dtype=np.float64).reshape(-1)
    places, table, _ = binned(size, by_seed(values, len(size)))
    mean, sd = mean_sd(table)
    ax.errorbar(places * (1 + shift), mean, np.nan_to_num(sd), elinewidth=0.9, capsize=2, markersize=4.5, **look)


def names_above(ax: Axes, counts: ArrayLike, tops: ArrayLike, names: Sequence[str]) -> None:
    """The classes' names, slanted, above their highest points; none where they are many and would cover each other."""
    if len(names) > MOST_NAMES:
        return
    for x, y, name in zip(np.asarray(counts, dtype=float), np.asarray(tops, dtype=float), names, strict=True):
        if np.isfinite(y) and x > 0:
            ax.annotate(plain(name, 14), (x, y), xytext=(0, 4), textcoords="offset points", fontsize=7, color=INK,
                        rotation=35, ha="left", va="bottom", rotation_mode="anchor", zorder=5)  # fmt: skip


def log_values(ax: Axes, shown: Floats) -> None:
    """A log scale for values that span more than a decade, with ticks that are numbers."""
    shown = shown[np.isfinite(shown)]
    if not shown.size or shown.min() <= 0 or shown.max() <= 10 * shown.min():
        return
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ticks = [m * 10.0**power for power in range(-9, 10) for m in (1, 2, 5) if low <= m * 10.0**power <= high]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()


def of_group(values: Floats, mask: ArrayLike, form: str) -> str:
    """'83.4 ± 0.1': the mean over the group's classes, its mean and standard deviation over seeds; a dash without any."""
    by_seeds = mean_sd(values[np.asarray(mask, dtype=bool)], axis=0)[0]
    mean, sd = mean_of(by_seeds), sd_of(by_seeds)
    if np.isnan(mean):
        return "–"
    text = format(mean, form)
    text = text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")  # a 0 has no sign
    return text if np.isnan(sd) else f"{text} ± {format(sd, form.lstrip('+'))}"
