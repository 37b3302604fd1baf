"""Figures of trust, drawn from results alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from scipy import stats

from divfeat.report.arrays import Floats
from divfeat.report.figures._canvas import COLOURS, MUTED, canvas, label, legend, plain, save

_MARKERS = "osD^v"


def calibration(result: Mapping[str, Any], path: Path) -> str:
    """False verdicts on equal methods, by study, seeds and case, with two standard errors.

    Args:
        result: Of `calibration.json`.
        path: PNG to write.

    Returns:
        The caption.
    """
    studies = list(result["studies"])
    cases = list(dict.fromkeys(row["case"] for found in result["studies"].values() for row in found["null"]))
    numbers = list(dict.fromkeys(row["seeds"] for found in result["studies"].values() for row in found["null"]))
    figure, axes = canvas(1, len(numbers), width=9.6, height=4.4, sharey=True)
    for ax, seeds in zip(axes[0], numbers, strict=True):
        ax.axhline(
            100 * result["alpha"],
            color=MUTED,
            linestyle="--",
            linewidth=1.2,
            label=f"promised: at most {100 * result['alpha']:g} %",
        )
        series = [(case, case, "false") for case in cases]
        series.append(("new images, judged with images", "new images", "false_with_images"))
        for place, (name, case, key) in enumerate(series):
            rows = [_row(result, study, case, seeds) for study in studies]
            rates, errors = np.array([row[key] for row in rows]).T
            spots = np.arange(len(studies)) + 0.13 * (place - (len(series) - 1) / 2)
            ax.errorbar(spots, rates, 2 * errors, fmt=_MARKERS[place % len(_MARKERS)], color=COLOURS[place], markersize=5,
                        linewidth=1, capsize=2, label=plain(name))  # fmt: skip
        ax.set_xticks(range(len(studies)), [plain(study) for study in studies], rotation=25, ha="right")
        label(ax, f"S = {seeds}", y="studies with a false verdict (%)" if seeds == numbers[0] else "")
    legend(axes[0, -1])
    return save(
        figure,
        path,
        f"Studies of equal methods with a false “better” or “worse” against any of their baselines; {result['replicates']} drawn "
        "studies a point, bars of two standard errors. New images: methods equal over all images, judged on a test set that is a "
        "sample of them, by seeds alone and by seeds and images.",
    )


def power(result: Mapping[str, Any], path: Path) -> str:
    """How often a true difference is called better, by study and seeds, with what `--dry-run` promises."""
    studies = result["studies"]
    figure, axes = canvas(1, len(studies), width=2.7 * len(studies), height=3.6, sharey=True)
    for ax, (name, found) in zip(axes[0], studies.items(), strict=True):
        for place, seeds in enumerate(dict.fromkeys(row["seeds"] for row in found["power"])):
            rows = [row for row in found["power"] if row["seeds"] == seeds]
            rates, errors = np.array([row["better"] for row in rows]).T
            ax.errorbar([row["difference"] for row in rows], rates, 2 * errors, fmt=f"{_MARKERS[place]}-", color=COLOURS[place],
                        markersize=4, linewidth=1.4, capsize=2, label=f"S = {seeds}")  # fmt: skip
            if (promised := found["detectable"][str(seeds)]) <= max(row["difference"] for row in rows):
                ax.plot(promised, 80, "*", color=COLOURS[place], markersize=11, markeredgecolor="white", zorder=5)
        label(ax, name, "true difference (points)", "called better (%)" if name == next(iter(studies)) else "")
    legend(axes[0, -1])
    return save(
        figure,
        path,
        f"One baseline of a study's B, at the level that B leave it; {result['replicates']} drawn studies a point. Stars: the "
        "difference that a dry run says is detected with probability 0.8 at the spread of one method, pairing left out.",
    )


def same(results: Mapping[str, Mapping[str, Any]], path: Path) -> str:
    """Scores of one method under two names, and how far winners of nothing lie above the mean at each step."""
    figure, axes = canvas(len(results), 2, width=9.0, height=3.1 * len(results))
    for (left, right), (name, result) in zip(axes, results.items(), strict=True):
        for place, arm in enumerate(("first", "second")):
            values = np.array(result["scores"][arm])
            left.plot(values, _spread(values, place), "o", color=COLOURS[place], markersize=4, alpha=0.7)
            left.errorbar(values.mean(), place - 0.32, xerr=_half(values), fmt="D", color=COLOURS[place], capsize=3)
        left.set_yticks([0, 1], ["first name", "second name"])
        left.set_ylim(1.5, -0.6)
        label(left, f"{name}: one method, two names", "score on test (%)")
        _steps(right, result["protocol"])
        label(right, f"{name}: best of equals", y="points above the mean")
    legend(axes[0, 1])
    return save(
        figure,
        path,
        "Left: every training, and means with 95 % intervals. Right: the winner's score above the mean of all trainings, on "
        "validation in search and selection, on test in the confirmation; averages over deals of the same trainings.",
    )


def _steps(ax: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    steps = ("search", "selection", "confirmation")
    for place, row in enumerate(rows):
        spots = np.arange(len(steps)) + 0.3 * (place - 0.5)
        ax.bar(
            spots,
            [row["above_the_mean"][step] for step in steps],
            0.28,
            color=COLOURS[place],
            label=f"S = {row['seeds']}",
        )
    ax.axhline(0, color=MUTED, linewidth=0.8)
    ax.set_xticks(range(len(steps)), steps)


def _spread(values: Floats, place: int) -> Floats:
    """Heights around a place, so that equal scores do not hide each other."""
    order = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    heights: Floats = place + 0.16 * ((order * 7) % 11 - 5) / 5
    return heights


def _half(values: Floats) -> float:
    return float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))


def _row(result: Mapping[str, Any], study: str, case: str, seeds: int) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(
        row for row in result["studies"][study]["null"] if row["case"] == case and row["seeds"] == seeds
    )
    return found
