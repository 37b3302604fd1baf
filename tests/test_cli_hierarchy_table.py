"""The command of the tables over a tree up to the point where Ray would start, and what it does with its studies."""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from divfeat.cli.hierarchy_table import main, parser
from divfeat.methods import METHODS, canonical
from divfeat.search import table
from divfeat.search.jobs import baseline, every_tree_baseline
from divfeat.search.study import Study
from divfeat.settings import make_configs
from divfeat.study_config import StudyConfig
from divfeat.validation import build
from tests.report.studies import Studied
from tests.report.test_hierarchy_table import BASELINES, record

ROOT = Path(__file__).resolve().parents[1]
#: Of the slides: the plain network and what goes with it, then the type II network, then frozen frames.
TWELVE = [
    "ce_no_projector", "crm", "flamingo", "hafeature", "tree_soft_labels", "hierarchical_ce",
    "ce_type2", "crm_type2", "flamingo_type2", "hafeature_type2", "haframe_ce", "haframe",
]  # fmt: skip


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    """A study takes over the signals of its process; the test runner wants them back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "init", lambda *place, **settings: pytest.fail("Ray was started"))


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    (tmp_path / "studies").mkdir()
    return tmp_path / "studies"


BAD = {
    "no tree": (["--presets", "digits"], ["--presets digits", "data.hierarchy is not set", "data.hierarchy=coarse"]),
    "no tree in the second": (
        ["--presets", "digits-hierarchy", "digits-lt"],
        ["--presets digits-lt", "data.hierarchy"],
    ),
    "a tree taken away": (["--vary", "flat", "data.hierarchy=null"], ["data.hierarchy is not set"]),
    "a searched row": (["--methods", "crm", "hinge_haf"], ["--methods hinge_haf", "the winner is the last row"]),
    "method": (["--methods", "ce", "haffame"], ["unknown baseline 'haffame'", "haframe"]),
    "method twice": (["--methods", "crm", "crm"], ["['crm', 'crm']", "none twice"]),
    "rows": (["--set", "protocol.baselines=[crm]"], ["protocol.baselines", "name them with --methods"]),
    "a variation's rows": (["--vary", "a", "protocol.baselines=[crm]"], ["protocol.baselines", "with --methods"]),
    "variation twice": (["--vary", "a", "--vary", "a"], ["the study digits-hierarchy-a stands for two columns"]),
    "a tree that is not there": (["--set", "data.hierarchy=no.json"], ["data.hierarchy=no.json", "there is no file"]),
    "preset": (["--presets", "digits-hierarhy"], ["unknown preset", "Did you mean 'digits-hierarchy'?"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_told_and_leave_nothing(case: str, storage: Path, capsys: Any) -> None:
    words, told = BAD[case]
    assert main(["--storage-path", str(storage), *words, "--dry-run"]) == 1
    text = capsys.readouterr().err
    assert text.startswith("error: ") and "Traceback" not in text
    for part in told:
        assert part in text
    assert list(storage.iterdir()) == []


def test_a_place_the_table_cannot_go_to_is_told_before_hours_of_runs(
    storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(table, "run_installed", lambda *given: pytest.fail("a study was started"))
    (tmp_path / "file").write_text("mine")
    assert main(["--storage-path", str(storage), "--publish", str(tmp_path / "file")]) == 1
    assert f"{tmp_path / 'file'} cannot be written" in capsys.readouterr().err
    assert list(storage.iterdir()) == []


def printed(capsys: Any, *words: str) -> list[dict[str, Any]]:
    assert main([*words, "--print-config"]) == 0
    return list(yaml.safe_load_all(capsys.readouterr().out))


def test_rows_are_those_of_the_slides_unless_named(capsys: Any) -> None:
    (one,) = printed(capsys, "--seed", "3", "--trials", "7", "--set", "protocol.confirm_seeds=9")
    assert one["protocol"]["baselines"] == TWELVE
    assert (one["preset"], one["seed"], one["execution"]["trials"]) == ("digits-hierarchy", 3, 7)
    assert one["protocol"]["confirm_seeds"] == 9 and one["protocol"]["tune"] is False
    one.pop("execution")
    assert build(StudyConfig, one).data.hierarchy == "coarse"
    (named,) = printed(capsys, "--methods", "haframe", "hinge_fixed", "--set", "protocol.tune=true")
    assert named["protocol"]["baselines"] == ["haframe", "hinge_fixed"] and named["protocol"]["tune"] is True


def test_any_preset_becomes_one_with_a_tree(capsys: Any) -> None:
    words = ["--presets", "digits-hierarchy", "digits-lt", "--set", "data.hierarchy=coarse"]
    first, second = printed(capsys, *words)
    assert [one["preset"] for one in (first, second)] == words[1:3]
    assert second["protocol"]["baselines"] == TWELVE and second["search"]["method"]["name"] == "hinge_ce"


def test_a_variation_is_a_study_of_its_own_name_without_rows_that_are_one_training(capsys: Any) -> None:
    words = ["--methods", "haframe", "no_cones", "--vary", "plain", "--vary", "simplex", "search.method=hinge_ce"]
    plain, simplex = printed(capsys, *words, "search.own=[]", "train.epochs=7")
    assert [one["execution"]["name"] for one in (plain, simplex)] == [
        "digits-hierarchy-plain",
        "digits-hierarchy-simplex",
    ]
    assert [one["protocol"]["baselines"] for one in (plain, simplex)] == [["haframe"], ["haframe", "no_cones"]]
    assert [one["train"]["epochs"] for one in (plain, simplex)] == [20, 7]


def test_every_row_is_a_training_of_its_own_and_none_is_left_out() -> None:
    study = make_configs("digits-hierarchy")[0]
    names = every_tree_baseline(study)
    trained = [canonical(baseline(name, study)) for name in names]
    assert list(names) == TWELVE == list(study.protocol.baselines)
    assert all(one not in trained[:place] for place, one in enumerate(trained))
    assert set(names) == {name for name, one in METHODS.items() if one.tree and not one.hinge} | {"ce_no_projector"}


def test_the_rows_of_the_photographs_are_the_same() -> None:
    assert list(make_configs("tin100-hierarchy")[0].protocol.baselines) == TWELVE


def test_dry_run_prints_the_plan_and_writes_nothing(storage: Path, capsys: Any) -> None:
    """Every corner of what the preset searches is built for it, and every row."""
    assert main(["--storage-path", str(storage), "--smoke-test", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("plan of digits-hierarchy-") and "against 12 baselines" in text
    assert list(storage.iterdir()) == []


def test_a_finished_study_becomes_a_table_and_again_the_same(
    tmp_path: Path, storage: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """What is left is the writing: beside the studies, or where --publish says."""
    made = Studied(storage / "mine", preset="digits-hierarchy", record=record, protocol={"baselines": BASELINES}).all()
    ran: list[str] = []
    monkeypatch.setattr(table, "run_installed", lambda runner, about, command: ran.append(command) or 0)
    monkeypatch.setattr(Study, "check", lambda runner: None)
    words = ["--storage-path", str(storage), "--set", "execution.name=mine", "--methods", *BASELINES]
    assert main(words) == 0
    text = (storage / "hierarchy-table" / "hierarchy.md").read_text(encoding="utf-8")
    out = capsys.readouterr().out
    assert text in out and f"table  {storage / 'hierarchy-table'}" in out and f"## {made.config.preset}" in text
    assert main([*words, "--publish", str(tmp_path / "shown")]) == 0
    for name in ("hierarchy.md", "hierarchy.json"):
        assert (tmp_path / "shown" / name).read_bytes() == (storage / "hierarchy-table" / name).read_bytes()
    assert len(ran) == 2 and all("hierarchy_table.py" in line or ".py" in line for line in ran)


def test_a_study_that_was_stopped_makes_no_table(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "run_installed", lambda runner, about, command: 4)
    assert main(["--storage-path", str(storage)]) == 4
    assert list(storage.iterdir()) == []


def test_the_lines_of_script_and_docs_are_understood() -> None:
    pages = [ROOT / "studies" / "hierarchy_table.py", ROOT / "docs" / "add-a-hierarchy.md"]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    lines = re.findall(r"python studies/hierarchy_table\.py([^`\n]*)", text)
    assert len(lines) > 4
    for line in lines:
        words = shlex.split(line, comments=True)
        if "--help" not in words:
            assert parser().parse_args(words).presets
