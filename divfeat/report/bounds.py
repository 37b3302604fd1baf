"""How the constraints of a search were kept, and the Pareto front of a search for two objectives."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from divfeat.objectives import OBJECTIVES, Measure
from divfeat.report.arrays import mean_of
from divfeat.report.summary import WINNER, Bound, Front, Runs, Trial
from divfeat.search.constraints import Limit, limits, missed
from divfeat.search.protocol import NOISE_METHOD
from divfeat.statistics import hypervolume, pareto_front


def bounds_kept(
    found: Sequence[Limit], trials: Sequence[Trial], winner: Mapping[str, Any] | None, confirmed: Sequence[Runs]
) -> Iterator[Bound]:
    """Each constraint with how many completed trials missed it, and whether the winner keeps it on other seeds and on test.

    Args:
        found: The study's constraints with their bounds on validation.
        trials: Of the search.
        winner: Decision of the phase `winner`.
        confirmed: Winner and baselines; a bound relative to CE+ETF has a value on test where that is a baseline.
    """
    by_name = {runs.name: runs for runs in confirmed}
    on_test = {measure.validation: measure.test for measure in OBJECTIVES.values()}

    def tested(name: str, metric: str) -> float | None:
        mean = mean_of(by_name[name].values(on_test[metric])) if name in by_name else math.nan
        return None if math.isnan(mean) else mean

    there = limits([limit.constraint for limit in found], lambda metric: tested(NOISE_METHOD, metric))
    chosen = winner["winner"].get("excess", {}) if winner else {}
    for here, other in zip(found, there, strict=True):
        count = sum(trial.status == "completed" and missed(trial.excess[here.name]) for trial in trials)
        confirmation = other.excess(tested(WINNER, here.measure.validation))
        yield Bound(here, count, _number(chosen.get(here.name)), _number(confirmation))


def front_of(measures: Sequence[Measure], trials: Sequence[Trial], noise: Runs) -> Front | None:
    """The front of two objectives, None for one.

    Its hypervolume is counted from 0 in an objective to be maximised, and in one to be minimised, where 0 is out of reach,
    from the mean of CE+ETF: both stand before the search does.
    """
    if len(measures) < 2:
        return None
    signs, scales = np.array([one.sign for one in measures]), np.array([one.scale for one in measures])
    values = [trial.values if trial.feasible else (math.nan, math.nan) for trial in trials]
    table = np.array(values, dtype=np.float64).reshape(len(trials), 2) / scales * signs
    first, second = (0.0 if one.sign > 0 else mean_of(noise.values(one.validation)) for one in measures)
    known = math.isfinite(first) and math.isfinite(second)
    area = hypervolume(table, signs * np.array([first, second])) if known else math.nan
    front = sorted(pareto_front(table), key=lambda place: -table[place, 0])
    return Front(tuple(trials[place].number for place in front), (first, second), area)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
