"""A trial over workers whose workers are lost: what is noted, when it is given up, and what the driver then hears."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import Any

import pytest
import ray.exceptions as rays
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from divfeat import record
from divfeat.cluster import spanning
from divfeat.cluster.faults import RETRIES, Fault, Patience, fault_from
from divfeat.cluster.place import Outside
from divfeat.cluster.trial import TrialSpec
from divfeat.cluster.tuner import _Queue
from divfeat.files import append_line, write_json

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("failures", "kind", "words"),
    [
        ([rays.ActorDiedError(), ConnectionResetError("by peer")], "worker", "actor died"),
        ([ConnectionResetError("by peer"), rays.NodeDiedError("the node is dead")], "node", "the node is dead"),
        ([ConnectionResetError("by peer"), FULL], "storage", "No space left"),
        ([rays.OutOfMemoryError("killed due to memory pressure"), ConnectionResetError("by peer")], "memory", "memory pressure"),
        ([ConnectionResetError("by peer")], "network", "by peer"),
    ],
)  # fmt: skip
def test_the_most_telling_of_the_workers_faults_is_named(failures: list[Exception], kind: str, words: str) -> None:
    fault = fault_from(WorkerGroupError("[Rank 0] ...", dict(enumerate(failures))))
    assert fault.kind == kind and words.lower() in fault.cause.lower()
    assert fault_from(ControllerError(failures[-1])) == fault_from(failures[-1])


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrialSpec:
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(spanning.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(spanning.train, "RunConfig", lambda **settings: None)
    monkeypatch.setattr(spanning, "TuneReportCallback", lambda: None)
    monkeypatch.setattr(spanning, "_end_if_hung", lambda *told: None)
    return TrialSpec("a", {}, str(tmp_path / "run"), str(tmp_path / "stages"), workers=2)


class Trainer:
    """Loses its workers to `faults`, one after another, then is done; notes epochs on the way."""

    def __init__(self, spec: TrialSpec, faults: list[Exception], epochs: bool = False) -> None:
        self.faults, self.log, self.epochs, self.fits = list(faults), Path(spec.folder) / "events.jsonl", epochs, 0

    def __call__(self, loop: Any, **settings: Any) -> Trainer:
        return self

    def fit(self) -> None:
        if self.epochs:
            append_line(self.log, {"epoch": self.fits})
        self.fits += 1
        if self.faults:
            raise WorkerGroupError("...", {0: self.faults.pop(0)})


def run(spec: TrialSpec, monkeypatch: pytest.MonkeyPatch, trainer: Trainer, since: float = 0.0) -> list[dict[str, Any]]:
    monkeypatch.setattr(spanning, "TorchTrainer", trainer)
    spanning.run_spanning(spec, None, {}, since=since)
    return record.faults(Path(spec.folder))


def test_a_trial_that_gets_no_further_is_given_up_with_its_cause(spec: TrialSpec, monkeypatch) -> None:
    trainer = Trainer(spec, [FULL] * 99)
    rows = run(spec, monkeypatch, trainer)
    assert trainer.fits == len(rows) == RETRIES + 1
    assert [row.get("given_up") for row in rows] == [None] * RETRIES + [True]
    assert {row["kind"] for row in rows} == {"storage"} and "No space left" in rows[-1]["cause"]


def test_memory_is_forgiven_once_and_progress_forgives_all(spec: TrialSpec, monkeypatch) -> None:
    gone = rays.NodeDiedError("the node is dead")
    assert len(run(spec, monkeypatch, trainer := Trainer(spec, [gone] * 12, epochs=True))) == 12
    assert trainer.fits == 13
    trainer = Trainer(spec, [rays.OutOfMemoryError("killed due to memory pressure")] * 9)
    assert [row["kind"] for row in run(spec, monkeypatch, trainer, since=time.time())][12:] == ["memory"] * 2


def test_a_process_that_begins_anew_goes_on_counting(spec: TrialSpec, monkeypatch) -> None:
    """Workers that hung ended the process before."""
    outside, before = Outside(spec.folder, None), time.time()
    for _ in range(RETRIES):
        outside.note_fault("hung", "no epoch for 9 s", epochs=0)
    trainer = Trainer(spec, [FULL] * 9)
    rows = run(spec, monkeypatch, trainer, since=before)
    assert trainer.fits == 1 and rows[-1]["given_up"] and rows[-1]["kind"] == "storage"
    # One more that hangs is not begun again at all; those of an earlier session are forgiven.
    trainer = Trainer(spec, [])
    outside.note_fault("hung", "no epoch for 9 s", epochs=0)
    assert run(spec, monkeypatch, trainer, since=before)[-1]["given_up"] and trainer.fits == 0
    run(spec, monkeypatch, trainer, since=time.time())
    assert trainer.fits == 1


class Source:
    def __init__(self, spec: TrialSpec) -> None:
        self.spec, self.lost = spec, []

    def stopping(self) -> bool:
        return False

    def next(self) -> TrialSpec:
        return self.spec

    def ended(self, key: str, lost: Fault | None) -> None:
        self.lost.append(lost)


@pytest.mark.parametrize(
    ("rows", "error", "lost"),
    [
        ([], False, None),
        ([("node", "gone", {})], False, None),  # stopped after it had come back
        ([("node", "gone", {}), ("storage", "full", {"given_up": True})], False, Fault("storage", "full")),
        ([], True, Fault("worker", "the process that drives its workers was lost again and again")),
        ([("hung", "no epoch", {"given_up": True})], True, Fault("hung", "no epoch")),
    ],
)
def test_the_driver_hears_why_a_trial_was_given_up(spec: TrialSpec, rows, error: bool, lost: Fault | None) -> None:
    queue = _Queue(source := Source(spec), time.time())
    queue.suggest("1")
    for kind, cause, more in rows:
        Outside(spec.folder, None).note_fault(kind, cause, **more)
    queue.on_trial_complete("1", error=error)
    assert source.lost == [lost]


def test_nobody_hangs_without_a_place_nor_while_storage_is_away(tmp_path: Path, monkeypatch) -> None:
    """The watch: time does not count before the workers' first word, nor while the log cannot be seen."""
    folder, begun, clock = tmp_path / "run", tmp_path / "begun", [0.0]
    folder.mkdir()
    outside, ended = Outside(str(folder), None), []
    away = iter([False, True, True, False, False, False, False])
    real = outside.said

    def said() -> int:
        if next(away):
            raise OSError("the share is away")
        return real()

    def sleep(seconds: float) -> None:
        clock[0] += 40.0
        if clock[0] == 400.0:
            begun.touch()
            append_line(folder / "events.jsonl", {"epoch": 0})

    class Gone(Exception):
        pass

    def end(code: int) -> None:
        ended.append(clock[0])
        raise Gone

    monkeypatch.setattr(outside, "said", said)
    monkeypatch.setattr(spanning.time, "sleep", sleep)
    monkeypatch.setattr(spanning.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(spanning.os, "_exit", end)
    with pytest.raises(Gone):
        spanning._end_if_hung(outside, Patience(90.0), begun)
    # First word at 400, away at 440 and 480, silent for more than 90 s after that.
    assert ended == [600.0]
    assert [row["kind"] for row in outside.faults()] == ["hung"] and outside.faults()[0]["epochs"] == 1
    write_json(folder / "record.json", {})
    spanning._end_if_hung(outside, Patience(90.0), begun)  # it has ended
