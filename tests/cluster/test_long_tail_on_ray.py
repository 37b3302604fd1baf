"""The long tail from the command line on a real local Ray: the table, stopped and resumed, and a study that is refined and whose
baselines are tuned."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path

import pytest

from divfeat.files import read_json
from divfeat.report.long_tail import BLOCK, WINNER_ROW
from tests.cluster.conftest import Command, records, wait_for_records

BEGIN, END = BLOCK.begin, BLOCK.end

pytestmark = pytest.mark.slow

GROUPS = {"balanced", "major", "minor", "many", "medium", "few"}
METHODS = ["ce", "ce_etf", "ldam", "tau_norm", "crt"]


def written(folder: Path) -> dict[Path, int]:
    """When each record of the ledgers below a folder was written; MLflow's copy of a stopped run is written again."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("*/runs/*/record.json")}


def test_the_table_is_stopped_resumed_and_printed_again(on_cluster: Command, tmp_path: Path) -> None:
    """Ctrl-C in the middle, the same line to the end, and once more with nothing left to run."""
    command = dataclasses.replace(on_cluster, script="long_tail_table.py")
    storage, place, readme = tmp_path / "studies", tmp_path / "table", tmp_path / "README.md"
    storage.mkdir()
    readme.write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n", encoding="utf-8")
    words = ["--presets", "digits-lt", "--smoke-test", "--trials", "2", "--methods", *METHODS]
    words += ["--publish", str(place), "--readme", str(readme)]

    process = command.start(storage, *words)
    while not (found := list(storage.glob("digits-lt-*"))):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    (study,) = found
    wait_for_records(study, 5, process)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "stopped by SIGINT" in output
    assert f"--methods {' '.join(METHODS)} --publish {place}" in output  # the line that goes on
    assert "old" in readme.read_text(encoding="utf-8") and not place.exists()
    before = written(storage)

    output = command.run(storage, *words)
    after = written(storage)
    assert len(after) > len(before) >= 5
    assert before.items() <= after.items()
    assert {record["status"] for record in records(study).values()} == {"completed"}
    table = (place / "long_tail.md").read_text(encoding="utf-8")
    assert table.strip() in output
    made = read_json(place / "long_tail.json")
    assert made["methods"] == [*METHODS, WINNER_ROW]
    (column,) = made["data"]
    assert (column["title"], set(column["groups"]), len(column["seeds"])) == ("digits-lt", GROUPS, 2)
    tuned = {name: entry["trials"] for name, entry in column["methods"].items()}
    assert tuned == {"ce": None, "ce_etf": None, "ldam": 2, "tau_norm": 2, "crt": 2, WINNER_ROW: 2}
    for entry in column["methods"].values():
        assert set(entry["scores"]) == GROUPS | {"accuracy"}
        assert all(len(values) == 2 and None not in values for values in entry["scores"].values())
    shown = readme.read_text(encoding="utf-8")
    overview = table.partition("\n#### ")[0].strip()
    link = "By groups of classes, with provenance: [table/long_tail.md](table/long_tail.md)."
    assert shown == f"before\n\n{BEGIN}\n\n{overview}\n\n{link}\n\n{END}\n\nafter\n"
    assert overview.count("\n| ") == len(METHODS) + 2  # and the winner, and the line under the heads

    reads = (study / "test_reads.jsonl").read_text()
    again = command.run(storage, *words)
    assert table.strip() in again
    assert written(storage) == after
    assert (study / "test_reads.jsonl").read_text() == reads
    assert readme.read_text(encoding="utf-8") == shown


def test_a_refined_search_with_tuned_baselines_reports_both_and_the_groups(on_cluster: Command, tmp_path: Path) -> None:
    settings = ["search.refine=[global]", "search.releases=[gate]", "protocol.tune=true"]
    settings += ["protocol.baselines=[ce_etf, ldam, no_cones, tau_norm]", "search.method=hinge_la"]
    words = ["--preset", "digits-lt", "--smoke-test", "--trials", "4", "--name", "lt"]
    on_cluster.run(tmp_path, *words, *(word for text in settings for word in ("--set", text)))
    study = tmp_path / "lt"
    stages = [read_json(path)["stage"]["family"] for path in sorted(study.glob("proposals/*.json"))]
    assert stages == ["global", "major_minor", "major_minor", "major_minor"]
    for name in ("ldam", "tau_norm"):
        assert len(list((study / "proposals" / name).glob("*.json"))) == 4
    verdict = read_json(study / "report" / "verdict.json")
    assert verdict["winner"]["method"] in ("hinge_la", "ce_etf_la")
    assert verdict["protocol"]["trials"] == 4
    own = verdict["own_numbers"]
    assert {name: found["trials"] for name, found in own.items()} == {"ldam": 4, "tau_norm": 4}
    assert verdict["groups"]["classes"] == {"major": 4, "minor": 6, "many": 1, "medium": 5, "few": 4}
    methods = {"winner", "ce_etf", "ldam", "no_cones", "tau_norm"}
    assert set(verdict["groups"]["scores"]) == set(verdict["methods"]) == methods
    assert all(set(scores) == GROUPS for scores in verdict["groups"]["scores"].values())
    report = (study / "report" / "report.md").read_text(encoding="utf-8")
    for part in (
        "refined from plain to rich families, 1 in 'global' and 3 in 'major\\_minor'",
        "## Groups of classes",
        "## The baselines' own numbers",
        "| ldam | 4 | 4 | margin=0.5 scale=30 |",
    ):
        assert part in report
