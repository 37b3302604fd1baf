"""What an executor runs: trials, handed out one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from divfeat.cluster.faults import Fault
from divfeat.cluster.trial import TrialSpec


class JobSource(Protocol):
    """Hands out trials and hears what becomes of them; called from the driver's one thread."""

    def next(self) -> TrialSpec | None:
        """The next trial, or None when there are no more, or, while `waiting`, none that may start now."""

    @property
    def waiting(self) -> bool:
        """Whether trials are left that others must make room for."""

    def placed(self, key: str) -> None:
        """A trial has its place on the cluster, which it holds until it is lost or has ended."""

    def heard(self, key: str, events: Sequence[dict[str, Any]]) -> bool:
        """New epochs of a trial; returns whether it should stop here."""

    def lost(self, key: str, fault: Fault, *, again: bool) -> None:
        """Something that is not the trial's doing took it from its place; it is begun `again`, or ends with the next call."""

    def ended(self, key: str, lost: Fault | None) -> None:
        """A trial has ended: with its record on disk, or `lost` for good to what is not its doing."""

    def stuck(self, why: Exception) -> None:
        """No trial has had a place for long, and none is to be waited for: stop, and end with `why`."""

    def stopping(self) -> bool:
        """Whether to start nothing more and stop what runs."""
