"""The command of the table up to the point where Ray would start, and what it does with several studies."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from divfeat.cli.long_tail_table import main
from divfeat.methods import METHODS, canonical
from divfeat.report.long_tail import BLOCK
from divfeat.search import table
from divfeat.search.jobs import baseline, every_baseline
from divfeat.search.study import Study
from divfeat.settings import make_configs
from divfeat.study_config import StudyConfig
from divfeat.validation import build

BEGIN, END = BLOCK.begin, BLOCK.end

TWO = ["--presets", "digits-lt", "digits"]


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    """A study takes over the signals of its process; the test runner wants them back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every refusal comes before Ray is asked for anything."""
    import ray

    monkeypatch.setattr(ray, "init", lambda *place, **settings: pytest.fail("Ray was started"))


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder for studies; nothing else may be written."""
    folder, cwd = tmp_path / "studies", tmp_path / "cwd"
    folder.mkdir()
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    yield folder
    assert list(cwd.iterdir()) == []


def refused(storage: Path, capsys: Any, *words: str) -> str:
    """What the command says when it starts nothing."""
    assert main(["--storage-path", str(storage), *words]) == 1
    text: str = capsys.readouterr().err
    assert text.startswith("error: ")
    assert "Traceback" not in text
    assert list(storage.iterdir()) == []
    return text


# --- refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--presets"], ["--preset", "digits-lt"], ["--name", "mine"], ["--methods"]])
def test_a_line_that_makes_no_sense(words: list[str], storage: Path) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--storage-path", str(storage), *words])
    assert end.value.code == 2


BAD = {
    "preset": (["--presets", "digits-lt", "digitz"], ["unknown preset 'digitz'", "Did you mean 'digits'?"]),
    "preset twice": (["--presets", "digits-lt", "digits-lt"], ["the study digits-lt-", "two columns", "each preset"]),
    "one name for two": (
        [*TWO, "--set", "execution.name=mine"],
        ["the study mine stands for two", "leave out execution.name"],
    ),
    "variation twice": (
        ["--vary", "a", "seed=1", "--vary", "a", "seed=2"],
        ["the study digits-lt-a stands for two columns"],
    ),
    "variation's key": (["--vary", "a", "search.famly=global"], ["unknown setting 'search.famly'"]),
    "variation without =": (["--vary", "a", "search.family"], ["search.family"]),
    "variation's name": (["--vary", "a/b"], ["execution.name"]),
    "method": (["--methods", "ce", "ce_eft"], ["unknown baseline 'ce_eft'", "ce_etf", "hinge_fixed"]),
    "method of two": ([*TWO, "--methods", "ce_eft"], ["unknown baseline 'ce_eft'"]),
    "method twice": (["--methods", "ce", "ce"], ["['ce', 'ce']", "none twice"]),
    "one training twice": (["--methods", "logit_adjustment", "balanced_softmax"], ["are one training here"]),
    "rows": (["--set", "protocol.baselines=[ldam]"], ["protocol.baselines", "name them with --methods"]),
    "a variation's rows": (["--vary", "a", "protocol.baselines=[ldam]"], ["protocol.baselines", "with --methods"]),
    "as published": (
        ["--set", "protocol.tune=false"],
        ["protocol.tune=false: every method of a table is tuned"],
    ),
    "key": (["--set", "train.epoch=3"], ["unknown setting 'train.epoch'", "train.epochs"]),
}


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_told_and_leave_nothing(case: str, more: list[str], storage: Path, capsys: Any) -> None:
    words, told = BAD[case]
    text = refused(storage, capsys, *words, *more)
    for part in told:
        assert part in text


def test_data_missing_for_the_second_column_are_told_before_the_first_runs(
    storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("DIVFEAT_DATA", str(tmp_path))
    monkeypatch.setattr(table, "run_installed", lambda *given: pytest.fail("a study was started"))
    assert "tin100" in refused(storage, capsys, "--presets", "digits-lt", "tin100-lt", "--methods", "ce_etf")


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_places_the_table_cannot_go_to_are_told_before_hours_of_runs(
    more: list[str], storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(table, "run_installed", lambda *given: pytest.fail("a study was started"))
    readme, file = tmp_path / "README.md", tmp_path / "file"
    readme.write_text(f"{END} {BEGIN}")
    file.write_text("mine")
    for words, told in (
        (["--readme", str(tmp_path / "no.md")], f"--readme {tmp_path / 'no.md'}: there is no such file"),
        (["--readme", str(readme)], f"--readme {readme}: the text needs the lines {BEGIN} and {END}"),
        (["--publish", str(file)], f"{file} cannot be written"),
        (["--publish", str(file / "inside")], f"{file} cannot be written"),
    ):
        assert told in refused(storage, capsys, *words, *more)
    assert (readme.read_text(), file.read_text()) == (f"{END} {BEGIN}", "mine")


# --- what is run --------------------------------------------------------------------------------------------------------


def test_print_config_is_a_document_a_study_with_every_baseline_tuned(storage: Path, capsys: Any) -> None:
    words = [*TWO, "--seed", "3", "--trials", "7", "--storage-path", str(storage)]
    assert main([*words, "--print-config"]) == 0
    text = capsys.readouterr().out
    made = list(yaml.safe_load_all(text))
    assert [one["preset"] for one in made] == TWO[1:]
    for one in made:
        execution = one.pop("execution")
        assert (one["seed"], execution["trials"], execution["storage_path"]) == (3, 7, str(storage))
        study = build(StudyConfig, one)
        assert f"# identity {study.identity}\n" in text
        assert study.protocol.tune
        assert study.protocol.baselines == every_baseline(make_configs(one["preset"])[0])
    assert main([*words, "--print-config", "--methods", "crt", "ce_etf"]) == 0
    chosen = [one["protocol"]["baselines"] for one in yaml.safe_load_all(capsys.readouterr().out)]
    assert chosen == [["crt", "ce_etf"]] * 2
    assert list(storage.iterdir()) == []


def test_a_variation_is_a_study_of_its_own_name_without_methods_that_are_one_training_in_it(
    storage: Path, capsys: Any
) -> None:
    vary = ["--vary", "plain", "--vary", "la", "search.method={name: hinge_la}", "train.epochs=7"]
    words = ["--storage-path", str(storage), "--methods", "ce_etf", "no_cones", "--set", "train.epochs=9", *vary]
    assert main([*words, "--print-config"]) == 0
    plain, la = yaml.safe_load_all(capsys.readouterr().out)
    assert [one["execution"]["name"] for one in (plain, la)] == ["digits-lt-plain", "digits-lt-la"]
    assert [one["protocol"]["baselines"] for one in (plain, la)] == [["ce_etf"], ["ce_etf", "no_cones"]]
    assert [one["train"]["epochs"] for one in (plain, la)] == [9, 7]
    assert (plain["search"]["method"]["name"], la["search"]["method"]["name"]) == ("hinge_ce", "hinge_la")


@pytest.mark.parametrize("base", ["hinge_ce", "hinge_la"])
@pytest.mark.parametrize("preset", ["digits", "digits-lt", "cifar10-lt"])
def test_every_baseline_is_each_training_once(preset: str, base: str) -> None:
    """Each method but the searched HingeCE, and those that need a tree, stands there, or another that is the same training."""
    study = make_configs(preset, {"search": {"method": base}})[0]
    names = every_baseline(study)
    trained = [canonical(baseline(name, study)) for name in names]
    assert all(one not in trained[:place] for place, one in enumerate(trained))
    for name in (*METHODS, "hinge_fixed", "no_cones"):
        if name in METHODS and METHODS[name].tree:
            assert name not in names  # there is no tree of these classes
        elif name != "hinge_ce":
            assert canonical(baseline(name, study)) in trained
    assert {"ce", "ce_etf", "ldam_drw", "crt", "hinge_la"} <= set(names)


def test_dry_run_prints_a_plan_a_study_and_writes_nothing(storage: Path, capsys: Any) -> None:
    words = ["--storage-path", str(storage), "--smoke-test", "--methods", "ce", "ce_etf", "ldam", "--trials", "4"]
    assert main([*TWO, *words, "--dry-run"]) == 0
    text = capsys.readouterr().out
    plans = text.split("plan of ")[1:]
    assert [plan.split("-")[0] for plan in plans] == ["digits", "digits"]
    assert plans[0].startswith("digits-lt-")
    for plan in plans:
        (tune,) = [line for line in plan.splitlines() if "tune" in line]
        assert " 4 " in tune  # LDAM's numbers alone, in as many trials as the thresholds
        assert "against 3 baselines" in plan
    assert list(storage.iterdir()) == []


def test_the_smoke_test_has_room_for_every_method(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the two epochs of other commands M2m has none to translate in, and the default rows were refused."""
    asked: list[Study] = []
    monkeypatch.setattr(table, "make_plan", lambda runner: asked.append(runner) or SimpleNamespace(print=print))
    assert main(["--storage-path", str(storage), "--smoke-test", "--dry-run"]) == 0
    (runner,) = asked
    assert "m2m" in runner.config.protocol.baselines and runner.config.train.epochs == 5
    runner.check()


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> list[Study]:
    """Studies that are not run; those that were asked for."""
    asked: list[Study] = []
    monkeypatch.setattr(table, "run_installed", lambda runner, about, command: asked.append(runner) or 0)
    monkeypatch.setattr(Study, "check", lambda runner: None)
    return asked


def test_the_time_budget_is_that_of_the_command(
    storage: Path, monkeypatch: pytest.MonkeyPatch, stand_ins: list[Study]
) -> None:
    """Not each study's own: what the first took is gone for the second, which is told to stop with the budget's code."""

    def run(runner: Study, about: str, command: str) -> int:
        stand_ins.append(runner)
        first = len(stand_ins) == 1
        assert runner.interrupt.reason == (None if first else "time budget")
        runner.interrupt.deadline -= 1000  # type: ignore[operator]
        return 0 if first else 4

    monkeypatch.setattr(table, "run_installed", run)
    three = ["--presets", "digits-lt", "digits", "tin20-100-small"]
    assert main([*three, "--storage-path", str(storage), "--methods", "ce_etf", "--time-budget", "900"]) == 4
    assert [runner.config.preset for runner in stand_ins] == ["digits-lt", "digits"]
    assert list(storage.iterdir()) == []  # no table of studies that have not ended


def test_a_finished_study_is_not_checked_again(
    storage: Path, monkeypatch: pytest.MonkeyPatch, stand_ins: list[Study]
) -> None:
    """Its data may be gone: what is left to run decides."""
    checked: list[str] = []
    monkeypatch.setattr(Study, "check", lambda runner: checked.append(runner.config.preset))
    monkeypatch.setattr(Study, "finished", property(lambda runner: runner.config.preset == "digits"))
    written: list[Any] = []
    monkeypatch.setattr("divfeat.report.long_tail.write_table", lambda *given: written.append(given) or _Written)
    assert main([*TWO, "--storage-path", str(storage), "--methods", "ce_etf"]) == 0
    assert checked == ["digits-lt"]
    ((folders, place, readme),) = written
    assert folders == [runner.folder for runner in stand_ins]
    assert [runner.config.preset for runner in stand_ins] == TWO[1:]
    assert (place, readme) == (storage / "long-tail-table", None)


class _Written:
    markdown = "| method |"
