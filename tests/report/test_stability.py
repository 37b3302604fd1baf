"""Trials compared at equal epochs only: rank correlation between rungs, and every table that ranks pruned ones too."""

import math
import random

import pytest
from scipy import stats

from divfeat.report.build import build_report
from divfeat.report.reading import read_summary
from divfeat.report.row import results_row
from divfeat.report.stability import Stability, rank_stability
from divfeat.search.showing import views
from tests.report.studies import Studied, completed, ended
from tests.search.samples import make_study

METRIC = "probe/fine_top1"
HALVED = {"asha": {"first_rung": 2, "reduction": 2}, "releases": ["gate"]}


def test_tau_is_over_those_that_have_both_values():
    rng = random.Random(0)
    early = {str(trial): rng.random() for trial in range(20)}
    late = {trial: early[trial] + 0.3 * rng.random() for trial in list(early)[:8]}
    end = {trial: late[trial] for trial in list(late)[:3]}
    found = rank_stability({1: early, 3: late, 9: end})
    assert [(one.earlier, one.later, one.reached, one.both) for one in found] == [
        (1, 3, 20, 8),
        (1, 9, 20, 3),
        (3, 9, 8, 3),
    ]
    expected = stats.kendalltau([early[trial] for trial in late], list(late.values())).statistic
    assert found[0].tau == pytest.approx(expected) and found[2].tau == 1.0


def test_by_hand():
    """Of three pairs one is turned round: (2 - 1) / 3."""
    (found,) = rank_stability({1: {"a": 1.0, "b": 2.0, "c": 3.0}, 2: {"a": 1.0, "c": 2.0, "b": 3.0}})
    assert found == Stability(1, 2, 3, 3, pytest.approx(1 / 3))


@pytest.mark.parametrize("late", [{}, {"a": 1.0}, {"a": 1.0, "b": 1.0}])
def test_nothing_to_rank_is_no_number(late):
    (found,) = rank_stability({1: {"a": 1.0, "b": 2.0}, 2: late})
    assert math.isnan(found.tau) and found.both == len(late)


def halved(tmp_path, promote=True):
    """Five proposals: the first two are trained to the end, of the others one is pruned after four epochs and two after two."""
    order = {}

    def record(job):
        if job.phase != "search":
            return completed(job.experiment)
        place = order.setdefault(job.key, len(order))
        lasts = (20, 20, 4, 2, 2)[min(place, 4)]
        history = [
            {"epoch": epoch, "time": epoch}
            | ({METRIC: 0.99 - 0.01 * place - 0.1 * (epoch > 1)} if epoch in (1, 3, 7, 15) else {})
            for epoch in range(lasts)
        ]
        found = completed(job.experiment) if lasts == 20 else ended(job.experiment, "pruned", "stopped")
        return found | {"history": history}

    study = Studied(tmp_path / "s", record=record, search=HALVED | {"promote": promote}).begin()
    return study.search(degrees=(10.0, 20.0, 30.0, 40.0, 50.0))


def test_a_report_tells_it_with_its_warning(tmp_path):
    study = halved(tmp_path)
    summary = read_summary(study.ledger.folder)
    rungs = {(one.earlier, one.later): (one.reached, one.both) for one in summary.stability}
    trials = len(summary.trials)
    assert rungs[2, 4] == (trials, 3) and rungs[4, 8] == (3, 2) and rungs[16, 20] == (2, 2)
    assert results_row(summary)["rank_stability"][0]["both"] == 3
    report = build_report(study.ledger.folder)
    text = report.markdown.read_text(encoding="utf-8")
    assert "Do early values rank as late ones do?" in text and "Only trials that were promoted have both values" in text


def test_without_halving_nothing_is_said_of_rungs(tmp_path):
    study = Studied(tmp_path / "s").begin().search()
    assert read_summary(study.ledger.folder).stability == ()
    assert "rank_stability" not in results_row(read_summary(study.ledger.folder))


def test_pruned_trials_carry_the_epochs_of_their_value_and_none_stands_above_a_finished_one(tmp_path, monkeypatch):
    """Their early values are higher here than any at the end."""
    from divfeat.report import account

    study = halved(tmp_path)
    summary = read_summary(study.ledger.folder)
    by_status = {status: [t for t in summary.trials if t.status == status] for status in ("completed", "pruned")}
    assert {trial.epochs for trial in by_status["completed"]} == {20}
    assert sorted(trial.epochs for trial in by_status["pruned"]) == [2] * (len(by_status["pruned"]) - 1) + [4]
    monkeypatch.setattr(account, "_MOST_PROPOSALS", 3)
    (table,) = [block for block in account.search(summary, {}) if "As proposed" in getattr(block, "caption", "")]
    assert list(table.headers[:5]) == ["trial", "method", "status", "epochs", "fine_probe (%)"]
    kept = sorted((row[3] for row in table.rows), reverse=True)
    assert kept == [20, 20, 4] and "of more epochs before those of fewer" in table.caption
    best = summary.best_of_release()["gate"]
    assert best.status == "completed" and best.values[0] < max(trial.values[0] for trial in by_status["pruned"])


def test_views_of_mlflow_sort_finished_trials_only_where_some_are_pruned():
    plain, pruned = views(make_study()), views(make_study(search={"asha": {"first_rung": 2}}))
    assert plain[0].search == "tags.phase = 'search'" and plain[2].order == f"metrics.`{METRIC}`"
    assert pruned[0].search == "tags.phase = 'search' and tags.status = 'completed'"
    assert pruned[2].search == plain[2].search and pruned[2].order == "attributes.start_time"
