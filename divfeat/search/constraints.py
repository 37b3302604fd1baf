"""Constraints of a search: which trials keep the bounds of `search.constraints`, from the ledger's records alone.

A trial is judged by its validation metrics at the end of its training. How far a bound is missed is told in what its metric
is shown in (points of a share, a number as it is); misses of several bounds add up, as Optuna's samplers have it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from divfeat.objectives import OBJECTIVES, Measure
from divfeat.statistics import select_top
from divfeat.study_config import ConstraintConfig


@dataclass(frozen=True)
class Limit:
    """A constraint with its bound as a number.

    Attributes:
        constraint: As set.
        bound: In percent, or as it is; NaN where what it is relative to has no value.
    """

    constraint: ConstraintConfig
    bound: float

    @property
    def name(self) -> str:
        """`major >= ce_etf - 1`."""
        return self.constraint.name

    @property
    def measure(self) -> Measure:
        """What is bounded."""
        return OBJECTIVES[self.constraint.metric]

    def excess(self, value: float | None) -> float | None:
        """How far a recorded value lies beyond the bound: at most 0 where it is kept; None where that is unknown."""
        if value is None or math.isnan(value) or math.isnan(self.bound):
            return None
        shown = self.measure.scale * value
        # Rounded, so that a value on the bound is not beyond it by the last bit of a mean.
        return round(shown - self.bound if self.constraint.at_least is None else self.bound - shown, 9)


def limits(constraints: Sequence[ConstraintConfig], reference: Callable[[str], float | None]) -> tuple[Limit, ...]:
    """The constraints with their bounds.

    Args:
        constraints: Of the search.
        reference: Validation metric -> mean of the recorded values of CE+ETF on the selection seeds, None without any.
    """
    found = []
    for one in constraints:
        bound = one.bound
        if one.than is not None:
            measure = OBJECTIVES[one.metric]
            mean = reference(measure.validation)
            bound = math.nan if mean is None else measure.scale * mean + bound
        found.append(Limit(one, bound))
    return tuple(found)


def excesses(limits: Sequence[Limit], value_of: Callable[[str], float | None]) -> dict[str, float | None]:
    """Constraint -> how far it is missed, at most 0 where it is kept, None where a value is missing.

    Args:
        limits: Of the study.
        value_of: Validation metric -> recorded value, or None.
    """
    return {limit.name: limit.excess(value_of(limit.measure.validation)) for limit in limits}


def missed(excess: float | None) -> bool:
    """Whether a constraint is missed, or a value is missing that would say so."""
    return excess is None or excess > 0


def violation(excess: Mapping[str, float | None]) -> float:
    """How far all constraints are missed together: 0 for a feasible trial, infinite where a value is missing."""
    return sum((math.inf if value is None else max(value, 0.0) for value in excess.values()), 0.0)


def feasible_top(values: Any, violations: Sequence[float], k: int) -> NDArray[np.int64]:
    """Indices of the k best trials that keep every constraint, best first; without one, of those that miss them least.

    Args:
        values: [T, M], all to be maximised, as `divfeat.statistics.select_top` takes them.
        violations: [T].
        k: How many; fewer may keep the constraints, and fewer may come back.
    """
    table, by = np.asarray(values, dtype=np.float64), np.asarray(violations, dtype=np.float64)
    if by.min(initial=math.inf) > 0:
        order = np.argsort(by, kind="stable")
        return order[np.isfinite(table[order]).all(axis=1)][:k]
    return select_top(np.where((by > 0)[:, None], math.nan, table), k)
