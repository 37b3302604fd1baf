"""Calls passed on in another thread: in order, all of them, and none swallowed that failed."""

from __future__ import annotations

import threading

import pytest

from divfeat.search.background import Background


class Slow:
    """A follower that waits to be let go on."""

    def __init__(self):
        self.calls, self.threads = [], set()
        self.open = threading.Event()

    def _note(self, *call):
        assert self.open.wait(10)
        self.calls.append(call)
        self.threads.add(threading.current_thread())

    def started(self, job):
        self._note("started", job)

    def heard(self, job, events):
        self._note("heard", job, events)

    def finished(self, job, record, fresh):
        self._note("finished", job, record, fresh)

    def paused(self, job):
        self._note("paused", job)

    def stopped(self, job):
        self._note("stopped", job)


def test_nobody_waits_until_the_block_ends_where_all_is_done_in_order():
    slow = Slow()
    with Background(slow) as background:
        background.started("a")
        background.heard("a", [1])
        background.paused("a")
        background.finished("a", {"status": "completed"}, True)
        background.stopped("b")
        assert slow.calls == []
        slow.open.set()
    wanted = [
        ("started", "a"),
        ("heard", "a", [1]),
        ("paused", "a"),
        ("finished", "a", {"status": "completed"}, True),
        ("stopped", "b"),
    ]
    assert slow.calls == wanted
    assert len(slow.threads) == 1 and threading.current_thread() not in slow.threads


def test_what_is_told_before_an_error_of_the_driver_is_done_too():
    slow = Slow()
    slow.open.set()

    def drive():
        with Background(slow) as background:
            background.started("a")
            raise KeyError("the driver's")

    with pytest.raises(KeyError, match="the driver's"):
        drive()
    assert slow.calls == [("started", "a")]


class Broken(Slow):
    def heard(self, job, events):
        raise KeyError("never begun")


@pytest.mark.parametrize("calls", [1, 2000])  # found when the block ends, or by a later call
def test_an_error_of_the_follower_reaches_the_driver(calls):
    broken = Broken()
    broken.open.set()

    def drive():
        with Background(broken) as background:
            for _ in range(calls):
                background.heard("a", [])

    with pytest.raises(KeyError, match="never begun"):
        drive()


def test_it_is_not_used_outside_its_block():
    background = Background(Slow())
    with pytest.raises(RuntimeError, match="outside"):
        background.started("a")
    with background:
        pass
    with pytest.raises(RuntimeError, match="outside"):
        background.started("a")
