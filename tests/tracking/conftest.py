"""A study's folder with a database set up once (seconds), and a view of what MLflow holds that asks MLflow alone."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from divfeat.tracking import Tracker
from divfeat.tracking import tracker as tracker_module

NAME = "digits-1a2b"


@pytest.fixture(scope="session")
def fresh_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What MLflow makes of an absent file: taken from the first study opened, before anything is in it."""
    folder = tmp_path_factory.mktemp("fresh")
    MlflowClient(f"sqlite:///{folder}/mlflow.db")
    return folder / "mlflow.db"


@pytest.fixture(autouse=True)
def unbuffered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call is written at once, so that a test sees what it did."""
    monkeypatch.setattr(tracker_module, "FLUSH_SECONDS", 0.0)


@pytest.fixture
def study_dir(tmp_path: Path, fresh_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study's folder; the test fails if anything is written to the working directory."""
    folder, cwd = tmp_path / "my study", tmp_path / "cwd"
    folder.mkdir()
    cwd.mkdir()
    shutil.copy(fresh_database, folder / "mlflow.db")
    monkeypatch.chdir(cwd)
    yield folder
    assert list(cwd.iterdir()) == []


def events(epochs: range, offset: float = 0.0) -> list[dict[str, Any]]:
    return [
        {"epoch": e, "time": 1_700_000_000_000 + 1000 * e, "metrics": {"train/loss": 1 / (e + 1) + offset, "lr": 0.1}}
        for e in epochs
    ]


def start(seed: int = 0, **changes: Any) -> dict[str, Any]:
    return {"phase": "search", "seed": seed, "name": f"trial {seed}", "params": {"tau": {"plus": 0.5}}, **changes}


def record(status: str = "completed", epochs: int = 3, **changes: Any) -> dict[str, Any]:
    return {
        "status": status,
        "metrics": {"val/accuracy": 0.75, "train/loss": 1 / epochs},
        "config": {"optim": {"lr": 0.1}, "tau": [0.1] * 100},
        "history": events(range(epochs)),
        "error": None,
        **changes,
    }


class View:
    """What MLflow holds of a study, by a client of its own."""

    def __init__(self, tracker: Tracker) -> None:
        self.client = MlflowClient(tracker.uri, registry_uri=tracker.uri)
        experiment = self.client.get_experiment_by_name(NAME)
        self.runs: list[Run] = list(self.client.search_runs([experiment.experiment_id]))
        self.by_key: Mapping[str, Run] = {run.data.tags.get("trial_key", "(study)"): run for run in self.runs}

    def run(self, key: str) -> Run:
        assert [run.data.tags.get("trial_key", "(study)") for run in self.runs].count(key) == 1
        return self.by_key[key]

    def history(self, key: str, metric: str) -> list[tuple[int, float]]:
        history = self.client.get_metric_history(self.run(key).info.run_id, metric)
        return sorted((point.step, point.value) for point in history)

    def points(self, key: str) -> Counter[tuple[str, int]]:
        """How many points there are of each (metric, step)."""
        run = self.run(key)
        histories = (self.client.get_metric_history(run.info.run_id, metric) for metric in run.data.metrics)
        return Counter((point.key, point.step) for history in histories for point in history)

    def artifacts(self, key: str, folder: str | None = None) -> set[str]:
        return {item.path for item in self.client.list_artifacts(self.run(key).info.run_id, folder)}

    def text(self, key: str, path: str, into: Path) -> str:
        into.mkdir(exist_ok=True)
        return Path(self.client.download_artifacts(self.run(key).info.run_id, path, str(into))).read_text()
