"""The command `divfeat`."""

import importlib
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from divfeat.cli.console import main
from divfeat.files import read_json
from divfeat.search import doctor
from tests.report.studies import Studied

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return Studied(tmp_path_factory.mktemp("runs") / "s", preset="digits-lt").all()


def test_the_installed_command_is_this_one():
    target = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]["divfeat"]
    module, _, name = target.partition(":")
    assert getattr(importlib.import_module(module), name) is main


def test_export_says_how_to_use_what_it_wrote(study, tmp_path, capsys):
    place = tmp_path / "t.json"
    assert main(["export", str(study.ledger.folder), "--out", str(place)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{place}: {len(read_json(place)['tau_plus'])} thresholds of s, release ")
    assert f"json.load(open({str(place)!r}" in said and said.rstrip().splitlines()[-1].startswith("loss = ")


def test_report_writes_it_anew_and_elsewhere(study, tmp_path, capsys):
    assert main(["report", str(study.ledger.folder), "--publish", str(tmp_path / "p")]) == 0
    assert (tmp_path / "p" / "report.html").is_file() and "report  " in capsys.readouterr().out


def test_compare_prints_and_writes(study, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Studied(tmp_path / "t", preset="digits-lt", train={"epochs": 70}).all()
    assert main(["compare", str(study.ledger.folder), "t"]) == 0
    said = capsys.readouterr().out
    assert "Winner minus baselines" in said and "t minus s" in said and "comparison/figures" in said
    assert "written to comparison: comparison.md, comparison.json, figures/" in said
    assert (tmp_path / "comparison" / "comparison.md").is_file()
    assert main(["compare", "t", "--out", "o"]) == 1 and "t is one; add another" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("words", [["report"], ["export"], ["compare", "."]])
def test_no_study_is_told(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*words, str(tmp_path)]) == 1
    assert "holds no study" in capsys.readouterr().err and not any(tmp_path.iterdir())


@pytest.mark.parametrize(("words", "code"), [([], 2), (["x"], 2), (["--help"], 0), (["export", "--help"], 0)])
def test_usage(words, code, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == code


def test_help_imports_neither_torch_nor_ray():
    line = "import sys; from divfeat.cli.console import parser; parser(); print({'torch', 'ray', 'mlflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"


def findings(text):
    """What was looked at -> (ok or TROUBLE, what was said)."""
    lines = [line.split(maxsplit=1) for line in text.splitlines()]
    return {rest.split(":")[0]: (word, rest.partition(": ")[2]) for word, rest in lines}


def test_doctor_on_this_machine(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("DIVFEAT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "_ray", lambda address: "not started here: it has a test of its own")
    assert main(["doctor", "--storage-path", str(tmp_path / "runs")]) == 0
    found = findings(capsys.readouterr().out)
    assert {word for word, _ in found.values()} == {"ok"}
    assert list(found) == ["packages", "device", "storage", "MLflow", "Ray", "data"]
    assert f"torch {torch.__version__.partition('+')[0]}" in found["packages"][1]
    assert "here for digits, digits-hierarchy, digits-lt; not for aircraft-hierarchy, cifar10, " in found["data"][1]
    assert not any(tmp_path.iterdir())


def test_doctor_tells_every_trouble_and_goes_on(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(doctor, "_packages", lambda: 1 / 0)  # a broken installation
    monkeypatch.setattr(doctor, "_ray", lambda address: f"asked for {address}")
    line = ["doctor", "--storage-path", str(tmp_path / "file" / "runs"), "--tracking-uri", "http://127.0.0.1:1"]
    assert main([*line, "--address", "here:1"]) == 1
    found = findings(capsys.readouterr().out)
    assert {what for what, (word, _) in found.items() if word == "TROUBLE"} == {"packages", "storage", "MLflow"}
    assert "ZeroDivisionError" in found["packages"][1] and "give a folder that can" in found["storage"][1]
    assert "no MLflow server answers there" in found["MLflow"][1] and found["Ray"] == ("ok", "asked for here:1")


def test_a_nearly_full_disk_is_trouble(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: usage._replace(free=5 * 2**20))
    monkeypatch.setattr(doctor, "_ray", lambda address: "")
    (storage,) = [one for one in doctor.examine(str(tmp_path / "runs")) if one.what == "storage"]
    assert storage.trouble and "has 5 MiB left; free some, or choose another --storage-path" in storage.said


@pytest.mark.slow
def test_doctor_starts_ray_for_a_moment_and_finds_no_cluster_where_none_is(tmp_path, capsys):
    assert main(["doctor", "--storage-path", str(tmp_path)]) == 0
    assert "a Ray of its own started here: " in capsys.readouterr().out
    assert main(["doctor", "--storage-path", str(tmp_path), "--address", "127.0.0.1:9"]) == 1
    assert findings(capsys.readouterr().out)["Ray"][0] == "TROUBLE"
