"""Recorded learning curves searched again under another rule of early stopping: what it costs and whom it finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

from divfeat.cluster.faults import Fault
from divfeat.cluster.simulated import Curve, Faults, Simulated, Usage
from divfeat.cluster.trial import TrialSpec
from divfeat.errors import ConfigError
from divfeat.search.asha import Halving, Referee, rungs

Rule = Literal["none", "stop", "promote"]
#: The one metric of a replayed epoch.
_VALUE = "value"


@dataclass(frozen=True)
class Replayed:
    """How a search went.

    Attributes:
        winner: Of the trials that were trained to the end the best; None if there is none.
        value: Its objective.
        regret: What it lacks to the best of all trials.
        finished: Trials trained to the end.
        epochs: Trained in all, those that failures undid left out.
        usage: Of the cluster's time.
    """

    winner: str | None
    value: float
    regret: float
    finished: int
    epochs: int
    usage: Usage


class HalvingSource:
    """A `JobSource` of trials known beforehand, halved at rungs.

    Args:
        trials: In the order they begin, each with its number of epochs.
        rungs: Finished epochs.
        rule: `none` trains all; `stop` ends for good who is not among the best; `promote` pauses all, and lets the best go on.
        reduction: One in `reduction` goes on.
    """

    def __init__(self, trials: Mapping[str, int], rungs: Sequence[int], rule: Rule, reduction: int) -> None:
        self._epochs = dict(trials)
        self._new = iter(trials)
        self._rungs = tuple(rungs) if rule != "none" else ()
        self._referee = Referee(Halving(reduction), promotes=rule == "promote")
        self._running: set[str] = set()
        self._paused: set[str] = set()
        self.reached: dict[str, int] = {}
        self.finished: dict[str, float] = {}

    def next(self) -> TrialSpec | None:
        """Who was promoted; else a new trial; at last, when none is new and none runs, the best of those that wait."""
        key = self._referee.going_on(self._paused) or next(self._new, None)
        if key is None and not self._running and not self.finished:
            key = self._referee.going_on(self._paused, last=True)
        if key is None:
            return None
        self._paused.discard(key)
        self._running.add(key)
        return TrialSpec(key, {}, folder="", stages="", rungs=self._rungs)

    @property
    def waiting(self) -> bool:
        """Paused trials may go on when others have reached their rung; the end of the search is that none runs."""
        return bool(self._running)

    def placed(self, key: str) -> None:
        """The simulated cluster keeps its own account."""

    def heard(self, key: str, events: Sequence[dict[str, Any]]) -> bool:
        """Whether the trial ends or pauses at the rung it has reached."""
        epochs, value = int(events[-1]["epoch"]) + 1, float(events[-1][_VALUE])
        self.reached[key] = max(epochs, self.reached.get(key, 0))  # what a failure undid is told again
        if epochs == self._epochs[key]:
            self.finished[key] = value
        elif epochs in self._rungs:
            self._referee.reached(key, epochs, value)
        return self._referee.ends(key)

    def lost(self, key: str, fault: Fault, *, again: bool) -> None:
        """The simulated cluster goes on by itself."""

    def ended(self, key: str, lost: Fault | None) -> None:
        """It gave its slot back."""
        self._running.remove(key)
        if key in self._referee.pausing:
            self._referee.pausing.remove(key)
            self._paused.add(key)

    def stuck(self, why: Exception) -> None:
        """Simulated nodes come back."""
        raise why

    def stopping(self) -> bool:
        """Never."""
        return False


@lru_cache(maxsize=256)  # the same curves are searched in many orders
def _events(values: tuple[float, ...]) -> list[dict[str, Any]]:
    return [{"epoch": epoch, _VALUE: value} for epoch, value in enumerate(values)]


def replay(
    curves: Mapping[str, Sequence[float]],
    rule: Rule,
    *,
    first_rung: int = 1,
    reduction: int = 3,
    seconds: Mapping[str, float] | None = None,
    nodes: int = 1,
    slots: int = 1,
    start_seconds: float = 0.0,
    faults: Faults | None = None,
) -> Replayed:
    """Search recorded curves on a simulated cluster.

    Args:
        curves: Trial -> objective after each epoch, larger is better; in the order the trials begin. All of one length.
        rule: `none`, `stop` or `promote`.
        first_rung: Epochs; further rungs at multiples by `reduction`, below the full length.
        reduction: One in `reduction` goes on.
        seconds: Trial -> seconds of an epoch; 1 without.
        nodes: Of the cluster.
        slots: Trials at a time on each node.
        start_seconds: Of a trial, each time it is placed.
        faults: Of nodes.

    Raises:
        ConfigError: no curves, curves of different lengths, an unknown rule, or rungs that are none.
    """
    lengths = {len(values) for values in curves.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise ConfigError(
            f"curves of lengths {sorted(lengths)}: replay compares at equal epochs, give curves of one length"
        )
    if rule not in get_args(Rule):
        raise ConfigError(f"rule {rule!r}: must be one of {', '.join(get_args(Rule))}")
    if first_rung < 1 or reduction < 2:
        raise ConfigError(f"first_rung={first_rung}, reduction={reduction}: needs first_rung >= 1 and reduction >= 2")
    (length,) = lengths
    of = {key: Curve(_events(tuple(values)), (seconds or {}).get(key, 1.0)) for key, values in curves.items()}
    source = HalvingSource(dict.fromkeys(curves, length), rungs(first_rung, reduction, length), rule, reduction)
    cluster = Simulated(lambda spec: of[spec.key], nodes=nodes, slots=slots, start_seconds=start_seconds, faults=faults)
    cluster.run(source)
    winner = max(source.finished, key=source.finished.__getitem__, default=None)
    value = source.finished[winner] if winner is not None else float("-inf")
    best = max(values[-1] for values in curves.values())
    return Replayed(winner, value, best - value, len(source.finished), sum(source.reached.values()), cluster.usage)
