"""One method against itself: what is trained, and what the verdict and a search among equals make of it."""

import numpy as np
import pytest

from divfeat.config import MethodConfig
from divfeat.errors import DataError
from divfeat.files import append_line
from divfeat.search.fixed import ROWS, run_fixed
from divfeat.search.protocol import confirm_seeds, select_seeds
from divfeat.settings import make_configs
from divfeat.trust import same
from divfeat.trust.same import TRIALS, judged, same_jobs, scores_of

METHOD = MethodConfig(name="ce_etf")


def study(**train):
    settings = {"train": {"epochs": 1, "warmup_epochs": 0} | train, "model": {"backbone": "digits_cnn"}}
    return make_configs("digits-lt", settings)[0]


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(same, "DEALS", 150)


def normal(mean=(90.0, 90.0), sd=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "first": mean[0] + sd * rng.standard_normal(50),
        "second": mean[1] + sd * rng.standard_normal(50),
        TRIALS: 88 + sd * rng.standard_normal(40),
    }


def test_no_two_trainings_share_a_seed_and_each_has_its_role():
    jobs = same_jobs(study(), METHOD, 6, 4)
    assert [job.name for job in jobs] == ["first", "second"] * 6 + [TRIALS] * 4
    assert len({job.experiment.seed for job in jobs}) == len({job.key for job in jobs}) == 16
    assert {job.experiment.method.name for job in jobs} == {"ce_etf"}
    assert {job.experiment.role for job in jobs[:12]} == {"confirm"} and {job.experiment.role for job in jobs[12:]} == {
        "search"
    }
    ours = {*confirm_seeds(study()), *select_seeds(study()), study().seed}
    assert not ours & {job.experiment.seed for job in jobs if job.name != "first"}


@pytest.mark.slow
def test_scores_are_those_of_the_trainings_in_the_order_of_the_seeds(tmp_path):
    jobs, said = same_jobs(study(), METHOD, 1, 1), []
    assert run_fixed(jobs, tmp_path, at_a_time=1, say=said.append)
    assert said[1].split(", ")[-2].endswith("% on test") and said[3].split(", ")[-2].endswith("% on val")
    scores, facts = scores_of(jobs, study(), tmp_path)
    assert {name: len(values) for name, values in scores.items()} == {"first": 1, "second": 1, TRIALS: 1}
    assert all(0 < values[0] < 100 for values in scores.values()) and len(facts["split_hash"]) == 2


def test_a_training_that_failed_is_not_left_out(tmp_path):
    jobs = same_jobs(study(), METHOD, 1, 1)
    for job in jobs:
        append_line(
            tmp_path / ROWS, {"name": job.name, "key": job.key, "status": "failed", "metrics": {}, "provenance": {}}
        )
    with pytest.raises(DataError, match="'first', seed 2000, has no score"):
        scores_of(jobs, study(), tmp_path)


def test_a_method_is_seldom_better_than_itself_and_the_search_flatters_on_validation_alone():
    found = judged(normal(), margin=0.5)
    assert found["arms"]["verdict"] == "not shown" and found["arms"]["seeds"] == 50
    for row in found["verdicts"]:
        assert row["false"] < 10 and row["disjoint_studies"] == 100 // (row["seeds"] * (row["baselines"] + 1))
        assert row["difference"]["2.5"] < 0 < row["difference"]["97.5"]
    assert any(row["false"] > 2 for row in found["verdicts"])
    for row in found["protocol"]:
        gain = row["above_the_mean"]
        assert gain["search"] > 0.8 and 0.1 < gain["selection"] < gain["search"] and abs(gain["confirmation"]) < 0.15
        assert 0 < row["better"] < row["false"] < 10
        assert row["optimism"] == pytest.approx(88 - 90 + gain["search"], abs=0.5)


def test_two_methods_that_differ_are_told_apart():
    found = judged(normal(mean=(91.0, 90.0)), margin=0.5)
    assert found["arms"]["verdict"] == "better" and found["arms"]["low"] > 0
