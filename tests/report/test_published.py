import io
import json

import pytest
from rich.console import Console

from divfeat.report.build import build_report
from divfeat.report.reading import read_summary
from tests.report.studies import Studied, completed, ended

QUICK = {"protocol": {"grid_points": 0}, "data": {"train_level": "fine"}}


def at(accuracy, name):
    """A record maker: `accuracy` of the classifier of `name` in the confirmation, in percent."""

    def record(job):
        found = completed(job.experiment)
        if job.phase == "confirm" and job.name == name:
            found["metrics"]["test/accuracy"] = accuracy / 100
        return found

    return record


def studied(folder, published, record=None, **protocol):
    settings = {**QUICK, "protocol": {**QUICK["protocol"], "published_ce": published, **protocol}}
    return Studied(folder, record=record, **settings).all()


@pytest.mark.parametrize(("reached", "withheld"), [(68.39, True), (68.41, False), (75, False)])
def test_a_recipe_more_than_two_points_under_the_published_row_gets_no_verdict(tmp_path, reached, withheld):
    studied(tmp_path / "s", 70.4, at(reached, "ce_no_projector"))
    summary = read_summary(tmp_path / "s")
    verdicts = {one.verdict for one in summary.primary.verdict.comparisons}
    assert (verdicts == {"no verdict"}) is withheld
    said = f" With {reached:.2f} % on test ce_no_projector lies more than 2 points under the 70.4 % published"
    assert (said in summary.sentence) is withheld
    plain = read_summary(Studied(tmp_path / "plain", **QUICK).all().ledger.folder)
    for one, other in zip(summary.primary.verdict.comparisons, plain.primary.verdict.comparisons, strict=True):
        assert (one.mean, one.low, one.high, one.level) == (other.mean, other.low, other.high, other.level)
    assert plain.primary.verdict.named("better")  # else there would be nothing to withhold


def test_ce_with_a_projector_stands_in_where_it_is_the_only_one(tmp_path):
    studied(tmp_path / "s", 70.4, at(60, "ce"), baselines=["ce", "ce_etf"])
    assert "With 60.00 % on test ce lies" in read_summary(tmp_path / "s").sentence
    studied(tmp_path / "both", 70.4, at(60, "ce"))
    assert "published" not in read_summary(tmp_path / "both").sentence  # ce_no_projector is the published one


def test_unfinished_runs_of_ce_say_nothing(tmp_path):
    def record(job):
        failed = job.phase == "confirm" and job.name == "ce_no_projector"
        return ended(job.experiment, "failed", "no") if failed else completed(job.experiment)

    studied(tmp_path / "s", 70.4, record)
    summary = read_summary(tmp_path / "s")
    assert "No run of ce_no_projector has finished" in summary.sentence
    assert {one.verdict for one in summary.primary.verdict.comparisons} == {"no verdict"}


def test_report_screen_and_numbers_keep_the_tables_without_a_verdict(tmp_path):
    studied(tmp_path / "s", 70.4, at(60, "ce_no_projector"))
    report = build_report(tmp_path / "s")
    screen = io.StringIO()
    report.print(Console(file=screen, width=160, color_system=None))
    text, row = report.markdown.read_text(encoding="utf-8"), json.loads(report.files["verdict.json"].read_text())
    page = screen.getvalue()
    for place in (text.replace("\\", ""), page, row["verdict"]):
        assert place.count("more than 2 points under the 70.4 % published for CE with this recipe") >= 1
        assert "better than" not in place
    (line,) = [line for line in page.splitlines() if " ce_etf " in line and "[" in line]
    assert "no verdict" in line and "+" in line
    assert "| ce\\_etf | \\+" in text and "[" in text
    assert {one["verdict"] for one in row["objectives"][0]["comparisons"]} == {"no verdict"}
    assert not any(name.startswith("difference/") for name in report.metrics)
