"""Whole studies on shared storage, machine after machine, and on disks that are full: all but cluster, tracker and trainings
is real."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from divfeat.config import ExperimentConfig
from divfeat.errors import ConfigError
from divfeat.files import read_json
from divfeat.record import written
from divfeat.search import session
from divfeat.search.command import make_study, run_installed
from divfeat.search.interrupt import Interrupt, StoppedError
from divfeat.search.ledger import Ledger
from divfeat.search.mirror import Mirror
from divfeat.search.study import Study
from divfeat.storage import Store, open_store
from divfeat.study_config import ExecutionConfig
from tests.search.world import GATE, World, angle_of, scored
from tests.storage.conftest import FEW, uri_of


class Far(World):
    """A study whose workers write into a store, and whose machine may change."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(Path("nowhere"), GATE, monkeypatch)
        self.store = store
        self.all_ran: list[str] = []

    def session_on(self, folder: Path, trials: int) -> None:
        self.folder, self.ran = folder, []
        study = Study(
            self.config,
            ExecutionConfig(trials=trials),
            folder,
            "mine",
            console=Console(file=io.StringIO(), width=150),
            mirror=Mirror(self.store, folder),
        )
        self.study = study
        try:
            with study.held():
                session.run_session(study, lambda: SimpleNamespace(files={}, metrics={}, sentence="a verdict"))
        finally:
            self.all_ran += [key for _, key in self.ran]

    def run(self, source: Any) -> None:
        while (spec := source.next()) is not None:
            config = ExperimentConfig.model_validate(spec.experiment)
            assert spec.folder == f"runs/{spec.key}" and spec.store == self.store.address
            if config.role == "confirm":  # said before anybody looks at a test image
                assert spec.key.encode() in (self.store.read("test_reads.jsonl") or b"")
            found = self.outcome(config)
            if found == "stop":
                self.study.interrupt.signal = "SIGTERM"
                return
            self.ran.append((config.role, spec.key))
            if spec.keep:
                self.store.write(f"{spec.folder}/extractor/config.json", b"{}")
            self.store.write(f"{spec.folder}/events.jsonl", b'{"epoch": 0, "time": 0}\n')
            self.store.write(f"{spec.folder}/record.json", json.dumps(written(spec.key, found)).encode())
            source.heard(spec.key, [{"epoch": 0, "time": 0}])
            source.ended(spec.key, None)


def outcome(config: ExperimentConfig) -> dict[str, Any]:
    return scored(config, 0.8 - 0.01 * angle_of(config))


@pytest.fixture(params=FEW)
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return uri_of(request.param, request, tmp_path)


@pytest.fixture
def far(store: Store, monkeypatch: pytest.MonkeyPatch) -> Far:
    return Far(store.inside("mine"), monkeypatch)


def test_a_study_moves_from_machine_to_machine(far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session.Session, "_register", lambda self: None)
    left = [3]

    def counted(config: ExperimentConfig) -> Any:
        left[0] -= 1
        return "stop" if left[0] < 0 else outcome(config)

    far.outcome = counted
    for number, runs in enumerate((3, 4, 9, 1, 0)):  # each machine does so many, and is lost
        left[0] = runs
        with pytest.raises(StoppedError):
            far.session_on(tmp_path / f"machine{number}", 6)
        if number == 1:
            (tmp_path / "machine1" / "optuna.db").unlink()
            left[0] = 1
            with pytest.raises(StoppedError):  # the same machine again, its database gone
                far.session_on(tmp_path / "machine1", 6)
        shutil.rmtree(tmp_path / f"machine{number}")
    far.outcome = outcome
    far.session_on(tmp_path / "last", 6)
    assert len(far.all_ran) == len(set(far.all_ran))  # nothing was run twice

    still = World(tmp_path / "still", GATE, monkeypatch)
    monkeypatch.setattr(session.Session, "_register", lambda self: None)
    still.outcome = outcome
    still.session(6)
    assert set(far.all_ran) == {key for _, key in still.ran}
    assert far.winner == still.winner
    assert sorted(far.test_reads) == sorted(still.test_reads)
    records = [read_json(path) for path in sorted((tmp_path / "last" / "runs").glob("*/record.json"))]
    assert [one["metrics"] for one in records] == [
        read_json(path)["metrics"] for path in sorted((tmp_path / "still" / "runs").glob("*/record.json"))
    ]
    there = far.store.list()
    assert "optuna.db" in there and "driver.json" not in there
    far.session_on(tmp_path / "reader", 6)  # finished: runs nothing
    assert far.ran == []
    assert far.winner == still.winner


def test_a_fork_of_a_study_that_only_the_storage_has(
    far: Far, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session.Session, "_register", lambda self: None)
    far.outcome = outcome
    far.session_on(tmp_path / "one" / "mine", 5)
    far.folder = tmp_path / "other"
    execution = ExecutionConfig(name="mine", trials=5, storage_path=uri, home=str(tmp_path / "other"))
    forked = make_study(GATE, execution, Interrupt(), "child")
    assert forked.origin == tmp_path / "other" / "mine"
    assert Ledger(forked.origin).proposals() == Ledger(tmp_path / "one" / "mine").proposals()
    with pytest.raises(ConfigError, match="there is no study 'none'"):
        make_study(GATE, execution.model_copy(update={"name": "none"}), Interrupt(), "child")


# --- disks that are full ------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(("where", "after"), [("plain", 0), ("plain", 14), ("shared", 0), ("shared", 4)])
def test_a_full_disk_stops_cleanly_and_the_same_line_goes_on(
    disk: Path, where: str, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(session.Session, "_register", lambda self: None)
    ballast, done = disk / "ballast", [0]

    def filling(config: ExperimentConfig) -> dict[str, Any]:
        if done[0] == after:
            with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 512)
        done[0] += 1
        return outcome(config)

    if where == "plain":
        world = World(disk / "mine", GATE, monkeypatch)
        execution = ExecutionConfig(trials=6, name="mine", storage_path=str(disk))
    else:
        store = open_store((disk / "studies").as_uri()).inside("mine")
        world = Far(store, monkeypatch)
        execution = ExecutionConfig(
            trials=6, name="mine", storage_path=(disk / "studies").as_uri(), home=str(tmp_path / "home")
        )
        world.folder = tmp_path / "home" / "mine"
    world.outcome = filling
    world.study = make_study(GATE, execution, Interrupt())
    assert run_installed(world.study, "", "THE LINE") == 75
    said = capsys.readouterr().err
    assert "storage fails" in said and "THE LINE" in said and "Traceback" not in said
    assert ("No space left" in said) or ("full" in said)
    ballast.unlink()
    if where == "shared":
        world.store = open_store((disk / "studies").as_uri()).inside("mine")  # type: ignore[attr-defined]
    before = {path: path.read_bytes() for path in world.folder.glob("runs/*/record.json")}
    assert len(before) in (after, after + 1)
    world.outcome = outcome
    world.ran = []
    if where == "plain":
        world.session(6)
    else:
        world.session_on(world.folder, 6)  # type: ignore[attr-defined]
    assert {path.parent.name for path in before}.isdisjoint({key for _, key in world.ran})
    assert all(path.read_bytes() == data for path, data in before.items())

    still = World(tmp_path / "still", GATE, monkeypatch)
    still.outcome = outcome
    still.session(6)
    assert world.winner == still.winner
    assert {path.parent.name for path in world.folder.glob("runs/*/record.json")} == {key for _, key in still.ran}
