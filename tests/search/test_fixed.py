"""Named methods at fixed settings over seeds, in processes of this machine, and the table of them."""

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from scipy import stats

from divfeat import experiment as experiments
from divfeat.cli.fixed_table import main
from divfeat.config import MethodConfig
from divfeat.errors import ConfigError
from divfeat.files import append_line, read_lines
from divfeat.report.fixed import TEXT, runs_of, write_fixed
from divfeat.search import fixed, protocol
from divfeat.search.fixed import ROWS, WorkerLostError, fixed_jobs, run_fixed
from divfeat.settings import make_configs

ROOT = Path(__file__).resolve().parents[2]
GATE = {"name": "hinge_ce", "release": "gate", "thresholds": {"family": "global", "angles": {"tau": 1.0}}}
METHODS = {"ce_etf": MethodConfig(name="ce_etf"), "gate": MethodConfig.model_validate(GATE)}


def study(**train):
    settings = {"train": {"epochs": 2, "warmup_epochs": 0} | train, "model": {"backbone": "digits_cnn"}}
    return make_configs("digits-lt", settings)[0]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Two methods on two seeds, at two processes."""
    folder, said = tmp_path_factory.mktemp("fixed"), []
    jobs = fixed_jobs(study(), METHODS, 2)
    assert run_fixed(jobs, folder, at_a_time=2, say=said.append)
    return jobs, folder, said


def test_a_run_is_that_of_a_confirmation_and_seeds_come_one_after_the_other():
    jobs = fixed_jobs(study(), METHODS, 3)
    assert [(job.name, job.experiment.seed) for job in jobs] == [
        (name, seed) for seed in protocol.confirm_seeds(study())[:3] for name in METHODS
    ]
    strengths = {protocol.method_key(METHODS["gate"]): {"strengths": 1.0, "strengths_before": 1.0}}
    expected = protocol.confirmation_experiments(study(), METHODS["gate"], strengths)
    assert [job.key for job in jobs if job.name == "gate"] == [config.key for config in expected[:3]]


def test_two_names_of_one_training_are_refused():
    none = GATE | {"thresholds": {"family": "global", "angles": {"tau": 0.0}}}
    with pytest.raises(ConfigError, match="'ce_etf' and 'none' are one training: leave one of them out"):
        fixed_jobs(study(), METHODS | {"none": MethodConfig.model_validate(none)}, 1)


def test_rows_are_what_an_experiment_gives(done):
    jobs, folder, said = done
    rows = {row["key"]: row for row in read_lines(folder / ROWS)}
    assert rows.keys() == {job.key for job in jobs} and len(read_lines(folder / ROWS)) == 4
    assert said[0] == "0 of 4 runs done" and said[-1].startswith("4 of 4 runs done: ")
    expected = experiments.run(jobs[1].experiment)
    assert rows[jobs[1].key]["name"] == "gate"
    for name in ("test/accuracy_balanced", "train/loss", "test/fine_top1"):
        assert rows[jobs[1].key]["metrics"][name] == pytest.approx(expected.metrics[name], abs=1e-6)


def test_what_has_a_row_is_not_run_again_and_a_torn_row_is(done, tmp_path):
    jobs, folder, _ = done
    lines = (folder / ROWS).read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / ROWS).write_text("".join(lines[:3]) + lines[3][:40], encoding="utf-8")
    said = []
    assert run_fixed(jobs, tmp_path, at_a_time=3, say=said.append)
    assert said[0] == "3 of 4 runs done" and len(said) == 2
    assert [row["key"] for row in read_lines(tmp_path / ROWS)[:3]] == [json.loads(line)["key"] for line in lines[:3]]
    again = read_lines(tmp_path / ROWS)[3]
    assert again["metrics"]["train/loss"] == json.loads(lines[3])["metrics"]["train/loss"]
    assert run_fixed(jobs, tmp_path, at_a_time=3, say=said.append) and said[2:] == ["4 of 4 runs done"]


def test_a_run_that_would_not_end_in_time_is_not_started_and_one_that_does_not_is_ended(tmp_path):
    jobs = fixed_jobs(study(epochs=100_000), METHODS, 1)
    began = time.monotonic()
    assert not run_fixed(jobs, tmp_path, at_a_time=1, stop_after=0.2, say=lambda line: None)
    assert time.monotonic() - began < 120 and not (tmp_path / ROWS).exists()
    assert not [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


class Scripted:
    """Stands for the processes: rounds of what ends, and when."""

    def __init__(self, count):
        self.idle, self.busy, self.given = list(range(count)), {}, []

    def give(self, job):
        self.busy[self.idle.pop(0)] = (job, 0.0)
        Scripted.started.append(job)

    def finished(self, timeout):
        ends = Scripted.rounds.pop(0)
        for pipe in list(self.busy)[: len(ends)]:
            job, _ = self.busy.pop(pipe)
            self.idle.append(pipe)
            Scripted.now += ends[0]
            yield job, {"status": "failed", "error": "", "provenance": {"seconds": 10.0}}, 10.0

    def end(self):
        pass


def test_beside_a_run_that_goes_on_none_is_started_that_would_not_end_in_time(tmp_path, monkeypatch):
    Scripted.started, Scripted.now, Scripted.rounds = [], 0.0, [[10.0], [1.0]]
    monkeypatch.setattr(fixed, "_Workers", Scripted)
    monkeypatch.setattr(fixed.time, "monotonic", lambda: Scripted.now)
    jobs = fixed_jobs(study(), METHODS, 2)
    assert not run_fixed(jobs, tmp_path, at_a_time=2, stop_after=15, say=lambda line: None)
    assert Scripted.started == jobs[:2]  # after 10 of 15 seconds a run of 10 would not end


def test_what_ended_beside_a_run_that_went_wrong_is_kept():
    """Both are ready in one look; the one that went wrong comes first."""
    workers, ends = fixed._Workers(0), [multiprocessing.Pipe() for _ in range(2)]
    for (ours, theirs), sent in zip(ends, (RuntimeError("no"), {"status": "completed"}), strict=True):
        workers.busy[ours] = (fixed_jobs(study(), METHODS, 1)[0], 0.0)
        theirs.send(sent)
    found = workers.finished(5.0)
    assert next(found)[1] == {"status": "completed"}
    with pytest.raises(RuntimeError, match="no"):
        next(found)
    assert workers.idle == [ends[1][0]] and not workers.busy


@pytest.mark.slow
def test_terminated_the_command_writes_its_table_and_ends_its_processes(done, tmp_path):
    (tmp_path / ROWS).write_bytes((done[1] / ROWS).read_bytes())
    line = ["--method", "ce_etf", "--set", "train.epochs=100000", "--out", str(tmp_path)]
    process = subprocess.Popen([sys.executable, "studies/fixed_table.py", *line], cwd=ROOT, stdout=subprocess.DEVNULL)
    parent = psutil.Process(process.pid)
    for _ in range(600):
        children = [child for child in parent.children() if "spawn_main" in " ".join(child.cmdline())]
        if children and children[0].cpu_times().user > 3:
            break
        time.sleep(0.1)
    process.terminate()
    assert process.wait(60) == 75
    assert not psutil.wait_procs(children, timeout=10)[1]
    assert "ce_etf" in (tmp_path / TEXT).read_text(encoding="utf-8").replace("\\", "")


def test_a_run_that_fails_has_a_row_and_the_others_go_on(tmp_path):
    jobs = fixed_jobs(study(lr=1e30), {"ce": MethodConfig(name="ce")}, 1) + fixed_jobs(
        study(), {"ce": MethodConfig(name="ce")}, 1
    )
    assert run_fixed(jobs, tmp_path, at_a_time=1, say=lambda line: None)
    failed, finished = read_lines(tmp_path / ROWS)
    assert failed["status"] == "failed" and failed["error_kind"] == "NonFiniteError" and "NaN" in failed["error"]
    assert finished["status"] == "completed"
    (runs,) = runs_of(jobs[:1], tmp_path)
    assert np.isnan(runs.points("test/accuracy")).all() and "failed" in runs.gaps[0]


def test_a_setting_that_cannot_work_is_no_row(tmp_path):
    bad = study().model_copy(update={"data": study().data.model_copy(update={"boundary": 1})})
    with pytest.raises(ConfigError, match="boundary"):
        run_fixed(fixed_jobs(bad, METHODS, 1), tmp_path, at_a_time=1, say=lambda line: None)
    assert not (tmp_path / ROWS).exists()


def test_a_killed_process_is_told_and_what_finished_is_kept(done, tmp_path):
    _, folder, _ = done
    append_line(tmp_path / ROWS, read_lines(folder / ROWS)[0])
    endless = fixed_jobs(study(epochs=100_000), METHODS, 1)

    def kill() -> None:
        while True:
            for child in psutil.Process().children():
                if "spawn_main" in " ".join(child.cmdline()):
                    os.kill(child.pid, signal.SIGKILL)
                    return
            time.sleep(0.05)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(WorkerLostError, match=r"'ce_etf', seed 2000, died without a word.*run fewer at a time"):
        run_fixed(endless, tmp_path, at_a_time=1, say=lambda line: None)
    killer.join()
    assert [row["key"] for row in read_lines(tmp_path / ROWS)] == [read_lines(folder / ROWS)[0]["key"]]


def test_the_table_has_means_spreads_and_paired_differences(done, tmp_path):
    jobs, folder, _ = done
    (tmp_path / ROWS).write_bytes((folder / ROWS).read_bytes())
    text = write_fixed(jobs, tmp_path, study(), reference="ce_etf", command="python it").replace("\\", "")
    assert (tmp_path / TEXT).read_text(encoding="utf-8").replace("\\", "") == text
    rows = {(row["name"], row["provenance"]["seed"]): row["metrics"] for row in read_lines(tmp_path / ROWS)}
    seeds = sorted({seed for _, seed in rows})
    ours, theirs = (
        np.array([100 * rows[name, seed]["test/accuracy_balanced"] for seed in seeds]) for name in ("gate", "ce_etf")
    )
    low, high = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    line = next(line for line in text.splitlines() if line.startswith("| gate |"))
    assert f"| {ours.mean():.2f} ± {ours.std(ddof=1):.2f} |" in line
    assert f"{(ours - theirs).mean():+.2f} [{low:+.2f}, {high:+.2f}]".replace("-", "−") in line
    found = json.loads((tmp_path / "fixed.json").read_text(encoding="utf-8"))
    assert found["methods"]["gate"]["minus_reference"]["verdict"] == "no verdict"  # of two seeds
    assert found["methods"]["ce_etf"]["minus_reference"] is None
    histories = [row["history"] for row in read_lines(tmp_path / ROWS) if row["name"] == "gate"]
    inside = [100 * max(epoch["train/inside_cone"] for epoch in history) for history in histories]
    held = found["methods"]["gate"]["held"]
    assert sorted(held["inside"]) == pytest.approx(sorted(inside)) and max(inside) > 0
    assert line.split("|")[-3].strip() == f"{np.mean(inside):.2f} ± {np.std(inside, ddof=1):.2f}"
    assert min(held["of the loss"]) >= 0 and held["of the loss"][0] != held["inside"][0]
    assert found["methods"]["ce_etf"]["held"] == {"inside": [None, None], "of the loss": [None, None]}
    (plain,) = [row for row in text.splitlines() if row.startswith("| ce_etf |")]
    assert plain.endswith("|  |  |")
    assert (
        "python it" in text
        and rows["gate", seeds[0]]["test/accuracy"] == found["methods"]["gate"]["scores"]["accuracy"][0] / 100
    )


def test_intervals_of_several_methods_hold_together(done, tmp_path):
    """Two comparisons share the 5 %; level and seeds as scipy has them."""
    methods = {**METHODS, "ce": MethodConfig(name="ce")}
    jobs, template, rng = fixed_jobs(study(), methods, 5), read_lines(done[1] / ROWS)[0], np.random.default_rng(0)
    scores = {name: rng.uniform(0.5, 0.9, 5) for name in methods}
    for job in jobs:
        score = scores[job.name][job.experiment.seed - 2000]
        metrics = template["metrics"] | {"test/accuracy_balanced": score, "test/accuracy": score}
        append_line(tmp_path / ROWS, template | {"name": job.name, "key": job.key, "metrics": metrics})
    write_fixed(jobs, tmp_path, study(), reference="ce_etf", command="python it")
    found = json.loads((tmp_path / "fixed.json").read_text(encoding="utf-8"))["methods"]
    for name in ("gate", "ce"):
        expected = stats.ttest_rel(100 * scores[name], 100 * scores["ce_etf"]).confidence_interval(1 - 0.05 / 2)
        gain = found[name]["minus_reference"]
        assert (gain["low"], gain["high"]) == pytest.approx(tuple(expected))


def test_probes_and_where_there_is_a_tree_mistakes_have_columns(done, tmp_path):
    jobs, folder, _ = done
    rows = read_lines(folder / ROWS)
    rng = np.random.default_rng(0)
    for row in rows:
        metrics = row["metrics"] | {
            "test/mistake_severity": 2 + rng.random(),
            "test/hierarchical_distance_20": rng.random(),
            "collapse/cophenetic": rng.random(),
        }
        append_line(tmp_path / ROWS, row | {"metrics": metrics})
    text = write_fixed(jobs, tmp_path, study(), reference="ce_etf", command="python it")
    made = [row["metrics"] for row in read_lines(tmp_path / ROWS) if row["name"] == "gate"]
    header, _, *lines = (line for line in text.splitlines() if line.startswith("|"))
    heads = [cell.strip() for cell in header.split("|")]
    cells = next(line for line in lines if line.startswith("| gate |")).split("|")
    for head, metric, scale, digits in (
        ("fine probe", "test/fine_top1", 100, 2),
        ("unseen probe", "test/unseen_top1", 100, 2),
        ("mistake severity", "test/mistake_severity", 1, 3),
        ("hierarchical distance at 20", "test/hierarchical_distance_20", 1, 3),
        ("tree correlation", "collapse/cophenetic", 1, 3),
    ):
        values = [scale * metrics[metric] for metrics in made]
        expected = f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"
        assert cells[heads.index(head)].strip() == expected
    assert "hierarchical distance at 5" not in heads  # nothing has it


@pytest.mark.parametrize(
    ("row", "said"), [("ce", "lies more than 2 points under"), ("x", "neither ce_no_projector nor ce was run")]
)
def test_a_recipe_whose_ce_falls_short_of_its_published_row_gets_no_verdict(done, tmp_path, row, said):
    jobs = [dataclasses.replace(job, name=row if job.name == "gate" else job.name) for job in done[0]]
    (tmp_path / ROWS).write_bytes((done[1] / ROWS).read_bytes())
    rules = study().protocol.model_copy(update={"published_ce": 99.9})
    weak = study().model_copy(update={"protocol": rules})
    text = write_fixed(jobs, tmp_path, weak, reference="ce_etf", command="python it").replace("\\", "")
    found = json.loads((tmp_path / "fixed.json").read_text(encoding="utf-8"))
    assert said in found["no_verdict"] and f"No verdict: {found['no_verdict']}." in text
    assert found["methods"][row]["minus_reference"]["verdict"] == "no verdict"
    assert found["methods"][row]["minus_reference"]["reason"] == found["no_verdict"]


def test_a_table_of_what_there_is_says_what_there_is_not(done, tmp_path):
    jobs, folder, _ = done
    for row in read_lines(folder / ROWS):
        if row["provenance"]["seed"] == 2000:
            append_line(tmp_path / ROWS, row)
    text = write_fixed(jobs, tmp_path, study(), reference="ce_etf", command="python it")
    assert "ce\\_etf, seed 2001: not run; gate, seed 2001: not run" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "ce_eft"], "unknown baseline 'ce_eft'. Did you mean 'ce_etf'?"),
        (["--method", "ce_etf", "--method", "ce_etf"], "--method ce_etf is given twice"),
        (["--method", "gate", "name=hinge_ce", "tau=1"], "--method gate: tau"),
        (["--method", "ce", "--reference", "ce_etf"], "--reference ce_etf is none of the rows ce"),
        (["--method", "ce", "--set", "data.boundary=1"], "boundary"),
        (["--method", "ldam", "margin=3", "name=ldam"], "margin=3"),
    ],
)
def test_bad_input_is_told_before_anything_is_written(tmp_path, capsys, words, message):
    place = tmp_path / "out"
    assert main([*words, "--out", str(place), "--set", "model.backbone=digits_cnn"]) == 1
    assert message in capsys.readouterr().err and not (place / ROWS).exists()


@pytest.mark.slow
def test_a_comparison_needs_neither_ray_nor_mlflow_nor_optuna(done, tmp_path):
    """As on a machine that has only PyTorch, pydantic and what reads images."""
    _, folder, _ = done
    (tmp_path / ROWS).write_bytes((folder / ROWS).read_bytes())
    code = (
        "import sys\nfor name in ('ray', 'mlflow', 'optuna'):\n    sys.modules[name] = None\n"
        "from divfeat.cli.fixed_table import main\n"
        f"sys.exit(main(['--method', 'ce_etf', '--seeds', '1', '--out', {str(tmp_path)!r}, '--set', 'train.epochs=2', "
        "'--set', 'train.warmup_epochs=0']))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "") and "1 of 1 runs done" in ended.stdout


def test_the_command_goes_on_and_ends_with_the_table(done, tmp_path, capsys):
    _, folder, _ = done
    (tmp_path / ROWS).write_bytes((folder / ROWS).read_bytes())
    sets = ["train.epochs=2", "train.warmup_epochs=0", "model.backbone=digits_cnn"]
    angles = "thresholds={family: global, angles: {tau: 1.0}}"
    line = [
        "--method",
        "ce_etf",
        "--method",
        "gate",
        "name=hinge_ce",
        "release=gate",
        angles,
        "--seeds",
        "2",
        "--out",
        str(tmp_path),
    ]
    assert main([*line, *(word for one in sets for word in ("--set", one))]) == 0
    said = capsys.readouterr().out
    assert said.startswith("4 of 4 runs done") and "| gate |" in said
    assert (tmp_path / TEXT).read_text(encoding="utf-8").strip() in said
