"""How a study stands, told from its folder: made studies, a process that runs one, a run that hangs."""

import io
import os
import subprocess
import sys
import threading
import time

import pytest
from rich.console import Console

from divfeat.cli import console
from divfeat.errors import DataError
from divfeat.files import append_line, read_json, write_json
from divfeat.search.ledger import Ledger
from divfeat.search.status import SILENT_SECONDS, status
from tests.report.studies import Studied, completed, ended


def shown(found):
    screen = Console(width=160, record=True, file=io.StringIO())
    screen.print(found)
    return screen.export_text()


@pytest.fixture
def study(tmp_path):
    return Studied(tmp_path / "s", preset="digits-lt")


def begun(study, name="gate 65.0 deg", key="abc", epochs=3):
    """A run that was launched and has no record."""
    study.ledger.start(key, {"phase": "search", "name": name, "seed": 7, "number": 5})
    for epoch in range(epochs):
        append_line(study.ledger.run_folder(key) / "events.jsonl", {"epoch": epoch})


def test_a_finished_study(study):
    study.all()
    trials = status(study.ledger.folder).plan["search"]
    assert not status(study.ledger.folder).finished
    study.ledger.write_phase("done", {"trials": trials, "time": 0.0})
    found = status(study.ledger.folder)
    assert found.finished and found.process == "" and found.running == () and found.left is None
    records = [study.ledger.record(key) for key in study.ledger.started()]
    assert sum(count for phase in found.ended.values() for count in phase.values()) == len(records)
    assert found.spent == pytest.approx(sum(record["provenance"]["seconds"] for record in records))
    rows = study.ledger.proposals().values()
    scores = {row["name"]: study.ledger.record(row["key"])["metrics"]["val/accuracy_balanced"] for row in rows}
    name = max(scores, key=scores.get)
    assert found.best == (f"{100 * scores[name]:.2f} %", name)
    assert "s: finished" in shown(found) and name in shown(found)


def test_a_study_that_was_stopped_says_what_goes_on(study):
    study.begin().search()
    begun(study)
    found = status(study.ledger.folder)
    (one,) = found.running
    assert (one.name, one.seed, one.epochs, one.stalled) == ("gate 65.0 deg", 7, 3, False)
    assert not found.finished and found.left is None
    assert "not running; the line that started it goes on" in shown(found) and f"3/{found.epochs}" in shown(found)


def test_who_runs_it_and_a_run_that_hangs(study):
    study.begin().search()
    begun(study)
    begun(study, "gate 40.0 deg", "def", epochs=0)
    ledger = Ledger(study.ledger.folder)
    ledger.open(study.config)
    try:
        found = status(study.ledger.folder)
        assert found.process == str(os.getpid()) and found.state == f"running (process {os.getpid()})"
        left = sum(found.plan.values()) - sum(count for phase in found.ended.values() for count in phase.values())
        mean = found.spent / len(study.ledger.started().keys() - {"abc", "def"})
        assert found.left == pytest.approx(left * mean / 2)
        started = study.ledger.run_folder("def") / "start.json"
        write_json(started, read_json(started) | {"time": time.time() - 2 * SILENT_SECONDS})
        found = status(study.ledger.folder)
        assert [(one.name, one.stalled) for one in found.running] == [("gate 40.0 deg", True), ("gate 65.0 deg", False)]
        assert found.state.endswith(", 1 stalled") and "10 min 00 s ago - stalled?" in shown(found)
        later = status(study.ledger.folder, now=time.time() + SILENT_SECONDS + 60)
        assert [one.stalled for one in later.running] == [True, True]
    finally:
        ledger.close()
    assert status(study.ledger.folder).process == ""


def test_a_trial_that_waits_at_a_rung_is_told_and_does_not_stall(study):
    study.begin().search()
    begun(study)
    begun(study, "gate 40.0 deg", "def")
    study.ledger.pause("abc")
    found = status(study.ledger.folder, now=time.time() + 2 * SILENT_SECONDS)
    assert [(one.name, one.waits, one.stalled) for one in found.running] == [
        ("gate 40.0 deg", False, True),
        ("gate 65.0 deg", True, False),
    ]
    assert "at a rung" in shown(found) and "ago, waits" in shown(found)
    study.ledger.start("abc", {})
    assert not any(one.waits for one in status(study.ledger.folder).running)
    assert "at a rung" not in shown(status(study.ledger.folder))


def test_looking_is_not_in_the_way_of_a_start(study):
    """The lock is free for the study at any moment of a look."""
    study.begin()
    ledger, stop = Ledger(study.ledger.folder), threading.Event()

    def look():
        while not stop.is_set():
            status(study.ledger.folder)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(200):
            ledger.open(study.config)
            ledger.close()
    finally:
        stop.set()
        watcher.join()


def test_a_process_that_died_runs_nothing(study):
    study.begin()
    line = "import os, sys; print(os.getpid())"
    dead = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True).stdout.strip()
    (study.ledger.folder / ".lock").write_text(dead, encoding="utf-8")
    assert status(study.ledger.folder).process == ""
    (study.ledger.folder / ".lock").write_text(str(os.getpid()), encoding="utf-8")  # its number went to another
    assert status(study.ledger.folder).process == ""


def test_failures_with_their_causes(tmp_path):
    def record(job):
        if job.phase == "search":
            return ended(job.experiment, "failed", "Traceback: [bold]\nno memory left")
        return completed(job.experiment)

    study = Studied(tmp_path / "s", preset="digits-lt", record=record).begin().search()
    found = status(study.ledger.folder)
    failed = found.ended["search"]["failed"]
    assert found.causes == {"no memory left": failed} and failed > 1
    assert "no memory left" in shown(found)


def test_only_trials_that_keep_the_constraints_are_best(tmp_path):
    rules = {"constraints": [{"metric": "major", "at_least": 100.0}]}
    study = Studied(tmp_path / "s", preset="digits-lt", search=rules).begin().search()
    assert status(study.ledger.folder).best is None


def test_watching_ends_with_the_process(study, monkeypatch, capsys):
    study.begin().search()
    ledger = Ledger(study.ledger.folder)
    ledger.open(study.config)
    monkeypatch.setattr(console, "_WATCH_SECONDS", 0.05)
    timer = threading.Timer(0.5, ledger.close)
    timer.start()
    assert console.main(["status", str(study.ledger.folder), "--watch"]) == 0
    timer.join()
    assert "not running" in capsys.readouterr().out


def test_no_study(tmp_path, capsys):
    with pytest.raises(DataError, match="holds no study"):
        status(tmp_path)
    assert console.main(["status", str(tmp_path)]) == 1 and "holds no study" in capsys.readouterr().err
