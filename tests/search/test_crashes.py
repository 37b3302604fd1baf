"""A process that dies at any point where state is written: before, in the middle, after. The next one finds no difference.

The process is a real one that ends without a word; phases, ledger, queue and Optuna are real, trainings a function of the
angle. Kills of whole clusters are in tests/chaos.
"""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from divfeat import files
from divfeat.files import read_lines
from divfeat.search.proposals import storage_url
from tests.search.samples import make_study
from tests.search.world import World

STUDY = make_study(
    protocol={
        "baselines": ["ce"], "grid_points": 8, "learning_rates": [0.05, 0.1], "weight_decays": [], "select_top": 1,
        "select_seeds": 2, "confirm_seeds": 2,
    },
    search={"releases": ["gate"]},
)  # fmt: skip
TRIALS = 4


class Death:
    """Counts points at which state is written, and ends the process at one of them."""

    def __init__(self, at: int | None) -> None:
        self.at, self.points = at, 0

    def point(self, last_words: Callable[[], None] = lambda: None) -> None:
        self.points += 1
        if self.points == self.at:
            last_words()
            os._exit(9)

    def install(self) -> None:
        """In this process, which is not to live long."""
        replace, tell, ask = os.replace, optuna.study.Study.tell, optuna.study.Study.ask
        death = self

        def replacing(old: Any, new: Any) -> None:
            death.point()  # written aside, and not yet there
            replace(old, new)
            death.point()

        def opened(path: Any, mode: str = "r", **named: Any) -> Any:
            if mode != "r":
                death.point()
            file = builtins.open(path, mode, **named)  # noqa: SIM115 - handed on
            if mode == "a+b":
                write = file.write

                def writing(line: bytes) -> int:
                    def half() -> None:
                        write(line[: len(line) // 2])
                        file.flush()

                    death.point(half)
                    return write(line)

                return _Appending(file, writing)
            return file

        def around(call: Callable[..., Any]) -> Callable[..., Any]:
            def called(*given: Any, **named: Any) -> Any:
                death.point()
                found = call(*given, **named)
                death.point()
                return found

            return called

        files.os = _Os(replacing)  # type: ignore[assignment]
        files.open = opened  # type: ignore[attr-defined]
        optuna.study.Study.tell, optuna.study.Study.ask = around(tell), around(ask)  # type: ignore[method-assign]


class _Os:
    """`os` with another `replace`, for one module."""

    def __init__(self, replace: Callable[[Any, Any], None]) -> None:
        self.replace = replace

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


class _Appending:
    """A file whose writes go another way."""

    def __init__(self, file: Any, write: Callable[[bytes], int]) -> None:
        self.file, self.write = file, write

    def __enter__(self) -> _Appending:
        return self

    def __exit__(self, *error: Any) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def in_a_process(world: World, at: int | None) -> tuple[int, int]:
    """One session in a process of its own; its exit code and the points it passed."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            death = Death(at)
            death.install()
            world.session(TRIALS)
            os.write(theirs, str(death.points).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), int(said or 0)


def found_in(world: World) -> dict[str, Any]:
    """All that two studies must have in common."""
    ledger = world.ledger
    trials = optuna.load_study(study_name=world.folder.name, storage=storage_url(world.folder)).trials
    return {
        "records": {key: ledger.record(key) for key in sorted(ledger.started())},
        "proposals": {number: row["params"] for number, row in ledger.proposals().items()},
        "optuna": [(trial.state.name, trial.params, trial.values) for trial in trials],
        "winner": ledger.phase("winner"),
        "grid": ledger.phase("grid"),
        "reads": sorted(row["key"] for row in read_lines(world.folder / "test_reads.jsonl")),
    }


def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], int]:
    world = World(tmp_path / "whole" / "a", STUDY, monkeypatch)
    code, points = in_a_process(world, None)
    assert code == 0 and points > 100
    return found_in(world), points


def killed_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> dict[str, Any]:
    world = World(tmp_path / f"at-{at}" / "a", STUDY, monkeypatch)
    assert in_a_process(world, at)[0] == 9
    world.session(TRIALS)
    assert not list(world.folder.glob("stages"))
    return found_in(world)


def test_a_death_at_some_points_of_a_study_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, points = whole(tmp_path, monkeypatch)
    for at in range(1, points + 1, points // 7):
        assert killed_and_resumed(tmp_path, monkeypatch, at) == expected, at


@pytest.mark.slow
def test_a_death_at_any_point_of_a_study_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other point up to the first proposals, then every seventh: a prime, so that it meets every kind of write."""
    expected, points = whole(tmp_path, monkeypatch)
    for at in sorted({*range(2, 50, 2), *range(50, points + 1, 7)}):
        assert killed_and_resumed(tmp_path, monkeypatch, at) == expected, at
