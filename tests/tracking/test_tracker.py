from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.exceptions import MlflowException

from divfeat.tracking import Tracker
from divfeat.tracking import tracker as tracker_module
from tests.tracking.conftest import NAME, View, events, record, start


def test_a_study_of_two_runs(study_dir: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("class,accuracy\n")
    tracker = Tracker.open(study_dir, NAME)
    parent = tracker.study_run({"search": {"trials": 2}}, {"preset": "digits"}, {"trials": 2})
    run_id = tracker.start_run("a", **start(number=7, tags={"commit": "abc"}, params={"tau": {"plus": [0.1] * 50}}))
    tracker.log_events("a", events(range(2)))
    assert View(tracker).run("a").info.status == "RUNNING"
    tracker.finish_run("a", record(time=1_700_000_009_000), {"tables/per_class.csv": table})
    tracker.log_report({"index.md": table})
    tracker.finish_study("completed", {"best/accuracy": 0.75}, {"verdict": "not shown"})
    view = View(tracker)

    run = view.run("a")
    assert run.info.run_id == run_id
    assert (run.info.status, run.info.end_time, run.info.run_name) == ("FINISHED", 1_700_000_009_000, "trial 0")
    expected = {"study": NAME, "trial_key": "a", "phase": "search", "seed": "0", "trial_number": "7", "commit": "abc"}
    expected |= {"status": "completed", "mlflow.parentRunId": parent or ""}
    assert expected.items() <= run.data.tags.items()
    assert run.data.params == {"tau.plus": "[0.1, 0.1, ..., 0.1] (50 values)"}
    assert view.history("a", "train/loss") == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert view.history("a", "val/accuracy") == [(0, 0.75)]  # no curve, so a bar
    assert view.artifacts("a") == {"config.yaml", "record.json", "params.json", "tables"}
    assert view.text("a", "tables/per_class.csv", tmp_path / "down") == "class,accuracy\n"
    assert yaml.safe_load(view.text("a", "config.yaml", tmp_path / "down")) == record()["config"]
    assert json.loads(view.text("a", "record.json", tmp_path / "down"))["metrics"] == record()["metrics"]

    study = view.run("(study)")
    assert study.info.status == "FINISHED"
    assert study.data.params == {"trials": "2"}  # what studies are compared by; the whole is in config.yaml
    assert study.data.metrics == {"best/accuracy": 0.75}
    told = {"divfeat.role": "study", "role": "study", "phase": "study", "verdict": "not shown", "preset": "digits"}
    assert told.items() <= study.data.tags.items()
    assert yaml.safe_load(view.text("(study)", "config.yaml", tmp_path / "down")) == {"search": {"trials": 2}}
    assert view.artifacts("(study)") == {"config.yaml", "report"}
    assert tracker.behind == set()


@pytest.mark.parametrize(
    ("word", "mlflows"), [("completed", "FINISHED"), ("failed", "FAILED"), ("pruned", "KILLED"), ("stopped", "KILLED")]
)
def test_how_a_run_ended_is_in_its_status_and_tags(study_dir: Path, word: str, mlflows: str) -> None:
    tracker = Tracker.open(study_dir, NAME)
    tracker.start_run("a", **start())
    tracker.finish_run("a", record(word, error="the loss became NaN" if word == "failed" else None))
    run = View(tracker).run("a")
    assert run.info.status == mlflows
    assert run.data.tags["status"] == word
    assert run.data.tags["reason"] == ("the loss became NaN" if word == "failed" else "")


def play(tracker: Tracker) -> None:
    tracker.study_run({"search": {"trials": 2}})
    for seed, key in enumerate("ab"):
        tracker.start_run(key, **start(seed))
        tracker.log_events(key, events(range(2)))
        tracker.finish_run(key, record())
    tracker.finish_study("completed", {"best": 1.0})


def test_the_same_again_changes_nothing_in_this_process_or_the_next(study_dir: Path) -> None:
    play(Tracker.open(study_dir, NAME))
    once = View(tracker := Tracker.open(study_dir, NAME))
    counts = {key: once.points(key) for key in once.by_key}
    ends = {key: run.info.end_time for key, run in once.by_key.items() if key != "(study)"}
    play(tracker)
    play(tracker)
    play(Tracker.open(study_dir, NAME))
    again = View(tracker)
    assert len(again.runs) == len(once.runs) == 3
    assert {key: again.points(key) for key in again.by_key} == counts
    assert all(count == 1 for points in counts.values() for count in points.values())
    assert {key: run.info.end_time for key, run in again.by_key.items() if key != "(study)"} == ends
    assert {run.info.status for run in again.runs} == {"FINISHED"}


def test_a_run_in_flight_is_taken_up_again_and_a_repeated_epoch_keeps_its_first_point(study_dir: Path) -> None:
    tracker = Tracker.open(study_dir, NAME)
    first = tracker.start_run("a", **start())
    tracker.log_events("a", events(range(3)))
    tracker = Tracker.open(study_dir, NAME)
    assert tracker.reconcile({"a": (start(), None)}) == []
    assert tracker.start_run("a", **start(params={"tau": {"plus": 0.9}, "more": 1})) == first
    late = [{**event, "time": event["time"] + 5} for event in events(range(1, 5), offset=1.0)]
    tracker.log_events("a", late)
    tracker.log_events("a", late)
    view = View(tracker)
    assert view.history("a", "train/loss") == [(0, 1.0), (1, 1 / 2), (2, 1 / 3), (3, 1 / 4 + 1), (4, 1 / 5 + 1)]
    assert view.run("a").data.params == {"tau.plus": "0.5", "more": "1"}
    assert tracker.behind == set()


def test_a_stopped_run_that_goes_on_is_running_and_then_complete(study_dir: Path) -> None:
    tracker = Tracker.open(study_dir, NAME)
    tracker.start_run("a", **start())
    tracker.finish_run("a", record("stopped", epochs=2))
    tracker = Tracker.open(study_dir, NAME)
    tracker.start_run("a", **start())
    assert View(tracker).run("a").info.status == "RUNNING"
    tracker.finish_run("a", record(epochs=4))
    view = View(tracker)
    assert view.run("a").info.status == "FINISHED"
    assert [step for step, _ in view.history("a", "train/loss")] == [0, 1, 2, 3]


def test_a_run_that_waits_is_scheduled_with_its_epochs_and_taken_up_again(study_dir: Path) -> None:
    tracker = Tracker.open(study_dir, NAME)
    for key in "ab":
        tracker.start_run(key, **start())
        tracker.log_events(key, events(range(2)))
        tracker.pause_run(key)
    view = View(tracker)
    for key in "ab":  # b's epochs had been waiting to be written
        run = view.run(key)
        assert (run.info.status, run.data.tags["status"], run.info.end_time) == ("SCHEDULED", "paused", None)
        assert [step for step, _ in view.history(key, "train/loss")] == [0, 1]
    tracker = Tracker.open(study_dir, NAME)
    tracker.start_run("a", **start())
    assert View(tracker).run("a").info.status == "RUNNING"
    tracker.log_events("a", events(range(4)))
    tracker.finish_run("a", record(epochs=4))
    tracker.finish_run("b", record("pruned", epochs=2))
    view = View(tracker)
    assert [view.run(key).info.status for key in "ab"] == ["FINISHED", "KILLED"]
    assert [step for step, _ in view.history("a", "train/loss")] == [0, 1, 2, 3]
    with pytest.raises(KeyError, match="'c' was never begun"):
        tracker.pause_run("c")


def test_epochs_of_all_runs_are_written_together_and_none_is_forgotten(
    study_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker.open(study_dir, NAME)
    for key in "abc":
        tracker.start_run(key, **start())
    batches = []
    log_batch = tracker._runs.client.log_batch
    monkeypatch.setattr(tracker._runs.client, "log_batch", lambda *a, **k: (batches.append(a[0]), log_batch(*a, **k)))
    monkeypatch.setattr(tracker_module, "FLUSH_SECONDS", 1e6)
    for epoch in range(5):
        for key in "abc":
            tracker.log_events(key, events(range(epoch, epoch + 1)))
    assert len(batches) == 1  # the first, of "a"
    tracker._flush_at = 0.0
    tracker.log_events("a", events(range(5, 6)))
    assert len(batches) == 1 + 3
    tracker.log_events("a", events(range(6, 7)))
    tracker.log_events("b", events(range(5, 6)))
    tracker.finish_run("a", record(history=[]))
    tracker.finish_study("stopped")
    view = View(tracker)
    assert {key: [step for step, _ in view.history(key, "lr")] for key in "abc"} == {
        "a": list(range(7)),
        "b": list(range(6)),
        "c": list(range(5)),
    }


def test_a_final_value_measured_apart_is_the_latest(study_dir: Path) -> None:
    tracker = Tracker.open(study_dir, NAME)
    for key in ("a", "b"):
        tracker.start_run(key, **start())
    tracker.log_events("a", events(range(3)))
    for key in ("a", "b", "a"):
        tracker.finish_run(key, record(metrics={"train/loss": 0.125, "lr": 0.1}))
    view = View(tracker)
    for key in ("a", "b"):
        assert view.history(key, "train/loss") == [(0, 1.0), (1, 0.5), (2, 0.125), (2, 1 / 3)]
        assert view.run(key).data.metrics["train/loss"] == 0.125
        assert view.history(key, "lr") == [(0, 0.1), (1, 0.1), (2, 0.1)]


def test_nan_is_one_point_and_stays_nan(study_dir: Path) -> None:
    tracker = Tracker.open(study_dir, NAME)
    tracker.start_run("a", **start())
    event = {"epoch": 0, "time": 5, "metrics": {"severity": math.nan, "loss": math.inf}}
    for _ in range(2):
        tracker.log_events("a", [event])
        tracker.finish_run("a", record("failed", history=[event], metrics={"severity": math.nan}))
        tracker = Tracker.open(study_dir, NAME)
    for metric in ("severity", "loss"):
        [(step, value)] = View(tracker).history("a", metric)
        assert step == 0
        assert math.isnan(value)


def test_more_points_than_one_call_takes_and_none_without_its_mark(study_dir: Path) -> None:
    tracker = Tracker.open(study_dir, NAME)
    tracker.start_run("a", **start())
    history = [{"epoch": e, "time": e, "metrics": {f"m{i}": i + e for i in range(40)}} for e in range(50)]
    tracker.finish_run("a", record(history=history))
    points = View(tracker).points("a")
    assert len(points) == 2000 + 2
    assert set(points.values()) == {1}


@pytest.mark.parametrize("method", ["log_artifacts", "set_terminated", "log_batch"])
def test_a_crash_between_two_writes_is_repaired(study_dir: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    class Crash(BaseException):
        """As a kill: nobody catches it."""

    def crash(*_: Any, **__: Any) -> None:
        raise Crash

    tracker = Tracker.open(study_dir, NAME)
    tracker.study_run({})
    tracker.start_run("a", **start())
    tracker.log_events("a", events(range(2)))
    monkeypatch.setattr(tracker._runs.client, method, crash)
    with pytest.raises(Crash):
        tracker.finish_run("a", record())
    tracker = Tracker.open(study_dir, NAME)
    assert tracker.reconcile({"a": (start(), record())}) == ["a"]
    assert tracker.reconcile({"a": (start(), record())}) == []
    view = View(tracker)
    assert view.run("a").info.status == "FINISHED"
    assert "record.json" in view.artifacts("a")
    assert set(view.points("a").items()) == {((metric, e), 1) for metric in ("train/loss", "lr") for e in range(3)} | {
        (("val/accuracy", 0), 1)
    }


def test_a_crash_within_many_points_leaves_no_mark_that_all_is_there(
    study_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker.open(study_dir, NAME)
    tracker.start_run("a", **start())
    log_batch, sizes = tracker._runs.client.log_batch, []

    def one_call(run_id: str, metrics: Any = (), **others: Any) -> None:
        if sizes:
            raise KeyboardInterrupt
        sizes.append(len(metrics))
        log_batch(run_id, metrics, **others)

    many = record(history=[{"epoch": e, "time": e, "metrics": {f"m{i}": i + e for i in range(40)}} for e in range(50)])
    monkeypatch.setattr(tracker._runs.client, "log_batch", one_call)
    with pytest.raises(KeyboardInterrupt):
        tracker.finish_run("a", many)
    tracker = Tracker.open(study_dir, NAME)
    assert 0 < sum(View(tracker).points("a").values()) < 2000
    assert tracker.reconcile({"a": (start(), many)}) == ["a"]
    assert len(View(tracker).points("a")) == 2000 + 2


def test_a_write_that_arrived_though_its_answer_was_lost_is_not_repeated(
    study_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker.open(study_dir, NAME)
    tracker.start_run("a", **start())
    log_batch = tracker._runs.client.log_batch

    def lost(*args: Any, **others: Any) -> None:
        log_batch(*args, **others)
        raise MlflowException("the connection was closed")

    with monkeypatch.context() as patch:
        patch.setattr(tracker._runs.client, "log_batch", lost)
        tracker.log_events("a", events(range(2)))
    tracker._paused_until = None
    tracker.log_events("a", [{**event, "time": event["time"] + 5} for event in events(range(3))])
    assert [step for step, _ in View(tracker).history("a", "lr")] == [0, 1, 2]


def test_what_mlflow_never_saw_is_replayed_with_its_own_times(study_dir: Path) -> None:
    tracker = Tracker.open(study_dir, NAME)
    assert tracker.reconcile({"a": (start(), record("pruned")), "b": (start(1), None)}) == ["a"]
    view = View(tracker)
    info = view.run("a").info
    assert (info.status, info.start_time, info.end_time) == ("KILLED", 1_700_000_000_000, 1_700_000_002_000)
    assert "b" not in view.by_key


def test_a_record_is_the_same_after_its_stay_in_a_json_file(study_dir: Path) -> None:
    tracker = Tracker.open(study_dir, NAME)
    tracker.start_run("a", **start())
    made = record(metrics={"nan": math.nan, "x": 0.1}, config={"shape": (1, 8, 8)})
    tracker.finish_run("a", made)
    assert tracker.reconcile({"a": (start(), json.loads(json.dumps(made)))}) == []


def test_of_two_runs_of_one_key_the_complete_one_stays(study_dir: Path) -> None:
    tracker = Tracker.open(study_dir, NAME)
    client, experiment = tracker._runs.client, tracker._runs.experiment
    twin = client.create_run(experiment, start_time=1, tags={"study": NAME, "trial_key": "a"})
    tracker.start_run("a", **start())
    tracker.finish_run("a", record())
    kept = View(Tracker.open(study_dir, NAME)).run("a")
    assert kept.info.run_id != twin.info.run_id
    assert kept.info.status == "FINISHED"


def test_runs_of_others_in_the_experiment_are_left_alone(study_dir: Path) -> None:
    tracker = Tracker.open(study_dir, NAME)
    client, experiment = tracker._runs.client, tracker._runs.experiment
    for tags in ({"study": "other", "trial_key": "a"}, {"trial_key": "a"}):
        client.create_run(experiment, tags=tags)
    tracker.start_run("a", **start())
    assert len(View(Tracker.open(study_dir, NAME)).runs) == 2 + 2  # and our own, with its parent


def test_an_outage_never_ends_the_study_and_is_made_good(
    study_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Tracker.open(study_dir, NAME)
    tracker.study_run({})
    tracker.start_run("a", **start())
    tracker.log_events("a", events(range(1)))
    client = tracker._runs.client
    calls = []

    def away(*_: Any, **__: Any) -> None:
        calls.append(1)
        raise MlflowException("connection refused")

    with monkeypatch.context() as patch:
        for method in ("create_run", "log_batch", "log_artifacts", "set_terminated", "update_run"):
            patch.setattr(client, method, away)
        tracker.log_events("a", events(range(1, 2)))
        assert tracker.start_run("b", **start(1)) is None
        tracker.log_events("b", events(range(2)))
        tracker.finish_run("a", record())
        tracker.finish_run("b", record("failed", error="out of memory"))
        assert tracker.behind == {"a", "b"}
        assert len(calls) == 1  # then it is left alone for a while
        assert [entry.levelname for entry in caplog.records] == ["WARNING"]
    assert tracker.start_run("c", **start(2)) is None
    monkeypatch.setattr(tracker_module, "PAUSE_SECONDS", 0.0)
    tracker.finish_study("completed")
    assert tracker.behind == {"c"}
    tracker.finish_run("c", record())
    assert tracker.behind == set()
    view = View(tracker)
    assert {key: run.info.status for key, run in view.by_key.items()} == {
        "(study)": "FINISHED",
        "a": "FINISHED",
        "b": "FAILED",
        "c": "FINISHED",
    }
    assert [step for step, _ in view.history("a", "train/loss")] == [0, 1, 2]
    assert view.run("b").data.params == {"tau.plus": "0.5"}


def test_what_mlflow_refuses_of_one_run_leaves_the_others_alone(study_dir: Path) -> None:
    tracker = Tracker.open(study_dir, NAME)
    tracker.start_run("a", **start())
    tracker.start_run("b", **start(1))
    client = tracker._runs.client
    client.delete_run(View(tracker).run("a").info.run_id)  # by a user, in the UI
    tracker.finish_run("a", record())
    tracker.finish_run("b", record())
    assert tracker.behind == {"a"}
    assert View(tracker).run("b").info.status == "FINISHED"
    assert Tracker.open(study_dir, NAME).reconcile({"a": (start(), record())}) == ["a"]
    assert View(tracker).run("a").info.status == "FINISHED"


def test_an_artifact_that_is_gone_is_left_out_and_a_folder_goes_in_whole(study_dir: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures" / "deep"
    figures.mkdir(parents=True)
    (figures / "a.png").write_bytes(b"png")
    tracker = Tracker.open(study_dir, NAME)
    tracker.study_run({})
    tracker.log_report({"figures": tmp_path / "figures", "table.md": tmp_path / "none.md"})
    assert View(tracker).artifacts("(study)", "report") == {"report/figures"}
    assert View(tracker).artifacts("(study)", "report/figures/deep") == {"report/figures/deep/a.png"}
    with pytest.raises(ValueError, match="must be relative"):
        tracker.log_report({"../x": figures / "a.png"})


def test_runs_of_an_older_divfeat_get_their_new_names_tags_and_params(study_dir: Path) -> None:
    """Params are final in MLflow: those of then stay, and nothing fails."""
    tracker = Tracker.open(study_dir, NAME)
    tracker.start_run("a", **start(name="gate 28.6 deg seed 0", params={"tau": 0.5, "seed": 0}, tags={"method": "x"}))
    tracker.finish_run("a", record())
    now = start(name="search 000 gate 28.6 deg", params={"tau_plus_deg": 28.6, "seed": 0}, tags={"method": "hinge_ce"})
    finished = record(metrics={"val/accuracy": 0.75, "threshold/tau_plus_deg": 28.6})
    tracker = Tracker.open(study_dir, NAME)
    assert tracker.reconcile({"a": (now, finished)}) == ["a"]
    assert Tracker.open(study_dir, NAME).reconcile({"a": (now, finished)}) == []
    assert tracker.behind == set()
    view = View(tracker)
    run = view.run("a")
    assert run.info.run_name == "search 000 gate 28.6 deg" and run.data.tags["method"] == "hinge_ce"
    assert run.data.params == {"tau": "0.5", "seed": "0", "tau_plus_deg": "28.6"}
    assert run.data.metrics["threshold/tau_plus_deg"] == 28.6
    assert view.history("a", "val/accuracy") == [(0, 0.75)]


def test_a_new_value_goes_to_the_end_of_its_curve(study_dir: Path) -> None:
    """Also where it was written at another step before: what MLflow calls the latest is what is true."""
    tracker = Tracker.open(study_dir, NAME)
    tracker.start_run("a", **start())
    tracker._runs.client.log_metric(tracker._runs.get("a").id, "val/accuracy", 0.5, step=7, timestamp=1)
    tracker = Tracker.open(study_dir, NAME)
    tracker.reconcile({"a": (start(), record())})
    view = View(tracker)
    assert view.history("a", "val/accuracy") == [(7, 0.5), (7, 0.75)]
    assert view.run("a").data.metrics["val/accuracy"] == 0.75


def test_the_experiment_says_what_it_is_and_where(study_dir: Path) -> None:
    tracker = Tracker.open(study_dir, NAME)
    assert tracker.place() is None
    run_id = tracker.study_run({})
    place = tracker.place()
    assert place is not None and place.run == run_id
    for text in ("first", "second"):
        tracker.describe_experiment({"mlflow.note.content": text, "preset": "digits"})
    found = View(tracker).client.get_experiment(place.experiment).tags
    assert {"mlflow.note.content": "second", "preset": "digits"}.items() <= found.items()
    assert tracker.behind == set()


def test_a_mark_moves_with_what_it_marks(study_dir: Path) -> None:
    tracker = Tracker.open(study_dir, NAME)
    for key in "abc":
        tracker.start_run(key, **start())
    tracker.mark("winner", ["a", "b"])
    Tracker.open(study_dir, NAME).mark("winner", ["b", "c", "unknown"])
    runs = View(tracker).by_key
    assert {key: runs[key].data.tags.get("winner") for key in "abc"} == {"a": "no", "b": "yes", "c": "yes"}


def test_wrong_use_is_told(study_dir: Path) -> None:
    tracker = Tracker.open(study_dir, NAME)
    with pytest.raises(KeyError, match="never begun"):
        tracker.log_events("a", events(range(1)))
    with pytest.raises(KeyError, match="never begun"):
        tracker.finish_run("a", record())
    tracker.start_run("a", **start())
    with pytest.raises(KeyError, match="done"):
        tracker.finish_run("a", record("done"))


WRITER = """
import sys
from pathlib import Path
from divfeat.tracking import Tracker, tracker
from tests.tracking.conftest import NAME, events, start
tracker.FLUSH_SECONDS = 0.0
tracker = Tracker.open(Path(sys.argv[1]), NAME)
tracker.study_run({})
tracker.start_run("a", **start())
for epoch in range(10_000):
    tracker.log_events("a", events(range(epoch, epoch + 1)))
    print(epoch, flush=True)
"""


@pytest.mark.slow
def test_kill_9_while_writing_then_reconcile_gives_one_point_a_step(study_dir: Path) -> None:
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", WRITER, str(study_dir)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True) as writer:
        assert writer.stdout is not None
        seen = -1
        for line in writer.stdout:
            seen = int(line)
            if seen == 15:
                os.killpg(writer.pid, signal.SIGKILL)
                break
        assert seen == 15
    tracker = Tracker.open(study_dir, NAME)
    left = View(tracker)
    assert left.run("a").info.status == "RUNNING"
    assert len(left.history("a", "lr")) >= 16
    epochs = len(left.history("a", "lr")) + 5
    tracker.reconcile({"a": (start(), record(epochs=epochs))})
    view = View(tracker)
    assert [step for step, _ in view.history("a", "lr")] == list(range(epochs))
    assert set(view.points("a").values()) == {1}
    assert view.run("a").info.status == "FINISHED"
