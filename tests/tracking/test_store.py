from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from divfeat.errors import ConfigError
from divfeat.tracking import Tracker
from divfeat.tracking.store import bounded_requests, open_store, unreachable
from tests.tracking.conftest import NAME, View, record, start


def test_artifacts_lie_in_the_study_and_reopening_finds_the_experiment(study_dir: Path) -> None:
    first = open_store(study_dir, NAME, None)
    again = open_store(study_dir, NAME, None)
    assert first.experiment_id == again.experiment_id
    assert first.client.get_experiment(first.experiment_id).artifact_location == (study_dir / "mlartifacts").as_uri()


def test_another_study_in_the_same_database_is_another_experiment(study_dir: Path) -> None:
    assert open_store(study_dir, NAME, None).experiment_id != open_store(study_dir, "other", None).experiment_id


def test_a_deleted_experiment_is_restored(study_dir: Path) -> None:
    store = open_store(study_dir, NAME, None)
    store.client.delete_experiment(store.experiment_id)
    again = open_store(study_dir, NAME, None)
    assert again.experiment_id == store.experiment_id
    assert again.client.get_experiment(again.experiment_id).lifecycle_stage == "active"


def test_a_moved_study_is_filled_again_where_it_is_now(study_dir: Path, fresh_database: Path) -> None:
    before = Tracker.open(study_dir, NAME)
    before.study_run({})
    before.start_run("a", **start())
    before.finish_run("a", record())
    moved = study_dir.rename(study_dir.with_name("moved"))
    after = Tracker.open(moved, NAME)
    assert after.reconcile({"a": (start(), record())}) == ["a"]
    view = View(after)
    assert view.run("a").info.artifact_uri.startswith((moved / "mlartifacts").as_uri())
    assert "record.json" in view.artifacts("a")
    assert (moved / "mlflow-old-1.db").exists()
    assert not study_dir.exists()


def test_a_database_whose_set_up_was_cut_short_is_set_aside(study_dir: Path) -> None:
    (study_dir / "mlflow.db").write_bytes(b"")
    Tracker.open(study_dir, NAME)
    assert (study_dir / "mlflow-old-1.db").exists()


@pytest.mark.parametrize("content", [b"this is no database, though it is long enough to be taken for one" * 40])
def test_a_file_of_another_kind_is_left_alone(study_dir: Path, content: bytes) -> None:
    (study_dir / "mlflow.db").write_bytes(content)
    with pytest.raises(ConfigError, match=r"mlflow\.db: sqlite cannot write"):
        Tracker.open(study_dir, NAME)
    assert (study_dir / "mlflow.db").read_bytes() == content


@pytest.mark.parametrize("name", ["100%41", "what?"])
def test_a_folder_that_an_sqlite_address_cannot_hold_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="--tracking-uri"):
        Tracker.open(tmp_path / name, NAME)


def test_a_database_of_ones_own_that_cannot_be_opened_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such folder/x\.db"):
        Tracker.open(tmp_path, NAME, f"sqlite:///{tmp_path}/no such folder/x.db")


def test_mlflows_file_store_is_refused_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--tracking-uri 'file:.*'"):
        Tracker.open(tmp_path, NAME, (tmp_path / "mlruns").as_uri())


def test_an_unreachable_server_is_an_error_that_names_it_and_the_remedy(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConfigError, match=rf"'http://127\.0\.0\.1:{port}': no MLflow server answers.*mlflow server"):
        Tracker.open(tmp_path, NAME, f"http://127.0.0.1:{port}")
    assert not (tmp_path / "mlflow.db").exists()


def test_a_server_that_accepts_and_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        reason = unreachable(f"http://127.0.0.1:{server.getsockname()[1]}", timeout=0.2)
    assert reason is not None
    assert "imeout" in reason


def test_something_else_that_answers_there_is_an_error(tmp_path: Path) -> None:
    def answer() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\nConnection: close\r\n\r\nno way!")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(ConfigError, match="403"):
            Tracker.open(tmp_path, NAME, f"http://127.0.0.1:{server.getsockname()[1]}")


def test_the_bounds_keep_what_the_user_set_and_are_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    before = dict(os.environ)
    with bounded_requests():
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
        assert int(os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]) < 7
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("given", "disabled"),
    [({}, True), ({"MLFLOW_DISABLE_TELEMETRY": "false"}, False), ({"DO_NOT_TRACK": "false"}, False)],
)
def test_telemetry_is_off_unless_turned_on(given: dict[str, str], disabled: bool) -> None:
    # Without MLflow itself (a stub), since its import takes seconds and only the environment is asked here.
    code = (
        "import os, sys, types\n"
        "sys.modules['divfeat.tracking.tracker'] = types.SimpleNamespace(Tracker=None)\n"
        "import divfeat.tracking\n"
        "print(os.environ.get('MLFLOW_DISABLE_TELEMETRY') == 'true', 'mlflow' in sys.modules)"
    )
    env = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")} | given
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert out.split() == [str(disabled), "False"]
