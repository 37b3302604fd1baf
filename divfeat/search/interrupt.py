"""Why a study stops early: a signal, or a budget is spent. The first signal saves and leaves, the second leaves at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from divfeat.search.budget import Budget

#: reason -> exit code (design: lifecycle).
EXIT_CODES = {"SIGINT": 130, "SIGTERM": 75, "time budget": 4, "GPU-hour budget": 4, "cost budget": 4}
#: Of these, what the study has spent stays spent in its next session.
OF_THE_STUDY = ("GPU-hour budget", "cost budget")
#: Signals that starting Ray and running Tune put handlers of their own on, besides the two that stop a study.
_LOST = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def end_process(name: str) -> NoReturn:
    """Leave at once, with the exit code of the signal `name`."""
    os._exit(EXIT_CODES[name])


def raise_interrupt(name: str) -> NoReturn:
    """Leave the study at once and let the process live, as a notebook's should."""
    raise KeyboardInterrupt(f"a second {name}")


class Interrupt:
    """Asked by the queue between trials and by Tune between reports.

    Args:
        time_budget: Seconds from now, or None.
        at_once: Called with the name of a second signal; does not return.
    """

    def __init__(self, time_budget: float | None = None, at_once: Callable[[str], NoReturn] = end_process) -> None:
        self.deadline = None if time_budget is None else time.monotonic() + time_budget
        self.at_once = at_once
        self.signal: str | None = None
        #: Of the study that runs.
        self.budget: Budget | None = None
        self._installed = False

    @property
    def reason(self) -> str | None:
        """Why to stop, or None."""
        if self.signal is None and self.deadline is not None and time.monotonic() >= self.deadline:
            return "time budget"
        if self.signal is None and self.budget is not None:
            return self.budget.exceeded()
        return self.signal

    @property
    def seconds_left(self) -> float | None:
        """Of the time budget; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def install(self) -> None:
        """Take over SIGINT and SIGTERM of this process."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)
        self._installed = True

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM over within the block, and give all signals back that a study takes, as they were."""
        before = {number: signal.getsignal(number) for number in _LOST}
        self.install()
        try:
            yield
        finally:
            self._installed = False
            for number, handler in before.items():
                if handler is not None:  # None: not set from Python, and so not to be set again from here
                    signal.signal(number, handler)

    def renew(self) -> None:
        """Take the signals over again where they had been: starting Ray puts a handler of its own on SIGTERM."""
        if self._installed:
            self.install()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.signal is not None:
            self.at_once(name)
        self.signal = name


class StoppedError(Exception):
    """The study stopped early and can be resumed.

    Attributes:
        reason: Key of `EXIT_CODES`.
    """

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(message or reason)
        self.reason = reason


class TooManyFailuresError(Exception):
    """More trials of a phase failed than the study allows; the message names the common cause."""
