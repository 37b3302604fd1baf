"""One real study, small and finished, on a real `mlflow server`, and a browser to read it in.

Without Chromium the tests skip on a developer's machine and fail in CI, which installs it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from divfeat.search.ledger import Ledger
from divfeat.tracking.page import Place
from tests.servers import free_port, mlflow_server

ROOT = Path(__file__).parents[2]
#: Two thresholds, trials pruned by halving, a verdict over five seeds; then two objectives, for the Pareto front.
STUDIES = {
    "tour": (
        "--preset=digits-lt",
        "--trials=12",
        "--set=search.asha={first_rung: 1, reduction: 2}",
        "--set=protocol.baselines=[ce, ce_etf]",
        "--set=train.epochs=4",
        "--set=train.warmup_epochs=0",
    ),
    "front": (
        "--preset=digits",
        "--trials=5",
        "--set=search.objectives=[fine_probe, numerical_rank]",
        "--set=search.releases=[gate]",
        "--set=protocol.baselines=[ce_etf]",
        "--set=protocol.grid_points=0",
        "--set=train.epochs=2",
        "--set=train.warmup_epochs=0",
        "--set=protocol.confirm_seeds=2",
    ),
}
SMALL = (
    "--max-concurrent=2",
    "--set=protocol.learning_rates=[]",
    "--set=protocol.select_top=1",
    "--set=protocol.select_seeds=2",
    "--set=probe.strengths=[0.01, 0.1]",
    "--set=protocol.confirm_seeds=5",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@dataclass(frozen=True)
class Finished:
    """A finished study and where it is shown."""

    name: str
    folder: Path
    uri: str

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.folder)

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri, registry_uri=self.uri)

    @property
    def experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.name)
        assert found is not None
        return found.experiment_id

    def runs(self, search: str = "", order: str = "attributes.start_time DESC") -> list[Run]:
        """What MLflow's own search finds."""
        return list(self.client.search_runs([self.experiment], search, max_results=1000, order_by=[order]))

    @property
    def parent(self) -> str:
        (run,) = self.runs("tags.role = 'study'")
        return run.info.run_id

    @property
    def place(self) -> Place:
        return Place(self.experiment, self.parent)

    @property
    def storage(self) -> str:
        return f"sqlite:///{self.folder / 'optuna.db'}"

    def table(self, view: str, *, charts: bool = False) -> str:
        """Address of the table of runs, or of the charts, in a saved view."""
        return f"{self.uri}/{self.place.view(view, charts=charts)}"

    def page(self, below: str = "") -> str:
        """Address of the study's run, or of one of its files."""
        return f"{self.uri}/{self.place.artifact(below) if below else self.place.study}"


def finish(name: str, storage: Path, uri: str) -> Finished:
    """Run one of the studies to its end."""
    command = [sys.executable, str(ROOT / "studies" / "tau_search.py"), *SMALL, *STUDIES[name], "--name", name]
    command += ["--storage-path", str(storage), "--tracking-uri", uri]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return Finished(name, storage / name, uri)


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    """Chromium; a test asks for it first, so that nothing is trained where there is none."""
    playwright = "playwright is not installed: pip install -e '.[test]'"
    try:
        from tests.ui.browser import chromium, executable
    except ImportError:
        if os.environ.get("CI"):
            raise
        pytest.skip(playwright)
    if executable() is None:
        reason = "chromium is not on PATH: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser) -> Iterator[object]:
    from tests.ui.browser import new_page

    found = new_page(browser)
    yield found
    found.context.close()


@pytest.fixture(scope="session")
def server(browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow"), free_port()) as uri:
        yield uri


@pytest.fixture(scope="session")
def tour(server: str, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish("tour", tmp_path_factory.mktemp("studies"), server)


@pytest.fixture(scope="session")
def front(server: str, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish("front", tmp_path_factory.mktemp("studies"), server)
