"""Telling a follower what happens without waiting for it: MLflow takes a tenth of a second, in which a core would stand still."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from divfeat.search.jobs import Job
from divfeat.search.queue import Follower

#: Calls that may wait: a follower slower than the trials holds them up in the end, instead of filling the memory.
_MOST = 256


class Background:
    """Passes calls on in their order, in one thread; whoever leaves its `with` block finds all of them done.

    What is passed on must be a projection: a driver that is killed leaves calls undone.

    Args:
        follower: Hears everything in that thread; nobody else may use it inside the block.
    """

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self._calls: queue.Queue[Callable[[], None] | None] = queue.Queue(_MOST)
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Background:
        self._thread = threading.Thread(target=self._work, name="follower", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        assert self._thread is not None
        self._calls.put(None)
        self._thread.join()
        self._thread = None
        if kind is None:
            self._raise()

    def started(self, job: Job) -> None:
        """A job is about to run."""
        self._later(lambda: self.follower.started(job))

    def heard(self, job: Job, events: Sequence[Mapping[str, Any]]) -> None:
        """New epochs of a running job."""
        self._later(lambda: self.follower.heard(job, events))

    def finished(self, job: Job, record: Mapping[str, Any], fresh: bool) -> None:
        """A job has its record."""
        self._later(lambda: self.follower.finished(job, record, fresh))

    def paused(self, job: Job) -> None:
        """A job waits at a rung."""
        self._later(lambda: self.follower.paused(job))

    def stopped(self, job: Job) -> None:
        """A job goes on in a later session."""
        self._later(lambda: self.follower.stopped(job))

    def _later(self, call: Callable[[], None]) -> None:
        if self._thread is None:
            raise RuntimeError("used outside its `with` block")
        self._raise()
        self._calls.put(call)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if self._error is None:
                try:
                    call()
                except BaseException as error:  # raised where the driver can act on it, at its next call
                    self._error = error

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
