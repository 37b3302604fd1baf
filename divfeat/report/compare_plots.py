"""Which figures a comparison of studies has, and what goes into each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from divfeat.objectives import Measure
from divfeat.report import figures
from divfeat.report.figures.across import Differences, Trials
from divfeat.report.pairs import Pairs
from divfeat.report.plots import Plot, measured
from divfeat.report.several import Titled
from divfeat.report.summary import StudySummary
from divfeat.thresholds import family_named

FOREST, PAIRS, TRIALS = "winner_minus_baselines", "same_images", "trials_by_threshold"


def draw(studies: Sequence[Titled], pairs: Pairs, folder: Path) -> dict[str, Plot]:
    """Draw the figures that apply into `folder`, and remove those of an earlier comparison that no longer do.

    Returns:
        Plots by name, the file's stem.
    """
    plots = {}
    for name, title, write in _applicable(studies, pairs):
        path = folder / f"{name}.png"
        plots[name] = Plot(path, title, write(path))
    for name in (FOREST, PAIRS, TRIALS):
        if name not in plots:
            (folder / f"{name}.png").unlink(missing_ok=True)
    return plots


def _applicable(studies: Sequence[Titled], pairs: Pairs) -> Iterator[tuple[str, str, Callable[[Path], str]]]:
    if groups := list(_of_studies(studies)):
        title, x = "Winner minus each baseline", "winner minus baseline, paired"
        yield FOREST, f"{title}, study by study", lambda path: figures.forest(groups, path, title=title, x=x)
    if across := list(_of_pairs(pairs)):
        name, of = "The same images, another study", "study minus study, paired"
        yield PAIRS, f"{name}: what became of each method", lambda path: figures.forest(across, path, title=name, x=of)
    if panels := [_trials(title, summary) for title, summary in studies if _has_angle(summary)]:
        told = "Every trial against its angle, of the studies that search one"
        yield TRIALS, told, lambda path: figures.trials_by_threshold(panels, path)


def _of_studies(studies: Sequence[Titled]) -> Iterator[Differences]:
    for title, summary in studies:
        for objective in summary.objectives:
            shown = [one for one in objective.verdict.comparisons if math.isfinite(one.mean) and not one.same_config]
            rows = {one.name: vars(one) for one in shown}
            if rows:
                yield _group(title, objective.measure, summary.config.protocol.margin, rows)


def _of_pairs(pairs: Pairs) -> Iterator[Differences]:
    for pair in pairs.pairs:
        for objective in dict.fromkeys(one.objective for one in pair.methods):
            some = [one for one in pair.methods if one.objective == objective and one.comparison is not None]
            if some:
                rows = {one.method: vars(one.comparison) for one in some}
                yield _group(f"{pair.study} minus {pair.reference}", some[0].measure, pair.margin, rows)


def _group(title: str, measure: Measure, margin: float, rows: Mapping[str, Mapping[str, Any]]) -> Differences:
    unit = " (points)" if measure.unit == "share" else ""
    where = "on the training images" if measure.geometry else "on test"
    return Differences(title, f"{measure.short} {where}", unit, measure.digits, 0.0 if measure.plain else margin, rows)


def _has_angle(summary: StudySummary) -> bool:
    one = family_named(summary.config.search.family).one_angle
    return one and any(trial.status == "completed" for trial in summary.trials)


def _trials(title: str, summary: StudySummary) -> Trials:
    done = [trial for trial in summary.trials if trial.status == "completed" and math.isfinite(trial.values[0])]
    return Trials(
        title,
        [next(iter(trial.angles.values())) for trial in done],
        [trial.values[0] for trial in done],
        [trial.release for trial in done],
        measured(summary),
        summary.measure.suffix,
        summary.measure.sign < 0,
    )
