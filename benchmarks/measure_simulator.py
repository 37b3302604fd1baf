"""A search of 10,000 trials on 1,000 simulated nodes that fail: real seconds, and what of the nodes' time trained.

The simulated executor runs the referee of rungs that real studies ask, so it is what a rule of early stopping is tried on.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.rows import Row, seconds, with_processor
from divfeat.cluster.simulated import Faults
from divfeat.search.replay import Replayed, Rule, replay

REPEATS = 5
_TRIALS, _NODES, _EPOCHS = 10_000, 1_000, 27
#: A node fails every six hours in the mean and is away for five minutes.
_FAULTS = Faults(mean_seconds=6 * 3600.0, away_seconds=300.0, checkpoint_epochs=1)
_START, _EPOCH = 30.0, 60.0


def curves(trials: int, seed: int = 0) -> dict[str, list[float]]:
    """Curves that rise to values spread evenly, under noise that shrinks with the epochs."""
    rng, found = random.Random(seed), {}
    for trial in range(trials):
        end = rng.uniform(0.5, 0.95)
        found[str(trial)] = [end * (1 - 0.5**epoch) + rng.gauss(0, 0.02 / epoch) for epoch in range(1, _EPOCHS + 1)]
    return found


def simulated(trials: Mapping[str, Sequence[float]], nodes: int, rule: Rule) -> Replayed:
    """One search."""
    rng = random.Random(1)
    takes = {key: _EPOCH * rng.uniform(0.75, 1.25) for key in trials}
    return replay(trials, rule, seconds=takes, nodes=nodes, start_seconds=_START, faults=_FAULTS)


def measure(repeats: int, small: bool) -> Iterator[Row]:
    """Real seconds beside those on the simulated clock, and a tenth of the size beside the whole; then utilisation."""
    trials, nodes = (200, 20) if small else (_TRIALS, _NODES)
    whole, tenth = curves(trials), curves(trials // 10)
    spent: dict[Rule, list[tuple[float, float]]] = {"promote": [], "none": []}
    grown: list[tuple[float, float]] = []
    last: dict[Rule, Replayed] = {}
    for _ in range(repeats):
        for rule in spent:
            real = seconds(lambda rule=rule: last.update({rule: simulated(whole, nodes, rule)}))  # type: ignore[misc]
            spent[rule].append((real, last[rule].usage.seconds))
        kept: list[float] = []  # wall times of so short a work are another's
        with_processor(lambda: simulated(tenth, nodes // 10, "promote"), kept)
        with_processor(lambda: simulated(whole, nodes, "promote"), kept)
        grown.append((kept[1], kept[0]))
    for rule, pairs in spent.items():
        found = last[rule]
        setting: dict[str, Any] = {
            "trials": trials,
            "nodes": nodes,
            "rule": rule,
            "failures": found.usage.failures,
            "finished": found.finished,
            "share_of_all_epochs": round(found.epochs / (trials * _EPOCHS), 4),
            "share_lost_to_failures": round(found.usage.lost / found.usage.offered, 4),
            "share_starting": round(found.usage.starting / found.usage.offered, 4),
        }
        what = f"{trials:,} trials on {nodes:,} failing nodes, {'promotion' if rule == 'promote' else 'no stopping'}"
        yield Row(what, "real time", "simulated time", "s", pairs, "times", most=10.0, setting=setting)
        used = [(found.usage.useful / 3600, found.usage.offered / 3600)]
        yield Row(f"{what}: utilisation", "trained", "offered by nodes", "h", used, "share", setting=setting)
    yield Row("ten times the trials and nodes", "all, processor", "a tenth, processor", "s", grown, "share", goal=15.0)
