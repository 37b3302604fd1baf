"""What MLflow's pages say of a finished study: the numbers are the summary's, the links lead into its run."""

import re
import shlex

import pytest

from divfeat.report.build import build_report
from divfeat.report.commands import study_command
from divfeat.tracking.page import Place
from tests.report.studies import Studied

PLACE = Place("7", "abc")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    study = Studied(tmp_path_factory.mktemp("runs") / "paged").all()
    found = {"model": "paged", "version": 1, "key": study.winner_keys()[0], "seed": 1001, "value": 0.8125}
    study.ledger.write_phase("registered", found)
    return build_report(study.ledger.folder)


def plain(text):
    return text.replace("\\", "").replace("&gt;", ">")


def rows_of(text, head):
    """Cells of the table that begins with the header `head`, row by row, without the header."""
    lines = plain(text).splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith(f"| {head} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def test_the_run_says_verdict_differences_geometry_and_the_line_that_repeats_it(report):
    text, summary = report.study_page(PLACE), report.summary
    assert plain(text).startswith(f"**{summary.sentence}**\n")
    found = summary.primary.verdict.comparisons
    shown = {row[0]: float(row[1].replace("−", "-")) for row in rows_of(text, "winner minus")}
    assert shown == {one.name: pytest.approx(one.mean, abs=0.005) for one in found}
    geometry = {row[0]: float(row[3]) for row in rows_of(text, "method")}
    for runs in summary.confirmed:
        rank = runs.values("collapse/numerical_rank").mean()
        assert geometry[summary.title(runs.name)] == pytest.approx(rank, abs=0.005)
    command = text.split("```bash\n")[1].split("\n```")[0]
    assert shlex.split(command.replace("\\\n", "")) == shlex.split(study_command(summary))
    assert len(text) < 5_000  # MLflow takes 8,000


def test_every_link_leads_to_a_file_of_the_run(report):
    text = report.study_page(PLACE)
    below = set(re.findall(r"\(#/experiments/7/runs/abc/artifacts/([^?)]+)\?", text))
    known = {f"report/{name}" for name in report.files} | {"report/figures", "config.yaml"}
    assert {"report/report.html", "report/figures", "report/figures/confirmation.png"} <= below <= known


def test_the_model_says_where_it_came_from_and_how_it_did(report):
    page, summary = report.model_page(PLACE), report.summary
    degrees = summary.winner_method.thresholds.angles["tau"] * 57.29577951
    assert float(page.tags["tau_plus_deg"]) == pytest.approx(degrees, abs=1e-3)
    came = dict(rows_of(page.of_version, "where it came from"))
    assert came["winner"] == summary.winner["winner"]["name"]
    assert came["data"] == f"digits, split {summary.provenance['search_split_hash']}"
    assert came["commit"] == page.tags["commit"] == summary.provenance["commit"]
    did = dict(rows_of(page.of_version, "how it did"))
    assert did["these weights on validation"] == "81.25 %"
    mean = summary.primary.scores["winner"].mean()
    assert did["the same method on test, trained anew"].startswith(f"{mean:.2f} % ± ")
    assert page.tags["test.fine_probe"] == f"{mean:.2f}"
    assert len(rows_of(page.of_version, "winner minus")) == len(summary.primary.verdict.comparisons)
    for text in (page.description, page.of_version):
        assert 'mlflow.pyfunc.load_model("models:/paged/latest")' in text


def test_nothing_is_said_of_a_model_that_was_not_registered(tmp_path):
    study = Studied(tmp_path / "bare", protocol={"grid_points": 0}).all()
    assert build_report(study.ledger.folder).model_page(PLACE) is None
