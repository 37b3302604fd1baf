"""What a summary says in sentences: the winner's angles, the as-good range, the terminal phase."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from divfeat.methods import method_named
from divfeat.report.arrays import Floats
from divfeat.report.summary import WINNER, Grid, Runs, StudySummary
from divfeat.report.words import short_angle
from divfeat.statistics import listed
from divfeat.thresholds import Family, family_named


def winner_family(summary: StudySummary) -> Family:
    """The family of the winner's thresholds: an earlier one than the study's last, where a refinement stage found it."""
    method = summary.winner_method
    name = method.thresholds.family if method is not None and method.thresholds.angles else summary.config.search.family
    return family_named(name)


def winner_angles(summary: StudySummary) -> dict[str, float]:
    """Parameters of the winner by name, in the family's order; 0 for a winner without a cone, none where the family has none."""
    method = summary.winner_method
    if method is None:
        return {}
    return {name: method.thresholds.angles.get(name, 0.0) for name in winner_family(summary).parameters}


def class_angles(summary: StudySummary) -> Sequence[Mapping[str, Any]]:
    """One row a trained class with the winner's `tau_plus` (radians); none where the family gives all classes the same."""
    if not family_named(summary.config.search.family).varies or summary.winner is None:
        return []
    count = len(summary.winner["candidates"])
    own = [runs for runs in summary.selected[:count] if runs.method == summary.winner_method]
    found = [runs for runs in (summary.confirmed_as(WINNER), *own) if runs is not None]
    return class_rows(found)


def class_rows(some: Sequence[Runs]) -> Sequence[Mapping[str, Any]]:
    """One row a trained class, of the first run that finished."""
    return next((record["per_class"] for runs in some for record in runs.completed), [])


def class_values(runs: Runs, column: str) -> Floats:
    """[K, S] of a column of the classes' rows as recorded; NaN for a seed that did not finish, and where records of an older
    divfeat have no such column."""
    classes = len(class_rows([runs]))
    table = np.full((classes, len(runs.seeds)), math.nan)
    for place, record in enumerate(runs.records):
        if record is not None and record["status"] == "completed":
            found = [row.get(column) for row in record["per_class"]]
            table[:, place] = [math.nan if value is None else value for value in found]
    return table


def as_good_text(summary: StudySummary) -> str:
    """Which thresholds are as good as the best, or why that is undetermined, and where the winner's lies."""
    grid, margin = summary.grid, summary.config.protocol.margin
    if grid is None:
        return f"As good as the best: undetermined, since {summary.grid_note}."
    if grid.interval is None:
        return f"As good as the best: undetermined, since {grid.as_good.reason}."
    low, high = map(short_angle, grid.interval)
    span = f"{low} alone" if low == high else f"{low} to {high}"
    text = (
        f"Shown to be as good as the best: {span}, within {margin:g} points of the best of {len(grid.angles)} angles on "
        f"validation ({grid.scores.shape[1]} seeds, letting go the way '{grid.release}', simultaneous "
        f"{100 * (1 - summary.config.protocol.alpha):g} % bounds, {grid.as_good.half_width:.2f} points below the "
        "differences measured)."
    )
    if apart := grid.apart:
        text += f" As good too, but apart from that range: {listed([short_angle(angle) for angle in apart])}."
    return text + _place_of_winner(summary, grid, grid.interval)


def _place_of_winner(summary: StudySummary, grid: Grid, ends: tuple[float, float]) -> str:
    """Where the winner lies, for a reader who finds it outside the range."""
    method = summary.winner_method
    if method is None:
        return ""
    if method_named(method.name).hinge and method.release != grid.release:
        return f" The winner is not on this curve: it lets go the way '{method.release}'."
    (angle,) = winner_angles(summary).values()
    if method_named(method.name).hinge:
        text = f" The winner's {short_angle(angle)}"
    else:
        text = (
            f" The winner has no cone (τ⁺ = 0), where all ways of letting go agree; '{grid.release}' is the first of those "
            f"searched. Its {short_angle(angle)}"
        )
    if ends[0] <= angle <= ends[1]:
        return f"{text} lies inside the range."
    below = max((measured for measured in grid.angles if measured <= angle), default=angle)
    above = min((measured for measured in grid.angles if measured >= angle), default=angle)
    good = [measured in (*ends, *grid.apart) for measured in (below, above)]
    if all(good):
        return f"{text} is as good, but apart from the range."
    if any(good):
        return f"{text} lies between {short_angle(below)} and {short_angle(above)}, of which only one is shown to be as good."
    return (
        f"{text} lies outside the range: it won among few candidates by their means, while this rule asks for proof against "
        "the noise, and what it leaves out is not thereby shown to be worse."
    )


def terminal_text(summary: StudySummary) -> str:
    """Whether the confirmation's runs reached the terminal phase, and if only some, which."""
    counts = [(summary.title(runs.name), *runs.terminal) for runs in summary.confirmed if runs.completed]
    if not counts:
        found = "unknown, no confirmation run finished"
    elif all(reached == done for _, reached, done in counts):
        found = "reached by every run"
    elif not any(reached for _, reached, _ in counts):
        found = "not reached by any run"
    else:
        found = f"reached by {', '.join(f'{reached} of {done} runs of {name}' for name, reached, done in counts)}"
    return f"Terminal phase (training accuracy of at least 99.9 %): {found}."
