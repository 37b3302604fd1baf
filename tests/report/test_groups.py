import io
import json
import math

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from divfeat.config import MethodConfig
from divfeat.report.build import build_report
from divfeat.report.group_words import answer, groups_json, thresholds_answer
from divfeat.report.groups import group_results
from divfeat.report.reading import read_summary
from divfeat.search import protocol
from divfeat.statistics import verdict
from tests.report.studies import Studied, completed, ended

TAILED = {"preset": "digits-lt", "data": {"boundary": 25}}
GROUPS = ("balanced", "major", "minor", "medium", "few")
BASELINES = ("ce", "ce_no_projector", "ce_etf", "hinge_fixed")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    study = Studied(tmp_path_factory.mktemp("runs") / "whole", **TAILED).all()
    return study, build_report(study.ledger.folder)


def scores_of(study, name, group):
    """Accuracy of a group on the confirmation seeds, from the rows of its classes alone."""
    holds = {
        "balanced": lambda n: True,
        "major": lambda n: n > 25,
        "minor": lambda n: n <= 25,
        "medium": lambda n: 20 <= n <= 100,
        "few": lambda n: n < 20,
    }[group]
    method = protocol.confirmed_methods(study.trained, study.winner["winner"])[name]
    made = protocol.confirmation_experiments(study.trained, method, study.winner["strengths"])
    rows = [study.ledger.record(config.key)["per_class"] for config in made]
    return np.array([100 * np.mean([row["accuracy"] for row in some if holds(row["train_images"])]) for some in rows])


def test_scores_and_paired_intervals_of_each_group(whole):
    study, report = whole
    found = group_results(report.summary)
    assert found.groups == GROUPS and dict(found.sizes) == {"major": 4, "minor": 2, "medium": 5, "few": 1}
    assert found.level == 0.95
    critical = stats.t.ppf(1 - 0.05 / (2 * len(BASELINES) * len(GROUPS)), 4)
    for group in GROUPS:
        ours = scores_of(study, "winner", group)
        np.testing.assert_allclose(found.scores["winner"][group], ours)
        for name, one in zip(BASELINES, found.comparisons[group], strict=True):
            gain = ours - scores_of(study, name, group)
            half = critical * gain.std(ddof=1) / math.sqrt(5)
            assert one.name == name and one.mean == pytest.approx(gain.mean())
            assert (one.low, one.high) == pytest.approx((gain.mean() - half, gain.mean() + half))


def test_the_report_shows_spread_and_differences(whole):
    study, report = whole
    text = report.markdown.read_text(encoding="utf-8").replace("\\", "")
    cells = [scores_of(study, "ce_etf", group) for group in GROUPS]
    assert f"| ce_etf | 5 | {' | '.join(f'{c.mean():.2f} ± {c.std(ddof=1):.2f}' for c in cells)} |" in text
    one = group_results(report.summary).comparisons["major"][0]
    assert f"| +{one.mean:.2f} [+{one.low:.2f}, +{one.high:.2f}] |" in text
    assert "Classes: 4 major, 2 minor, 5 medium, 1 few. Minor: at most 25 training images" in text
    row = json.loads(report.files["verdict.json"].read_text(encoding="utf-8"))["groups"]
    assert row["scores"]["ce"]["minor"] == pytest.approx(scores_of(study, "ce", "minor"))
    assert [one["name"] for one in row["differences"]["minor"]] == list(BASELINES)
    screen = io.StringIO()
    report.print(Console(file=screen, width=400, color_system=None))
    assert len(row["answer"]) == 2
    for sentence in row["answer"]:
        assert sentence in text and sentence in screen.getvalue()


def test_classes_of_one_size_form_no_groups(tmp_path):
    Studied(tmp_path / "s", protocol={"grid_points": 0}).all()
    summary = read_summary(tmp_path / "s")
    assert group_results(summary) is None and thresholds_answer(summary) == [] and groups_json(summary) is None
    assert "Groups of classes" not in build_report(tmp_path / "s").markdown.read_text(encoding="utf-8")


def test_another_winner_shown_the_same_images_widens_the_intervals(tmp_path):
    study = Studied(tmp_path / "s", **TAILED).all()
    before = group_results(read_summary(tmp_path / "s"))
    method = MethodConfig(
        name="hinge_ce",
        thresholds={"family": "major_minor", "angles": {"tau_major": 0.1, "tau_minor": 0.9}},
        release="gate",
    )
    config = protocol.experiment(study.trained, method, 2000, "confirm")
    study.ledger.test_read(config.key, "an earlier winner")
    study.ledger.write_record(config.key, completed(config))
    after = group_results(read_summary(tmp_path / "s"))
    assert after.level == pytest.approx(0.975)
    assert after.comparisons["minor"][0].half_width > before.comparisons["minor"][0].half_width


# --- in words ---------------------------------------------------------------------------------------------------------------


def against(**groups):
    """group -> its comparison with ce_etf, from five differences."""
    made = {}
    for group, differences in groups.items():
        values = np.array(differences, dtype=float)
        found = verdict(50 + values, {"ce_etf": np.full(5, 50.0)}, seeds=range(5), margin=0.5)
        made[group] = found.comparisons[0]
    return made


UP, DOWN = [2.0, 2.2, 1.9, 2.1, 2.3], [-1.0, -1.2, -0.9, -1.1, -1.3]
UNSURE, LOSS = [1.0, -1.0, 2.0, -0.5, 0.3], [-1.0, 1.0, -2.0, 0.5, -0.3]
SAME, LITTLE = [0.02, -0.01, 0.01, 0.0, 0.01], [-0.02, 0.01, -0.01, 0.0, -0.01]
LOST = [1.0, 2.0, math.nan, 1.0, 0.0]


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (
            {"major": UNSURE, "minor": UP},
            "Thresholds help: against ce_etf, minor classes gain +2.10 [+1.90, +2.30] points; no difference is shown on major "
            "classes (+0.36 [−1.12, +1.84]).",
        ),
        (
            {"major": LOSS, "minor": UP},
            "Thresholds help: against ce_etf, minor classes gain +2.10 [+1.90, +2.30] points; at a cost of −0.36 [−1.84, "
            "+1.12] on major ones, not shown to differ from 0.",
        ),
        (
            {"major": DOWN, "minor": UP},
            "Thresholds help some classes at the cost of others: against ce_etf, minor classes gain +2.10 [+1.90, +2.30] "
            "points; at a cost of −1.10 [−1.30, −0.90] on major ones.",
        ),
        (
            {"major": LITTLE, "minor": UP},
            "Thresholds help: against ce_etf, minor classes gain +2.10 [+1.90, +2.30] points; at a cost of −0.01 [−0.02, "
            "+0.01] on major ones, within the margin.",
        ),
        (
            {"many": SAME, "medium": UNSURE, "few": DOWN},
            "Thresholds do harm: against ce_etf, few classes lose, −1.10 [−1.30, −0.90] points; many classes stay within the "
            "margin (+0.01 [−0.01, +0.02]); no difference is shown on medium classes (+0.36 [−1.12, +1.84]).",
        ),
        (
            {"major": UNSURE, "minor": LOSS},
            "Thresholds are not shown to help: against ce_etf, no difference is shown on major classes (+0.36 [−1.12, +1.84])"
            "; no difference is shown on minor classes (−0.36 [−1.84, +1.12]).",
        ),
        (
            {"major": LOST, "minor": LOST},
            "Whether thresholds help is not known: against ce_etf, no verdict on major classes (+1.00 [−0.30, +2.30]); no "
            "verdict on minor classes (+1.00 [−0.30, +2.30]). No score of the winner or of ce_etf for seed 2.",
        ),
    ],
    ids=[
        "better",
        "better, a cost not shown",
        "better and worse",
        "better, a small cost",
        "worse",
        "not shown",
        "unknown",
    ],
)
def test_do_thresholds_help_whom_at_whose_cost(groups, said):
    found = answer(against(**groups), 0.95)
    assert found == f"{said} 5 paired seeds; the intervals of all groups hold together at 95 %."


def test_no_seed_with_both_scores():
    assert "no verdict on minor classes (no seed has both scores)" in answer(against(minor=[math.nan] * 5), 0.95)


def test_a_winner_without_thresholds_does_not_show_that_they_help(tmp_path):
    def record(job):
        found = completed(job.experiment)
        if job.experiment.method.name == "ce_etf":  # what tau+ = 0 is
            found["metrics"]["val/accuracy_balanced"] = 0.999
        return found

    Studied(tmp_path / "s", record=record, **TAILED).all()
    (sentence,) = thresholds_answer(read_summary(tmp_path / "s"))
    assert sentence.startswith("Thresholds are not shown to help: what won on validation has none")


def test_without_the_same_method_without_thresholds_nothing_is_said_of_them(tmp_path):
    Studied(tmp_path / "s", protocol={"baselines": ["ce"]}, **TAILED).all()
    (sentence,) = thresholds_answer(read_summary(tmp_path / "s"))
    assert sentence.startswith("What thresholds do is not known: none of the baselines")


def test_a_recipe_under_its_published_row_has_no_answer(tmp_path):
    Studied(tmp_path / "s", protocol={"published_ce": 99.0}, **TAILED).all()
    for sentence in thresholds_answer(read_summary(tmp_path / "s")):
        assert sentence.startswith("Whether thresholds help is not known")
        assert "more than 2 points under the 99 % published" in sentence


def test_a_lost_seed_is_no_verdict_in_any_group(tmp_path):
    def record(job):
        failed = job.phase == "confirm" and job.name == "ce_etf" and job.experiment.seed == 2003
        return ended(job.experiment, "failed", "no") if failed else completed(job.experiment)

    Studied(tmp_path / "s", record=record, **TAILED).all()
    summary = read_summary(tmp_path / "s")
    found = group_results(summary)
    assert {one.verdict for some in found.comparisons.values() for one in some if one.name == "ce_etf"} == {
        "no verdict"
    }
    assert all(
        "no score of the winner or of ce_etf for seed 2003" in text.lower() for text in thresholds_answer(summary)
    )
