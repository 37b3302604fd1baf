"""Ray's autoscaler for real: a study begins on a head that trains nothing, nodes come, trials run there, nodes go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.alone import needs, play

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scaling")


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    needs()
    return play("scaling_scene", folder, timeout=900)


def test_nodes_come_for_a_study_and_go_when_it_is_over(found: dict[str, Any]) -> None:
    seen = found["seen"]
    assert found["grown"]["code"] == 0, found["grown"]["said"]
    assert [0, 1, 1] in [[int(cpus) for cpus in nodes] for nodes in seen]
    assert seen[0] == seen[-1] == [0]
    assert max(len(nodes) for nodes in seen) == 3


def test_the_study_says_what_it_waits_for_and_ends_with_a_verdict(found: dict[str, Any], folder: Path) -> None:
    said = found["grown"]["said"]
    assert "waiting for nodes" in said and "a trial takes 1 CPUs" in said and "may add 2 nodes: 2 x small" in said
    study = folder / "studies" / "grown"
    assert json.loads((study / "report" / "verdict.json").read_text())["verdict"]
    assert {json.loads(path.read_text())["status"] for path in study.glob("runs/*/record.json")} == {"completed"}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("too large", ["no trial fits: a trial takes 4 CPUs", "2 x small (1 CPUs", "larger nodes"]),
        ("too many", ["--max-concurrent 9 does not fit", "at most 2 fit"]),
        ("impatient", ["no place for a trial after", "a trial takes 1 CPUs", "--wait-for-nodes"]),
    ],
)
def test_what_cannot_be_placed_is_told_with_what_is_missing(found: dict[str, Any], kind: str, words: list[str]) -> None:
    assert found[kind]["code"] == 1, found[kind]["said"]
    for word in words:
        assert word in found[kind]["said"]
    assert not found[kind]["written"]


def test_drivers_sit_on_the_head_and_workers_elsewhere(found: dict[str, Any]) -> None:
    spanning = found["spanning"]
    assert spanning["code"] == 0, spanning["said"]
    (line,) = [line for line in spanning["said"].splitlines() if line.startswith("FOUND ")]
    seen = json.loads(line.removeprefix("FOUND "))
    assert seen["ends"] == ["None"] and seen["record"]
    assert any("RayTrainWorker" in kind for kind in seen["elsewhere"])
    assert not any("RayTrainWorker" in kind for kind in seen["on head"])
    assert any("TrainController" in kind for kind in seen["on head"])
    assert not any("TrainController" in kind or "ImplicitFunc" in kind for kind in seen["elsewhere"])
