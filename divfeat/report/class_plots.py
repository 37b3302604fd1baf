"""The figures of thresholds that differ between classes: what goes into them, from the summary."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from divfeat.report import figures
from divfeat.report.outcomes import class_angles, class_rows
from divfeat.report.summary import WINNER, StudySummary
from divfeat.search.ledger import Ledger
from divfeat.search.protocol import metric_of
from divfeat.thresholds import family_named


def class_plots(summary: StudySummary) -> Iterator[tuple[str, str, Callable[[Path], str]]]:
    """Name, title and what draws it, of each figure that applies."""
    yield from _class_angles(summary)
    yield from _groups(summary)


def _class_angles(summary: StudySummary) -> Iterator[tuple[str, str, Callable[[Path], str]]]:
    """The angles that won, beside those of the candidates they were chosen among."""
    rows = class_angles(summary)
    counts = np.array([row["train_images"] for row in rows])
    if summary.winner is None or not len(counts) or counts.min() < 1 or counts.min() == counts.max():
        return
    boundary = summary.config.data.boundary
    grouped = 0 < int((counts <= boundary).sum()) < len(counts)
    others = {}
    for runs in summary.selected[: len(summary.winner["candidates"])]:
        if runs.method != summary.winner_method and runs.completed:
            others[runs.name] = [row["tau_plus"] for row in class_rows([runs])]

    def write(path: Path) -> str:
        return figures.angles_by_count(
            counts,
            [row["tau_plus"] for row in rows],
            path,
            others=others,
            boundary=boundary if grouped else None,
            name=summary.title(WINNER),
        )

    yield "angles_by_count", "The angle of each class that won, against its training images", write


def _groups(summary: StudySummary) -> Iterator[tuple[str, str, Callable[[Path], str]]]:
    """Of a family with one angle a group of classes whose accuracy is recorded, such as `tau_minor` and `accuracy_minor`."""
    family = family_named(summary.config.search.family)
    metrics = {name.removeprefix("tau_"): f"val/accuracy_{name.removeprefix('tau_')}" for name in family.parameters}
    ledger = Ledger(summary.folder)
    done = [(trial, ledger.record(trial.key)) for trial in summary.trials if trial.status == "completed"]
    accuracy = {group: [_points(metric_of(record, metric)) for _, record in done] for group, metric in metrics.items()}
    if not family.varies or any(not np.isfinite(values).any() for values in accuracy.values()):
        return

    def write(path: Path) -> str:
        tau = {group: [trial.angles[f"tau_{group}"] for trial, _ in done] for group in metrics}
        baselines = {
            group: {runs.name: runs.points(metric) for runs in summary.baselines_on_validation}
            for group, metric in metrics.items()
        }
        return figures.group_accuracy_by_threshold(tau, accuracy, path, baseline_accuracy=baselines)

    yield "groups_by_threshold", "Accuracy of each group of classes against its own threshold (paper, figure 5c)", write


def _points(share: float | None) -> float:
    return math.nan if share is None else 100 * share
