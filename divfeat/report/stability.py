"""Whether early values rank trials as late ones do: rank correlation between rungs of a halved search."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from divfeat.report.document import Block, Heading, Paragraph, Table


@dataclass(frozen=True)
class Stability:
    """How trials rank at two numbers of epochs, each trial's values compared at the same ones.

    Attributes:
        earlier: Finished epochs.
        later: Finished epochs.
        reached: Trials with a value at `earlier`.
        both: Trials with a value at `later` too.
        tau: Kendall's, of ties b; NaN below two trials, and where all are equal at one of both.
    """

    earlier: int
    later: int
    reached: int
    both: int
    tau: float


def rank_stability(values: Mapping[int, Mapping[str, float]]) -> tuple[Stability, ...]:
    """Between consecutive numbers of epochs, and from each to the last.

    Args:
        values: Finished epochs (the rungs and the end) -> trial -> objective there.
    """
    rungs = sorted(values)
    pairs = [*itertools.pairwise(rungs), *((rung, rungs[-1]) for rung in rungs[:-2])]
    found = []
    for earlier, later in sorted(pairs):
        both = [trial for trial in values[earlier] if trial in values[later]]
        tau = math.nan
        if len(both) > 1:
            one, other = ([values[at][trial] for trial in both] for at in (earlier, later))
            tau = float(stats.kendalltau(one, other).statistic)
        found.append(Stability(earlier, later, len(values[earlier]), len(both), tau))
    return tuple(found)


def told(found: Sequence[Stability], promotes: bool) -> Iterator[Block]:
    """As a table of a report; nothing of a search without rungs."""
    if not found:
        return
    yield Heading("Do early values rank as late ones do?", 3)
    yield Table(
        ["after epochs", "and after epochs", "trials with both", "reached the first", "Kendall's tau"],
        [[one.earlier, one.later, one.both, one.reached, one.tau] for one in found],
        "The first objective of each trial, at equal epochs. 1: the same order at both; 0: none of it; below 0: reversed.",
    )
    yield Paragraph(
        f"Only trials that were {'promoted' if promotes else 'not pruned'} have both values. They are the best at the first "
        "number of epochs, so tau is that of a truncated sample and not that of all trials, of which it tends to say too little."
    )
