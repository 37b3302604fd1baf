"""Trials on kept actors: the conversation without Ray, the rest on a Ray of its own."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from divfeat.cluster import faults
from divfeat.cluster import pool as module
from divfeat.cluster.capacity import Capacity
from divfeat.cluster.faults import RETRIES
from divfeat.cluster.pool import Pool, TrialRunner
from divfeat.cluster.stall import Stall
from divfeat.cluster.trial import TrialSpec


def spec(tmp_path: Path, key: str = "a") -> TrialSpec:
    return TrialSpec(key, {}, str(tmp_path / key), str(tmp_path / "stages"))


def epochs(numbers: range) -> list[dict[str, Any]]:
    return [{"epoch": number} for number in numbers]


def two_words(spec: TrialSpec, data: Any, say: Any) -> None:
    say({"key": spec.key, "events": epochs(range(2))})
    say({"key": spec.key, "events": epochs(range(2, 3)), "done": True})


# --- the conversation ---------------------------------------------------------------------------------------------------


def test_a_trial_waits_after_every_word_and_the_runner_takes_another(tmp_path, monkeypatch):
    passed = []

    def training(spec, data, say):
        say({"key": spec.key, "events": [data]})
        passed.append(data)
        say({"key": spec.key, "events": [], "done": True})

    monkeypatch.setattr(module, "run_spec", training)
    runner = TrialRunner()
    for data in ("images", "others"):
        assert runner.begin(spec(tmp_path).to_json(), data) == {"key": "a", "events": [data]}
        assert data not in passed
        assert runner.go_on()["done"]
    assert passed == ["images", "others"]


def test_a_stopped_trial_ends_where_it_stands(tmp_path, monkeypatch):
    passed = []

    def training(spec, data, say):
        say({"key": spec.key, "events": []})
        passed.append("too far")

    monkeypatch.setattr(module, "run_spec", training)
    runner = TrialRunner()
    runner.begin(spec(tmp_path).to_json(), None)
    runner.stop()
    assert passed == [] and not runner._thread.is_alive()
    monkeypatch.setattr(module, "run_spec", two_words)
    assert runner.begin(spec(tmp_path).to_json(), None)["events"] == epochs(range(2))  # no answer was left over


def test_what_infrastructure_broke_is_told_with_its_place(tmp_path, monkeypatch):
    def training(spec, data, say):
        raise OSError("no space left")

    monkeypatch.setattr(module, "run_spec", training)
    assert TrialRunner().begin(spec(tmp_path).to_json(), None) == {
        "fault": {"kind": "storage", "cause": "no space left"}
    }


# --- the loop -----------------------------------------------------------------------------------------------------------


#: Nobody waits so long here.
PATIENT = Stall(lambda: Capacity([], 1, 1.0, 0.0), None, 600.0, print)


class Source:
    """Hands out specs; notes what it hears."""

    def __init__(self, specs, stop_at=None):
        self.specs, self.stop_at = list(specs), stop_at
        self.heard_of: dict[str, list[int]] = {}
        self.ends: dict[str, str | None] = {}
        self.losses: dict[str, list[str]] = {}
        self.running: set[str] = set()
        self.places: set[str] = set()
        self.most = 0

    waiting = False

    def next(self):
        if not self.specs:
            return None
        found = self.specs.pop(0)
        self.running.add(found.key)
        self.most = max(self.most, len(self.running))
        return found

    def placed(self, key):
        assert key in self.running
        self.places.add(key)

    def heard(self, key, events):
        assert key in self.places
        self.heard_of.setdefault(key, []).extend(event["epoch"] for event in events)
        return key == self.stop_at

    def lost(self, key, fault, *, again):
        self.losses.setdefault(key, []).append(fault.kind)

    def ended(self, key, lost):
        self.ends[key] = lost and lost.kind
        self.running.remove(key)

    def stopping(self):
        return False


def training_for_tests(spec: TrialSpec, data: str, say: Any) -> None:
    """In an actor: says a word, dies, breaks or ends as its key says; notes who it was."""
    folder = Path(spec.folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "processes", "a") as file:
        file.write(f"{os.getpid()} {data}\n")
    tries = len((folder / "processes").read_text().splitlines())
    say({"key": spec.key, "events": epochs(range(1))})
    if spec.key == "always-dies" or (spec.key == "dies-once" and tries == 1):
        os._exit(1)
    if spec.key == "breaks-once" and tries == 1:
        raise OSError("gone")
    if spec.key == "hangs-once" and tries == 1:
        time.sleep(600)
    if spec.key.startswith("dies-after") and tries <= 2 * RETRIES:  # each time it got further
        for number in range(1, tries + 1):
            say({"key": spec.key, "events": epochs(range(number, number + 1))})
        os._exit(1)
    say({"key": spec.key, "events": epochs(range(1, 2)), "done": True})


@pytest.mark.slow
def test_trials_share_processes_over_phases_and_lost_ones_are_begun_again(tmp_path, monkeypatch):
    import ray

    class Runner(TrialRunner):
        def begin(self, spec, data):
            module.run_spec = training_for_tests
            return super().begin(spec, data)

    monkeypatch.setattr(module, "TrialRunner", Runner)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        pool = Pool(2, cpus=1.0, gpus=0.0)
        pool.begin(2)
        seen = Counter()
        for phase in ("first", "second"):
            keys = [f"{phase}-{number}" for number in range(5)]
            source = Source([spec(tmp_path, key) for key in keys], stop_at=f"{phase}-1")
            pool.run(source, ray.put(phase), PATIENT)
            assert source.ends == dict.fromkeys(keys) and source.most == 2
            assert source.heard_of == {key: [0] for key in keys}
            for key in keys:
                ((process, data),) = [line.split() for line in (tmp_path / key / "processes").read_text().splitlines()]
                assert data == phase
                seen[process] += 1
        assert len(seen) == 2

        monkeypatch.setattr(faults, "FIRST_SECONDS", 0.1)
        keys = ["dies-once", "breaks-once", "always-dies", "dies-after-getting-further", "well"]
        source = Source([spec(tmp_path, key) for key in keys])
        pool.run(source, ray.put("images"), PATIENT)
        assert source.ends == dict.fromkeys(keys) | {"always-dies": "worker"}
        assert source.losses == {
            "dies-once": ["worker"],
            "breaks-once": ["storage"],
            "always-dies": ["worker"] * (1 + RETRIES),
            "dies-after-getting-further": ["worker"] * 2 * RETRIES,
        }
        begun = {key: len((tmp_path / key / "processes").read_text().splitlines()) for key in keys}
        assert begun == {
            "dies-once": 2,
            "breaks-once": 2,
            "always-dies": 1 + RETRIES,
            "well": 1,
            keys[3]: 1 + 2 * RETRIES,
        }

        pool.close()  # its actors would hold the cores
        patient = Pool(2, cpus=1.0, gpus=0.0, progress_timeout=3.0)
        source = Source([spec(tmp_path, key) for key in ("hangs-once", "well-2")])
        patient.run(source, ray.put("images"), PATIENT)
        assert source.losses == {"hangs-once": ["hung"]} and source.ends == {"hangs-once": None, "well-2": None}
        patient.close()

        monkeypatch.setattr(module, "IDLE_SECONDS", -1.0)
        pool.run(Source([spec(tmp_path, "last")]), ray.put("images"), PATIENT)
        assert pool._idle == []
        pool.close()
    finally:
        ray.shutdown()
