"""Nothing that was handed out has a place: said now and then, given up in the end, forgotten when one has."""

import pytest

from divfeat.cluster.autoscaler import Autoscaler
from divfeat.cluster.capacity import Capacity
from divfeat.cluster.pool import _Feeding, _Running
from divfeat.cluster.stall import Stall
from divfeat.cluster.trial import TrialSpec
from divfeat.cluster.tuner import _Queue, _StopAll
from divfeat.errors import ConfigError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def made(nodes, seconds=100.0, scaler=None, **trial):
    said, clock = [], Clock()
    what = {"workers": 1, "cpus": 2.0, "gpus": 0.0} | trial
    stall = Stall(lambda: Capacity(nodes, **what), scaler, seconds, said.append, clock)
    return stall, said, clock


def test_it_is_said_now_and_then_and_given_up_in_the_end() -> None:
    stall, said, clock = made([(0.0, 0.0)], scaler=Autoscaler({"w": (2.0, 0.0, 3)}, 3))
    found = {}
    while not found:
        if (error := stall.look(lambda: False)) is not None:
            found[clock.now] = error
        clock.now += 1.0
    ((at, error),) = found.items()
    assert at == 100.0 and isinstance(error, ConfigError)
    assert (
        "no trial has had a place for 100 s: a trial takes 2 CPUs and 0 GPUs, the nodes have 0 CPUs and 0 GPUs"
        in str(error)
    )
    assert "3 x w" in str(error) and "the same line goes on" in str(error)
    assert [line.split(" of at most")[0] for line in said] == [
        f"no trial has a place, {s} s"[:-2] for s in (30, 60, 90)
    ]


def test_a_place_begins_the_wait_anew() -> None:
    stall, said, clock = made([(0.0, 0.0)])
    for second in range(0, 400, 5):
        clock.now = float(second)
        assert stall.look(lambda second=second: second % 95 == 0) is None
    assert said and all("no autoscaler was found" in line for line in said)


def spec(key: str) -> TrialSpec:
    return TrialSpec(key, {}, folder=f"/nowhere/{key}", stages="/nowhere", workers=2)


class Source:
    over = None

    def next(self) -> TrialSpec:
        return spec("a")

    def stopping(self) -> bool:
        return self.over is not None

    def stuck(self, why: Exception) -> None:
        self.over = why

    def placed(self, key: str) -> None: ...

    def heard(self, key: str, events: list) -> bool:
        return False


@pytest.mark.parametrize(("spoke", "nodes", "ends"), [(False, 2, True), (True, 2, False), (True, 1, True)])
def test_trials_over_workers_have_a_place_from_their_first_word_while_there_are_nodes(spoke, nodes, ends) -> None:
    """On a cluster that others use, and on one whose nodes go."""
    stall, _, clock = made([(1.0, 0.0)] * nodes, seconds=50.0, workers=2, cpus=1.0, drivers=1)
    queue = _Queue(source := Source(), 0.0)
    stop = _StopAll(source, queue, stall)
    for second in range(0, 200, 5):  # nothing was handed out
        clock.now = float(second)
        assert not stop.stop_all()
    queue.suggest("1")
    if spoke:
        queue.heard("1", {})
    for second in range(200, 300, 5):
        clock.now = float(second)
        stop.stop_all()
    assert stop.stop_all() == ends and isinstance(source.over, ConfigError if ends else type(None))


def test_one_trial_with_a_place_is_enough() -> None:
    feeding = object.__new__(_Feeding)
    feeding.running = {}
    assert feeding._any_placed()
    feeding.running = {"word": _Running(None, spec("a"), None)}
    assert not feeding._any_placed()
    feeding.running["other"] = _Running(None, spec("b"), 1.0)
    assert feeding._any_placed()
