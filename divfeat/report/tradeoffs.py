"""Paragraphs of the section on the search: its constraints, and the Pareto front of two objectives."""

from __future__ import annotations

import math
from collections.abc import Iterator

from divfeat.report.document import Block, Cell, Paragraph, Table
from divfeat.report.summary import StudySummary
from divfeat.statistics import listed
from divfeat.study_config import MODELS_CONSTRAINTS


def constraints(summary: StudySummary) -> Iterator[Block]:
    """How many trials missed each constraint, and whether the winner keeps it."""
    if not summary.bounds:
        return
    done = [trial for trial in summary.trials if trial.status == "completed"]
    kept = sum(trial.feasible for trial in done)
    text = f"Constraints: {kept} of {len(done)} completed trials keep them, {len(done) - kept} are infeasible."
    if summary.config.search.sampler in MODELS_CONSTRAINTS:
        text += " The sampler was told which, and by how much they miss."
    else:
        text += f" The sampler {summary.config.search.sampler!r} follows no trial, so it was not steered by them."
    if done and not kept:
        text += " None is feasible: the candidates are those that miss the constraints least, and so is the winner."
    rows: list[list[Cell]] = []
    for bound in summary.bounds:
        limit = bound.limit
        shown = f"{limit.bound:.2f} %" if limit.measure.unit == "share" else f"{limit.bound:.4g}"
        rows.append([limit.name, shown, bound.infeasible, _kept(bound.selection), _kept(bound.confirmation)])
    yield Paragraph(text)
    yield Table(
        ["constraint", "bound", "infeasible trials", "winner, selection", "winner, test"],
        rows,
        "Bounds on validation; what is relative to ce_etf is its mean on the selection seeds and the difference given. A trial "
        "is judged on its one search seed, the winner by its means over the selection seeds and over the confirmation seeds, "
        "there against the mean of ce_etf on test.",
    )


def _kept(missed: float) -> str | None:
    if math.isnan(missed):
        return None
    return "kept" if missed <= 0 else f"missed by {missed:.4g}"


def front(summary: StudySummary) -> Iterator[Block]:
    """The hypervolume of the Pareto front, with the point it is counted from."""
    if summary.front is None:
        return
    names, found = summary.config.search.objectives, summary.front
    counted = "trial" if len(found.trials) == 1 else "trials"
    text = f"Pareto front on validation, one seed: {len(found.trials)} {counted}"
    text += f" ({listed([str(number) for number in found.trials])})." if found.trials else "."
    if math.isnan(found.hypervolume):
        yield Paragraph(
            f"{text} Hypervolume: unknown, since the reference point is the mean of CE+ETF, which has none."
        )
        return
    corner = [f"{name} {value:g}" for name, value in zip(names, found.reference, strict=True)]
    yield Paragraph(
        f"{text} Hypervolume {found.hypervolume:.4f}: the area between the front and the reference point {' and '.join(corner)}, "
        "shares counted in [0, 1] and geometry as it is. The reference is 0 where more is looked for, and the mean of CE+ETF "
        "where less is; the front flatters itself, as the best of many trials does."
    )
