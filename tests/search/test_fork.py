"""A study that starts from another one's results: what it takes over, tries first, refuses, and never reads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest

from divfeat.cli import tau_search
from divfeat.config import ExperimentConfig
from divfeat.errors import ConfigError
from divfeat.report.reading import read_summary
from divfeat.search import fork as module
from divfeat.search.interrupt import StoppedError
from divfeat.search.proposals import storage_url
from tests.search.samples import make_study
from tests.search.world import SMALL, World, angle_of

FAMILY = {"releases": ["gate"]}
#: Other than the forked study's in what decides no run; in the space searched; in what decides every run.
MORE_SEEDS = make_study(protocol=SMALL | {"confirm_seeds": 6}, search=FAMILY)
NARROW = make_study(protocol=SMALL, search=FAMILY | {"low": 0.3, "high": 1.0})
LONGER = make_study(protocol=SMALL, search=FAMILY, train={"epochs": 21})


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(tmp_path / "old", make_study(protocol=SMALL, search=FAMILY), monkeypatch)
    world.session(8)
    return world


def forked(old: World, config: Any, monkeypatch: pytest.MonkeyPatch, name: str = "new") -> World:
    world = World(old.folder.parent / name, config, monkeypatch)
    world.origin = old.folder
    return world


def angles(world: World) -> list[float]:
    return [row["params"]["tau"] for row in world.ledger.proposals().values()]


def test_what_decides_no_run_is_taken_over_and_not_run_again(old: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {key: old.ledger.record(key) for key in old.ledger.started()}
    new = forked(old, MORE_SEEDS, monkeypatch)
    new.session(10)
    decision = new.ledger.phase("fork")
    searched = {key for key, record in before.items() if record["config"]["role"] == "search"}
    assert decision["runs"] == len(searched) and decision["name"] == "old"
    assert decision["differences"] == ["  protocol.confirm_seeds: 5 -> 6"]
    assert not {key for _, key in new.ran} & searched
    for key in searched:
        assert new.ledger.record(key) == before[key]
    assert len(new.ledger.proposals()) == 10
    assert set(angles(old)) <= set(angles(new))  # all of them again, at no cost
    # Those made anew, the selection of what they changed, and every confirmation.
    assert {role for role, _ in new.ran} == {"search", "confirm"}
    told = {arguments[0] for arguments in new.called("finish_run")} | set(new.called("reconcile")[0][0])
    assert set(new.ledger.started()) <= told  # MLflow hears of what was taken over too
    numbers = {row["key"]: number for number, row in sorted(new.ledger.proposals().items(), reverse=True)}
    for key, number in numbers.items():
        assert new.ledger.started()[key]["number"] == number


def test_confirmations_are_its_own_and_the_others_reads_of_the_test_images_are_told(
    old: World, monkeypatch: Any
) -> None:
    new = forked(old, MORE_SEEDS, monkeypatch)
    new.session(8)
    assert len([role for role, _ in new.ran if role == "confirm"]) == len(new.test_reads)
    assert new.ledger.phase("fork")["test_reads"] == len(old.test_reads) > 0
    note = module.note_of(new.ledger.phase("fork"))
    assert f"it has read the test images for {len(old.test_reads)} runs" in note
    assert note in read_summary(new.folder).notes


def test_a_changed_setting_trains_anew_and_tries_the_best_first(old: World, monkeypatch: pytest.MonkeyPatch) -> None:
    new = forked(old, LONGER, monkeypatch)
    new.session(12)
    decision = new.ledger.phase("fork")
    assert decision["runs"] == 0 and decision["differences"] == ["  train.epochs: 20 -> 21"]
    best = sorted(set(angles(old)))[: module.BEST]  # the smaller the better here
    assert {round(params["tau"], 9) for params in decision["settings"][""]} == {round(angle, 9) for angle in best}
    own = len(make_first(new))
    assert set(best) <= set(angles(new)[: own + module.BEST])
    assert len({key for _, key in new.ran}) == len(new.ran)


def make_first(world: World) -> list[Any]:
    from divfeat.search.subjects import threshold_subject

    return list(threshold_subject(world.config).first)


def test_settings_outside_the_new_space_are_left_out(old: World, monkeypatch: pytest.MonkeyPatch) -> None:
    new = forked(old, NARROW, monkeypatch)
    new.session(10)
    assert new.ledger.phase("fork")["runs"] > 0  # the same experiments, whichever space they come from
    assert all(0.3 <= angle <= 1.0 for angle in angles(new))
    assert {angle for angle in angles(old) if 0.3 <= angle <= 1.0} <= set(angles(new))


def test_other_images_take_nothing_over_but_settings(old: World, monkeypatch: pytest.MonkeyPatch) -> None:
    old.ledger.write_phase("data", {"search": "another hash"})
    new = forked(old, MORE_SEEDS, monkeypatch)
    new.session(8)
    decision = new.ledger.phase("fork")
    assert decision["runs"] == 0 and not decision["same_images"] and decision["settings"][""]
    assert "on other images or another split" in module.note_of(decision)


def test_a_fork_that_is_killed_at_any_file_is_the_same_in_the_end(old: World, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = forked(old, MORE_SEEDS, monkeypatch, "whole")
    whole.session(9)
    real, left = shutil.copytree, [0]

    def killed(*arguments: Any, **named: Any) -> Any:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(*arguments, **named)

    new = forked(old, MORE_SEEDS, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "copytree", killed)
        for copies in (0, 1, 5):
            left[0] = copies
            with pytest.raises(KeyboardInterrupt):
                new.session(9)
    new.session(9)
    assert angles(new) == angles(whole) and new.winner == whole.winner
    assert new.ledger.phase("fork")["runs"] == whole.ledger.phase("fork")["runs"]
    assert {key for _, key in new.ran} == {key for _, key in whole.ran}


def test_a_fork_resumes_with_and_without_the_flag(old: World, monkeypatch: pytest.MonkeyPatch) -> None:
    new = forked(old, LONGER, monkeypatch)
    plain, left = new.outcome, [6]

    def outcome(config: ExperimentConfig) -> Any:
        left[0] -= 1
        return "stop" if left[0] == 0 else plain(config)

    new.outcome = outcome
    with pytest.raises(StoppedError):
        new.session(8)
    new.origin = None
    new.session(8)
    new.origin = old.folder
    new.session(8)
    assert new.ran == [] and len(angles(new)) == 8
    trials = optuna.load_study(study_name="new", storage=storage_url(new.folder)).trials
    assert [trial.params["tau"] for trial in trials] == angles(new)


def test_what_is_no_fork_of_it_is_refused(old: World, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = World(old.folder.parent / "alone", LONGER, monkeypatch)
    alone.session(4)
    alone.origin = old.folder
    with pytest.raises(ConfigError, match="that study has begun on its own"):
        alone.session(4)
    new = forked(old, MORE_SEEDS, monkeypatch)
    new.session(4)
    new.origin = alone.folder
    with pytest.raises(ConfigError, match="was forked from 'old', not from 'alone'"):
        new.session(4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--name", "old", "--fork", "old"], "cannot be forked into itself"),
        (["--name", "none", "--fork", "new"], "there is no study 'none'"),
        (["--name", "old", "--fork", "../new"], "execution.name"),
        (
            ["--name", "old", "--set", "train.epochs=3"],
            "--fork NEW_NAME: a new study that starts from what this one found",
        ),
    ],
)
def test_the_command_says_what_is_wrong_and_offers_the_fork(
    old: World, capsys: Any, words: list[str], message: str
) -> None:
    line = ["--storage-path", str(old.folder.parent), "--dry-run", *words]
    assert tau_search.main(line) == 1
    said = capsys.readouterr().err
    assert message in said
    if "--set" in words:
        assert "train.epochs: 20 -> 3" in said
    assert sorted(path.name for path in old.folder.parent.iterdir()) == ["old"]


def test_angles_are_read_from_the_config_that_was_run(old: World) -> None:
    """The order above rests on it: the score falls with the angle."""
    for row in old.ledger.proposals().values():
        config = ExperimentConfig.model_validate(old.ledger.record(row["key"])["config"])
        assert angle_of(config) == pytest.approx(row["params"]["tau"])
