"""Figures over the number of training images of a class: accuracy, gain and collapse of each class on a long tail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from divfeat.report.arrays import Floats, mean_sd
from divfeat.report.figures._canvas import (
    COLOURS,
    DASHES,
    INK,
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
from divfeat.report.figures._counts import (
    MOST_POINTS,
    Partitions,
    bands,
    binned,
    count_axis,
    log_values,
    names_above,
    of_group,
    series,
)

IMAGES = "training images of the class (log scale)"


def accuracy_by_count(
    counts: ArrayLike,
    accuracy: Mapping[str, ArrayLike],
    path: Place,
    *,
    class_names: Sequence[str],
    partitions: Partitions = (),
    name: str = "winner",
) -> str:
    """Accuracy of each class against its training images, one line a method (figure 5a of the HingeCE paper).

    Args:
        counts: [K] training images.
        accuracy: method -> [K, S] or [K] percent, the winner first; NaN = missing.
        path: PNG to write, or what takes the figure.
        class_names: K of them, shown where they are few.
        partitions: group -> bool [K], shown as bands.
        name: Of the first method, in the legend.

    Returns:
        The caption, also printed on the figure.

    Raises:
        ValueError: not one value, or one row of seeds, for each class.
    """
    size, tables = _tables(counts, accuracy)
    figure, axes = canvas(width=8.8, height=5.2)
    ax = axes[0, 0]
    if any(np.isfinite(table).any() for table in tables.values()):
        _lines(ax, size, tables, name)
        ax.margins(y=0.16)
        tops = np.fmax.reduce([np.add(*map(np.nan_to_num, mean_sd(table))) for table in tables.values()])
        names_above(ax, size, tops, class_names)
    else:
        say_empty(ax)
    count_axis(ax, size)
    bands(ax, size, partitions)
    label(ax, "Accuracy of each class against its training images", IMAGES, "accuracy (%)")
    legend(ax)
    said = [_groups_said(tables, partitions, ".1f")]
    first, *others = (mean_sd(table)[0] for table in tables.values()) if tables else [np.zeros(0)]
    if others and len(size):
        best = int((first >= np.fmax.reduce(others)).sum())
        said.append(f"The winner has the highest mean, or shares it, in {best} of {len(size)} classes.")
    return save(figure, path, " ".join(filter(None, [*said, _resting_on(size, tables.values())])))


def gain_by_count(
    counts: ArrayLike,
    gain: Mapping[str, ArrayLike],
    path: Place,
    *,
    class_names: Sequence[str],
    partitions: Partitions = (),
    name: str = "winner",
) -> str:
    """Gain of each class against its training images, one panel a baseline (figure 5b of the HingeCE paper).

    Args:
        counts: [K] training images.
        gain: baseline -> [K, S] or [K] points, paired by seed; NaN = missing.
        path: PNG to write, or what takes the figure.
        class_names: K of them, shown where they are few.
        partitions: group -> bool [K], shown as bands; dashed lines are the means of the first one's groups.
        name: Of the winner.

    Returns:
        The caption, also printed on the figure.

    Raises:
        ValueError: not one value, or one row of seeds, for each class.
    """
    size, tables = _tables(counts, gain)
    columns = max(len(tables), 1)
    figure, axes = canvas(1, columns, width=2.4 + 4.4 * columns, height=4.8, sharey=True)
    said = []
    for place, (baseline, table) in enumerate(tables.items()):
        ax = axes[0, place]
        mean, sd = mean_sd(table)
        ax.axhline(0, color=INK, linewidth=0.9)
        if np.isfinite(mean).any():
            crowded = len(size) > MOST_POINTS
            ax.errorbar(size, mean, None if crowded else np.nan_to_num(sd), fmt="o", color=COLOURS[0], markersize=4.5,
                        alpha=0.35 if crowded else 1.0, elinewidth=0.9, capsize=2, label="one class", zorder=3)  # fmt: skip
            if crowded:
                _, _, classes = binned(size, table)
                series(ax, size, table, fmt="-", color=COLOURS[0], linewidth=1.8, zorder=4,
                       label=f"mean of {classes} classes")  # fmt: skip
            names_above(ax, size, mean + np.nan_to_num(sd), class_names)
            ax.margins(y=0.16)
        else:
            say_empty(ax)
        count_axis(ax, size)
        handles = ax.get_legend_handles_labels()[0]
        for number, mask in enumerate((partitions[0] if partitions else {}).values()):
            some = np.asarray(mask, dtype=bool)
            average, _ = mean_sd(mean[some])
            if np.isfinite(average):
                colour = (COLOURS[2], COLOURS[1])[number % 2]
                ax.plot(
                    [size[some].max(), size[some].min()], [average] * 2, "--", color=colour, linewidth=1.8, zorder=4
                )
        bands(ax, size, partitions)
        label(ax, f"Gain over {plain(baseline)}", IMAGES, "gain (points)" if place == 0 else "")
        if place == columns - 1:
            mean_line = Line2D([], [], color=INK, linestyle="--", linewidth=1.8, label="mean of a group")
            legend(ax, [*handles, *([mean_line] if partitions else [])])
        wins = int((mean > 0).sum())
        said.append(f"over {plain(baseline)}: {wins} of {len(size)} classes gain{_groups_of(table, partitions)}")
    if not tables:
        say_empty(axes[0, 0], "no baseline")
    caption = f"{plain(name, 60)} {'; '.join(said) or 'without a baseline'}."
    return save(figure, path, f"{caption[0].upper()}{caption[1:]} {_resting_on(size, tables.values())}")


def collapse_by_count(
    counts: ArrayLike,
    measures: Mapping[str, Mapping[str, ArrayLike]],
    path: Place,
    *,
    partitions: Partitions = (),
    name: str = "winner",
) -> str:
    """Collapse of each class against its training images, one panel a measure and one line a method.

    Args:
        counts: [K] training images.
        measures: measure -> method -> [K, S] or [K]; NaN = missing, as for a class of one image that has no spread.
        path: PNG to write, or what takes the figure.
        partitions: group -> bool [K], shown as bands.
        name: Of the first method, in the legend.

    Returns:
        The caption, also printed on the figure.

    Raises:
        ValueError: not one value, or one row of seeds, for each class.
    """
    columns = max(min(len(measures), 2), 1)
    rows = max(-(-len(measures) // columns), 1)
    figure, axes = canvas(rows, columns, width=2.2 + 4.2 * columns, height=0.8 + 3.4 * rows)
    said, size, every = [], np.asarray(counts, dtype=np.float64).reshape(-1), []
    for ax in axes.flat[len(measures) :]:
        ax.set_visible(False)
    for place, (measure, values) in enumerate(measures.items()):
        ax = axes.flat[place]
        size, tables = _tables(counts, values)
        every += list(tables.values())
        shown = np.concatenate([mean_sd(table)[0] for table in tables.values()] or [np.zeros(0)])
        shown = shown[np.isfinite(shown)]
        if shown.size:
            _lines(ax, size, tables, name)
            ax.margins(y=0.16)
            log_values(ax, shown)
        else:
            say_empty(ax)
        count_axis(ax, size)
        bands(ax, size, partitions)
        label(
            ax, f"{plain(measure)[:1].upper()}{plain(measure)[1:]}", IMAGES if place >= len(measures) - columns else ""
        )
        if place == columns - 1:
            legend(ax)
        if text := _groups_said(tables, partitions, ".3g"):
            said.append(f"{plain(measure)[:1].upper()}{plain(measure)[1:]}. {text}")
    if not measures:
        say_empty(axes[0, 0])
    return save(figure, path, " ".join([*said, "Training features.", _resting_on(size, every)]))


def _tables(counts: ArrayLike, values: Mapping[str, ArrayLike]) -> tuple[Floats, dict[str, Floats]]:
    size = np.asarray(counts, dtype=np.float64).reshape(-1)
    return size, {name: by_seed(table, len(size)) for name, table in values.items()}


def _lines(ax: Any, size: Floats, tables: Mapping[str, Floats], winner: str) -> None:
    """The winner, which is the first, in full; the others dashed, their whiskers aside."""
    for place, (name, table) in enumerate(tables.items()):
        style = "-" if place == 0 else DASHES[(place - 1) % len(DASHES)]
        look = {"linestyle": style, "color": COLOURS[place % len(COLOURS)], "linewidth": 1.2 if place else 2.0}
        text = plain(name if place else winner)
        series(ax, size, table, shift=0.012 * place, marker="o", zorder=3 if place else 4, label=text, **look)


def _resting_on(size: Floats, tables: Any) -> str:
    """How many classes and seeds, and what points and whiskers are."""
    seeds = seeds_text([np.where(np.isfinite(table).any(axis=0), 1.0, np.nan) for table in tables], "seed")
    classes = f"{len(size)} class{'es' * (len(size) != 1)}"
    point = "a point is a class"
    if len(size) > MOST_POINTS:
        point = (
            f"a point of a line is the mean of {binned(size, np.zeros((len(size), 1)))[2]} classes of neighbouring size"
        )
    return f"{classes}, {seeds}; {point}, whiskers are one standard deviation over seeds."


def _groups_said(tables: Mapping[str, Floats], partitions: Partitions, form: str) -> str:
    """'major: winner 93.2 ± 0.4, ce 90.1 ± 1.0; minor: ....', the means of the first partition's groups; "" without one."""
    found = []
    for group, mask in (partitions[0] if partitions else {}).items():
        each = ", ".join(f"{plain(name)} {of_group(table, mask, form)}" for name, table in tables.items())
        found.append(f"{plain(group)} classes: {each}")
    text = "; ".join(found)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _groups_of(table: Floats, partitions: Partitions) -> str:
    """' (major +7.5 ± 0.2, ...)': of one table of gains, over all partitions."""
    found = [f"{plain(g)} {of_group(table, mask, '+.1f')}" for groups in partitions for g, mask in groups.items()]
    return f" ({', '.join(found)})" if found else ""
