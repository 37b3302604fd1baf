"""The same life on a real `mlflow server` on the loopback interface."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from divfeat.errors import ConfigError
from divfeat.tracking import Tracker
from divfeat.tracking import tracker as tracker_module
from tests.servers import free_port, mlflow_server
from tests.tracking import conftest
from tests.tracking.conftest import View, events, record, start
from tests.tracking.test_extractor import begun, expected, images, load_elsewhere, trained

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("server"), free_port()) as uri:
        yield uri


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch) -> str:
    """A study of its own for each test, since the server is shared."""
    name = f"study-{uuid4().hex[:8]}"
    for module in (conftest, sys.modules[begun.__module__]):
        monkeypatch.setattr(module, "NAME", name)
    return name


def test_the_same_again_doubles_nothing_through_http(server: str, name: str, tmp_path: Path) -> None:
    for _ in range(2):
        tracker = Tracker.open(tmp_path, name, server)
        tracker.study_run({"a": 1})
        tracker.start_run("a", **start())
        nan = {"epoch": 2, "time": 5, "metrics": {"severity": math.nan}}
        tracker.log_events("a", [*events(range(2)), nan])
        tracker.log_events("a", [*events(range(2)), nan])
        tracker.finish_run("a", record(), {"deep/here.txt": Path(__file__)})
        tracker.finish_study("completed", {"best": 1.0})
    assert tracker.behind == set()
    view = View(tracker)
    assert len(view.runs) == 2
    assert {run.info.status for run in view.runs} == {"FINISHED"}
    assert set(view.points("a").values()) == {1}
    assert [step for step, _ in view.history("a", "train/loss")] == [0, 1, 2]
    assert math.isnan(view.history("a", "severity")[0][1])
    assert view.artifacts("a", "deep") == {"deep/here.txt"}
    assert list(tmp_path.iterdir()) == []  # with a server nothing lies in the study's folder


def test_mlflow_itself_drops_an_identical_point(server: str, name: str, tmp_path: Path) -> None:
    """What a repeated request relies on, which our own bookkeeping cannot see."""
    from mlflow.entities import Metric

    tracker = Tracker.open(tmp_path, name, server)
    run_id = tracker.start_run("a", **start())
    for value in (0.5, math.nan):
        for _ in range(2):
            tracker._runs.client.log_batch(run_id, [Metric("m", value, 7, 3), Metric("n", 1.0, 7, 3)])
    assert View(tracker).points("a") == {("m", 3): 2, ("n", 3): 1}  # 0.5 and NaN, each once


def test_a_deleted_experiment_is_restored_through_http(server: str, name: str, tmp_path: Path) -> None:
    tracker = Tracker.open(tmp_path, name, server)
    first = tracker.start_run("a", **start())
    tracker._runs.client.delete_experiment(tracker._runs.experiment)
    assert Tracker.open(tmp_path, name, server).start_run("a", **start()) == first


def test_model_round_trip_through_the_server(server: str, name: str, tmp_path: Path) -> None:
    extractor, tracker = trained(), begun(tmp_path, server)
    for _ in range(2):
        version = tracker.register_extractor(name, extractor.config, extractor.state_dict(), key="winner")
        assert version == 1
        tracker = Tracker.open(tmp_path, name, server)
    got = load_elsewhere(tracker, f"models:/{name}/1", images(100), tmp_path)
    np.testing.assert_array_equal(got["after"], expected(extractor, images(100))[1])


@contextlib.contextmanager
def left(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Tracker, int]]:
    """A study of one run that goes on, on a server of its own that goes away; its port is where it may come back."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    port = free_port()
    with mlflow_server(tmp_path / "server", port) as uri:
        tracker = Tracker.open(tmp_path, name, uri)
        tracker.study_run({})
        tracker.start_run("a", **start())
        yield tracker, port


def test_a_server_that_goes_away_and_comes_back(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with left(tmp_path, name, monkeypatch) as (tracker, port):
        tracker.log_events("a", events(range(1)))
    tracker.log_events("a", events(range(1, 2)))
    assert tracker.start_run("b", **start(1)) is None
    tracker.finish_run("a", record())
    assert tracker.behind == {"a", "b"}
    monkeypatch.setattr(tracker_module, "PAUSE_SECONDS", 0.0)
    with mlflow_server(tmp_path / "server", port):
        tracker._paused_until = 0.0  # the pause is over
        tracker.finish_run("b", record("pruned"))
        tracker.finish_study("completed")
        assert tracker.behind == set()
        view = View(tracker)
        assert {run.info.status for run in view.runs} == {"FINISHED", "KILLED"}
        for key in "ab":
            assert set(view.points(key).values()) == {1}
            assert [step for step, _ in view.history(key, "train/loss")] == [0, 1, 2]


def test_a_server_that_is_away_when_a_study_is_taken_up_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with left(tmp_path, name, monkeypatch) as (tracker, port):
        tracker.log_events("a", events(range(2)))
        place, uri = tracker.place(), f"http://127.0.0.1:{port}"
    with pytest.raises(ConfigError, match="no MLflow server answers there"):
        Tracker.open(tmp_path, name, uri)
    again = Tracker.open(tmp_path, name, uri, late=True)
    assert again.study_run({}) is None and again.place() is None
    again.reconcile({"a": (start(), record()), "b": (start(1), record("pruned"))})
    assert again.start_run("c", **start(2)) is None
    again.log_events("c", events(range(1)))
    again.log_study({"spend/cost": 1.0}, 1)
    again.mark("winner", ["a"])
    assert again.register_extractor(name, {}, {}, key="a") is None
    again.finish_run("c", record())
    assert again.behind >= {"a", "b", "c"}
    monkeypatch.setattr(tracker_module, "PAUSE_SECONDS", 0.0)
    with mlflow_server(tmp_path / "server", port):
        again._paused_until = 0.0  # the pause is over
        again.finish_study("completed")
        assert again.behind == set() and again.place() == place
        view = View(again)
        assert {run.info.status for run in view.runs} == {"FINISHED", "KILLED"}
        for key in "abc":
            assert set(view.points(key).values()) == {1}
            assert [step for step, _ in view.history(key, "train/loss")] == [0, 1, 2]
