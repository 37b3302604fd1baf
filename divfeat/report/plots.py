"""Which figures a study has, and what goes into each: from the summary to `divfeat.report.figures`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from divfeat.config import MethodConfig
from divfeat.methods import method_named
from divfeat.objectives import OBJECTIVES
from divfeat.record import load_features
from divfeat.report import figures
from divfeat.report.answers import read_answers
from divfeat.report.class_plots import class_plots
from divfeat.report.drawing import Drawing
from divfeat.report.figures._canvas import Place
from divfeat.report.lines import of_many, on_validation, worth_a_line
from divfeat.report.outcomes import class_rows
from divfeat.report.summary import WINNER, Runs, StudySummary
from divfeat.report.tree_plots import tree_plots
from divfeat.search.ledger import Ledger
from divfeat.thresholds import family_named


@dataclass(frozen=True)
class Plot:
    """A figure on disk; `caption` is what the image itself says below, `title` what the report says of it; `drawing` is what it
    can be drawn from again, of those that results keep."""

    path: Path
    title: str
    caption: str
    drawing: Drawing | None = None


Draw = Callable[[Place], str]


def draw(summary: StudySummary, folder: Path) -> dict[str, Plot]:
    """Draw every figure that applies into `folder`, and remove those of an earlier report that no longer do.

    Returns:
        Plots by name, the file's stem.
    """
    plots = {}
    for name, title, write in applicable(summary):
        path = folder / f"{name}.png"
        plots[name] = Plot(path, title, write(path), write if isinstance(write, Drawing) else None)
    for path in folder.glob("*.png"):
        if path.stem not in plots:
            path.unlink()
    return plots


def applicable(summary: StudySummary) -> Iterator[tuple[str, str, Draw]]:
    """Name, title and what draws it, of each figure that the study has something to show in."""
    for part in (_confirmation, _thresholds, class_plots, _training, _features, _gains, tree_plots, _search):
        yield from part(summary)


def _confirmation(summary: StudySummary) -> Iterator[tuple[str, str, Draw]]:
    for place, objective in enumerate(summary.objectives):
        found = {comparison.name: vars(comparison) for comparison in objective.verdict.comparisons}
        if not any(math.isfinite(entry["mean"]) for entry in found.values()):
            continue
        measure = objective.measure
        where = "on the training images" if measure.geometry else "on test"
        words: dict[str, Any] = {
            "where": where,
            "margin": 0.0 if measure.plain else summary.config.protocol.margin,
            "suffix": " (points)" if measure.unit == "share" else "",
        }
        yield (
            "confirmation" if place == 0 else f"confirmation_{objective.name}",
            f"Winner against each baseline {where}: {objective.measure.short}",
            lambda path, found=found, words=words: figures.confirmation(found, path, **words),  # type: ignore[misc]
        )


# --- over the thresholds --------------------------------------------------------------------------------------------------


def _thresholds(summary: StudySummary) -> Iterator[tuple[str, str, Draw]]:
    family = family_named(summary.config.search.family)
    angles = [name for name in family.parameters if family.other(name) is None]
    if len(angles) == 2:
        yield from _plane(summary, *angles)
    if not family.one_angle or summary.grid is None:
        return
    grid, metric = summary.grid, f"validation {summary.score_name}"
    shown = on_validation(summary)
    baselines = {runs.name: runs.shown(summary.measure) for runs in shown}
    base = summary.config.search.method
    method = f"{'HingeCE' if base == MethodConfig() else base.name} ({grid.release})"
    note = f"As good as the best: undetermined, {grid.as_good.reason}." if grid.interval is None else ""

    accuracy = Drawing(
        "accuracy_by_threshold",
        {
            "tau_plus": grid.angles,
            "accuracy": grid.scores,
            "baseline_accuracy": baselines,
            "as_good": grid.interval,
            "as_good_note": note,
            "method": method,
            "metric": metric,
        },
    )

    def diversity(path: Place) -> str:
        nc1, rank = (
            np.stack([runs.values(name) for runs in grid.runs]) for name in ("collapse/nc1", "collapse/numerical_rank")
        )
        others = {runs.name: (runs.values("collapse/nc1"), runs.values("collapse/numerical_rank")) for runs in shown}
        return figures.diversity_by_threshold(grid.angles, nc1, rank, path, baseline_diversity=others, method=method)

    left_out = of_many(summary, shown)
    title = f"Accuracy against τ⁺ with the as-good-as-the-best range (paper, figure 3c){left_out}"
    yield "accuracy_by_threshold", title, accuracy
    yield "diversity_by_threshold", f"Diversity of the features against τ⁺ (paper, figure 4){left_out}", diversity


def _plane(summary: StudySummary, first: str, second: str) -> Iterator[tuple[str, str, Draw]]:
    """One figure for the winner's way of letting go, or that of most trials where the winner has none."""
    counts = {release: sum(t.release == release for t in summary.trials) for release in summary.config.search.releases}
    method = summary.winner_method
    hinged = method is not None and method_named(method.name).hinge
    release = method.release if method and hinged else max(counts, key=lambda name: counts[name])
    trials = [trial for trial in summary.trials if trial.release == release and trial.status != "not finished"]
    if len(trials) < 2:
        return
    search = summary.config.search
    besides = (*(other.name for other in family_named(search.family).others), *search.own)

    def write(path: Place) -> str:
        # A pruned trial's last value is of an earlier epoch and would not compare.
        values = [trial.values[0] if trial.status == "completed" else math.nan for trial in trials]
        return figures.two_thresholds(
            [trial.angles[first] for trial in trials],
            [trial.angles[second] for trial in trials],
            values,
            path,
            names=(_threshold_name(first), _threshold_name(second)),
            margin=summary.config.protocol.margin,
            metric=measured(summary),
            suffix=summary.measure.suffix,
            minimize=summary.measure.sign < 0,
            infeasible=[trial.outcome == "infeasible" for trial in trials],
            besides=besides,
        )

    yield "two_thresholds", f"The search over both thresholds, letting go the way '{release}'", write


def _threshold_name(parameter: str) -> str:
    group = parameter.removeprefix("tau_")
    ends = {"head": "the largest class", "tail": "the smallest class"}
    return f"τ⁺ of {ends.get(group, f'class {group}' if group.isdigit() else f'{group} classes')}"


# --- training and features --------------------------------------------------------------------------------------------------


def _training(summary: StudySummary) -> Iterator[tuple[str, str, Draw]]:
    curves: dict[str, Mapping[str, Any]] = {}
    shown = worth_a_line(summary)
    for runs in (*(one for one in [summary.confirmed_as(WINNER)] if one is not None), *shown):
        histories = [record["history"] for record in runs.completed if record["history"]]
        if not histories:
            continue
        epochs = min(len(history) for history in histories)
        lost = [[math.nan] * epochs] * (len(runs.seeds) - len(histories))
        own, other = (
            [[_number(row.get(f"train/{name}_cosine")) for row in history[:epochs]] for history in histories] + lost
            for name in ("positive", "negative")
        )
        curves[summary.title(runs.name)] = {
            "epoch": [row["epoch"] + 1 for row in histories[0][:epochs]],
            "own": own,
            "other": other,
        }
    if curves:
        title = (
            f"Cosine to the own and to the other axes over training (paper, figures 3a and 3b){of_many(summary, shown)}"
        )
        yield "cosines", title, lambda path: figures.cosines_over_epochs(curves, path)


def _features(summary: StudySummary) -> Iterator[tuple[str, str, Draw]]:
    """Three coarse classes of the first seed that kept its features for every panel; needs coarse and fine labels."""
    if summary.config.data.train_level != "coarse":
        return
    ledger = Ledger(summary.folder)
    panels = [runs for runs in map(summary.confirmed_as, _panel_names(summary)) if runs is not None]
    paths: list[Path] = []
    for keys in zip(*(runs.keys for runs in panels), strict=True):
        paths = [ledger.run_folder(str(key)) / "features.parquet" for key in keys]
        if all(path.is_file() for path in paths):
            break
    else:
        return
    names = {row["class"]: row["name"] for row in class_rows(panels)}
    fine_names = dict(enumerate(_fine_names(panels)))
    for part, what in (("train", "training"), ("test", "test")):

        def write(path: Place, part: str = part) -> str:
            found = {}
            for runs, source in zip(panels, paths, strict=True):
                columns = load_features(source, part)
                found[summary.title(runs.name)] = {
                    "features": columns["feature"].astype(np.float64),
                    "coarse": columns["coarse"],
                    "fine": columns["fine"],
                }
            return figures.feature_projection(found, path, coarse_names=names, fine_names=fine_names)

        yield f"features_{part}", f"Features of {what} images, three coarse classes (paper, figures 1 and 6)", write


def _panel_names(summary: StudySummary) -> Sequence[str]:
    """Plain training, the fixed frame, the winner; a winner that is one of them is drawn once."""
    baselines = summary.config.protocol.baselines
    names = [name for name in baselines if name in ("ce", "ce_etf")] or baselines[:1]
    return [*(name for name in names if name not in summary.equals), WINNER]


def _gains(summary: StudySummary) -> Iterator[tuple[str, str, Draw]]:
    """Class by class in the primary objective's own score: the probe's fine classes, or the classifier's trained ones."""
    winner = summary.confirmed_as(WINNER)
    names = summary.config.protocol.baselines
    against = summary.confirmed_as("ce" if "ce" in names else names[0]) if names else None
    if winner is None or against is None or against.name in summary.equals:
        return
    objective = summary.config.search.objectives[0]
    ours, theirs = (read_answers(Ledger(summary.folder), runs, objective) for runs in (winner, against))
    if ours is None or theirs is None or not np.array_equal(ours.labels, theirs.labels):
        return
    first, second = 100 * ours.by_class(), 100 * theirs.by_class()
    if not np.isfinite(first - second).any():
        return
    trained = objective != "fine_probe" or summary.config.data.train_level == "fine"
    rows = class_rows((winner, against)) if trained else []
    found = [row["name"] for row in rows] or _fine_names((winner, against))
    labels = [found[k] if k < len(found) else f"class {k}" for k in range(len(first))]
    counts = np.array([row["train_images"] for row in rows])
    boundary = summary.config.data.boundary
    grouped = len(counts) == len(first) and 0 < int((counts <= boundary).sum()) < len(counts)

    def write(path: Place) -> str:
        return figures.gain_by_class(
            first,
            second,
            path,
            class_names=labels,
            counts=counts if grouped else None,
            boundary=boundary if grouped else None,
            baseline_name=against.name,
            score="accuracy of the fine probe" if objective == "fine_probe" else "accuracy of the classifier",
        )

    yield "gain_by_class", f"Gain of each class over {against.name} on test (paper, figure 5)", write


def _fine_names(some: Sequence[Runs]) -> Sequence[str]:
    """Names of the fine classes; none where the runs do not say."""
    return next((record["provenance"].get("fine_names") or [] for runs in some for record in runs.completed), [])


def _search(summary: StudySummary) -> Iterator[tuple[str, str, Draw]]:
    trials = [
        {
            "number": trial.number,
            "value": None if math.isnan(trial.values[0]) else trial.values[0],
            "status": "pruned" if trial.stopped else trial.outcome,
            "release": trial.release or None,
        }
        for trial in summary.trials
        if trial.status != "not finished"
    ]
    if trials:
        words: dict[str, Any] = {
            "metric": measured(summary),
            "suffix": summary.measure.suffix,
            "minimize": summary.measure.sign < 0,
        }
        title = "The search, trial by trial"
        yield "search", title, lambda path: figures.optimisation_history(trials, path, **words)
        yield from _held_loss(summary, words)
    yield from _front(summary)


def _held_loss(summary: StudySummary, words: dict[str, Any]) -> Iterator[tuple[str, str, Draw]]:
    """What trials scored against what their cones took hold of, where the records tell."""
    done = [trial for trial in summary.trials if trial.status == "completed"]
    told = [trial for trial in done if not math.isnan(trial.taken)]
    if not told:
        return
    coneless = [trial.values[0] for trial in done if trial.coned == 0]

    def write(path: Place) -> str:
        return figures.score_by_held_loss(
            [trial.taken for trial in told],
            [trial.values[0] for trial in told],
            [trial.release for trial in told],
            path,
            coneless=coneless,
            **words,
        )

    yield "score_by_held_loss", "What the cones of each trial held of the loss, and what it scored", write


def _front(summary: StudySummary) -> Iterator[tuple[str, str, Draw]]:
    """Both objectives of the search, where there are two."""
    finished = [trial for trial in summary.trials if trial.status == "completed"]
    if summary.front is None or not finished:
        return
    best = summary.front.trials
    trials = [
        {
            "number": trial.number,
            "values": trial.values,
            "feasible": trial.feasible,
            "front": trial.number in best,
        }
        for trial in finished
    ]
    first, second = (OBJECTIVES[name] for name in summary.config.search.objectives)
    shown = on_validation(summary)
    baselines = {runs.name: (runs.shown(first), runs.shown(second)) for runs in shown}
    names = (f"{first.short}{first.suffix}", f"{second.short}{second.suffix}")
    winner = None if summary.winner is None else int(summary.winner["winner"]["number"])

    def write(path: Place) -> str:
        return figures.pareto_front(
            trials,
            path,
            names=names,
            directions=(first.direction, second.direction),
            baselines=baselines,
            winner=winner,
        )

    yield "front", f"The Pareto front of the search, on validation{of_many(summary, shown)}", write


def measured(summary: StudySummary) -> str:
    """The primary objective with the images it is measured on."""
    return summary.score_name if summary.measure.geometry else f"validation {summary.score_name}"


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
