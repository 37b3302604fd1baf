"""A trial on scratch beside shared storage: what it leaves there, and what a node that is lost with it takes away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from divfeat.cluster.place import Outside, Scratch, placed
from divfeat.cluster.trial import TrialSpec, run_spec
from divfeat.config import MethodConfig
from divfeat.data.prepare import prepare
from divfeat.files import read_lines
from divfeat.search.jobs import experiment
from divfeat.stages import checkpoint, stage_key
from divfeat.storage import Store
from tests.search.samples import make_study
from tests.storage.conftest import FEW, uri_of

ROOT = Path(__file__).resolve().parents[2]
STUDY = make_study(
    data={"train_size": 100, "val_per_class": 5}, train={"epochs": 6, "batch_size": 50}, probe={"strengths": [1e-3]}
)
CONFIG = experiment(STUDY, MethodConfig(name="ce"), 0)
#: What two runs of one training do not share.
CLOCKS = ("finished", "provenance", "history")


@pytest.fixture(params=FEW)
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return uri_of(request.param, request, tmp_path)


@pytest.fixture(scope="module")
def data():
    return prepare(STUDY.data, "search")


@pytest.fixture(autouse=True)
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scratch of this node, which is empty again after every trial."""
    folder = tmp_path / "node"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def spec_of(store: Store, **options) -> TrialSpec:
    address = store.inside("mine").address
    return TrialSpec(CONFIG.key, CONFIG.to_dict(), f"runs/{CONFIG.key}", "stages", address, **options)


def undisturbed(tmp_path: Path, data) -> dict:
    folder = tmp_path / "plain" / "runs" / CONFIG.key
    run_spec(
        TrialSpec(CONFIG.key, CONFIG.to_dict(), str(folder), str(tmp_path / "plain" / "stages")),
        data,
        lambda word: None,
    )
    return json.loads((folder / "record.json").read_text())


def results(record: dict) -> dict:
    curve = [{name: value for name, value in row.items() if name != "time"} for row in record["history"]]
    return {name: value for name, value in record.items() if name not in CLOCKS} | {"curve": curve}


def test_a_trial_leaves_in_the_store_what_it_would_leave_in_a_folder(
    store: Store, tmp_path: Path, data, node: Path
) -> None:
    heard: list[dict] = []
    run_spec(spec_of(store, keep=True), data, heard.append)
    run = store.inside("mine").inside(f"runs/{CONFIG.key}")
    assert list(run.list()) == [
        "correct.npz", "events.jsonl", "extractor/config.json", "extractor/weights.pt", "record.json",
    ]  # fmt: skip
    record = json.loads(run.read("record.json") or b"")
    assert results(record) == results(undisturbed(tmp_path, data))
    assert heard[-1]["done"]
    assert store.list("mine/stages") == {}
    assert list(node.glob("divfeat*")) == []
    again: list[dict] = []
    run_spec(spec_of(store), data, again.append)  # asked once more: nothing is trained
    assert again == [{"key": CONFIG.key, "events": [], "done": True}]
    outside = Outside(f"runs/{CONFIG.key}", store.inside("mine").address)
    assert outside.recorded() and outside.epochs() == 6 and outside.said() > 0
    outside.note_fault("node", "gone")
    outside.note_fault("node", "again")
    assert run.get("faults.jsonl", tmp_path / "faults.jsonl") is not None
    assert [row["cause"] for row in read_lines(tmp_path / "faults.jsonl")] == ["gone", "again"]


TRIAL = """
import sys, time
from divfeat.cluster.trial import TrialSpec, run_spec
from divfeat.cluster import trial
from divfeat.data.prepare import prepare
from divfeat.config import ExperimentConfig
trial.REPORT_SECONDS = 0.0
spec = TrialSpec.from_json(sys.argv[1])
def said(word):
    for event in word["events"]:
        print(event["epoch"], flush=True)
    time.sleep(float(sys.argv[2]))
config = ExperimentConfig.model_validate(spec.experiment)
run_spec(spec, prepare(config.data, "search"), said)
"""


@pytest.mark.slow
def test_a_node_that_is_lost_costs_the_epochs_since_the_last_checkpoint(
    store: Store, tmp_path: Path, data, node: Path
) -> None:
    spec = spec_of(store, checkpoint_seconds=0.0)
    (tmp_path / "lost node").mkdir()
    worker = subprocess.Popen(
        [sys.executable, "-c", TRIAL, spec.to_json(), "0.5"],
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ, PYTHONPATH=str(ROOT), TMPDIR=str(tmp_path / "lost node")),
    )
    assert worker.stdout is not None
    while worker.stdout.readline().strip() != "2":
        assert worker.poll() is None
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    mine = store.inside("mine")
    assert mine.stat(f"stages/{stage_key(CONFIG)}/checkpoint.pt") is not None
    assert mine.stat(f"runs/{CONFIG.key}/record.json") is None
    with placed(spec.folder, spec.stages, spec.store, CONFIG) as place:
        assert [row["epoch"] for row in read_lines(place.folder / "events.jsonl")] == [0, 1, 2]
        assert checkpoint(place.stages, stage_key(CONFIG)).exists()
    heard: list[dict] = []
    run_spec(replace(spec, checkpoint_seconds=30.0), data, heard.append)
    told = [event["epoch"] for word in heard for event in word["events"]]
    assert told[0] >= 2 and told[-1] == 5  # nothing before the last checkpoint was trained again
    record = json.loads(mine.read(f"runs/{CONFIG.key}/record.json") or b"")
    assert results(record) == results(undisturbed(tmp_path, data))
    assert list(node.glob("divfeat*")) == []
    found = mine.get(f"runs/{CONFIG.key}/correct.npz", tmp_path / "correct.npz")
    assert found is not None and np.load(tmp_path / "correct.npz")["fine"].dtype == np.int64


def test_a_trial_that_fails_says_so_in_the_store(store: Store, data) -> None:
    config = CONFIG.model_copy(update={"train": CONFIG.train.model_copy(update={"lr": 1e30})})
    spec = replace(spec_of(store), key=config.key, experiment=config.to_dict(), folder=f"runs/{config.key}")
    run_spec(spec, data, lambda word: None)
    record = json.loads(store.read(f"mine/runs/{config.key}/record.json") or b"")
    assert (record["status"], record["error_kind"]) == ("failed", "nan")
    assert store.list("mine/stages") == {}


def test_the_driver_s_word_on_a_trial_stands(store: Store, data) -> None:
    """It was ended while it ran on for a moment: the record that is there first stays."""

    def said(word: dict) -> None:
        store.write(f"mine/runs/{CONFIG.key}/record.json", b'{"status": "pruned"}')

    run_spec(spec_of(store, rungs=(1,)), data, said)
    assert store.read(f"mine/runs/{CONFIG.key}/record.json") == b'{"status": "pruned"}'


def test_workers_whose_word_comes_seldom_are_seen_from_outside_to_get_on(
    store: Store, data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Word over workers comes by epochs; whether they hang is judged by what the store has of the event log."""
    monkeypatch.setattr("divfeat.cluster.trial.REPORT_SECONDS", 0.0)
    outside = Outside(f"runs/{CONFIG.key}", store.inside("mine").address)
    seen: list[int] = []

    class Watched(Scratch):
        def told(self) -> None:
            super().told()
            seen.append(outside.said())

    monkeypatch.setattr("divfeat.cluster.place.Scratch", Watched)
    run_spec(spec_of(store), data, lambda word: None, every_epochs=100)
    assert len(set(seen)) >= 6 and seen == sorted(seen)
