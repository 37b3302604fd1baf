"""Asynchronous successive halving (Li et al. 2020), decided by the table of rung results alone.

Two kinds: trials that are not among the best at a rung are stopped for good (what Ray offers), or every trial pauses at
every rung and the best go on from their checkpoints as soon as there is room (algorithm 2 of the paper): one that came
early is then no more likely to go on than one that came late. Who runs the trials (actors, a simulator) asks.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Container, Mapping

from divfeat.objectives import Direction

#: rung (finished epochs) -> trial -> objective there.
RungTable = Mapping[int, Mapping[str, float]]


def rungs(first: int, reduction: int, epochs: int) -> tuple[int, ...]:
    """Finished epochs at which trials of `epochs` are compared: `first`, then ever `reduction` times as many, below the end."""
    found = []
    while first < epochs:
        found.append(first)
        first *= reduction
    return tuple(found)


class Halving:
    """The table of rung results, kept sorted, and what it says of each trial; nothing else decides.

    Args:
        reduction: One in `reduction` goes on from a rung.
        direction: Which values are the best.
        table: Results known before, each rung's in the order they came.
    """

    def __init__(self, reduction: int, direction: Direction = "maximize", table: RungTable | None = None) -> None:
        self.reduction, self._sign = reduction, 1 if direction == "maximize" else -1
        self._rungs: dict[int, _Rung] = {}
        for rung, values in sorted((table or {}).items()):
            for trial, value in values.items():
                self.add(trial, rung, value)

    def add(self, trial: str, rung: int, value: float) -> bool:
        """A trial's objective at a rung it has reached. Whoever has reached a rung went on from those below.

        Returns:
            Whether that is new: told again it changes nothing, and NaN is no result.
        """
        if math.isnan(value) or not self._rungs.setdefault(rung, _Rung()).add(trial, self._sign * value):
            return False
        for lower, found in self._rungs.items():
            if lower < rung:
                found.go_on(trial)
        return True

    @property
    def table(self) -> dict[int, dict[str, float]]:
        """All results, each rung's in the order they came."""
        return {
            rung: {trial: self._sign * value for trial, value in found.values.items()}
            for rung, found in self._rungs.items()
        }

    def stops(self, trial: str, rung: int) -> bool:
        """Whether a trial whose value at `rung` is in the table ends there for good.

        It goes on while it is among the best ``max(1, n // reduction)`` of the n trials that have reached the rung so far; a
        rung that fewer than `reduction` trials have reached stops nobody, and ties with the last that goes on go on.
        """
        found = self._rungs[rung]
        if len(found) < self.reduction:
            return False
        return found.values[trial] < found.best(max(1, len(found) // self.reduction))

    def promoted(self, last: bool = False) -> str | None:
        """The paused trial that goes on now, or None: of the highest rung first, the best of those among the best
        ``n // reduction`` there, of equal ones the first that came. It counts as gone on.

        Args:
            last: No new trials will come and none runs: one at least goes on from each rung, so that some training is finished.
        """
        for rung in sorted(self._rungs, reverse=True):
            found = self._rungs[rung]
            trial = found.waiting(max(int(last), len(found) // self.reduction))
            if trial is not None:
                found.go_on(trial)
                return trial
        return None


class Referee:
    """Says what becomes of trials at rungs, to whoever runs them: Ray's queue and the simulator ask the same one.

    Args:
        halving: The table of rung results.
        promotes: Whether every trial pauses at a rung until it is among the best, instead of being stopped there for good.

    Attributes:
        stopped: Trial -> rung at which it ended for good.
        pausing: Trials that were told to pause and have not been seen to.
    """

    def __init__(self, halving: Halving, promotes: bool) -> None:
        self.halving, self.promotes = halving, promotes
        self.stopped: dict[str, int] = {}
        self.pausing: set[str] = set()
        self._named: list[str] = []  # that may go on, and do as soon as they have paused and there is room

    def reached(self, trial: str, rung: int, value: float) -> None:
        """A running trial's objective at a rung; `ends` then says whether it gives its place up.

        Promoted by its own result it goes on at once. Told again of a rung, as by a trial that takes up its checkpoint there,
        or one whose node failed, it is not asked to pause a second time.
        """
        new = self.halving.add(trial, rung, value)
        if not self.promotes:
            if not math.isnan(value) and self.halving.stops(trial, rung):
                self.stopped[trial] = rung
            return
        if not new:
            return
        while (named := self.halving.promoted()) is not None:
            if named == trial:
                return
            self._named.append(named)
        self.pausing.add(trial)

    def ends(self, trial: str) -> bool:
        """Whether a running trial is to end or to pause where it stands."""
        return trial in self.stopped or trial in self.pausing

    def going_on(self, paused: Container[str], last: bool = False) -> str | None:
        """The next of the `paused` trials that goes on, or None.

        Args:
            paused: That have given their place up.
            last: No new trials will come, none runs and none was trained to the end: one at least goes on.
        """
        if not self.promotes:
            return None
        while (trial := self.halving.promoted(last)) is not None:
            self._named.append(trial)
            last = False
        for trial in self._named:
            if trial in paused:
                self._named.remove(trial)
                return trial
        return None


class _Rung:
    """One rung: values sorted, those of the trials that wait there sorted too; larger is better."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self._places: dict[str, int] = {}
        self._ranked: list[float] = []
        self._waiting: list[tuple[float, float, str]] = []  # of equal values the first that came stands last

    def __len__(self) -> int:
        return len(self.values)

    def add(self, trial: str, value: float) -> bool:
        if trial in self.values:
            return False
        self._places[trial] = -len(self.values)
        self.values[trial] = value
        insort(self._ranked, value)
        insort(self._waiting, (value, self._places[trial], trial))
        return True

    def best(self, count: int) -> float:
        """The worst value of the best `count`."""
        return self._ranked[-count]

    def waiting(self, count: int) -> str | None:
        """The best trial that waits, if fewer than `count` are better, or as good and gone on."""
        if not self._waiting:
            return None
        value, _, trial = self._waiting[-1]
        as_good = len(self._ranked) - bisect_left(self._ranked, value)
        as_good_waiting = len(self._waiting) - bisect_left(self._waiting, (value, -math.inf, ""))
        return trial if as_good - as_good_waiting < count else None

    def go_on(self, trial: str) -> None:
        if trial in self.values:
            key = (self.values[trial], self._places[trial], trial)
            at = bisect_left(self._waiting, key)
            if at < len(self._waiting) and self._waiting[at] == key:
                del self._waiting[at]
