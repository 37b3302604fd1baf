"""Figures of thresholds that differ between classes: the angle of each class, the accuracy of each group against its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from divfeat.report.arrays import Floats
from divfeat.report.figures._canvas import (
    COLOURS,
    DASHES,
    INK,
    MUTED,
    Place,
    angle_axis,
    baselines,
    canvas,
    label,
    legend,
    plain,
    save,
    say_empty,
)
from divfeat.report.figures._counts import Partitions, bands, count_axis
from divfeat.report.figures.thresholds import TAU

#: Trials from which on a rank correlation says something.
_MIN_CORRELATED = 5


def group_accuracy_by_threshold(
    tau_plus: Mapping[str, ArrayLike],
    accuracy: Mapping[str, ArrayLike],
    path: Place,
    *,
    baseline_accuracy: Mapping[str, Mapping[str, ArrayLike]] | None = None,
    mean: bool = False,
) -> str:
    """Accuracy of each group of classes against its own threshold, as figure 5c of the HingeCE paper.

    Args:
        tau_plus: group -> [T] radians, one a trial.
        accuracy: group -> [T] percent on validation; NaN = missing.
        path: PNG to write, or what takes the figure.
        baseline_accuracy: group -> name -> [S] percent, drawn as a line (mean) and band (one sd).
        mean: Whether an angle is the mean over the group's classes, whose angles differ.

    Returns:
        The caption, also printed on the figure.
    """
    groups = list(tau_plus)
    columns = max(len(groups), 1)
    figure, axes = canvas(1, columns, width=2.2 + 3.7 * columns, height=4.4)
    finished, said = 0, []
    for place, group in enumerate(groups):
        ax = axes[0, place]
        degrees = np.degrees(np.asarray(tau_plus[group], dtype=np.float64).reshape(-1))
        values = np.asarray(accuracy[group], dtype=np.float64).reshape(-1)
        done = np.isfinite(degrees) & np.isfinite(values)
        finished = max(finished, int(done.sum()))
        lines = baselines(ax, (baseline_accuracy or {}).get(group, {}))
        if done.any():
            said.append(_found(group, degrees[done], values[done]))
            ax.plot(degrees[done], values[done], "o", color=COLOURS[0], markersize=6, alpha=0.75, markeredgecolor="white",
                    markeredgewidth=0.7, label="one trial", zorder=4)  # fmt: skip
        else:
            say_empty(ax)
        points = [line for line in ax.get_lines() if line not in lines]
        angle_axis(ax, degrees, f"{'mean ' * mean}τ⁺ of {plain(group)} classes")
        label(
            ax,
            f"{plain(group)[:1].upper()}{plain(group)[1:]} classes",
            y="validation accuracy (%)" if place == 0 else "",
        )
        if place == columns - 1:
            legend(ax, [*points, *lines])
    if not groups:
        say_empty(axes[0, 0])
    trials = f"{finished} finished trial{'s' * (finished != 1)}"
    caption = (
        f"{''.join(said)}{trials}, one seed each; the thresholds of the other groups differ too. Line and band: a baseline's "
        "mean and one standard deviation over seeds."
    )
    return save(figure, path, caption)


def _found(group: str, degrees: Floats, values: Floats) -> str:
    """'Minor: best 91.2 % at 40°, 88.1 % at the smallest (0°); rank correlation −0.30. '"""
    best, first = int(values.argmax()), int(degrees.argmin())
    text = f"{plain(group)[:1].upper()}{plain(group)[1:]}: best {values[best]:.1f} % at {degrees[best]:.0f}°"
    if degrees[first] < degrees[best]:
        text += f", {values[first]:.1f} % at the smallest ({degrees[first]:.0f}°)"
    if len(values) >= _MIN_CORRELATED and len(set(degrees)) > 1 and len(set(values)) > 1:
        text += f"; rank correlation {stats.spearmanr(degrees, values).statistic:.2f}".replace("-", "−")
    return f"{text}. "


def angles_by_count(
    counts: ArrayLike,
    tau_plus: ArrayLike,
    path: Place,
    *,
    others: Mapping[str, ArrayLike] | None = None,
    boundary: int | None = None,
    partitions: Partitions = (),
    name: str = "winner",
) -> str:
    """The angle of each class against its training images, of the winner and of what it was chosen among.

    Args:
        counts: [K] training images, at least 1.
        tau_plus: [K] radians of the winner.
        path: PNG to write, or what takes the figure.
        others: name -> [K] radians of the other candidates.
        boundary: classes with at most this many training images are minor; None where there are no such groups.
        partitions: group -> bool [K], shown as bands.
        name: of the winner.

    Returns:
        The caption, also printed on the figure.

    Raises:
        ValueError: not one angle for each class.
    """
    size = np.asarray(counts, dtype=np.float64).reshape(-1)
    order = np.argsort(-size, kind="stable").astype(np.int64)
    size, degrees = size[order], _degrees(tau_plus, order)
    figure, axes = canvas(width=7.6, height=5.4)
    ax = axes[0, 0]
    minor = size <= boundary if boundary is not None else np.zeros(len(size), dtype=bool)
    if len(size):
        ax.plot(size, degrees, color=INK, linewidth=0.9, zorder=3, label=plain(name, 70))
    else:
        say_empty(ax)
    for some, colour, group in ((~minor, COLOURS[0], "major"), (minor, COLOURS[1], "minor")):
        if some.any():
            text = (
                f"{group}: {int(some.sum())} class{'es' * (int(some.sum()) != 1)}"
                if boundary is not None
                else "one class"
            )
            ax.plot(size[some], degrees[some], "o", color=colour, markersize=5, markeredgecolor="white", markeredgewidth=0.6,
                    zorder=4, label=text)  # fmt: skip
    shown = [degrees]
    for place, (other, values) in enumerate((others or {}).items()):
        shown.append(_degrees(values, order))
        ax.plot(size, shown[-1], color=MUTED, linestyle=DASHES[place % len(DASHES)], linewidth=1.1,
                label=plain(other, 60))  # fmt: skip
    count_axis(ax, size)
    bands(ax, counts, partitions)
    angle_axis(ax, np.concatenate(shown), TAU, axis="y")
    if partitions:  # room for the groups' names
        low, high = ax.get_ylim()
        ax.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
    label(ax, "Cone threshold of each class against its training images", x="training images of the class (log scale)")
    legend(ax, loc="upper left", bbox_to_anchor=(0.0, -0.16))
    caption = _course(size, degrees) + "Chosen on validation on further seeds"
    if others:
        caption += f"; grey: the {len(others)} candidate{'s' * (len(others) != 1)} it was chosen over"
    caption += f". Minor: at most {boundary} training images." if boundary is not None else "."
    return save(figure, path, caption)


def _course(size: Floats, degrees: Floats) -> str:
    """'τ⁺ is 49° at 60 images and 70° at 10, and never falls. ', of classes by falling size; "" without finite angles."""
    known = np.isfinite(degrees)
    if known.sum() < 2:
        return ""
    size, degrees = size[known], degrees[known]
    step = np.diff(degrees)
    if not step.any():
        return f"τ⁺ is {degrees[0]:.0f}° in all {len(degrees)} classes. "
    way = "never falls" if (step >= 0).all() else "never rises" if (step <= 0).all() else "goes up and down between"
    return f"τ⁺ is {degrees[0]:.0f}° at {size[0]:g} images and {degrees[-1]:.0f}° at {size[-1]:g}, and {way}. "


def _degrees(radians: ArrayLike, order: NDArray[np.int64]) -> Floats:
    values = np.degrees(np.asarray(radians, dtype=np.float64).reshape(-1))
    if len(values) != len(order):
        raise ValueError(f"{len(values)} angles for {len(order)} classes: give one a class")
    return values[order]
