"""Asynchronous successive halving (Li et al. 2020) as a pure function of the table of rung results.

It decides for a trial that has just reached a rung; who runs the trial (Tune, a simulator over recorded curves) asks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from divfeat.objectives import Direction

#: rung (finished epochs) -> trial -> objective there.
RungTable = Mapping[int, Mapping[str, float]]


def decide(
    table: RungTable, trial: str, rung: int, reduction: int, direction: Direction = "maximize"
) -> Literal["continue", "stop"]:
    """Whether `trial`, whose value at `rung` is in the table, goes on.

    It goes on while it is among the best ``max(1, n // reduction)`` of the n trials that have reached the rung so far; a
    rung that fewer than `reduction` trials have reached stops nobody, and ties with the last promoted go on.

    Args:
        table: Every value reported at every rung, this one's included.
        trial: Who asks.
        rung: Where it stands.
        reduction: One in `reduction` goes on.
        direction: Which values are the best.
    """
    sign = 1 if direction == "maximize" else -1
    values = {name: sign * value for name, value in table[rung].items()}
    if len(values) < reduction:
        return "continue"
    promoted = max(1, len(values) // reduction)
    threshold = sorted(values.values(), reverse=True)[promoted - 1]
    return "continue" if values[trial] >= threshold else "stop"
