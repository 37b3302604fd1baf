"""Which baselines a figure has a line for: all of them, or of many the reference and the best."""

from __future__ import annotations

import math
from collections.abc import Iterable

from divfeat.objectives import OBJECTIVES
from divfeat.report.arrays import mean_of
from divfeat.report.summary import WINNER, Runs, StudySummary

#: Baselines up to which a figure has a line for each.
MOST_LINES = 5


def worth_a_line(summary: StudySummary) -> list[Runs]:
    """The confirmed baselines that finished and are not the winner itself; of many the best on test and the reference."""
    found = [runs for runs in summary.confirmed if runs.completed and runs.name not in (WINNER, *summary.equals)]
    best = sorted(found, key=lambda runs: (runs.name != summary.coneless, -on_test(summary, runs)))[:MOST_LINES]
    return [runs for runs in found if runs in best]


def on_validation(summary: StudySummary) -> list[Runs]:
    """The same baselines on the selection seeds; before any is confirmed the best of those."""
    found = list(summary.baselines_on_validation)
    if len(found) <= MOST_LINES:
        return found
    names = {runs.name for runs in worth_a_line(summary)}
    if names:
        names.add(str(summary.coneless))  # also where it is what won, and has no line beside the winner's
    else:
        names = {runs.name for runs in sorted(found, key=lambda runs: _rank(summary, runs))[:MOST_LINES]}
    return [runs for runs in found if runs.name in names]


def of_many(summary: StudySummary, shown: Iterable[Runs]) -> str:
    """Said in the title of a figure that leaves baselines out for want of room; else empty."""
    names, count = [runs.name for runs in shown], len(summary.config.protocol.baselines)
    if not MOST_LINES <= len(names) < count:
        return ""
    reference = f"{summary.coneless} and " if summary.coneless in names else ""
    return f"; {len(names)} of {count} baselines: {reference}the best"


def on_test(summary: StudySummary, runs: Runs) -> float:
    """By which baselines are ranked: the primary objective or, where that is geometry or a distance, balanced
    accuracy; -inf without a finished run."""
    measure = OBJECTIVES["balanced"] if summary.measure.plain else summary.measure
    mean = mean_of(runs.values(measure.test))
    return -math.inf if math.isnan(mean) else mean


def _rank(summary: StudySummary, runs: Runs) -> tuple[bool, float]:
    measure = OBJECTIVES["balanced"] if summary.measure.plain else summary.measure
    mean = mean_of(runs.values(measure.validation))
    return runs.name != summary.coneless, math.inf if math.isnan(mean) else -mean
