"""Why a study stops early: a signal, or its time is up. The first signal saves and leaves, the second leaves at once."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

#: reason -> exit code (design: lifecycle).
EXIT_CODES = {"SIGINT": 130, "SIGTERM": 75, "time budget": 4}


class Interrupt:
    """Asked by the queue between trials and by Tune between reports.

    Args:
        time_budget: Seconds from now, or None.
    """

    def __init__(self, time_budget: float | None = None) -> None:
        self.deadline = None if time_budget is None else time.monotonic() + time_budget
        self.signal: str | None = None
        self._installed = False

    @property
    def reason(self) -> str | None:
        """Why to stop, or None."""
        if self.signal is None and self.deadline is not None and time.monotonic() >= self.deadline:
            return "time budget"
        return self.signal

    def install(self) -> None:
        """Take over SIGINT and SIGTERM of this process."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)
        self._installed = True

    def renew(self) -> None:
        """Take the signals over again where they had been: starting Ray puts a handler of its own on SIGTERM."""
        if self._installed:
            self.install()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.signal is not None:
            os._exit(EXIT_CODES[name])
        self.signal = name


class StoppedError(Exception):
    """The study stopped early and can be resumed.

    Attributes:
        reason: Key of `EXIT_CODES`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TooManyFailuresError(Exception):
    """More trials of a phase failed than the study allows; the message names the common cause."""
