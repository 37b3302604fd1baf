"""What breaks under a trial: of which kind it is, when the trial is tried again, and when that is given up.

Infrastructure is never held against a trial. Its own faults (NaN, memory, errors in code) are told apart by
`divfeat.cluster.trial.fault_of` and end in a record; what is here comes without one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from divfeat.errors import disk_fault

#: Times a trial that gets no further is begun again.
RETRIES = 3
#: Seconds before the first of these; doubled each time, up to the longest.
FIRST_SECONDS, LONGEST_SECONDS = 1.0, 60.0
#: A trial that is silent for so many times the longest silence heard of yet is taken to hang, after so many seconds at least;
#: and for so many where nothing was heard of yet, since the first epoch can be long.
SILENCES, SILENT_SECONDS, UNHEARD_SECONDS = 20.0, 600.0, 3600.0

Kind = Literal["node", "worker", "hung", "object", "storage", "network", "memory"]
#: What each kind is, in words.
ABOUT: dict[Kind, str] = {
    "node": "its node went away",
    "worker": "its process died",
    "hung": "it hung",
    "object": "what it was given was lost",
    "storage": "its files could not be written or read",
    "network": "a connection broke",
    "memory": "it was killed for memory",
}
#: The most telling first.
_TELLING: tuple[Kind, ...] = ("storage", "memory", "node", "object", "hung", "worker", "network")
#: Where Ray Train's exceptions keep what they wrap.
_WRAPPED = ("controller_failure", "health_check_failure", "_base_exc")
#: Exceptions by name, the more special ones first: Ray has moved them before, and this room need not import it.
_BY_NAME: tuple[tuple[str, Kind], ...] = (
    ("OutOfMemoryError", "memory"),
    ("OutOfDiskError", "storage"),
    ("NodeDiedError", "node"),
    ("LocalRayletDiedError", "node"),
    ("ObjectLostError", "object"),
    ("ObjectStoreFullError", "object"),
    ("PlasmaObjectNotAvailable", "object"),
    ("ActorUnavailableError", "network"),
    ("RpcError", "network"),
    ("ConnectionError", "network"),
    ("DistError", "network"),
    ("OSError", "storage"),
)


@dataclass(frozen=True)
class Fault:
    """What took a trial from its place.

    Attributes:
        kind: Of it.
        cause: In one line, as it was told.
    """

    kind: Kind
    cause: str

    def __str__(self) -> str:
        """Both, for people."""
        return f"{ABOUT[self.kind]} ({self.cause})"


def fault_from(error: BaseException) -> Fault:
    """The fault that an exception tells of, Ray's or one of the trial that is not its own doing.

    Of several workers' the most telling: where one is gone the others lose their connections.
    """
    if failures := getattr(error, "worker_failures", None):
        return min(map(fault_from, failures.values()), key=lambda fault: _TELLING.index(fault.kind))
    for name in _WRAPPED:
        if isinstance(inner := getattr(error, name, None), BaseException):
            return fault_from(inner)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = lines[0] if lines else type(error).__name__
    text = " ".join(lines).lower()
    if "memory pressure" in text or "(oom)" in text or "out of memory" in text:
        return Fault("memory", cause)
    if (said := disk_fault(error)) is not None:
        return Fault("storage", said)
    if any(word in text for word in ("preempt", "node died", "node was terminated", "node is dead", "spot")):
        return Fault("node", cause)
    names = [kind.__name__ for kind in type(error).__mro__]
    for name, kind in _BY_NAME:
        if name in names:
            return Fault(kind, cause)
    return Fault("worker", cause)


class Attempts:
    """How often trials were lost without getting further, and when each is begun again.

    Args:
        most: Times one is begun again.
        spread: Number in [0, 1) that shortens each pause, so that trials of one node do not all come back at once.
    """

    def __init__(self, most: int = RETRIES, spread: Callable[[], float] = random.random) -> None:
        self.most, self.spread = most, spread
        self._lost: dict[str, int] = {}
        self._reached: dict[str, int] = {}

    def reached(self, key: str, epochs: int) -> None:
        """A trial was heard of: further than before, and its faults are forgotten."""
        if epochs > self._reached.get(key, 0):
            self._reached[key] = epochs
            self._lost.pop(key, None)

    def lost(self, key: str, fault: Fault) -> float | None:
        """Seconds after which to begin it again, None where that is given up.

        Whoever is killed for memory may be another's victim once; the second time it is taken for its own doing.
        """
        times = self._lost[key] = self._lost.get(key, 0) + 1
        if times > (1 if fault.kind == "memory" else self.most):
            return None
        pause = min(FIRST_SECONDS * 2.0 ** (times - 1), LONGEST_SECONDS)
        return pause * (1.0 - 0.5 * self.spread())

    def times(self, key: str) -> int:
        """Losses since it last got further."""
        return self._lost.get(key, 0)


class Patience:
    """How long a trial may be silent.

    Args:
        seconds: As the user set it; None follows what is heard.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.set, self.longest = seconds, 0.0

    def heard(self, silence: float) -> None:
        """A trial that was silent for so long spoke."""
        self.longest = max(self.longest, silence)

    @property
    def seconds(self) -> float:
        """After which a silent trial is taken to hang."""
        if self.set is not None:
            return self.set
        return max(SILENT_SECONDS, SILENCES * self.longest) if self.longest else UNHEARD_SECONDS
