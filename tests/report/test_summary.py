import dataclasses
import math

import numpy as np
import pytest

from divfeat.errors import DataError
from divfeat.files import read_json, write_json
from divfeat.report.outcomes import winner_angles
from divfeat.report.reading import read_summary
from divfeat.search import protocol
from divfeat.search.jobs import name_of
from divfeat.statistics import as_good_as_best, crossed_interval, detectable_difference, listed, noise_floor, verdict
from tests.report.studies import FINE, IMAGES, TAIL, Studied, completed, ended

BASELINES = ("ce", "ce_no_projector", "ce_etf", "hinge_fixed")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    study = Studied(tmp_path_factory.mktemp("runs") / "whole").all()
    return study, read_summary(study.ledger.folder)


def only(summary, name):
    (runs,) = [runs for runs in summary.confirmed if runs.name == name]
    return runs


def test_scores_are_points_and_the_verdict_is_that_of_the_statistics(whole):
    study, summary = whole
    scores = summary.primary.scores
    assert list(scores) == ["winner", *BASELINES]
    for name, values in scores.items():
        np.testing.assert_array_equal(values, study.confirmed(name))
        assert values.min() > 70
    expected = verdict(
        study.confirmed("winner"),
        {name: study.confirmed(name) for name in BASELINES},
        seeds=protocol.confirm_seeds(study.trained),
        margin=0.5,
    )
    assert summary.primary.verdict == expected
    assert summary.sentence == expected.sentence
    assert expected.named("better")  # else the test would not tell a verdict from none


def test_the_frozen_learning_rate_decides_which_records_count(whole):
    _, summary = whole
    tried = {row["lr"]: row["value"] for row in summary.calibration["tried"]}
    assert summary.trained.train.lr == max(tried, key=tried.get)
    assert all(record["config"]["train"]["lr"] == summary.trained.train.lr for record in only(summary, "ce").records)


def test_the_interval_with_images_is_the_crossed_one(whole):
    study, summary = whole
    tables = {}
    for runs in summary.confirmed:
        paths = [study.ledger.run_folder(key) / "correct.npz" for key in runs.keys]
        tables[runs.name] = np.stack([np.load(path)["fine_probe"] for path in paths]).astype(float)
    for name in BASELINES:
        expected = crossed_interval(tables["winner"] - tables[name], level=1 - 0.05 / 4)
        assert summary.primary.crossed[name] == expected
        assert expected.mean == pytest.approx(summary.primary.verdict.comparisons[BASELINES.index(name)].mean)
    assert summary.primary.crossed_note == ""


def test_a_verdict_that_other_test_images_may_not_repeat_says_so(whole):
    objective = whole[1].primary
    shown = [one.name for one in objective.verdict.comparisons if one.verdict in ("better", "worse")]
    assert shown

    def said(low, names=BASELINES):
        changed = {name: dataclasses.replace(objective.crossed[name], low=low, high=2.0) for name in names}
        return dataclasses.replace(objective, crossed=changed).on_these_images

    assert said(-1.0).endswith(f"with the images drawn anew as well, no difference is shown against {listed(shown)}.")
    assert said(-1.0, shown[:1]).endswith(f"against {shown[0]}.")
    assert said(1.0) == said(-1.0, ()) == ""


@pytest.mark.parametrize("objective", ["balanced", "minor"])
def test_the_interval_with_images_of_a_mean_over_classes_weighs_them_alike(tmp_path, objective):
    quick = {"protocol": {"grid_points": 0}, "search": {"family": "global", "objectives": [objective]}}
    study = Studied(tmp_path / "s", preset="digits-lt", **quick).all()
    summary = read_summary(tmp_path / "s")
    minor = [k for k, count in enumerate(TAIL) if count <= study.config.data.boundary]
    assert 0 < len(minor) < len(TAIL)
    counted = minor if objective == "minor" else range(len(TAIL))
    tables = {}
    for runs in summary.confirmed:
        right = [np.load(study.ledger.run_folder(key) / "correct.npz")["accuracy"] for key in runs.keys]
        # A naive loop: an image counts by the share it has in its class, and a class by its share among the classes.
        weights = [(y in counted) * IMAGES / (len(counted) * (y == FINE).sum()) for y in FINE]
        tables[runs.name] = np.stack(right) * weights
    assert summary.primary.crossed_note == ""
    for one in summary.primary.verdict.comparisons:
        expected = crossed_interval(tables["winner"] - tables[one.name], level=one.level)
        found = summary.primary.crossed[one.name]
        assert found.mean == pytest.approx(expected.mean) == pytest.approx(one.mean)
        assert found.half_width == pytest.approx(expected.half_width)
        assert found.half_width >= one.half_width  # images count beside seeds


def test_noise_and_optimism_come_from_validation(whole):
    study, summary = whole
    values = [
        100 * study.ledger.record(job.key)["metrics"]["probe/fine_top1"] for job in protocol.noise_jobs(study.trained)
    ]
    assert summary.floor == noise_floor(values)
    assert summary.detectable == detectable_difference(summary.floor.sd, 5, 4)
    lost = summary.primary.optimism
    assert lost.search == 100 * study.winner["winner"]["search_values"][0]
    assert lost.selection == pytest.approx(100 * study.winner["winner"]["mean"][0])
    assert lost.from_search == lost.search - study.confirmed("winner").mean()


def test_grid_is_judged_anew(whole):
    _, summary = whole
    grid = summary.grid
    assert grid.scores.shape == (8, 3)
    expected = as_good_as_best(grid.scores, 0.5)
    assert grid.as_good.status == expected.status == "determined"
    low, high = grid.interval
    assert (low, high) == (grid.angles[expected.interval[0]], grid.angles[expected.interval[1]])
    assert low <= math.radians(60.7143) <= high + 1e-3
    record = grid.runs[3].records[1]
    assert grid.scores[3, 1] == 100 * record["metrics"]["probe/fine_top1"]
    assert list(record["config"]["method"]["thresholds"]["angles"].values()) == [grid.angles[3]]


def test_best_trial_of_each_way_of_letting_go(whole):
    _, summary = whole
    for release, trial in summary.best_of_release().items():
        rivals = [one.values[0] for one in summary.trials if one.release == release]
        assert trial.values[0] == max(rivals)
    assert set(summary.best_of_release()) == {"gate", "paper", "theorem"}


def test_counts_reads_notes_and_provenance(whole):
    _, summary = whole
    assert summary.missing == () and summary.other_reads == ()
    assert summary.test_reads == 25
    assert {phase: count.completed for phase, count in summary.counts.items()} == {
        "calibrate": 2,
        "noise": 3,
        "search": 7,
        "select": 15,
        "grid": 21,
        "confirm": 25,
    }
    assert summary.counts["confirm"].seconds == 75.0
    assert summary.provenance["split_hash"] == "split of confirm"
    assert summary.provenance["search_split_hash"] == "split of search"
    assert summary.provenance["versions"] == {"torch": "2"}
    assert only(summary, "ce").terminal == (0, 5)
    assert only(summary, "ce_etf").terminal == (5, 5)
    assert [note.partition(" (")[0] for note in summary.notes] == ["a note of the run"]


def test_a_failed_seed_is_said_and_takes_the_verdict_with_it(tmp_path):
    def record(job):
        if job.phase == "confirm" and job.name == "ce" and job.experiment.seed == 2003:
            return ended(job.experiment, "failed", "Traceback\n  line\nValueError: broke")
        return completed(job.experiment)

    study = Studied(tmp_path / "s", record=record).all()
    summary = read_summary(tmp_path / "s")
    by_name = {one.name: one for one in summary.primary.verdict.comparisons}
    assert by_name["ce"].verdict == "no verdict" and "2003" in by_name["ce"].reason
    assert by_name["ce_etf"].verdict == "better"
    assert np.isnan(summary.primary.scores["ce"]).tolist() == [False, False, False, True, False]
    assert summary.missing == ("Without a score (confirmation): ce, seed 2003: failed (ValueError: broke).",)
    assert summary.counts["confirm"].causes == {"ValueError: broke": 1}
    assert set(summary.primary.crossed) == set(BASELINES) - {"ce"}
    assert "ce" in summary.primary.crossed_note
    assert study.confirmed("ce")[:3].tolist() == summary.primary.scores["ce"][:3].tolist()


def test_a_baseline_without_a_selection_run_has_no_keys(tmp_path):
    def record(job):
        failed = job.phase == "select" and job.name == "ce"
        return ended(job.experiment, "failed", "no") if failed else completed(job.experiment)

    Studied(tmp_path / "s", record=record).all()
    summary = read_summary(tmp_path / "s")
    assert only(summary, "ce").keys == (None,) * 5
    assert "ce, seeds 2000, 2001, 2002, 2003 and 2004: not run, since no selection run" in summary.missing[0]
    assert np.isnan(summary.primary.scores["ce"]).all()


def test_a_missing_grid_point_leaves_the_range_undetermined(tmp_path):
    lost = []

    def record(job):
        if job.phase == "grid" and not lost:
            lost.append(job)
            return ended(job.experiment, "failed", "NonFiniteError: loss")
        return completed(job.experiment)

    Studied(tmp_path / "s", record=record).all()
    summary = read_summary(tmp_path / "s")
    assert summary.grid.interval is None
    assert summary.grid.as_good.reason == "1 of 24 values are missing"
    assert np.isnan(summary.grid.scores).sum() == 1
    assert any(lost[0].name in line and "(grid)" in line for line in summary.missing)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"protocol": {"grid_points": 0}}, "protocol.grid_points = 0"),
        ({"search": {"family": "major_minor"}}, "2 angles"),
    ],
)
def test_why_there_is_no_grid(tmp_path, settings, reason):
    Studied(tmp_path / "s", **settings).begin().search().select()
    summary = read_summary(tmp_path / "s")
    assert summary.grid is None and reason in summary.grid_note


def test_a_winner_that_is_a_baseline_says_so(tmp_path):
    Studied(tmp_path / "s").begin().search(degrees=(0.0,)).select().confirm()
    summary = read_summary(tmp_path / "s")
    assert summary.equals == ("ce_etf",)
    found = {one.name: one for one in summary.primary.verdict.comparisons}["ce_etf"]
    assert found.same_config and found.verdict == "not shown" and set(found.differences) == {0.0}
    assert summary.test_reads == 20  # the winner's runs are those of ce_etf


def test_an_unfinished_study_has_no_winner_and_an_unfinished_confirmation_no_verdict(tmp_path):
    def record(job):
        return None if job.phase == "confirm" else completed(job.experiment)

    study = Studied(tmp_path / "s", record=record).begin().search()
    early = read_summary(tmp_path / "s")
    assert early.primary is None and early.confirmed == () and early.selected == ()
    assert early.sentence == "No verdict: no winner is frozen yet."
    assert early.missing[0].startswith("No winner is frozen")
    study.select().confirm()
    later = read_summary(tmp_path / "s")
    assert later.sentence == "No verdict: the confirmation has no score yet."
    assert later.counts["confirm"].unfinished == 25
    assert any("25 runs" in line for line in later.missing)


def test_nothing_but_a_study_file_is_enough(tmp_path):
    Studied(tmp_path / "s")
    summary = read_summary(tmp_path / "s")
    assert math.isnan(summary.detectable) and math.isnan(summary.floor.sd)
    assert summary.trials == () and summary.counts == {}


def test_test_reads_of_an_earlier_winner_are_told_apart(tmp_path):
    study = Studied(tmp_path / "s").begin().search(degrees=(0.0, 20.0, 40.0)).select().confirm()
    first = study.winner["winner"]["name"]
    # The search is extended past the best so far by far more than the noise, and its runs read the test set again.
    study.search(degrees=(0.0, 20.0, 40.0, 60.0)).select().confirm()
    assert (first, study.winner["winner"]["name"]) == ("theorem 40.0 deg", "gate 60.0 deg")
    summary = read_summary(tmp_path / "s")
    assert summary.test_reads == 30
    assert summary.other_reads == tuple(f"winner, seed {seed}" for seed in range(2000, 2005))
    # Two winners were shown the same seeds and images: they share the error.
    assert summary.primary.verdict == verdict(
        study.confirmed("winner"),
        {name: study.confirmed(name) for name in BASELINES},
        seeds=protocol.confirm_seeds(study.trained),
        margin=0.5,
        looks=2,
    )
    assert summary.primary.crossed["ce"].level == 1 - 0.05 / 4 / 2
    assert summary.detectable == detectable_difference(summary.floor.sd, 5, 4, alpha=0.05 / 2)
    assert "have judged 2 winners of this study" in summary.sentence and "97.5 % intervals" in summary.sentence


def test_a_winner_that_is_a_baseline_adds_itself_to_the_winners_judged(tmp_path):
    study = Studied(tmp_path / "s").begin().search(degrees=(20.0,)).select().confirm()
    assert read_summary(tmp_path / "s").primary.verdict.looks == 1
    study.search(degrees=(0.0,)).select().confirm()  # in its place, so that nothing else is left to choose
    assert read_summary(tmp_path / "s").primary.verdict.looks == 2


def test_a_search_that_went_on_outdates_the_winner_until_it_is_chosen_anew(tmp_path):
    study = Studied(tmp_path / "s").begin().search(degrees=(0.0, 20.0, 40.0)).select().confirm()
    key = study.winner_keys()[1]
    study.ledger.write_phase("registered", {"model": "s", "version": 1, "key": key, "seed": 1001, "value": 0.8})
    done = read_summary(tmp_path / "s")
    assert not done.outdated and done.registered["key"] == key
    study.search(degrees=(0.0, 20.0, 40.0, 1.0))  # not among the best: another winner is out of the question
    assert not read_summary(tmp_path / "s").outdated
    study.search(degrees=(0.0, 20.0, 40.0, 1.0, 60.0))
    later = read_summary(tmp_path / "s")
    assert later.outdated and later.registered["key"] == key
    assert later.sentence == (
        "The search went on after this winner was frozen; the verdict is of the earlier winner. The same command goes on. "
        + done.sentence
    )
    study.select()
    chosen = read_summary(tmp_path / "s")
    assert not chosen.outdated and chosen.registered is None  # the extractor registered is the earlier winner's


def test_pruned_and_failed_trials(tmp_path):
    def record(job):
        if job.phase != "search" or job.number not in (1, 2, 3):
            return completed(job.experiment)
        if job.number == 3:
            return None
        status = {1: "pruned", 2: "failed"}[job.number]
        return ended(job.experiment, status, f"{status} for a reason")

    Studied(tmp_path / "s", record=record).all()
    trials = {trial.number: trial for trial in read_summary(tmp_path / "s").trials}
    assert [trials[n].status for n in range(5)] == ["completed", "pruned", "failed", "not finished", "completed"]
    assert trials[1].values == (50.0,)  # the last that was measured
    assert math.isnan(trials[2].values[0]) and trials[2].error == "failed for a reason"


def test_two_objectives_primary_first(tmp_path):
    study = Studied(tmp_path / "s", search={"objectives": ["fine_probe", "balanced"]}).all()
    summary = read_summary(tmp_path / "s")
    first, second = summary.objectives
    assert (first.name, second.name) == ("fine_probe", "balanced")
    np.testing.assert_array_equal(second.scores["ce"], study.confirmed("ce", "balanced"))
    for objective in (first, second):
        assert [objective.crossed[one.name].mean for one in objective.verdict.comparisons] == pytest.approx(
            [one.mean for one in objective.verdict.comparisons]
        )
    assert second.optimism.search == 100 * study.winner["winner"]["search_values"][1]


def test_runs_that_differ_in_provenance_are_listed(tmp_path):
    def record(job):
        made = completed(job.experiment)
        if job.experiment.seed == 2001:
            made["provenance"]["commit"] = "def-dirty"
        return made

    Studied(tmp_path / "s", record=record).all()
    assert read_summary(tmp_path / "s").provenance["commit"] == ["abc", "def-dirty"]


def test_folders_it_refuses(tmp_path):
    with pytest.raises(DataError, match=r"no study.*study\.json"):
        read_summary(tmp_path)
    Studied(tmp_path / "s")
    content = read_json(tmp_path / "s" / "study.json")
    write_json(tmp_path / "s" / "study.json", content | {"identity": "another"})
    with pytest.raises(DataError, match="other settings"):
        read_summary(tmp_path / "s")
    write_json(tmp_path / "s" / "study.json", content | {"format": 99})
    with pytest.raises(DataError, match="format 99"):
        read_summary(tmp_path / "s")


def test_the_winners_numbers_stand_in_the_familys_order(tmp_path):
    """A record on disk has them in the alphabet's, where `tau_few` comes before `tau_many`."""
    Studied(tmp_path / "s", preset="digits-lt", search={"family": "groups"}).all()
    summary = read_summary(tmp_path / "s")
    assert list(winner_angles(summary)) == ["tau_many", "tau_medium", "tau_few"]
    assert name_of(summary.winner_method) == summary.winner["winner"]["name"]


def test_a_winner_frozen_before_strengths_were_is_read_alike(tmp_path):
    study = Studied(tmp_path / "s").all()
    before = read_summary(tmp_path / "s")
    path = tmp_path / "s" / "phases" / "winner.json"
    write_json(path, {name: value for name, value in read_json(path).items() if name not in ("strengths", "trials")})
    after = read_summary(tmp_path / "s")
    assert [runs.keys for runs in after.confirmed] == [runs.keys for runs in before.confirmed]
    assert after.sentence == before.sentence
    np.testing.assert_array_equal(after.confirmed[0].points("test/fine_top1"), study.confirmed("winner"))


def test_the_span_is_that_of_the_runs(tmp_path):
    study = Studied(tmp_path / "s")
    assert read_summary(tmp_path / "s").span is None
    study.begin()
    for place, key in enumerate(sorted(study.ledger.started())):
        folder = study.ledger.run_folder(key)
        write_json(folder / "start.json", read_json(folder / "start.json") | {"time": 100.0 + place})
        write_json(folder / "record.json", read_json(folder / "record.json") | {"finished": 300.0 + place})
    assert read_summary(tmp_path / "s").span == (100.0, 300.0 + place)
