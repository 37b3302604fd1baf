"""Whole studies on a real local Ray: the command, its resume after kill -9, signals, two workers a trial, bad capacity."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import optuna
import pytest

from divfeat.files import read_json, read_lines
from tests.cluster.conftest import Command, records, wait_for_records
from tests.servers import free_port

pytestmark = pytest.mark.slow

#: Small but whole: every phase runs.
TINY = [
    "--set", "train.epochs=2", "--set", "protocol.learning_rates=[0.05, 0.1]", "--set", "protocol.select_top=1",
    "--set", "protocol.select_seeds=2", "--set", "protocol.grid_points=8", "--set", "protocol.confirm_seeds=5",
    "--set", "probe.strengths=[0.01, 0.1]", "--trials", "4",
]  # fmt: skip


def mlflow_runs(study: Path) -> list:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{study / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string=f"name = '{study.name}'")
    return client.search_runs([experiment.experiment_id], max_results=1000)


@pytest.fixture(scope="module")
def killed_and_resumed(
    on_cluster: Command, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str, dict[str, float]]:
    """The tiny study, killed with -9 in search, selection, grid and confirmation, each time resumed by the same line; when
    each record was written."""
    storage = tmp_path_factory.mktemp("studies")
    study = storage / "killed"
    interrupted: list[set[str]] = []
    for wanted in (6, 12, 22, 38):
        process = on_cluster.start(storage, *TINY, "--name", "killed")
        wait_for_records(study, wanted, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        interrupted.append({start["phase"] for start in _unfinished(study)} or {"between"})
    assert len(set.union(*interrupted) & {"search", "select", "grid", "confirm"}) >= 3, interrupted
    before = {key: (study / "runs" / key / "record.json").stat().st_mtime for key in records(study)}
    return study, on_cluster.run(storage, *TINY, "--name", "killed"), before


def _unfinished(study: Path) -> list[dict]:
    """What had been started when the driver died."""
    found = records(study)
    return [read_json(path) for path in study.glob("runs/*/start.json") if path.parent.name not in found]


def test_the_same_line_resumes_and_runs_nothing_twice(killed_and_resumed) -> None:
    study, output, before = killed_and_resumed
    for key, written in before.items():
        assert (study / "runs" / key / "record.json").stat().st_mtime == written
    assert all(record["status"] in ("completed", "failed") for record in records(study).values())
    assert {path.parent.name for path in study.glob("runs/*/start.json")} == set(records(study))
    assert "Traceback" not in output


def test_optuna_agrees_with_the_ledger_and_leaves_none_running(killed_and_resumed) -> None:
    study, *_ = killed_and_resumed
    found = optuna.load_study(study_name="killed", storage=f"sqlite:///{study / 'optuna.db'}")
    proposals = [read_json(path) for path in sorted(study.glob("proposals/*.json"))]
    assert len(proposals) == 4
    for proposal in proposals:
        trial = found.trials[proposal["number"]]
        record = records(study)[proposal["key"]]
        assert trial.params == proposal["params"]
        if record["status"] == "completed":
            assert trial.values == [record["metrics"]["probe/fine_top1"]]
        else:
            assert trial.state == optuna.trial.TrialState.FAIL
    # What was enqueued and not reached is waiting for a larger --trials; nothing is running.
    waiting = optuna.trial.TrialState.WAITING
    assert all(trial.state.is_finished() or trial.state == waiting for trial in found.trials)


def test_mlflow_has_every_run_once(killed_and_resumed) -> None:
    study, *_ = killed_and_resumed
    runs = mlflow_runs(study)
    keys = [run.data.tags["trial_key"] for run in runs if "trial_key" in run.data.tags]
    assert sorted(keys) == sorted(records(study))
    parents = [run for run in runs if run.data.tags.get("divfeat.role") == "study"]
    assert len(parents) == 1
    assert parents[0].info.status == "FINISHED"
    for run in runs:
        if "trial_key" in run.data.tags:
            status = records(study)[run.data.tags["trial_key"]]["status"]
            assert run.info.status == {"completed": "FINISHED", "failed": "FAILED"}[status]


def test_test_set_is_read_for_confirmations_only(killed_and_resumed) -> None:
    study, *_ = killed_and_resumed
    confirmed = {key for key, record in records(study).items() if record["config"]["role"] == "confirm"}
    assert {row["key"] for row in read_lines(study / "test_reads.jsonl")} == confirmed
    for key, record in records(study).items():
        names = record["metrics"]
        assert any(name.startswith("test/") for name in names) == (key in confirmed and record["status"] == "completed")


def test_a_finished_study_prints_its_verdict_again_without_running(killed_and_resumed, on_cluster: Command) -> None:
    study, *_ = killed_and_resumed
    before = {path: path.stat().st_mtime for path in study.glob("runs/*/record.json")}
    verdict = read_json(study / "report" / "verdict.json")["verdict"]
    output = on_cluster.run(study.parent, *TINY, "--name", "killed")
    assert " ".join(verdict.split()) in " ".join(output.split())
    assert before == {path: path.stat().st_mtime for path in study.glob("runs/*/record.json")}


def test_the_registered_extractor_loads_in_two_lines_and_is_bit_equal(killed_and_resumed, tmp_path: Path) -> None:
    study, *_ = killed_and_resumed
    registered = read_json(study / "phases" / "registered.json")
    script = f"""
import json, mlflow, numpy as np, torch
torch.set_num_threads(1)
mlflow.set_tracking_uri("sqlite:///{study / "mlflow.db"}")
from divfeat.data.sources import load_source
images = load_source("digits", split="train").images[:64]
model = mlflow.pyfunc.load_model("models:/killed/1")
features = model.predict(images)
from divfeat.models import FeatureExtractor
folder = "{study / "runs" / registered["key"] / "extractor"}"
extractor = FeatureExtractor.from_config(json.load(open(folder + "/config.json")))
extractor.load_state_dict(torch.load(folder + "/weights.pt", weights_only=True))
with torch.inference_mode():
    expected = extractor.eval()(torch.tensor(images)).after.numpy()
assert np.array_equal(np.asarray(features), expected), abs(np.asarray(features) - expected).max()
print("bit-equal", features.shape)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "bit-equal" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_more_trials_extend_the_search(killed_and_resumed, on_cluster: Command) -> None:
    study, *_ = killed_and_resumed
    old = set(records(study))
    words = [word if word != "4" else "5" for word in TINY]
    on_cluster.run(study.parent, *words, "--name", "killed")
    assert old <= set(records(study))
    assert len(list(study.glob("proposals/*.json"))) == 5


def test_sigterm_saves_and_says_how_to_go_on(on_cluster: Command, tmp_path: Path) -> None:
    process = on_cluster.start(tmp_path, *TINY, "--name", "stopped")
    wait_for_records(tmp_path / "stopped", 1, process)
    os.kill(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output
    assert "--name stopped" in output
    assert "Traceback" not in output
    assert {run.info.status for run in mlflow_runs(tmp_path / "stopped")} <= {"FINISHED", "FAILED", "KILLED"}


def test_time_budget_ends_with_its_own_code(on_cluster: Command, tmp_path: Path) -> None:
    output = on_cluster.run(tmp_path, *TINY, "--name", "short", "--time-budget", "15", code=4)
    assert "time budget" in output


def test_more_concurrency_than_fits_is_told(on_cluster: Command, tmp_path: Path) -> None:
    output = on_cluster.run(tmp_path, *TINY, "--max-concurrent", "500", code=1)
    assert "at most" in output
    assert "--max-concurrent 500" in output
    assert list(tmp_path.iterdir()) == []


def test_a_trial_too_large_for_the_machine_is_told(on_cluster: Command, tmp_path: Path) -> None:
    output = on_cluster.run(tmp_path, *TINY, "--workers-per-trial", "300", code=1)
    assert "no trial fits" in output
    assert list(tmp_path.iterdir()) == []


def test_nan_trials_fail_alone(on_cluster: Command, tmp_path: Path) -> None:
    """A learning rate that diverges fails the trials of one calibration row; the study ends with a verdict."""
    words = ["--smoke-test", "--trials", "1", "--name", "nan", "--set", "protocol.learning_rates=[0.05, 100000000.0]"]
    words += ["--set", "protocol.baselines=[ce_etf]"]
    on_cluster.run(tmp_path, *words)
    failed = [record for record in records(tmp_path / "nan").values() if record["status"] == "failed"]
    assert failed
    assert {record["error_kind"] for record in failed} == {"nan"}
    assert read_json(tmp_path / "nan" / "phases" / "calibrate.json")["lr"] == 0.05


def test_two_workers_a_trial_give_the_result_of_one(on_cluster: Command, tmp_path: Path) -> None:
    """Trials through Ray Train on two gloo workers, until there are some; their curves agree with those of one worker."""
    tiny = ["--smoke-test", "--trials", "1", "--set", "protocol.baselines=[ce_etf]", "--set", "search.releases=[gate]"]
    on_cluster.run(tmp_path, *tiny, "--name", "one")
    spanning = ["--workers-per-trial", "2", "--set", "execution.cpus_per_worker=0.5"]
    process = on_cluster.start(tmp_path, *tiny, "--name", "two", *spanning)
    wait_for_records(tmp_path / "two", 3, process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output
    one, two = records(tmp_path / "one"), records(tmp_path / "two")
    assert len(two) >= 3 and two.keys() <= one.keys()
    for key, record in two.items():
        assert record["status"] == one[key]["status"] == "completed"
        assert record["provenance"]["workers"] == 2
        for here, there in zip(one[key]["history"], record["history"], strict=True):
            assert there["train/loss"] == pytest.approx(here["train/loss"], rel=2e-3)


def test_dry_run_writes_nothing(alone: Command, tmp_path: Path) -> None:
    output = alone.run(tmp_path, "--dry-run")
    for word in ("confirm", "standard deviations", "MiB", "about"):
        assert word in output
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_and_the_same_line_again_on_its_own_ray(alone: Command, tmp_path: Path) -> None:
    """As a person does it: the terminal sends Ctrl-C to the command and to every process that Ray started for it."""
    words = ["--smoke-test", "--preset", "digits-lt", "--name", "mine", "--set", "protocol.baselines=[ce_etf]"]
    process = alone.start(tmp_path, *words)
    wait_for_records(tmp_path / "mine", 2, process)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "--name mine" in output and "Traceback" not in output
    assert {run.info.status for run in mlflow_runs(tmp_path / "mine")} <= {"FINISHED", "FAILED", "KILLED"}
    done = {
        key: (tmp_path / "mine" / "runs" / key / "record.json").stat().st_mtime for key in records(tmp_path / "mine")
    }
    assert all(record["status"] == "completed" for record in records(tmp_path / "mine").values())
    output = alone.run(tmp_path, *words)
    assert "no verdict" in output  # two seeds are too few for one
    for key, written in done.items():
        assert (tmp_path / "mine" / "runs" / key / "record.json").stat().st_mtime == written
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_optuna_dashboard_serves_the_study(killed_and_resumed) -> None:
    """The real dashboard, over HTTP, lists the study and its trials."""
    study, *_ = killed_and_resumed
    port = free_port()
    url = f"sqlite:///{study / 'optuna.db'}"
    program = Path(sys.executable).with_name("optuna-dashboard")
    server = subprocess.Popen(
        [str(program), url, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        listed = _get_json(f"http://127.0.0.1:{port}/api/studies")
        assert [row["study_name"] for row in listed["study_summaries"]] == ["killed"]
        number = listed["study_summaries"][0]["study_id"]
        shown = _get_json(f"http://127.0.0.1:{port}/api/studies/{number}?after=0")
        states = {trial["number"]: trial["state"] for trial in shown["trials"]}
        assert set(states.values()) <= {"Complete", "Fail", "Waiting"}
        assert sum(state == "Complete" for state in states.values()) >= 1
    finally:
        server.terminate()
        server.wait(20)


def _get_json(url: str, timeout: float = 60) -> dict:
    deadline = time.monotonic() + timeout
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return json.load(answer)
        except OSError:
            assert time.monotonic() < deadline, url
            time.sleep(0.3)
