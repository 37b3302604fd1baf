"""What a report says of baselines that are tuned, and of a search on another base than plain HingeCE."""

import math

import numpy as np
import pytest

from divfeat.report import figures
from divfeat.report.build import build_report, document
from divfeat.report.document import blocks_to_markdown
from divfeat.report.plots import draw
from divfeat.report.reading import read_summary
from divfeat.report.row import results_row
from divfeat.report.words import signed
from divfeat.search.jobs import SEARCH_SEED, experiment, name_of, seed_of
from divfeat.search.subjects import threshold_method
from tests.report.studies import Studied, completed

#: A study whose report draws little.
NO_FIGURES = {"data": {"train_level": "fine"}}
QUIET = {"grid_points": 0, "confirm_seeds": 5, "select_seeds": 2}
SETTINGS = ({"margin": 0.5, "scale": 30.0}, {"margin": 0.25, "scale": 20.0}, {"margin": 0.9, "scale": 50.0})


def text_of(report):
    return report.markdown.read_text(encoding="utf-8").replace("\\", "")


def planted(job):
    """LDAM is best at a margin of 0.25."""
    record = completed(job.experiment)
    if job.experiment.method.name == "ldam" and job.phase != "confirm":
        record["metrics"]["probe/fine_top1"] += 0.1 if job.experiment.method.margin == 0.25 else 0.0
    return record


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    rules = {**QUIET, "baselines": ["ce", "ldam"], "tune": True}
    study = Studied(tmp_path_factory.mktemp("runs") / "a", record=planted, protocol=rules, **NO_FIGURES)
    study.begin().search().tune("ldam", *SETTINGS).select().confirm()
    return study, build_report(study.ledger.folder)


def test_a_tuned_baseline_keeps_its_name_and_shows_its_numbers(tuned):
    study, report = tuned
    text = text_of(report)
    assert "## The baselines' own numbers" in text
    mean = report.summary.own_numbers[0].score
    assert f"| ldam | 3 | 3 | margin=0.5 scale=30 | margin=0.25 scale=20 | {mean:.2f} |" in text
    assert "scale 8 to 64, log scale" in text and "margin 0.05 to 1" in text
    assert [comparison.name for comparison in report.verdict.comparisons] == ["ce", "ldam"]
    difference = study.confirmed("winner") - study.confirmed("ldam")
    assert np.isfinite(difference).all() and f"| ldam | {signed(difference.mean())} |" in text
    configs = {record["config"]["method"]["margin"] for record in report.summary.confirmed_as("ldam").completed}
    assert configs == {0.25}
    assert report.summary.missing == ()


def test_the_row_of_results_holds_what_was_found(tuned):
    _, report = tuned
    row = results_row(report.summary)
    assert row["own_numbers"]["ldam"] == {
        "published": {"margin": 0.5, "scale": 30.0},
        "found": {"margin": 0.25, "scale": 20.0},
        "trials": 3,
        "completed": 3,
        "score": report.summary.own_numbers[0].score,
    }
    assert row["methods"]["ldam"]["method"]["scale"] == 20.0


def test_constraints_of_the_search_are_said_to_hold_for_baselines(tuned, tmp_path):
    rules = {**QUIET, "baselines": ["ce", "ldam"], "tune": True}
    bounds = {"constraints": [{"metric": "accuracy", "at_least": 50}]}
    study = Studied(tmp_path / "a", protocol=rules, search=bounds, **NO_FIGURES)
    study.begin().search().tune("ldam", *SETTINGS).select().confirm()
    text = blocks_to_markdown(document(read_summary(study.ledger.folder), {}).blocks)
    assert "objective, sampler, constraints and number of trials" in text
    assert "objective, sampler and number of trials" in text_of(tuned[1])


@pytest.mark.parametrize("own", [[], ["logit_adjustment"]])
def test_a_base_that_was_tuned_without_cones_alone_is_told(tmp_path, own):
    rules = {**QUIET, "baselines": ["ce", "ce_etf_la"], "tune": True}
    search = {"method": "hinge_la", "own": own, "releases": ["gate"]}
    study = Studied(tmp_path / "a", protocol=rules, search=search, **NO_FIGURES)
    study.begin().search().tune("ce_etf_la", {"logit_adjustment": 1.0}, {"logit_adjustment": 2.0}).select().confirm()
    summary = read_summary(study.ledger.folder)
    text = blocks_to_markdown(document(summary, {}).blocks).replace("\\", "")
    assert summary.coneless == "ce_etf_la" and "No baseline is the searched method without cones" not in text
    told = "The searched method without cones, ce_etf_la, was tuned in logit_adjustment, which"
    assert (told in text and 'search.own=["logit_adjustment"] searches both' in text) is (not own)


def test_before_they_are_frozen_nothing_is_said_to_be_found(tmp_path):
    rules = {**QUIET, "baselines": ["ce", "ldam"], "tune": True}
    study = Studied(tmp_path / "a", record=planted, protocol=rules, **NO_FIGURES)
    study.begin().search().tune("ldam", *SETTINGS[:1])
    (one,) = read_summary(study.ledger.folder).own_numbers
    assert one.found is None and one.trials == 1 and math.isnan(one.score)
    assert "not frozen yet" in text_of(build_report(study.ledger.folder))


def test_a_tuning_that_went_on_outdates_the_verdict(tmp_path):
    rules = {**QUIET, "baselines": ["ce", "ldam"], "tune": True, "select_top": 1}
    study = Studied(tmp_path / "a", record=planted, protocol=rules, **NO_FIGURES)
    study.begin().search().tune("ldam", SETTINGS[0]).select().confirm()
    assert not read_summary(study.ledger.folder).outdated
    study.tune("ldam", *SETTINGS)
    assert read_summary(study.ledger.folder).outdated
    study.select().confirm()
    summary = read_summary(study.ledger.folder)
    assert not summary.outdated and summary.primary.verdict.looks == 2  # LDAM's first setting was judged too
    assert "settings of baselines that tuning on has replaced" in text_of(build_report(study.ledger.folder))


def test_baselines_that_tuning_made_one_training_are_said_to_be(tmp_path):
    rules = {**QUIET, "baselines": ["class_balanced", "ldam_drw", "ce_etf"], "tune": True}
    study = Studied(tmp_path / "a", protocol=rules, **NO_FIGURES).begin().search((0.0, 60.0))
    same = {"margin": 0.0, "scale": 0.0, "class_balanced": 0.9999, "deferred": 0.0}  # out of range: for the text alone
    study.select()
    study.ledger.write_phase(
        "tuned", {"ldam_drw": {"winner": {"method": {"name": "ldam_drw", **same}}, "candidates": [], "trials": 1}}
    )
    text = text_of(build_report(study.ledger.folder))
    assert "class_balanced and ldam_drw are one training here" in text


def test_untuned_baselines_are_said_to_be_as_published(tmp_path):
    study = Studied(tmp_path / "a", protocol={**QUIET, "baselines": ["ce_etf", "focal", "ldam"]}, **NO_FIGURES).all()
    text = text_of(build_report(study.ledger.folder))
    assert "focal and ldam stand as published. A baseline that was not tuned is not beaten." in text


def test_untuned_baselines_at_given_numbers_are_said_to_be(tmp_path):
    rules = {**QUIET, "baselines": ["ce_etf", "focal", "ldam"], "own": {"ldam": {"scale": 20}}}
    text = text_of(build_report(Studied(tmp_path / "a", protocol=rules, **NO_FIGURES).all().ledger.folder))
    assert "focal and ldam stand as published, ldam at the numbers that protocol.own gives. A baseline" in text
    assert "ldam scale=20" in text


@pytest.fixture(scope="module")
def adjusted(tmp_path_factory):
    search = {
        "method": {"name": "hinge_la", "logit_adjustment": 1.5},
        "own": ["logit_adjustment"],
        "releases": ["gate"],
    }
    rules = {"baselines": ["ce", "hinge_fixed"], "confirm_seeds": 5, "select_seeds": 3, "grid_points": 8}
    study = Studied(tmp_path_factory.mktemp("runs") / "a", search=search, protocol=rules, **NO_FIGURES).all()
    return study, build_report(study.ledger.folder)


def test_a_search_on_another_base_says_so_in_every_place(adjusted):
    _, report = adjusted
    text = text_of(report)
    assert (
        "thresholds of hinge_la with logit_adjustment=1.5, its logit_adjustment (0.25 to 3) searched with them" in text
    )
    strength = report.summary.winner_method.logit_adjustment
    assert report.summary.winner_method.name == "hinge_la" and strength == pytest.approx(1.65)
    fixed = report.summary.confirmed_as("hinge_fixed").method
    assert fixed.name == "hinge_la" and fixed.logit_adjustment == 1.5
    assert all(set(trial.angles) == {"tau"} for trial in report.summary.trials)
    grid = report.summary.grid
    assert [runs.method.logit_adjustment for runs in grid.runs] == [strength] * 8
    assert {runs.method.name for runs in grid.runs[1:]} == {"hinge_la"} and grid.runs[0].method.name == "ce_etf_la"
    assert np.isfinite(grid.scores).all()


def test_the_curve_over_the_angle_is_called_by_its_base(adjusted, monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr(figures, "accuracy_by_threshold", lambda *given, method, **words: called.append(method) or "")
    monkeypatch.setattr(figures, "diversity_by_threshold", lambda *given, method, **words: called.append(method) or "")
    draw(adjusted[1].summary, tmp_path)
    assert called == ["hinge_la (gate)"] * 2


def test_a_missing_baseline_without_cones_is_told(adjusted, tmp_path):
    told = "No baseline is the searched method without cones (ce_etf_la logit_adjustment=1.5)"
    assert told in text_of(adjusted[1])
    search = {"method": "hinge_la", "releases": ["gate"]}
    for name in ("ce_etf_la", "no_cones"):
        study = Studied(tmp_path / name, search=search, protocol={**QUIET, "baselines": [name]}, **NO_FIGURES).all()
        assert read_summary(study.ledger.folder).coneless
        assert "without cones" not in text_of(build_report(study.ledger.folder))


def test_a_number_searched_on_plain_hingece_is_told(tmp_path):
    """The shares of the epochs with closed cones are the numbers that a search can start from without another base."""
    search = {"own": ["closed_last"], "releases": ["gate"]}
    study = Studied(tmp_path / "a", search=search, protocol=QUIET, **NO_FIGURES).begin()
    params = {"tau": 1.0, "closed_last": 0.25}
    config = experiment(study.trained, threshold_method(study.trained, params), seed_of(study.trained, SEARCH_SEED))
    study.ledger.write_proposal(0, {"params": params, "key": config.key, "name": name_of(config.method)})
    text = blocks_to_markdown(document(read_summary(study.ledger.folder), {}).blocks).replace("\\", "")
    assert "thresholds of hinge_ce, its closed_last (0 to 0.45) searched with them" in text
    assert "gate 57.3 deg closed_last=0.25" in text
