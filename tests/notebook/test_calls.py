"""`divfeat.study` up to where Ray starts: the same study as the command's, errors, signals, threads, the plan."""

import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

import divfeat
from divfeat.cli import tau_search
from divfeat.cli.flags import configure
from divfeat.notebook import calls
from divfeat.search.interrupt import StoppedError, TooManyFailuresError
from divfeat.settings import load_preset

ROOT = Path(__file__).resolve().parents[2]
HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@pytest.fixture
def asked(monkeypatch):
    """What would have been run."""
    found = []

    def carry_out(runner, about, how):
        found.append((runner, about, how))
        return SimpleNamespace(summary="summary")

    monkeypatch.setattr(calls, "carry_out", carry_out)
    return found


PAIRS = [
    ({}, []),
    ({"preset": "digits-lt"}, ["--preset", "digits-lt"]),
    (
        {"trials": 3, "seed": 4, "set": {"search.family": "none", "train.lr": 1e-3, "train.epochs": 5}},
        [
            "--trials",
            "3",
            "--seed",
            "4",
            "--set",
            "search.family=none",
            "--set",
            "train.lr=1e-3",
            "--set",
            "train.epochs=5",
        ],
    ),
    (
        {"name": "n", "storage_path": Path("x"), "max_concurrent": 2, "workers_per_trial": 2, "gpus_per_worker": 0.5},
        [
            "--name",
            "n",
            "--storage-path",
            "x",
            "--max-concurrent",
            "2",
            "--workers-per-trial",
            "2",
            "--gpus-per-worker",
            "0.5",
        ],
    ),
    (
        {"smoke_test": True, "address": "a:1", "tracking_uri": "http://h", "time_budget": 9},
        ["--smoke-test", "--address", "a:1", "--tracking-uri", "http://h", "--time-budget", "9"],
    ),
    (
        {"set": {"search": {"objectives": ["fine_probe", "accuracy"]}, "search.releases": ["gate"]}},
        ["--set", "search.objectives=[fine_probe, accuracy]", "--set", "search.releases=[gate]"],
    ),
    ({"set": {"preset": "digits-lt"}}, ["--set", "preset=digits-lt"]),
]


@pytest.mark.parametrize(("arguments", "words"), PAIRS, ids=range(len(PAIRS)))
def test_arguments_and_flags_are_the_same_study(arguments, words, asked):
    study, execution, about = configure(tau_search.parser().parse_args(words))
    divfeat.study(**arguments)
    ((runner, said, _),) = asked
    assert (runner.config, runner.execution, said) == (study, execution, about)
    assert runner.config.identity == study.identity
    assert runner.folder == Path(execution.storage_path) / (execution.name or f"{study.preset}-{study.identity[:8]}")


def test_a_file_of_settings_is_laid_between(asked, tmp_path):
    (tmp_path / "s.yaml").write_text("preset: digits-lt\ntrain: {epochs: 5, lr: 0.3}\n")
    divfeat.study(config=tmp_path / "s.yaml", set={"train.epochs": 6})
    config = asked[0][0].config
    assert (config.preset, config.train.epochs, config.train.lr) == ("digits-lt", 6, 0.3)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"preset": "digit"}, "unknown preset 'digit'. Did you mean 'digits'"),
        ({"set": {"train.epoch": 3}}, "train.epochs"),
        ({"set": {"train..epochs": 3}}, "set: 'train..epochs' names no setting"),
        ({"set": {3: 3}}, "set: 3 names no setting"),
        ({"trials": 0}, "execution.trials"),
        ({"seed": -1}, "seed"),
        ({"storage_path": "ftp://bucket"}, "ftp"),
        ({"config": "nowhere.yaml"}, "cannot be read"),
    ],
)
def test_a_mistake_is_an_error_of_ours_before_anything_runs(arguments, told, asked):
    with pytest.raises(divfeat.ConfigError, match=told.replace(".", r"\.")):
        divfeat.study(**arguments)
    assert not asked


def test_the_plan_is_returned_and_leaves_no_trace(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(
        torch, "set_num_threads", lambda count, real=torch.set_num_threads: counts.append(count) or real(count)
    )
    counts, threads = [], torch.get_num_threads()
    settings = {"execution.cpus_per_worker": threads + 1.0, "train.epochs": 2, "train.warmup_epochs": 0}
    plan = divfeat.study("digits", dry_run=True, storage_path=tmp_path / "runs", set=settings)
    assert isinstance(plan, divfeat.Plan) and plan.runs["search"] == load_preset("digits")["execution"]["trials"]
    assert counts[0] == threads + 1 and torch.get_num_threads() == threads
    assert not list(tmp_path.iterdir())
    assert f"plan of {plan.name}" in plan._repr_html_() and "<script" not in plan._repr_html_()


# --- signals ----------------------------------------------------------------------------------------------------------------


def during(monkeypatch, act):
    """`divfeat.study` with `act(runner)` in place of the run."""

    def carry_out(runner, about, how):
        act(runner)
        return SimpleNamespace(summary="summary")

    monkeypatch.setattr(calls, "carry_out", carry_out)


def other(number, frame):
    raise AssertionError("not restored")


def test_an_interrupt_is_noted_and_handlers_are_put_back(monkeypatch):
    before = [signal.getsignal(number) for number in HANDLED]

    def act(runner):
        signal.raise_signal(signal.SIGINT)
        assert runner.interrupt.reason == "SIGINT"
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, other)  # as starting Ray and running Tune do
        runner.interrupt.renew()
        raise StoppedError("SIGINT")

    during(monkeypatch, act)
    with pytest.raises(StoppedError) as stopped:
        divfeat.study(name="mine", storage_path="elsewhere")
    assert stopped.value.reason == "SIGINT"
    folder = str(Path("elsewhere/mine").resolve())
    assert "The same call goes on" in str(stopped.value) and f"divfeat.open_study({folder!r})" in str(stopped.value)
    assert [signal.getsignal(number) for number in HANDLED] == before


def test_a_second_interrupt_leaves_the_study_and_not_the_process(monkeypatch):
    before = [signal.getsignal(number) for number in HANDLED]

    def act(runner):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("went on")

    during(monkeypatch, act)
    with pytest.raises(KeyboardInterrupt):
        divfeat.study()
    assert [signal.getsignal(number) for number in HANDLED] == before


def test_too_many_failures_say_where_the_records_are(monkeypatch):
    def act(runner):
        raise TooManyFailuresError("every trial failed: no memory")

    during(monkeypatch, act)
    with pytest.raises(
        TooManyFailuresError, match="no memory\nThe records are in elsewhere/m/runs; mend the cause and repeat"
    ):
        divfeat.study(name="m", storage_path="elsewhere")


def test_in_a_thread_no_signal_is_taken_and_it_is_said(asked):
    before = [signal.getsignal(number) for number in HANDLED]
    thread = threading.Thread(target=divfeat.study)
    thread.start()
    thread.join()
    ((runner, _, how),) = asked
    assert "no main thread" in how and not runner.interrupt._installed
    divfeat.study()
    assert "interrupting the kernel saves" in asked[1][2]
    assert [signal.getsignal(number) for number in HANDLED] == before


# --- import -----------------------------------------------------------------------------------------------------------------


def in_a_new_process(line):
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.strip()


def test_the_import_is_light():
    heavy = "{'torch', 'ray', 'pandas', 'numpy', 'mlflow', 'optuna', 'matplotlib', 'rich', 'pydantic', 'yaml'}"
    assert in_a_new_process(f"import divfeat, sys; dir(divfeat); print({heavy} & set(sys.modules))") == "set()"


@pytest.mark.slow
def test_opening_a_study_needs_neither_ray_nor_mlflow():
    assert (
        in_a_new_process("import divfeat, sys; divfeat.open_study; print({'ray', 'mlflow'} & set(sys.modules))")
        == "set()"
    )


def test_every_name_is_there_and_no_other():
    assert set(divfeat.__all__) == set(divfeat._PLACES) <= set(dir(divfeat))
    for name in divfeat.__all__:
        assert getattr(divfeat, name).__name__ == name
    with pytest.raises(AttributeError, match="module 'divfeat' has no attribute 'stduy'"):
        _ = divfeat.stduy
