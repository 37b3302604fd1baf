"""The figures of thresholds that differ between classes, and of what becomes of each class: what goes into them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from divfeat.report import figures
from divfeat.report.drawing import Drawing
from divfeat.report.figures._canvas import Place
from divfeat.report.groups import PARTITIONS, partitions
from divfeat.report.lines import of_many, on_test, on_validation, worth_a_line
from divfeat.report.outcomes import class_angles, class_rows, class_values
from divfeat.report.summary import WINNER, StudySummary, Trial
from divfeat.search.ledger import Ledger
from divfeat.search.protocol import metric_of
from divfeat.statistics import listed
from divfeat.thresholds import family_named

#: Column of a class's row -> what a panel calls it.
MEASURES = {
    "cdnv": "part of the CDNV (spread over distance)",
    "numerical_rank": "numerical rank",
    "positive_cosine": "mean cosine to the own axis",
    "feature_norm": "mean feature norm",
}


def class_plots(summary: StudySummary) -> Iterator[tuple[str, str, Callable[[Place], str]]]:
    """Name, title and what draws it, of each figure that applies."""
    yield from _class_angles(summary)
    yield from _groups(summary)
    yield from _tradeoff(summary)
    yield from _over_counts(summary)


def _class_angles(summary: StudySummary) -> Iterator[tuple[str, str, Callable[[Place], str]]]:
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

    def write(path: Place) -> str:
        return figures.angles_by_count(
            counts,
            [row["tau_plus"] for row in rows],
            path,
            others=others,
            boundary=boundary if grouped else None,
            partitions=partitions(counts.tolist(), boundary),
            name=summary.title(WINNER),
        )

    yield "angles_by_count", "The angle of each class that won, against its training images", write


def _groups(summary: StudySummary) -> Iterator[tuple[str, str, Callable[[Place], str]]]:
    """Each group of classes against its angle, or against the mean of its classes' angles where a family has no angle for it."""
    if not family_named(summary.config.search.family).varies:
        return
    ledger = Ledger(summary.folder)
    completed = [trial for trial in summary.trials if trial.status == "completed"]
    done = [(trial, record) for trial in completed if (record := ledger.record(trial.key)) is not None]
    tau, mean = _own_angles(summary, done), False
    if not tau:
        tau, mean = _mean_angles(summary, [record for _, record in done]), True
    if not tau:
        return
    metrics = {group: f"val/accuracy_{group}" for group in tau}
    accuracy = {group: [_points(metric_of(record, metric)) for _, record in done] for group, metric in metrics.items()}
    shown = on_validation(summary)

    def write(path: Place) -> str:
        baselines = {group: {runs.name: runs.points(metric) for runs in shown} for group, metric in metrics.items()}
        return figures.group_accuracy_by_threshold(tau, accuracy, path, baseline_accuracy=baselines, mean=mean)

    what = "the mean of its classes' thresholds" if mean else "its own threshold"
    title = f"Accuracy of each group of classes against {what} (paper, figure 5c){of_many(summary, shown)}"
    yield "groups_by_threshold", title, write


def _own_angles(summary: StudySummary, done: Sequence[tuple[Trial, dict[str, Any]]]) -> dict[str, list[float]]:
    """group -> radians of each trial, where every parameter is a group's angle and the group's accuracy is recorded, such as
    `tau_minor` and `accuracy_minor`; else empty, as of `free_boundary`, whose groups are not those of the accuracies."""
    family = family_named(summary.config.search.family)
    groups = [name.removeprefix("tau_") for name in family.parameters]
    if any(all(metric_of(record, f"val/accuracy_{group}") is None for _, record in done) for group in groups):
        return {}
    return {group: [trial.angles[f"tau_{group}"] for trial, _ in done] for group in groups}


def _mean_angles(summary: StudySummary, done: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """group -> mean radians over its classes in each trial; of no group where the classes form none."""
    tables = [record["per_class"] for record in done]
    parts = partitions([row["train_images"] for row in tables[0]], summary.config.data.boundary) if tables else []
    angles = np.array([[row["tau_plus"] for row in table] for table in tables], dtype=np.float64)
    return {group: angles[:, mask].mean(1).tolist() for group, mask in parts[0].items()} if parts else {}


def _tradeoff(summary: StudySummary) -> Iterator[tuple[str, str, Callable[[Place], str]]]:
    """Major against minor classes in every trial of the search and of the baselines that were tuned beside it."""
    ledger = Ledger(summary.folder)

    def of_trials(name: str) -> tuple[list[float], list[float]]:
        records = [ledger.record(row["key"]) for row in ledger.proposals(name).values()]
        major, minor = ([_points(metric_of(record, metric)) for record in records] for metric in metrics)
        return major, minor

    metrics = [f"val/accuracy_{group}" for group in PARTITIONS[0]]
    found = {f"thresholds of {summary.config.search.method.name}": of_trials("")}
    rows = class_rows(summary.confirmed) or class_rows(summary.selected)
    parts = partitions([row["train_images"] for row in rows], summary.config.data.boundary)
    if not parts or not {*PARTITIONS[0]} <= parts[0].keys() or not np.isfinite(found[next(iter(found))]).any():
        return
    shown = on_validation(summary)
    tuned = {one.name for one in summary.own_numbers if one.trials}
    found |= {runs.name: of_trials(runs.name) for runs in shown if runs.name in tuned}
    major, minor = (int(parts[0][group].sum()) for group in PARTITIONS[0])

    fixed = {runs.name: (runs.points(metrics[0]), runs.points(metrics[1])) for runs in shown if runs.name not in tuned}
    title = f"What minor classes gain and major classes lose, in every trial{of_many(summary, shown)}"
    yield "group_tradeoff", title, Drawing("group_tradeoff", {"trials": found, "means": fixed, "sizes": (major, minor)})


def _points(share: float | None) -> float:
    return math.nan if share is None else 100 * share


# --- what becomes of each class -----------------------------------------------------------------------------------------------


def _over_counts(summary: StudySummary) -> Iterator[tuple[str, str, Callable[[Place], str]]]:
    """Accuracy, gain and collapse against class count, where the classes differ in size and a winner was confirmed."""
    rows, winner = class_rows(summary.confirmed), summary.confirmed_as(WINNER)
    counts = np.array([row["train_images"] for row in rows])
    if winner is None or not winner.completed or counts.min() < 1 or counts.min() == counts.max():
        return
    names = [row["name"] for row in rows]
    shared: dict[str, Any] = {
        "partitions": partitions(counts.tolist(), summary.config.data.boundary),
        "name": summary.title(WINNER),
    }
    shown = {runs.name: runs for runs in worth_a_line(summary)}

    def accuracy(path: Place) -> str:
        values = {WINNER: 100 * class_values(winner, "accuracy")}
        values |= {name: 100 * class_values(runs, "accuracy") for name, runs in shown.items()}
        return figures.accuracy_by_count(counts, values, path, class_names=names, **shared)

    title = f"Accuracy of each class against its training images (paper, figure 5a){of_many(summary, shown.values())}"
    yield "accuracy_by_count", title, accuracy

    against = [name for name in dict.fromkeys((summary.coneless, _best_baseline(summary))) if name in shown]

    def gain(path: Place) -> str:
        ours = class_values(winner, "accuracy")
        gains = {name: 100 * (ours - class_values(shown[name], "accuracy")) for name in against}
        return figures.gain_by_count(counts, gains, path, class_names=names, **shared)

    if against:
        best = f", the best baseline on test being {against[-1]}" if against[-1] != summary.coneless else ""
        yield "gain_by_count", f"Gain of each class over {listed(against)}{best} (paper, figure 5b)", gain

    drawn = [winner, *(shown[name] for name in (summary.coneless,) if name in shown)]
    measures = {what: {runs.name: class_values(runs, column) for runs in drawn} for column, what in MEASURES.items()}
    measures = {what: found for what, found in measures.items() if any(np.isfinite(v).any() for v in found.values())}
    if measures:
        yield (
            "collapse_by_count",
            "Collapse of each class against its training images",
            lambda path: figures.collapse_by_count(counts, measures, path, **shared),
        )


def _best_baseline(summary: StudySummary) -> str:
    """Of those with a line the best on test; "" where there is none."""
    means = {runs.name: on_test(summary, runs) for runs in worth_a_line(summary)}
    return max(means, key=lambda name: means[name], default="")
