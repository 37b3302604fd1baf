"""The command `divfeat`."""

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from divfeat.cli.console import main
from divfeat.files import read_json
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


@pytest.mark.parametrize("words", [["report"], ["export"]])
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
