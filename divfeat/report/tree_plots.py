"""The figures of a study over a tree of classes: what goes into them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from divfeat.hierarchy import Hierarchy
from divfeat.methods import keeps_frozen_axes
from divfeat.objectives import OBJECTIVES
from divfeat.report import figures
from divfeat.report.arrays import Floats
from divfeat.report.drawing import Drawing
from divfeat.report.figures._canvas import Place
from divfeat.report.summary import WINNER, Runs, StudySummary
from divfeat.report.trees import cosines_of_classes, shares_by_edge, tree_of_study
from divfeat.search.ledger import Ledger
from divfeat.search.protocol import metric_of
from divfeat.statistics import pareto_front

#: Confirmed beside the winner, the method whose angles are drawn too, and the one whose mistakes are.
_FRAMED, _PLAIN = "haframe", "ce_no_projector"
#: Of an epoch, where it was followed.
ANGULAR = "followed/collapse/angular"


def tree_plots(summary: StudySummary) -> Iterator[tuple[str, str, Callable[[Place], str]]]:
    """Name, title and what draws it, of each figure that applies; none of a study without a tree."""
    if summary.config.data.hierarchy is None:
        return
    yield from _severity(summary)
    tree = tree_of_study(summary)
    if tree is not None:
        yield from _mistakes(summary, tree)
        yield from _angles(summary, tree)
    yield from _angular(summary)


def _methods(summary: StudySummary) -> list[Runs]:
    """The winner, and the baselines that are something else; those of which a run finished."""
    ordered = sorted(summary.confirmed, key=lambda runs: runs.name != WINNER)
    return [runs for runs in ordered if runs.completed and runs.name not in summary.equals]


def _severity(summary: StudySummary) -> Iterator[tuple[str, str, Callable[[Place], str]]]:
    measures = (OBJECTIVES["accuracy"], OBJECTIVES["severity"])
    methods = {runs.name: tuple(one.scale * runs.values(one.test) for one in measures) for runs in _methods(summary)}
    if not any(np.isfinite(severity).any() for _, severity in methods.values()):
        return
    ledger = Ledger(summary.folder)
    done = [trial for trial in summary.trials if trial.status == "completed"]
    values = np.full((len(done), 2), math.nan)
    for place, trial in enumerate(done):
        found = [metric_of(ledger.record(trial.key), one.validation) for one in measures]
        values[place] = [math.nan if value is None else value for value in found]
    allowed = np.where(np.array([trial.feasible for trial in done], dtype=bool)[:, None], values, math.nan)
    best = set(pareto_front(allowed * (1, -1)).tolist())
    values *= [one.scale for one in measures]
    trials: list[dict[str, Any]] = [
        {
            "number": trial.number,
            "values": tuple(values[place].tolist()),
            "feasible": trial.feasible,
            "front": place in best,
        }
        for place, trial in enumerate(done)
        if np.isfinite(values[place]).all()
    ]
    winner = None if summary.winner is None else int(summary.winner["winner"]["number"])
    drawing = Drawing("severity_by_accuracy", {"methods": methods, "trials": trials, "winner": winner})
    yield (
        "severity_by_accuracy",
        "Severity of the mistakes against accuracy: confirmed methods, and the search",
        drawing,
    )


def _mistakes(summary: StudySummary, tree: Hierarchy) -> Iterator[tuple[str, str, Callable[[Place], str]]]:
    """Of the winner, and of the plain network or else the first baseline."""
    methods = _methods(summary)
    plain = [runs for runs in methods if runs.name == _PLAIN] or [runs for runs in methods if runs.name != WINNER]
    shares: dict[str, Floats] = {}
    for runs in [*(runs for runs in methods if runs.name == WINNER), *plain[:1]]:
        table = shares_by_edge(summary, runs, tree)
        if table is not None:
            shares[summary.title(runs.name)] = table
    if any(np.isfinite(table).any() for table in shares.values()):
        title = "The tree of classes, and the edges that mistakes on test cross"
        yield "mistakes_on_tree", title, lambda path: figures.mistakes_on_tree(shares, tree, path)


def _angles(summary: StudySummary, tree: Hierarchy) -> Iterator[tuple[str, str, Callable[[Place], str]]]:
    """Of the winner and HAFrame, as far as their axes are frozen: else they are no target."""
    angles: dict[str, tuple[Floats, Floats]] = {}
    for runs in _methods(summary):
        if runs.name in (WINNER, _FRAMED) and keeps_frozen_axes(runs.method):
            pair = cosines_of_classes(summary, runs)
            if pair is not None:
                angles[summary.title(runs.name)] = pair
    if angles:
        title = "Cosines between classes: those asked for, and those of the training features"
        yield "class_cosines", title, lambda path: figures.class_cosines(angles, tree, path)


def _angular(summary: StudySummary) -> Iterator[tuple[str, str, Callable[[Place], str]]]:
    """Of every method with frozen axes, the only ones whose epochs tell it."""
    curves: dict[str, dict[str, Any]] = {}
    for runs in _methods(summary):
        seen = [
            {
                row["epoch"] + 1: row[ANGULAR]
                for row in (record or {}).get("history", ())
                if row.get(ANGULAR) is not None
            }
            for record in runs.records
        ]
        epochs = sorted(set().union(*seen))
        if epochs:
            table = [[found.get(epoch, math.nan) for epoch in epochs] for found in seen]
            curves[summary.title(runs.name)] = {"epoch": epochs, "angular": table}
    if curves:
        title = "How far the angles between class means are from those of the frozen axes, over training"
        yield "angular", title, lambda path: figures.angular_over_epochs(curves, path)
