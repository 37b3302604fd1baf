"""Figures over time: cosines and angular collapse over the epochs of a training, objective over the trials of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from divfeat.report.arrays import Floats, mean_sd
from divfeat.report.figures._canvas import (
    COLOURS,
    DASHES,
    INK,
    MUTED,
    RELEASES,
    Place,
    canvas,
    frame,
    label,
    legend,
    plain,
    save,
    say_empty,
    seeds_text,
)

#: Opacity of a trial that misses a constraint.
PALE = 0.3


def cosines_over_epochs(methods: Mapping[str, Mapping[str, ArrayLike]], path: Place) -> str:
    """Mean cosine of training features to their own axis and to the others, as figures 3a and 3b of the paper.

    Args:
        methods: name -> {"epoch": [E], "own": [S, E] or [E], "other": [S, E] or [E]}; several seeds give mean and band,
            a seed that is missing is a row of NaN.
        path: PNG to write, or what takes the figure.

    Returns:
        The caption, also printed on the figure.
    """
    figure, axes = canvas(1, 2, width=9.6, height=4.0)
    shown: dict[str, Floats] = {}
    for place, (key, title) in enumerate((("own", "Cosine to the own axis"), ("other", "Cosine to the other axes"))):
        ax = axes[0, place]
        shown = _curves(ax, methods, key) | shown
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        label(ax, title, "epoch", "mean cosine (no unit)")
        if place == 1:
            legend(ax)
    return save(figure, path, f"Training features{_over_seeds(shown)}.")


def angular_over_epochs(methods: Mapping[str, Mapping[str, ArrayLike]], path: Place) -> str:
    """How far the angles between class means are from those of the axes that they are to collapse onto.

    Args:
        methods: name -> {"epoch": [E], "angular": [S, E] or [E]}, as of `cosines_over_epochs`.
        path: PNG to write, or what takes the figure.

    Returns:
        The caption, also printed on the figure.
    """
    figure, axes = canvas(width=7.6, height=4.8)
    ax = axes[0, 0]
    shown = _curves(ax, methods, "angular")
    epochs = sorted({float(epoch) for curves in methods.values() for epoch in np.ravel(curves["epoch"])})
    if shown and epochs[0] > 0:
        ax.set_xscale("log", base=2)
        # The last epoch is no power of two and may stand close to one that is.
        ticks = [epoch for epoch in epochs[:-1] if epoch < 0.75 * epochs[-1]] + epochs[-1:]
        ax.set_xticks(ticks, [f"{epoch:g}" for epoch in ticks])
        ax.minorticks_off()
        ax.set_ylim(bottom=0)
    label(ax, "Angular collapse over training", "epoch", "mean absolute difference of cosines")
    legend(ax, columns=2, loc="upper left", bbox_to_anchor=(0.0, -0.16))
    caption = f"Cosines between class means, against those between frozen axes; up to 1,000 training images{_over_seeds(shown)}"
    return save(figure, path, f"{caption}. 0: collapsed onto the axes.")


def _curves(ax: Axes, methods: Mapping[str, Mapping[str, ArrayLike]], key: str) -> dict[str, Floats]:
    """Mean and band of each method over its epochs; returns [S] of each that is drawn, finite where the seed has a curve."""
    shown: dict[str, Floats] = {}
    for number, (name, curves) in enumerate(methods.items()):
        epochs = np.asarray(curves["epoch"], dtype=np.float64).reshape(-1)
        table = np.atleast_2d(np.asarray(curves[key], dtype=np.float64))
        mean, sd = mean_sd(table, axis=0)
        if not np.isfinite(mean).any():
            continue
        shown[name] = mean_sd(table)[0]
        colour = COLOURS[number % len(COLOURS)]
        dash = "-" if number == 0 else DASHES[(number - 1) % len(DASHES)]
        marker = "o" if len(epochs) < 2 else None
        ax.plot(epochs, mean, color=colour, linestyle=dash, marker=marker, linewidth=1.8, label=plain(name))
        ax.fill_between(epochs, mean - sd, mean + sd, color=colour, alpha=0.13, linewidth=0)
    if not ax.lines:
        say_empty(ax)
    return shown


def _over_seeds(shown: Mapping[str, Floats]) -> str:
    return f"; mean and one standard deviation over {seeds_text(shown.values(), 'curve')}" if shown else ""


def optimisation_history(
    trials: Sequence[Mapping[str, Any]],
    path: Place,
    *,
    metric: str = "validation accuracy",
    suffix: str = " (%)",
    minimize: bool = False,
) -> str:
    """Objective by trial number with the best so far, coloured by the way of letting go of a sample.

    Args:
        trials: {"number": int, "value": float or None, "status": "completed" | "infeasible" | "pruned" | "failed", "release":
            str, or None where there is nothing to let go of}; a pruned trial is drawn hollow at its last value, one that misses
            a constraint pale and not among the best, a trial without a value as a tick on the lower edge, where trials far
            below the others stand too.
        path: PNG to write, or what takes the figure.
        metric: what the objective is.
        suffix: its unit.
        minimize: whether less of it is better.

    Returns:
        The caption, also printed on the figure.
    """
    figure, axes = canvas(width=8.6)
    ax = axes[0, 0]
    ordered = sorted(trials, key=lambda trial: trial["number"])
    numbers = np.array([trial["number"] for trial in ordered], dtype=np.float64)
    values = np.array([np.nan if t.get("value") is None else t["value"] for t in ordered], dtype=np.float64)
    status = np.array([str(trial.get("status", "completed")) for trial in ordered])
    release = np.array([str(trial.get("release") or "trial") for trial in ordered])
    # An infinite value is a failure however the trial ended.
    with_value = np.isfinite(values)
    done = (status == "completed") & with_value
    infeasible = (status == "infeasible") & with_value
    failed = (status == "failed") | ((status != "pruned") & ~with_value)
    pruned = (status == "pruned") & ~failed
    for name in dict.fromkeys([*RELEASES, *release]):
        colour, marker = RELEASES.get(name, (COLOURS[3], "D"))
        mine = release == name
        for some, face in ((mine & done, colour), (mine & pruned & with_value, "white")):
            ax.scatter(numbers[some], values[some], s=34, marker=marker, facecolors=face, edgecolors=colour, zorder=3)
        some = mine & infeasible
        ax.scatter(numbers[some], values[some], s=34, marker=marker, color=colour, alpha=PALE, linewidths=0, zorder=3)
    best = (np.minimum if minimize else np.maximum).accumulate(values[done]) if done.any() else np.empty(0)
    if best.size:
        places = np.append(numbers[done], numbers.max())
        ax.step(places, np.append(best, best[-1]), where="post", color=INK, linewidth=1.6, zorder=2)
    shown = done | infeasible
    if not shown.any():
        say_empty(ax, "no finished trial")
    elif not minimize:
        frame(ax, values[shown])
    edge = ax.get_xaxis_transform()
    for some, marker in ((pruned & ~with_value, "|"), (failed, "x")):
        if not some.any():  # an empty line outside the clip would still claim room in the layout
            continue
        ax.plot(numbers[some], np.full(some.sum(), 0.02), marker, color=MUTED, markersize=7, transform=edge, zorder=3,
                clip_on=False)  # fmt: skip
    low = with_value & ~failed & (values < ax.get_ylim()[0]) if shown.any() else np.zeros(len(ordered), dtype=bool)
    for number, name, hollow, pale in zip(numbers[low], release[low], pruned[low], infeasible[low], strict=True):
        colour, marker = RELEASES.get(name, (COLOURS[3], "D"))
        face = "white" if hollow else colour
        alpha = PALE if pale else 1.0
        ax.scatter(
            number, 0.02, s=34, marker=marker, facecolors=face, edgecolors=colour, alpha=alpha, transform=edge, zorder=3
        )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=9, min_n_ticks=1))
    label(ax, f"Search: {plain(metric)} of each trial", "trial number", f"{plain(metric)}{suffix}")
    handles = [Line2D([], [], color=INK, linewidth=1.6, label="best so far")] if best.size else []
    for name in dict.fromkeys(release):
        colour, marker = RELEASES.get(name, (COLOURS[3], "D"))
        handles.append(Line2D([], [], color=colour, marker=marker, linestyle="", label=plain(name)))
    if infeasible.any():
        handles.append(Line2D([], [], color=MUTED, marker="o", alpha=PALE, linestyle="", label="infeasible"))
    if (pruned & with_value).any():
        handles.append(Line2D([], [], color=MUTED, marker="o", markerfacecolor="white", linestyle="", label="pruned"))
    if (pruned & ~with_value).any():
        handles.append(Line2D([], [], color=MUTED, marker="|", linestyle="", label="pruned, no value"))
    if failed.any():
        handles.append(Line2D([], [], color=MUTED, marker="x", linestyle="", label="failed"))
    legend(ax, handles)
    missed = f"{int(infeasible.sum())} infeasible, " if infeasible.any() else ""
    caption = (
        f"{int(done.sum())} finished, {missed}{int(pruned.sum())} pruned, {int(failed.sum())} failed; one seed a trial."
    )
    if (pruned & with_value).any():
        caption += " Hollow: the last value of a pruned trial, of fewer epochs, which compares with no finished one."
    if low.any():
        count = int(low.sum())
        caption += f" {count} value{'s' * (count != 1)} below the axis, drawn on its edge."
    return save(figure, path, caption)
