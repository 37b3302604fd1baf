"""While a study runs: nothing that was handed out has a place on the cluster any more, nor gets one."""

from __future__ import annotations

import time
from collections.abc import Callable

from divfeat.cluster.autoscaler import SAY_SECONDS, Autoscaler
from divfeat.cluster.capacity import Capacity
from divfeat.errors import ConfigError

#: Between two looks.
LOOK_SECONDS = 5.0
#: The longest wait where no autoscaler adds nodes and the user gave none: some may come back.
STALL_SECONDS = 600.0


class Stall:
    """Notices it, says what is missing, and gives up in the end.

    Args:
        capacity: Of the nodes there are now.
        scaler: What may add nodes, or None.
        seconds: The longest wait.
        say: Told what is missing, now and then.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        capacity: Callable[[], Capacity],
        scaler: Autoscaler | None,
        seconds: float,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.capacity, self.scaler, self.seconds, self.say, self.clock = capacity, scaler, seconds, say, clock
        self._looked = -LOOK_SECONDS
        self._since: float | None = None
        self._said = 0.0

    def look(self, placed: Callable[[], bool]) -> ConfigError | None:
        """To be called again and again.

        Args:
            placed: Whether something that was handed out has its place, or nothing was.

        Returns:
            Why to go on no longer, or None.
        """
        now = self.clock()
        if now - self._looked < LOOK_SECONDS:
            return None
        self._looked = now
        if placed():
            self._since = None
            return None
        if self._since is None:
            self._since = self._said = now
        waited = now - self._since
        if waited >= self.seconds:
            return ConfigError(
                f"no trial has had a place for {waited:.0f} s: {self._missing()}; what was finished is saved, and the same line "
                "goes on when there are nodes, or waits longer with --wait-for-nodes"
            )
        if now - self._said >= SAY_SECONDS:
            self._said = now
            self.say(f"no trial has a place, {waited:.0f} of at most {self.seconds:.0f} s: {self._missing()}")
        return None

    def _missing(self) -> str:
        now = self.capacity()
        return f"{now.needs}, {now.has}, {self.scaler or 'no autoscaler was found'}"
