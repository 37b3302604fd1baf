"""Methods over a tree from the command line on a real local Ray: the search for two objectives, CRM after a shared training, the
report with its figures, and the table."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from divfeat.files import read_json
from divfeat.report.columns import WINNER_ROW
from tests.cluster.conftest import Command, records

pytestmark = pytest.mark.slow

METHODS = ["ce_no_projector", "crm", "flamingo", "haframe"]


def test_the_table_over_a_tree_runs_to_its_end(on_cluster: Command, tmp_path: Path) -> None:
    command = dataclasses.replace(on_cluster, script="hierarchy_table.py")
    storage, place = tmp_path / "studies", tmp_path / "table"
    storage.mkdir()
    words = ["--presets", "digits-hierarchy", "--smoke-test", "--trials", "4", "--methods", *METHODS]
    words += ["--set", "search.objectives=[accuracy, severity]", "--publish", str(place)]
    output = command.run(storage, *words)
    (study,) = storage.glob("digits-hierarchy-*")
    found = records(study)
    assert {record["status"] for record in found.values()} == {"completed"}

    # Thresholds, gamma and alpha are searched together, from where they are published.
    params = [read_json(path)["params"] for path in sorted(study.glob("proposals/*.json"))]
    assert len(params) == 4 and all(one.keys() >= {"gamma", "cosine"} for one in params)
    assert (params[0]["gamma"], params[0]["cosine"]) == (2.0, 0.4)
    searched = [record for record in found.values() if record["config"]["role"] == "search"]
    assert all(1 <= record["metrics"]["val/mistake_severity"] <= 2 for record in searched)
    verdict = read_json(study / "report" / "verdict.json")
    assert [one["name"] for one in verdict["objectives"]] == ["accuracy", "severity"]
    assert set(verdict["methods"]) == {"winner", *METHODS}

    # CRM ranks what cross-entropy trained: the same features to the last bit.
    confirmed = {
        (one["config"]["method"]["name"], one["config"]["seed"]): key
        for key, one in found.items()
        if one["config"]["role"] == "confirm"
    }
    for seed in {seed for _, seed in confirmed}:
        plain, crm = (found[confirmed[name, seed]]["metrics"] for name in ("ce_no_projector", "crm"))
        assert plain["collapse/nc1"] == crm["collapse/nc1"] and plain["test/fine_top1"] == crm["test/fine_top1"]
    for key in confirmed.values():
        with np.load(study / "runs" / key / "correct.npz") as arrays:
            right = (arrays["predicted"] == arrays["label"]).mean()
        assert right == pytest.approx(found[key]["metrics"]["test/accuracy"])
    figures = {path.stem for path in (study / "report" / "figures").iterdir()}
    assert {"severity_by_accuracy", "mistakes_on_tree", "class_cosines", "angular"} <= figures

    table = (place / "hierarchy.md").read_text(encoding="utf-8")
    assert table.strip() in output
    (section,) = read_json(place / "hierarchy.json")["data"]
    assert list(section["methods"]) == [*METHODS, WINNER_ROW]
    for name, entry in section["methods"].items():
        metrics = entry["metrics"]
        assert all(math.isfinite(value) for value in metrics["collapse/cophenetic"]["values"]), name
        assert (metrics["collapse/angular"]["mean"] is None) == (name not in ("haframe", WINNER_ROW))
