"""Trials over two nodes that keep all in an S3 store: a node comes and goes, and a worker hangs."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from divfeat.cluster.capacity import DRIVER_RESOURCE
from divfeat.cluster.executor import RayExecutor
from divfeat.cluster.trial import TrialSpec
from divfeat.config import ExperimentConfig, MethodConfig
from divfeat.data.prepare import PreparedData, prepare
from divfeat.experiment import run
from divfeat.files import read_lines
from divfeat.search.jobs import experiment
from divfeat.storage import Store, open_store
from tests.deploy.spanning_scene import One
from tests.search.samples import make_study
from tests.servers import free_port, make_bucket, s3_server, s3_variables

pytestmark = pytest.mark.slow

#: Until a process of Ray's has come up on a busy machine, or Ray has seen that one is gone.
SECONDS = 300.0


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Of a study, on an S3 server."""
    with s3_server(tmp_path / "s3", free_port()) as endpoint:
        for name, value in s3_variables(endpoint).items():
            monkeypatch.setenv(name, value)
        yield open_store(f"s3://{make_bucket(endpoint)}").inside("study")


@pytest.fixture
def cluster(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head that drives and trains nothing; its nodes have the variables of the store."""
    monkeypatch.setenv("RAY_health_check_period_ms", "1000")
    monkeypatch.setenv("RAY_health_check_failure_threshold", "5")
    head = {"num_cpus": 0, "resources": {DRIVER_RESOURCE: 1}, "include_dashboard": True, "dashboard_port": free_port()}
    made = Cluster(initialize_head=True, head_node_args=head)
    yield made
    ray.shutdown()
    made.shutdown()


class Run:
    """One trial on its way."""

    def __init__(
        self,
        store: Store,
        cluster: Cluster,
        folder: Path,
        epochs: int,
        workers: int = 2,
        fewest: int | None = None,
        **how: Any,
    ) -> None:
        study = make_study(
            data={"train_size": 500, "val_per_class": 5},
            # So slowly that rounding does not grow.
            train={"epochs": epochs, "batch_size": 100, "lr": 1e-4, "warmup_epochs": 0},
            probe={"strengths": [1e-3]},
        )
        trial = experiment(study, MethodConfig(name="ce"), 0)
        self.config: ExperimentConfig = trial
        self.data: PreparedData = prepare(study.data, "search")
        self.store, self.folder = store.inside(f"runs/{trial.key}"), folder
        words = {"workers": workers, "fewest": fewest}
        executor = RayExecutor(
            **words, cpus=1.0, gpus=0.0, address=cluster.address, storage=store, max_concurrent=1, **how
        )
        self.said: list[str] = []
        executor.wait(self.said.append, lambda: False)
        executor.share("search", self.data)
        place = (trial.key, trial.to_dict(), f"runs/{trial.key}", "stages", store.address)
        self.source, self.executor = One(TrialSpec(*place, **words, checkpoint_seconds=2.0)), executor
        self._thread = threading.Thread(target=executor.run, args=(self.source, "search"), daemon=True)
        self._thread.start()

    def _read(self, name: str) -> list[dict[str, Any]]:
        self.store.get(name, self.folder / name)
        return read_lines(self.folder / name)

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it noted; epochs after the last checkpoint are there again after a loss."""
        return self._read("events.jsonl")

    @property
    def faults(self) -> list[str]:
        return [row["kind"] for row in self._read("faults.jsonl")]

    def until(self, what: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + SECONDS
        while not (found := what()):
            assert self._thread.is_alive() and time.monotonic() < deadline, (len(self.events), self.faults)
            time.sleep(0.3)
        return found

    def gets_on(self, workers: int) -> None:
        """Wait until so many train, and then for two more epochs."""
        self.until(lambda: len(trainers()) == workers)
        before = len(self.events)
        self.until(lambda: len(self.events) > before + 1)
        assert len(trainers()) == workers

    def ended(self) -> None:
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()
        self.executor.close()

    def losses(self) -> dict[int, float]:
        return {row["epoch"]: row["train/loss"] for row in self.events}


def trainers() -> list[psutil.Process]:
    """Processes that train."""
    found = psutil.process_iter(["cmdline"])
    return [process for process in found if "RayTrainWorker" in (process.info["cmdline"] or [""])[0]]


def test_a_trial_takes_up_workers_with_the_nodes_that_come_and_go(
    store: Store, cluster: Cluster, tmp_path: Path
) -> None:
    cluster.add_node(num_cpus=1)
    trial = Run(store, cluster, tmp_path, epochs=100_000, fewest=1)
    trial.gets_on(1)
    second = cluster.add_node(num_cpus=1)
    trial.gets_on(2)
    assert trial.faults == []
    cluster.remove_node(second, allow_graceful=False)
    trial.gets_on(1)
    assert len(trial.faults) == 1
    trial.source.over = True
    trial.ended()
    losses = trial.losses()
    assert list(losses) == list(range(len(losses)))
    alone: dict[int, float] = {}

    class Enough(Exception):
        pass

    def heard(epoch: int, metrics: dict[str, float]) -> None:
        alone[epoch] = metrics["train/loss"]
        if epoch == len(losses) - 1:
            raise Enough

    with pytest.raises(Enough):
        run(trial.config, trial.data, heard)
    assert losses == pytest.approx(alone, rel=1e-3)
    assert alone[0] > 1.01 * alone[len(losses) - 1]


def test_a_trial_whose_only_node_goes_is_said_to_have_no_place_and_then_left(
    store: Store, cluster: Cluster, tmp_path: Path
) -> None:
    node = cluster.add_node(num_cpus=1)
    trial = Run(store, cluster, tmp_path, epochs=100_000, workers=1, wait_for_nodes=60.0)
    trial.until(lambda: len(trial.events) > 2)
    assert trial.said == []
    cluster.remove_node(node, allow_graceful=False)
    trial.ended()
    (why,) = trial.source.ends
    assert "no trial has had a place for" in why and "a trial takes 1 CPUs and 0 GPUs, the nodes have 0 CPUs" in why
    assert trial.said and all(line.startswith("no trial has a place, ") for line in trial.said)


def test_a_worker_that_hangs_is_found_by_what_the_store_has_of_it(
    store: Store, cluster: Cluster, tmp_path: Path
) -> None:
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    trial = Run(store, cluster, tmp_path, epochs=150, fewest=2, progress_timeout=15.0)
    trial.gets_on(2)
    os.kill(trainers()[-1].pid, signal.SIGSTOP)
    trial.until(lambda: trial.faults)
    trial.ended()
    assert trial.faults == ["hung"] and trial.source.ends == ["None"]
    assert sorted(trial.losses()) == list(range(150))
    assert trial.store.read("record.json") is not None
