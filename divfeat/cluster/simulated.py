"""A cluster that only keeps time: trials are recorded curves, the clock jumps from word to word, nodes fail and come back.

It runs the same `JobSource` as Ray does, so that what decides about trials can be tried on thousands of nodes in seconds.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from divfeat.cluster.source import JobSource
from divfeat.cluster.trial import TrialSpec
from divfeat.errors import ConfigError


@dataclass(frozen=True)
class Curve:
    """What a training would tell.

    Attributes:
        events: Of its epochs, in order; at least one.
        seconds: Of one epoch.
    """

    events: Sequence[dict[str, Any]]
    seconds: float


@dataclass(frozen=True)
class Faults:
    """How nodes fail.

    Attributes:
        mean_seconds: Between two failures of a node, exponential; infinite for none.
        away_seconds: Until it is back, or another in its place.
        checkpoint_epochs: A trial that was on it goes on from the last multiple of these.
        seed: Of when.
    """

    mean_seconds: float = math.inf
    away_seconds: float = 300.0
    checkpoint_epochs: int = 1
    seed: int = 0


@dataclass
class Usage:
    """Where the time of the slots went, in slot-seconds unless it says otherwise.

    Attributes:
        seconds: On the clock, from the first start to the last end.
        offered: By nodes that were there.
        useful: Epochs that counted.
        lost: Epochs, and parts of them, that failures undid.
        starting: Until a trial's first epoch begins.
        failures: Of nodes, a number.
    """

    seconds: float = 0.0
    offered: float = 0.0
    useful: float = 0.0
    lost: float = 0.0
    starting: float = 0.0
    failures: int = 0

    @property
    def utilisation(self) -> float:
        """Useful over offered."""
        return self.useful / self.offered if self.offered else 0.0


@dataclass
class _Stay:
    """A trial on a slot: which one, since when, when its first epoch here begins, and which epoch that is."""

    spec: TrialSpec
    node: int
    since: float
    begins: float
    epoch: int


class Simulated:
    """An executor without processes.

    Args:
        curve_of: A trial's curve.
        ended: Told of a training that came to its end, before the source is: writes its record, say.
        nodes: Their number.
        slots: Trials at a time on each.
        start_seconds: From being placed to the first epoch.
        faults: Of nodes.

    Raises:
        ConfigError: no slot, or a time below 0.
    """

    def __init__(
        self,
        curve_of: Callable[[TrialSpec], Curve],
        *,
        ended: Callable[[TrialSpec], None] = lambda spec: None,
        nodes: int = 1,
        slots: int = 1,
        start_seconds: float = 0.0,
        faults: Faults | None = None,
    ) -> None:
        faults = faults or Faults()
        if nodes < 1 or slots < 1 or start_seconds < 0 or faults.mean_seconds <= 0 or faults.away_seconds < 0:
            raise ConfigError(
                f"a simulated cluster of {nodes} nodes with {slots} slots, {start_seconds} s to start, {faults}: needs one "
                "node and slot at least and no negative time"
            )
        self.curve_of, self.ended, self.start_seconds, self.faults = curve_of, ended, start_seconds, faults
        self.nodes, self.slots = nodes, slots
        self.usage = Usage()
        #: Epochs of each trial that checkpoints hold: a trial that is handed out again goes on from there.
        self.kept: dict[str, int] = {}

    def run(self, source: JobSource, role: str = "") -> None:
        """Run everything `source` hands out; returns when all have ended or it is stopping."""
        _Run(self, source).go()


class _Run:
    """The clock, what happens next, and who holds which slot."""

    def __init__(self, cluster: Simulated, source: JobSource) -> None:
        self.cluster, self.source, self.usage = cluster, source, cluster.usage
        self.now, self.order = 0.0, 0
        self.coming: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.free = deque(node for _ in range(cluster.slots) for node in range(cluster.nodes))
        self.away: set[int] = set()
        self.running: dict[str, _Stay] = {}
        self.again: deque[TrialSpec] = deque()  # put off by a failure
        self.random = random.Random(cluster.faults.seed)
        for node in range(cluster.nodes):
            self._wait_for_failure(node)

    def go(self) -> None:
        """Until nothing runs and nothing is left, or the source is stopping."""
        while not self.source.stopping():
            self._place()
            if not self.running and not self.again and self.free:
                if self.source.waiting:
                    raise RuntimeError("the source waits for trials, and none runs")
                return
            at, _, action, given = heapq.heappop(self.coming)
            passed, self.now = at - self.now, at
            self.usage.seconds += passed
            self.usage.offered += passed * (self.cluster.nodes - len(self.away)) * self.cluster.slots
            action(*given)

    def _later(self, seconds: float, action: Callable[..., None], *given: Any) -> None:
        self.order += 1
        heapq.heappush(self.coming, (self.now + seconds, self.order, action, given))

    def _place(self) -> None:
        while self.free:
            spec = self.again.popleft() if self.again else self.source.next()
            if spec is None:
                return
            begins = self.now + self.cluster.start_seconds
            stay = _Stay(spec, self.free.popleft(), self.now, begins, self.cluster.kept.get(spec.key, 0))
            self.running[spec.key] = stay
            self._to_next_word(stay)

    def _to_next_word(self, stay: _Stay, told: int | None = None) -> None:
        """The next rung, or the end."""
        told = stay.epoch if told is None else told
        curve = self.cluster.curve_of(stay.spec)
        word = min((rung for rung in stay.spec.rungs if told < rung <= len(curve.events)), default=len(curve.events))
        self._later(stay.begins + (word - stay.epoch) * curve.seconds - self.now, self._said, stay, told, word)

    def _said(self, stay: _Stay, told: int, word: int) -> None:
        if self.running.get(stay.spec.key) is not stay:
            return  # its node failed before
        key, curve = stay.spec.key, self.cluster.curve_of(stay.spec)
        stops = self.source.heard(key, curve.events[told:word])
        if not stops and word < len(curve.events):
            self._to_next_word(stay, word)
            return
        self.cluster.kept[key] = word
        self._leave(stay, word, whole=True)
        if word == len(curve.events):
            self.cluster.ended(stay.spec)
        self.source.ended(key, None)

    def _leave(self, stay: _Stay, epoch: int, whole: bool) -> None:
        """Give the slot back, with what checkpoints hold up to `epoch`."""
        del self.running[stay.spec.key]
        self.free.append(stay.node)
        useful = (epoch - stay.epoch) * self.cluster.curve_of(stay.spec).seconds
        starting = min(self.now, stay.begins) - stay.since
        self.usage.useful += useful
        self.usage.starting += starting
        self.usage.lost += 0.0 if whole else self.now - stay.since - starting - useful

    def _wait_for_failure(self, node: int) -> None:
        if math.isfinite(self.cluster.faults.mean_seconds):
            self._later(self.random.expovariate(1 / self.cluster.faults.mean_seconds), self._fail, node)

    def _fail(self, node: int) -> None:
        """The node goes, and with it what its trials did since their last checkpoint."""
        faults = self.cluster.faults
        self.usage.failures += 1
        for stay in [stay for stay in self.running.values() if stay.node == node]:
            done = stay.epoch + max(0.0, self.now - stay.begins) / self.cluster.curve_of(stay.spec).seconds
            kept = max(stay.epoch, math.floor(done / faults.checkpoint_epochs) * faults.checkpoint_epochs)
            self.cluster.kept[stay.spec.key] = kept
            self._leave(stay, kept, whole=False)
            self.again.append(stay.spec)
        self.free = deque(slot for slot in self.free if slot != node)
        self.away.add(node)
        self._later(faults.away_seconds, self._back, node)

    def _back(self, node: int) -> None:
        self.away.remove(node)
        self.free.extend([node] * self.cluster.slots)
        self._wait_for_failure(node)
