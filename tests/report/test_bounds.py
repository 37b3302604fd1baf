"""What a report says of constraints, stop reasons, two objectives and geometry."""

import math
import re

import numpy as np
import pytest

from divfeat.files import read_json
from divfeat.objectives import OBJECTIVES, OF_TREES
from divfeat.report.build import build_report, document
from divfeat.report.document import blocks_to_markdown
from divfeat.report.reading import read_summary
from divfeat.statistics import hypervolume
from tests.report.studies import Studied, completed, ended
from tests.report.test_build import NO_FIGURES, printed, text_of

#: Below the angle at which training accuracy of `crowded` falls by 2 points.
BOUND = {"metric": "accuracy", "at_least": -2.0, "than": "ce_etf"}
WIDE = math.radians(58)


def crowded(job):
    """As every run of these studies, but cones beyond 58 degrees cost 5 points of the classifier's accuracy."""
    record = completed(job.experiment)
    if max(job.experiment.method.thresholds.angles.values(), default=0.0) > WIDE:
        for name in ("val/accuracy", "test/accuracy"):
            if name in record["metrics"]:
                record["metrics"][name] -= 0.2
    return record


def test_infeasible_trials_are_counted_by_constraint(tmp_path):
    both = [BOUND, {"metric": "log_norm", "at_most": 0.59}]
    study = Studied(tmp_path / "s", record=crowded, search={"constraints": both}, **NO_FIGURES).all()
    report = build_report(tmp_path / "s")
    summary, text = report.summary, text_of(report)
    wide = [trial for trial in summary.trials if trial.angles["tau"] > WIDE]
    assert summary.bounds[0].infeasible == len(wide) == 3
    norm = [1.4 - trial.values[0] / 100 > 0.59 for trial in summary.trials]
    assert summary.bounds[1].infeasible == sum(norm) > 0
    infeasible = [trial.angles["tau"] > WIDE or high for trial, high in zip(summary.trials, norm, strict=True)]
    assert [not trial.feasible for trial in summary.trials] == infeasible
    kept = 7 - sum(infeasible)
    assert f"Constraints: {kept} of 7 completed trials keep them, {sum(infeasible)} are infeasible" in text
    assert re.search(r"\| accuracy &gt;= ce_etf - 2 \| [0-9.]+ % \| 3 \| kept \| kept \|", text)
    assert text.count("| infeasible |") == sum(infeasible)
    assert report.metrics["study/infeasible"] == sum(infeasible)
    assert "Constraint accuracy >= ce_etf - 2: 3 trials infeasible; kept by the winner." in printed(report)
    row = read_json(tmp_path / "s" / "report" / "verdict.json")["constraints"][0]
    assert row["infeasible_trials"] == 3 and row["winner_misses_it_by"]["selection"] <= 0
    assert study.winner["winner"]["excess"].keys() == {"accuracy >= ce_etf - 2", "log_norm <= 0.59"}
    best = summary.best_of_release()
    assert all(best[way].feasible for way in best if any(t.feasible and t.release == way for t in summary.trials))


def test_where_nothing_is_feasible_the_report_says_so(tmp_path):
    Studied(tmp_path / "s", search={"constraints": [{"metric": "accuracy", "at_least": 99}]}, **NO_FIGURES).all()
    report = build_report(tmp_path / "s")
    assert "None is feasible: the candidates are those that miss the constraints least" in text_of(report)
    assert "missed by the winner" in printed(report)
    assert "infeasible)" in printed(report)


def test_a_sampler_that_follows_no_trial_is_not_said_to_be_steered(tmp_path):
    Studied(tmp_path / "s", search={"constraints": [BOUND], "sampler": "random"}, **NO_FIGURES).all()
    assert "The sampler 'random' follows no trial" in text_of(build_report(tmp_path / "s"))


def test_trials_that_a_reason_stopped_are_told_from_those_that_lagged_behind(tmp_path):
    def record(job):
        why = {1: "stopped after 4 epochs", 2: "stopped after 2 epochs: train/feature_norm = 11 above 10"}.get(
            job.number
        )
        if why is None:
            return completed(job.experiment)
        return ended(job.experiment, "pruned", why) | {"error_kind": "stop" if job.number == 2 else "pruned"}

    stop = [{"metric": "train/feature_norm", "above": 10.0}]
    Studied(tmp_path / "s", record=record, search={"stop": stop}, **NO_FIGURES).all()
    text = text_of(build_report(tmp_path / "s"))
    assert "Trials ended by search.stop: 1." in text and "train/feature_norm = 11 above 10" in text
    assert "| stopped |" in text and "| pruned |" in text
    assert [trial.outcome for trial in read_summary(tmp_path / "s").trials][:3] == ["completed", "pruned", "stopped"]


def test_the_front_and_its_hypervolume(tmp_path):
    objectives = ["accuracy", "log_norm"]
    search = {"objectives": objectives, "constraints": [{"metric": "numerical_rank", "at_most": 4.1}]}
    Studied(tmp_path / "s", search=search, **NO_FIGURES).all()
    report = build_report(tmp_path / "s")
    summary, text = report.summary, text_of(report)
    ce_etf = np.mean([record["metrics"]["feature/log_norm"] for record in summary.noise.records])
    points = np.array([trial.values for trial in summary.trials if trial.feasible]) / [100, 1] * [1, -1]
    assert 0 < len(points) < len(summary.trials)
    area = hypervolume(points, [0, -ce_etf])
    assert summary.front.hypervolume == pytest.approx(area) and area > 0
    assert summary.front.reference == (0, pytest.approx(ce_etf))
    assert report.metrics["study/hypervolume"] == pytest.approx(area)
    assert f"Hypervolume {area:.4f}" in text and f"accuracy 0 and log_norm {ce_etf:g}" in text
    on_front = [trial for trial in summary.trials if trial.number in summary.front.trials]
    for trial in on_front:
        assert trial.feasible
        assert not any(
            other.values[0] > trial.values[0] and other.values[1] < trial.values[1]
            for other in summary.trials
            if other.feasible
        )
    assert "figures/front.png" in report.files and "The Pareto front of the search" in text
    # Log norm is no score: the values are not points, and nothing about it is better.
    second = summary.objectives[1]
    assert {one.verdict for one in second.verdict.comparisons} <= {"higher", "lower", "not shown"}
    assert second.verdict.sentence in text and second.verdict.sentence.startswith("Log feature norm of the winner")
    assert max(abs(values).max() for values in second.scores.values()) < 2
    assert "Of geometry (log feature norm) a verdict says higher, lower or not shown" in text
    assert second.crossed == {}
    assert "log_norm |" in text and "log_norm (%)" not in text


def test_geometry_as_the_only_objective(tmp_path):
    """Diversity while accuracy holds: no points, no margin, no grid, nothing better."""
    study = {"objectives": ["log_norm"], "constraints": [BOUND]}
    Studied(tmp_path / "s", search=study, data={"train_level": "fine"}).all()
    report = build_report(tmp_path / "s")
    summary, text, screen = report.summary, text_of(report), printed(report)
    assert summary.grid is None and "the first objective is geometry" in text
    least = min(trial.values[0] for trial in summary.trials)
    assert summary.winner["candidates"][0]["search_values"][0] == pytest.approx(least)
    assert report.sentence.startswith("Log feature norm of the winner: ")
    assert "log feature norm on the training images" in screen and "on test, points" not in screen
    first = text.split("\n## ")[0]
    assert "points" not in first.split("A verdict compares")[0]
    assert "score (%)" not in text and "Validation log feature norm, percent" not in text
    assert "figures/gain_by_class.png" not in report.files


@pytest.mark.parametrize("name", ["major", "minor", "balanced"])
def test_group_objectives_on_a_long_tail(tmp_path, name):
    """The interval over seeds and images is about the very classes that the score is about."""
    study = Studied(
        tmp_path / "s", preset="digits-lt", search={"objectives": [name]}, protocol={"grid_points": 0}
    ).all()
    (objective,) = read_summary(tmp_path / "s").objectives
    np.testing.assert_array_equal(objective.scores["ce"], study.confirmed("ce", name))
    assert objective.crossed
    for one in objective.verdict.comparisons:
        assert objective.crossed[one.name].mean == pytest.approx(one.mean)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(OBJECTIVES.keys() - {"many", "distance_20"}))  # too few images, too few classes
def test_every_objective_has_a_report(tmp_path, name):
    """Beside `minor`, so that `major` has the front that the documentation shows."""
    names = list(dict.fromkeys([name, "minor"]))
    data = {"boundary": 25} | ({"hierarchy": "coarse"} if name in OF_TREES else {})
    Studied(tmp_path / "s", preset="digits-lt", search={"objectives": names}, data=data).all()
    text = blocks_to_markdown(document(read_summary(tmp_path / "s"), {}).blocks)
    assert f"Primary objective: {OBJECTIVES[name].about}" in text
    header = next(line for line in text.splitlines() if line.startswith("| method |") and "| sd |" in line)
    columns = [column.strip() for column in header.strip("|").split("|")]
    assert len(set(columns)) == len(columns) and "minor" in columns
