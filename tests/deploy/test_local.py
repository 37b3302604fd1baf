"""deploy/local/cluster.yaml over ssh on two machines made of namespaces: up, a study by `ray job submit`, down."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.deploy.alone import needs, play

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    needs("sshd", "ssh-keygen", "rsync", "mount", root=True)
    folder = tmp_path_factory.mktemp("local")
    made = play("local_scene", folder, timeout=900)
    study = folder / "studies" / "sent"
    records = [json.loads(path.read_text()) for path in study.glob("runs/*/record.json")]
    return made | {"records": records, "verdict": json.loads((study / "report" / "verdict.json").read_text())}


def test_ray_up_brings_a_head_that_trains_nothing_and_a_worker(found: dict[str, Any]) -> None:
    head, worker = sorted(found["nodes"], key=lambda node: node.get("CPU", 0))
    assert "node:__internal_head__" in head and head.get("CPU", 0) == 0 and head["divfeat_driver"] == 64
    assert worker["CPU"] >= 1 and "divfeat_driver" not in worker
    assert "will not" not in found["up"]


def test_a_study_sent_to_it_ends_with_a_verdict(found: dict[str, Any]) -> None:
    assert found["job"]["code"] == 0, found["job"]["said"]
    assert found["verdict"]["verdict"] and "succeeded" in found["job"]["said"]
    assert found["records"] and {record["status"] for record in found["records"]} == {"completed"}


def test_results_name_the_commit_that_came_along(found: dict[str, Any]) -> None:
    assert {record["provenance"]["commit"] for record in found["records"]} == {"c" * 40}


def test_nobody_talks_to_it_without_its_token(found: dict[str, Any]) -> None:
    assert found["refused"]["code"] != 0
    assert "InvalidAuthToken" in found["refused"]["said"] or "authentication" in found["refused"]["said"].lower()
    assert any("raylet" in title for title in found["titles"])
    assert found["titles_with_token"] == []


def test_the_dashboard_listens_on_loopback_alone(found: dict[str, Any]) -> None:
    places = [line.split()[3] for line in found["listening"].splitlines() if line.split()[3].endswith(":8265")]
    assert places == ["127.0.0.1:8265"]


def test_ray_down_leaves_nothing(found: dict[str, Any]) -> None:
    assert found["down"]["code"] == 0, found["down"]["said"]
    assert found["left on the head"] == []  # the scene waited for the worker's
