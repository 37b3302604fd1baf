import math

import pyarrow.parquet as pq
import pytest

from divfeat import record as records
from divfeat.config import MethodConfig
from divfeat.search.followers import TrackingFollower, start_arguments, tracked, tracked_event
from divfeat.search.jobs import Job, experiment
from divfeat.search.ledger import Ledger
from tests.search.samples import METRIC, completed, curve, hinge, make_study

STUDY = make_study()
JOB = Job(experiment(STUDY, hinge(0.5), 0), "search", "gate 28.6 deg", 7)
CONFIRM = Job(experiment(STUDY, MethodConfig(name="ce"), 2000, "confirm"), "confirm", "ce")
ROWS = [{"class": 0, "name": "a", "accuracy": 0.5}, {"class": 1, "name": "b", "accuracy": None}]


class Tracker:
    """Writes down what it is told."""

    def __init__(self):
        self.calls = []

    def start_run(self, key, **arguments):
        self.calls.append(("start", key, arguments))

    def log_events(self, key, events):
        self.calls.append(("events", key, events))

    def pause_run(self, key):
        self.calls.append(("pause", key))

    def finish_run(self, key, record, files):
        self.calls.append(("finish", key, record, files))

    def reconcile(self, known, files_of):
        self.calls.append(("reconcile", known, {key: files_of(key) for key in known}))

    def mark(self, tag, keys):
        self.calls.append(("mark", tag, keys))


@pytest.fixture
def room(tmp_path):
    tracker, ledger = Tracker(), Ledger(tmp_path)
    return tracker, ledger, TrackingFollower(tracker, ledger, STUDY.search)


def finish(ledger, job, record):
    ledger.start(job.key, {"phase": job.phase, "name": job.name, "seed": job.experiment.seed, "number": job.number})
    ledger.write_record(job.key, record)
    return ledger.record(job.key)


def test_a_run_that_waits_is_begun_first_since_an_earlier_session_may_have_run_it(room):
    tracker, _, follower = room
    follower.paused(JOB)
    assert [call[:2] for call in tracker.calls] == [("start", JOB.key), ("pause", JOB.key)]


def test_a_run_is_started_followed_and_closed_once(room):
    tracker, ledger, follower = room
    follower.started(JOB)
    follower.heard(JOB, curve([0.1, 0.2]))
    found = finish(ledger, JOB, completed(JOB.experiment, {METRIC: 0.7}, curve([0.1])))
    follower.finished(JOB, found, fresh=True)
    follower.finished(JOB, found, fresh=False)
    assert [call[0] for call in tracker.calls] == ["start", "events", "finish"]
    assert {call[1] for call in tracker.calls} == {JOB.key}
    arguments = tracker.calls[0][2]
    assert (arguments["phase"], arguments["seed"], arguments["number"]) == ("search", 0, 7)
    assert arguments["name"] == "search 007 gate 28.6 deg"
    assert arguments["params"] == {
        "method": "hinge_ce",
        "release": "gate",
        "family": "global",
        "tau_plus_deg": pytest.approx(math.degrees(0.5), abs=1e-4),
        "seed": 0,
    }
    own = {"method": "hinge_ce", "release": "gate", "family": "global", "label": "gate 28.6 deg", "role": "search"}
    assert arguments["tags"] == own
    assert tracker.calls[2][2]["metrics"] == {
        METRIC: 0.7,
        "threshold/tau_plus_deg": arguments["params"]["tau_plus_deg"],
    }
    assert tracker.calls[1][2] == [
        {"epoch": 0, "time": 0, "metrics": {METRIC: 0.1}},
        {"epoch": 1, "time": 1000, "metrics": {METRIC: 0.2}},
    ]


def test_the_parts_of_a_method_are_parameters_of_its_run():
    """The name's own too, and nothing of what is off."""
    known = {"method", "release", "family", "tau_plus_deg", "seed"}
    info = {"phase": "select", "name": "x", "seed": 0}

    def params(method):
        return start_arguments(info, experiment(STUDY, method, 0).to_dict(), STUDY.search)["params"]

    assert params(MethodConfig(name="ce")).keys() == known
    late = params(MethodConfig(name="ldam_drw", scale=20))
    assert {name: late[name] for name in late.keys() - known} == {
        "scale": 20.0,
        "margin": 0.5,
        "class_balanced": 0.9999,
        "deferred": 0.8,
    }


def shown(phase, method, number=None, study=STUDY):
    info = {"phase": phase, "name": "x", "seed": 3, "number": number}
    return start_arguments(info, experiment(study, method, 3).to_dict(), study.search)


def test_runs_sort_by_phase_and_number():
    names = [shown("search", hinge(0.5), number)["name"] for number in (2, 10, 100)]
    assert names == sorted(names) == ["search 002 x", "search 010 x", "search 100 x"]
    assert shown("confirm", hinge(0.5))["name"] == "confirm x seed 3"


def test_a_proposal_without_cones_is_a_point_of_the_search_with_thresholds_of_0():
    """It trains as CE+ETF; plots of the search must not lose it, nor take it for another method."""
    proposed = shown("search", hinge(0.0), 0)["params"]
    assert (proposed["method"], proposed["family"], proposed["tau_plus_deg"]) == ("hinge_ce", "global", 0.0)
    assert proposed["release"] == "none"
    confirmed = shown("confirm", hinge(0.0))["params"]
    assert (confirmed["method"], confirmed["family"], confirmed["tau_plus_deg"]) == ("ce_etf", "none", 0.0)
    tail = make_study("digits-lt")
    assert {"tau_major_deg", "tau_minor_deg"} <= shown("search", hinge(0.0), 0, tail)["params"].keys()


def test_learning_rates_are_params_only_where_they_are_tried():
    tried = shown("calibrate", MethodConfig(name="ce"))["params"]
    assert (tried["lr"], tried["weight_decay"]) == (STUDY.train.lr, STUDY.train.weight_decay)
    assert "lr" not in shown("select", MethodConfig(name="ce"))["params"]


def test_every_run_of_the_winner_is_marked(room):
    tracker, ledger, follower = room
    again = Job(experiment(STUDY, hinge(0.5), 2001, "confirm"), "confirm", "winner")
    for job in (JOB, CONFIRM, again):
        finish(ledger, job, completed(job.experiment, {METRIC: 0.7}))
    follower.mark_winner(hinge(0.5))
    ((_, tag, keys),) = tracker.calls
    assert tag == "winner" and set(keys) == {JOB.key, again.key}


def test_a_run_found_on_disk_is_written_whole(room):
    tracker, ledger, follower = room
    follower.finished(JOB, finish(ledger, JOB, completed(JOB.experiment, {METRIC: 0.7})), fresh=False)
    assert [call[0] for call in tracker.calls] == ["start", "finish"]


def test_reconciling_tells_everything_finished_and_nothing_twice(room):
    tracker, ledger, follower = room
    found = finish(ledger, JOB, completed(JOB.experiment, {METRIC: 0.7}))
    ledger.start("running", {"phase": "search", "name": "x", "seed": 0, "number": 8})
    follower.reconcile()
    ((_, known, _),) = tracker.calls
    assert set(known) == {JOB.key}
    arguments, record = known[JOB.key]
    info = {"phase": "search", "name": JOB.name, "seed": 0, "number": 7}
    assert arguments == start_arguments(info, found["config"], STUDY.search)
    assert record["status"] == "completed"
    follower.finished(JOB, found, fresh=False)
    assert len(tracker.calls) == 1


def test_values_that_are_no_numbers_are_left_out():
    record = completed(JOB.experiment, {METRIC: 0.7, "val/accuracy": None}, [{"epoch": 0, "time": 5.0, "a": None}])
    found = tracked(record | {"finished": 12.3456})
    assert found["metrics"] == {METRIC: 0.7}
    assert found["history"] == [{"epoch": 0, "time": 5, "metrics": {}}]
    assert found["time"] == 12345
    assert tracked_event({"epoch": 3.0, "time": 9, "train/loss": 0.0}) == {
        "epoch": 3,
        "time": 9,
        "metrics": {"train/loss": 0.0},
    }


def test_a_failure_says_so(room):
    record = tracked(records.ended("failed", JOB.experiment, "training loss became nan", "nan", curve([0.1])))
    assert (record["status"], record["error"], record["metrics"]) == ("failed", "training loss became nan", {})
    assert len(record["history"]) == 1


@pytest.mark.parametrize(
    ("job", "names"), [(JOB, set()), (CONFIRM, {"features.parquet", "axes.npy", "extractor", "correct.npz"})]
)
def test_features_and_weights_go_up_for_confirmed_runs_only(room, job, names):
    tracker, ledger, follower = room
    folder = ledger.run_folder(job.key)
    (folder / "extractor").mkdir(parents=True)
    for name in ("features.parquet", "axes.npy", "correct.npz"):
        (folder / name).write_bytes(b"as the trial left it")
    found = finish(ledger, job, completed(job.experiment, {}) | {"per_class": ROWS})
    follower.finished(job, found, fresh=True)
    files = tracker.calls[-1][3]
    assert set(files) == {"per_class.parquet"} | names
    assert pq.read_table(files["per_class.parquet"]).to_pylist() == ROWS
    assert all(path.exists() for path in files.values())
    assert sorted(path.name for path in folder.glob("per_class*")) == ["per_class.parquet"]


def test_a_run_without_classes_has_no_table(room):
    tracker, ledger, follower = room
    follower.finished(JOB, finish(ledger, JOB, records.ended("pruned", JOB.experiment, "", "pruned", [])), fresh=True)
    assert tracker.calls[-1][3] == {}
