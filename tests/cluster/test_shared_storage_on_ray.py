"""A whole study whose storage is an S3 server: killed in the middle of its search, its machine lost, gone on with elsewhere."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from divfeat.files import read_json
from divfeat.storage import Store, open_store
from tests.cluster.conftest import Command, environment
from tests.servers import free_port, make_bucket, s3_server, s3_variables

pytestmark = pytest.mark.slow

WORDS = [
    "--smoke-test", "--max-concurrent", "1", "--trials", "3", "--set", "search.releases=[gate]", "--set",
    "protocol.baselines=[ce_etf]", "--set", "execution.cpus_per_worker=0.5",
]  # fmt: skip


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of a user whose S3 is a server on this machine."""
    with s3_server(tmp_path_factory.mktemp("s3"), free_port()) as endpoint:
        yield s3_variables(endpoint)


def store_of(variables: dict[str, str], uri: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return open_store(uri, patience=30.0)


def test_a_study_goes_on_from_its_storage_alone(
    s3: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"s3://{make_bucket(s3['AWS_ENDPOINT_URL'])}/studies"
    store = store_of(s3, uri, monkeypatch).inside("far")
    command = Command(None, environment() | s3)
    words = [*WORDS, "--name", "far", "--storage-path", uri]
    one, two, whole = (tmp_path / name for name in ("one", "two", "whole"))
    for folder in (one, two, whole):
        folder.mkdir()
    try:
        process = command.start(one, *words)
        deadline = time.monotonic() + 400
        while _recorded(store) < 4:
            if process.poll() is not None:
                pytest.fail(process.communicate()[0])
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
        command.close()
        process.wait()
        before = {key: store.read(key) for key in store.list("runs") if key.endswith("/record.json")}
        shutil.rmtree(one)

        output = command.run(two, *words)
        assert "Traceback" not in output
        for key, record in before.items():
            assert store.read(key) == record  # nothing was run twice
        assert (two / "runs" / "far" / "optuna.db").exists()
        there = store.list()
        assert {"optuna.db", "mlflow.db", "report/report.md", "phases/done.json", "execution.json"} <= set(there)
        assert not [key for key in there if key.startswith(("stages/", "tune/", "driver"))]
        secret = s3["AWS_SECRET_ACCESS_KEY"].encode()
        assert not [key for key in there if secret in (store.read(key) or b"")]
        assert not [path for path in two.rglob("*") if path.is_file() and secret in path.read_bytes()]

        Command(None, environment()).run(whole, *WORDS, "--name", "far", "--storage-path", str(whole))
    finally:
        command.close()
    here, there_folder = whole / "far", two / "runs" / "far"
    assert _facts(there_folder) == _facts(here)
    assert (
        read_json(there_folder / "phases" / "winner.json")["winner"]
        == read_json(here / "phases" / "winner.json")["winner"]
    )


def _recorded(store: Store) -> int:
    return sum(key.endswith("/record.json") for key in store.list("runs"))


def _facts(study: Path) -> dict[str, tuple[str, dict[str, float]]]:
    """Key of each run -> how it ended, and its metrics: all but clocks."""
    found = {path.parent.name: read_json(path) for path in study.glob("runs/*/record.json")}
    return {key: (record["status"], record["metrics"]) for key, record in found.items()}
