"""A search whose trials pause at rungs and go on, on a real Ray, its driver killed with -9 between and the line given again."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from divfeat.files import read_json, read_lines
from divfeat.search.ledger import Ledger
from divfeat.search.status import StudyStatus, status
from tests.cluster.conftest import Command, records
from tests.cluster.test_study_on_ray import mlflow_runs

pytestmark = pytest.mark.slow

EPOCHS, RUNGS, TRIALS = 9, (1, 3), 12
LINE = [
    "--smoke-test", "--name", "promoted", "--trials", str(TRIALS), "--max-concurrent", "2", "--set", f"train.epochs={EPOCHS}",
    "--set", "search.asha={first_rung: 1, reduction: 3}", "--set", "search.promote=true", "--set", "train.batch_size=16",
    "--set", "protocol.baselines=[ce_etf]", "--set", "protocol.grid_points=0", "--set", "protocol.select_top=1",
    "--set", "probe.strengths=[1.0]",
]  # fmt: skip


@dataclass
class Promoted:
    """The study after its resume, and how it stood when its driver was killed."""

    folder: Path
    at_kill: StudyStatus
    in_mlflow: dict[str, tuple[str, str]]
    written: dict[str, float]

    @property
    def search(self) -> dict[str, dict]:
        """Records of the proposals by key."""
        found = records(self.folder)
        return {row["key"]: found[row["key"]] for row in Ledger(self.folder).proposals().values()}


def wait_until_some_wait_and_one_goes_on(folder: Path, process: subprocess.Popen[str]) -> None:
    """Three trials of the search wait at a rung, and one has been heard of beyond its first."""
    deadline = time.monotonic() + 400
    while True:
        logs = {path.parent.name: read_lines(path) for path in folder.glob("runs/*/events.jsonl")}
        waiting = {path.parent.name for path in folder.glob("runs/*/paused.json")}
        proposed = {read_json(path)["key"] for path in folder.glob("proposals/*.json")}
        beyond = {key for key in proposed - waiting - set(records(folder)) if len(logs.get(key, ())) > RUNGS[0] + 1}
        if len(waiting) >= 3 and beyond:
            return
        if process.poll() is not None:
            pytest.fail(process.communicate()[0])
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def promoted(on_cluster: Command, tmp_path_factory: pytest.TempPathFactory) -> Promoted:
    storage = tmp_path_factory.mktemp("studies")
    folder = storage / "promoted"
    process = on_cluster.start(storage, *LINE)
    wait_until_some_wait_and_one_goes_on(folder, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    at_kill = status(folder)
    tagged = [run for run in mlflow_runs(folder) if "trial_key" in run.data.tags]
    in_mlflow = {run.data.tags["trial_key"]: (run.info.status, run.data.tags["status"]) for run in tagged}
    written = {key: (folder / "runs" / key / "record.json").stat().st_mtime for key in records(folder)}
    on_cluster.run(storage, *LINE)
    return Promoted(folder, at_kill, in_mlflow, written)


def test_status_and_mlflow_told_who_waited_when_the_driver_died(promoted: Promoted) -> None:
    waiting = [one for one in promoted.at_kill.running if one.waits]
    assert len(waiting) >= 3 and {one.phase for one in waiting} == {"search"}
    assert all(one.epochs in RUNGS and not one.stalled for one in waiting)
    found = set(promoted.in_mlflow.values())  # MLflow is told in a thread: it may lack the last words
    assert ("SCHEDULED", "paused") in found
    assert all(ours == "paused" for mlflows, ours in found if mlflows == "SCHEDULED")


def test_no_trial_is_finished_twice(promoted: Promoted) -> None:
    for key, written in promoted.written.items():
        assert (promoted.folder / "runs" / key / "record.json").stat().st_mtime == written


def test_some_are_trained_to_the_end_and_the_rest_ends_at_a_rung(promoted: Promoted) -> None:
    found = promoted.search
    assert len(Ledger(promoted.folder).proposals()) == TRIALS
    completed = [record for record in found.values() if record["status"] == "completed"]
    assert completed and all(len(record["history"]) == EPOCHS for record in completed)
    rest = [record for record in found.values() if record["status"] != "completed"]
    assert len(rest) > len(completed)
    for record in rest:
        assert (record["status"], record["error_kind"]) == ("pruned", "pruned")
        assert len(record["history"]) in RUNGS
        assert record["error"] == f"stopped after {len(record['history'])} epochs"


def test_epochs_neither_overlap_nor_repeat_and_whoever_went_on_began_at_its_checkpoint(promoted: Promoted) -> None:
    taken_up = 0
    for key, record in promoted.search.items():
        assert [row["epoch"] for row in record["history"]] == list(range(len(record["history"])))
        told = [row["epoch"] for row in read_lines(promoted.folder / "runs" / key / "events.jsonl")]
        reached = 0  # the last rung whose checkpoint there is
        for before, after in itertools.pairwise(told):
            reached = max([reached, *(rung for rung in RUNGS if rung <= before + 1)])
            if after != before + 1:  # taken up: its last rung is measured again, and nothing before that trained again
                assert after == max(reached - 1, 0)
                taken_up += 1
    assert taken_up >= 1


def test_optuna_has_each_at_its_rung_and_none_running(promoted: Promoted) -> None:
    found = optuna.load_study(study_name="promoted", storage=f"sqlite:///{promoted.folder / 'optuna.db'}")
    assert all(trial.state.is_finished() or trial.state == TrialState.WAITING for trial in found.trials)
    for number, row in Ledger(promoted.folder).proposals().items():
        trial, record = found.trials[number], promoted.search[row["key"]]
        assert trial.state == (TrialState.COMPLETE if record["status"] == "completed" else TrialState.PRUNED)
        rungs = {row["epoch"] + 1: row["probe/fine_top1"] for row in record["history"] if "probe/fine_top1" in row}
        ends = {EPOCHS: record["metrics"]["probe/fine_top1"]} if record["status"] == "completed" else {}
        assert trial.intermediate_values == rungs | ends and set(rungs) <= set(RUNGS)


def test_mlflow_has_each_run_once_ended_with_each_epoch_once(promoted: Promoted) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{promoted.folder / 'mlflow.db'}")
    runs = [run for run in mlflow_runs(promoted.folder) if "trial_key" in run.data.tags]
    assert sorted(run.data.tags["trial_key"] for run in runs) == sorted(records(promoted.folder))
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}
    by_key = {run.data.tags["trial_key"]: run for run in runs}
    for key, record in promoted.search.items():
        run = by_key[key]
        assert run.data.tags["status"] == record["status"]
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")]
        assert sorted(steps) == list(range(len(record["history"])))
