"""Which study folders say how long a preset takes: finished, in one session, and the preset as it is."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from divfeat.errors import DataError
from divfeat.files import read_json, write_json
from divfeat.settings import make_configs

SCRIPT = Path(__file__).resolve().parents[1] / "studies" / "preset_times.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("preset_times", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def folder(place: Path, trials: int | None = None, resumed: float = 0.0, **settings: Any) -> Path:
    study, execution, _ = make_configs("digits-lt", overrides=settings)
    config = {"config": study.to_dict(), "identity": study.identity, "created": 1000.0}
    write_json(place / "study.json", config)
    write_json(place / "execution.json", {"time": 1010.0 + resumed})
    write_json(place / "phases" / "done.json", {"trials": trials or execution.trials, "time": 1200.4})
    return place


def test_a_finished_study_of_a_preset_says_its_time(script: ModuleType, tmp_path: Path) -> None:
    assert script.measured(folder(tmp_path)) == ("digits-lt", 200)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"resumed": 3600.0}, "taken up again"),
        ({"trials": 3}, "other settings than the preset 'digits-lt'"),
        ({"protocol": {"baselines": ["ce", "ce_etf"]}}, "other settings than the preset 'digits-lt'"),
    ],
)
def test_other_studies_are_refused(script: ModuleType, tmp_path: Path, how: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        script.measured(folder(tmp_path, **how))


def test_no_study(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no finished study"):
        script.measured(tmp_path)


def test_plans_that_are_there_stand_where_they_are_to_be_kept(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[str] = []
    monkeypatch.setattr(script, "RESULTS", tmp_path / "times.json")
    monkeypatch.setattr(script, "preset_names", lambda: ["digits", "digits-lt", "cifar10"])
    monkeypatch.setattr(script, "planned", lambda preset: planned.append(preset) or {"planned_seconds": 7})
    write_json(tmp_path / "times.json", {"presets": {"digits": {"planned_seconds": 5, "measured_seconds": 6}}})
    assert script.main(["--keep", str(folder(tmp_path / "s"))]) == 0
    assert planned == ["digits-lt", "cifar10"]
    assert read_json(tmp_path / "times.json")["presets"] == {
        "digits": {"planned_seconds": 5, "measured_seconds": 6},
        "digits-lt": {"planned_seconds": 7, "measured_seconds": 200},
        "cifar10": {"planned_seconds": 7, "measured_seconds": None},
    }
    assert script.main([]) == 0 and planned[2:] == ["digits", "digits-lt", "cifar10"]
    assert read_json(tmp_path / "times.json")["presets"]["digits-lt"] == {"planned_seconds": 7, "measured_seconds": 200}
