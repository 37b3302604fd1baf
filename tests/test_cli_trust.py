"""The command that measures trust, but for the trainings: noise of a study, drawn studies, figures, mistakes."""

import shlex
from pathlib import Path

import pytest

from divfeat.cli.trust import main, parser
from divfeat.files import read_json, write_json
from tests.report.studies import Studied

ROOT = Path(__file__).resolve().parents[1]
TINY = {
    "accuracy": 70.0, "images": 60, "baselines": 2, "seed_sd": 1.0, "seed_share": 0.3, "difficulty": 0.4, "taste": 0.2,
    "shared": 0.05,
}  # fmt: skip


def test_the_lines_of_the_script_and_of_the_results_are_understood():
    script = (ROOT / "studies" / "trust.py").read_text(encoding="utf-8")
    lines = [
        line.partition("#")[0] for line in script.splitlines() if line.strip().startswith("python studies/trust.py")
    ]
    lines += [read_json(path)["command"] for path in sorted((ROOT / "results" / "trust").glob("*.json"))]
    steps = {parser().parse_args(shlex.split(line)[2:]).step for line in lines}
    assert steps == {"noise", "calibration", "same", "figures"} and len(lines) == 8


def test_noise_is_that_of_the_studies_answers(tmp_path):
    Studied(tmp_path / "s").all()
    assert main(["noise", str(tmp_path / "s"), "--out", str(tmp_path)]) == 0
    found = read_json(tmp_path / "noise.json")
    assert found["command"] == "python studies/trust.py noise runs/s"  # names no folder of this machine
    row = found["studies"]["digits"]
    assert 0 < row["noise"]["accuracy"] < 100 and row["noise"]["baselines"] >= 2 and row["measured"]["sd"] > 0


def test_a_study_without_answers_is_told(tmp_path, capsys):
    Studied(tmp_path / "s").begin().search(degrees=(60.0,)).select()
    assert main(["noise", str(tmp_path / "s"), "--out", str(tmp_path)]) == 1
    assert "keeps no answers of two confirmed methods" in capsys.readouterr().err


def test_calibration_is_drawn_again_alike_and_keeps_the_rows_of_others(tmp_path, capsys):
    assert main(["calibration", "--out", str(tmp_path)]) == 1
    assert "`trust.py noise STUDY...` measures it" in capsys.readouterr().err
    row = {"noise": TINY, "confirmation_seeds": 5, "measured": {"sd": 1.0}}
    write_json(tmp_path / "noise.json", {"studies": {"a": row, "b": row}})
    line = ["calibration", "--replicates", "3", "--out", str(tmp_path)]
    assert main(line) == 0
    first = read_json(tmp_path / "calibration.json")
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"calibration.png", "power.png"}
    changed = {**first, "studies": first["studies"] | {"a": first["studies"]["a"] | {"drawn": {"sd": -1.0}}}}
    write_json(tmp_path / "calibration.json", changed)
    assert main([*line, "--only", "b"]) == 0
    again = read_json(tmp_path / "calibration.json")
    assert again["studies"]["b"] == first["studies"]["b"] and again["studies"]["a"]["drawn"] == {"sd": -1.0}


@pytest.mark.parametrize("words", [["calibration", "--replicates", "0"], ["noise"], ["guess"]])
def test_what_is_not_understood(words):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
