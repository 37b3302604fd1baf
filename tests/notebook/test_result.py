"""The object around the frames: winner, figures, what a notebook shows."""

import json
import math
from pathlib import Path

import pytest
from matplotlib.figure import Figure

import divfeat
from divfeat.report.build import build_report
from tests.report.studies import Studied


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    study = Studied(tmp_path_factory.mktemp("runs") / "s", preset="digits-lt").all()
    build_report(study.ledger.folder)
    return divfeat.open_study(study.ledger.folder)


def test_winner_verdict_and_places_are_those_of_the_report(result):
    row = json.loads((result.folder / "report" / "verdict.json").read_text())
    assert result.verdict == row["verdict"]
    frozen = json.loads((result.folder / "phases" / "winner.json").read_text())["winner"]
    assert (result.winner.name, result.winner.key, result.winner.number) == (
        frozen["name"],
        frozen["key"],
        frozen["number"],
    )
    assert result.winner.radians == frozen["method"]["thresholds"]["angles"] == result.winner.parameters
    assert result.winner.degrees == {name: math.degrees(value) for name, value in result.winner.radians.items()}
    assert result.winner.release == frozen["method"]["release"]
    assert result.report == result.folder / "report" / "report.html" and result.report.is_file()
    assert result.mlflow_uri == f"sqlite:///{result.folder / 'mlflow.db'}"


def test_thresholds_are_those_exported(result, tmp_path):
    content = result.export(tmp_path / "t.json")
    assert content == json.loads((tmp_path / "t.json").read_text())
    assert list(result.thresholds["tau_plus"]) == content["tau_plus"]
    assert list(result.thresholds["degrees"]) == [math.degrees(value) for value in content["tau_plus"]]
    assert list(result.thresholds["train_images"]) == [row["train_images"] for row in content["classes"]]


@pytest.mark.slow
def test_figures_are_the_reports_own(result):
    """The same bytes as the files, whose data they share."""
    files = {path.stem: path for path in (result.folder / "report" / "figures").glob("*.png")}
    assert set(result.figures) == set(files) and len(result.figures) > 5
    for name, path in files.items():
        figure = result.figures[name]
        assert isinstance(figure, Figure)
        assert figure._repr_png_() == path.read_bytes()
    assert result.figure("search") is not result.figure("search")  # one that was changed does not change the next
    assert repr(result.figures).startswith("figures: ")


def test_an_unknown_figure_is_told_with_the_known_ones(result):
    with pytest.raises(
        divfeat.ConfigError, match=r"unknown figure 'serch'. Did you mean 'search'\? Known: .*confirmation"
    ):
        result.figure("serch")
    with pytest.raises(KeyError):
        result.figures["serch"]


def test_looking_writes_nothing(result):
    def tree():
        return {path: path.stat().st_mtime_ns for path in Path(result.folder).rglob("*")}

    before = tree()
    again = divfeat.open_study(result.folder)
    assert again.verdict and len(again.runs) and again.figure("search") and again._repr_html_()
    assert tree() == before


def test_a_notebook_shows_verdict_table_and_places(result, monkeypatch):
    monkeypatch.chdir(result.folder.parent)
    html, text = result._repr_html_(), result._repr_markdown_()
    assert result.verdict in html and "<table>" in html and str(result.folder) not in html + text
    for name in result.config.protocol.baselines:
        assert f"<td>{name}" in html
    assert "s/report/report.html" in text and "mlflow ui --backend-store-uri sqlite:///s/mlflow.db" in text
    for one in result.summary.primary.verdict.comparisons:
        assert f"| {one.name} " in text.replace("\\_", "_") and one.verdict in text
    assert repr(result) == f"study s: {result.verdict}"


def test_a_hostile_name_is_no_markup(tmp_path):
    study = Studied(tmp_path / "<b>s</b>").all()
    html = divfeat.open_study(study.ledger.folder)._repr_html_()
    assert "<b>" not in html and "&lt;b&gt;" in html
