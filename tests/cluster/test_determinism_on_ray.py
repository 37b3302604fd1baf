"""A study, one trial at a time, run twice from the command line: the same proposals, records, decisions and verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from divfeat.files import read_json
from tests.cluster.conftest import Command, records

pytestmark = pytest.mark.slow

#: What a clock says, or a run's place on disk.
CLOCKS = {
    "time", "finished", "written", "created", "seconds", "training_seconds", "reporting_seconds", "images_per_second",
}  # fmt: skip


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: timeless(inner) for name, inner in value.items() if name not in CLOCKS}
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


def told(study: Path) -> dict[str, Any]:
    """Everything a study wrote but its clocks."""
    names = ["calibrate", "protocol", "tuned", "winner", "data"]
    return {
        "records": timeless(records(study)),
        "proposals": {path.name: timeless(read_json(path)) for path in study.glob("proposals/*.json")},
        "phases": {name: timeless(read_json(study / "phases" / f"{name}.json")) for name in names},
        "verdict": read_json(study / "report" / "verdict.json")["objectives"],
    }


def test_the_same_study_twice_is_the_same_to_the_last_bit(on_cluster: Command, tmp_path: Path) -> None:
    found = []
    for place in ("first", "again"):
        storage = tmp_path / place
        storage.mkdir()
        on_cluster.run(
            storage, "--smoke-test", "--max-concurrent", "1", "--set", "train.augment=crop_flip", "--name", "s"
        )
        found.append(told(storage / "s"))
    assert len(found[0]["records"]) > 8 and len(found[0]["proposals"]) == 3
    for part in found[0]:
        assert found[0][part] == found[1][part], part
