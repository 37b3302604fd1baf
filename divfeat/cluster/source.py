"""What an executor runs: trials, handed out one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from divfeat.cluster.trial import TrialSpec

#: Times a trial is started again after infrastructure failed.
RETRIES = 3


class JobSource(Protocol):
    """Hands out trials and hears what becomes of them; called from the driver's one thread."""

    def next(self) -> TrialSpec | None:
        """The next trial, or None when there are no more, or, while `waiting`, none that may start now."""

    @property
    def waiting(self) -> bool:
        """Whether trials are left that others must make room for."""

    def heard(self, key: str, events: Sequence[dict[str, Any]]) -> bool:
        """New epochs of a trial; returns whether it should stop here."""

    def ended(self, key: str, lost: bool) -> None:
        """A trial has ended; `lost` when infrastructure failed for good, else its record is on disk."""

    def stopping(self) -> bool:
        """Whether to start nothing more and stop what runs."""
