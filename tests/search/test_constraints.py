"""Constraints: feasibility from records alone, told to Optuna, kept by candidates and winner, found where it is planted."""

import math

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from divfeat import record as records
from divfeat.config import MethodConfig
from divfeat.search import protocol
from divfeat.search.constraints import Limit, excesses, feasible_top, limits, missed, violation
from divfeat.search.jobs import SEARCH_SEED, experiment, seed_of
from divfeat.search.ledger import Ledger
from divfeat.search.proposals import Proposals, storage_url
from divfeat.statistics import select_top
from divfeat.study_config import MODELS_CONSTRAINTS, ConstraintConfig
from divfeat.validation import build
from tests.search.samples import completed, hinge, make_study

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

RELATIVE = {"metric": "major", "at_least": -1.0, "than": "ce_etf"}
MINOR, MAJOR, NORM = "val/accuracy_minor", "val/accuracy_major", "feature/log_norm"


def limit(**settings):
    bound = settings.pop("bound", None)
    constraint = build(ConstraintConfig, settings)
    return Limit(constraint, constraint.bound if bound is None else bound)


# --- feasibility --------------------------------------------------------------------------------------------------------


def test_bounds_are_points_of_shares_and_geometry_as_it_is():
    constraints = [
        build(ConstraintConfig, settings)
        for settings in (RELATIVE, {"metric": "minor", "at_least": 40}, {"metric": "log_norm", "at_most": 5.0})
    ]
    found = limits(constraints, {MAJOR: 0.8}.get)
    assert [one.name for one in found] == ["major >= ce_etf - 1", "minor >= 40", "log_norm <= 5"]
    assert [one.bound for one in found] == [pytest.approx(79), 40, 5]
    excess = excesses(found, {MAJOR: 0.785, MINOR: 0.4, NORM: 4.0}.get)
    assert list(excess.values()) == [0.5, 0, -1]
    assert violation(excess) == 0.5
    higher = build(ConstraintConfig, {"metric": "log_norm", "at_most": 0.5, "than": "ce_etf"})
    assert limits([higher], {NORM: 2.0}.get)[0].bound == 2.5
    assert higher.name == "log_norm <= ce_etf + 0.5"


def test_a_value_on_the_bound_is_kept():
    assert limit(metric="major", at_least=70).excess(0.7) == 0  # 100 * 0.7 is 70 only to the last bit
    assert limit(metric="major", at_most=7).excess(0.07) == 0


def test_what_is_missing_is_missed():
    at_least = limit(metric="major", at_least=70)
    for found in (at_least.excess(None), at_least.excess(math.nan), limit(**RELATIVE, bound=math.nan).excess(0.7)):
        assert found is None and missed(found)
    assert violation({"a": None, "b": -1}) == math.inf
    assert violation({}) == 0
    assert math.isnan(limits([build(ConstraintConfig, RELATIVE)], {}.get)[0].bound)


SHARES = st.floats(0, 1)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 99)), min_size=1, max_size=4), SHARES, SHARES, st.randoms())
def test_feasibility_is_monotone_and_knows_no_order(bounds, one, other, random):
    """More of what is bounded from below never misses by more; each further constraint only adds."""
    low, high = sorted((one, other))
    some = [limit(metric="major", at_least=b) if least else limit(metric="major", at_most=b) for least, b in bounds]
    least = [one for one in some if one.constraint.at_most is None]
    most = [one for one in some if one.constraint.at_least is None]

    def total(chosen, value):
        return sum(max(one.excess(value), 0.0) for one in chosen)

    assert total(least, high) <= total(least, low)
    assert total(most, high) >= total(most, low)
    naive = sum(max(0.0, bound - 100 * one if is_least else 100 * one - bound) for is_least, bound in bounds)
    assert total(some, one) == pytest.approx(naive, abs=1e-6)
    shuffled = random.sample(some, len(some))
    assert total(shuffled, one) == pytest.approx(total(some, one))
    assert all(total(some[:k], one) <= total(some, one) for k in range(len(some)))


TRIALS = st.lists(
    st.tuples(st.integers(0, 5).map(float), st.integers(0, 5).map(float), st.sampled_from([0.0, 0.0, 0.5, 2.0])),
    max_size=10,
)


@given(TRIALS, st.integers(1, 4))
def test_the_best_are_feasible_while_one_is(trials, k):
    table = np.array([row[:2] for row in trials]).reshape(len(trials), 2)
    by = [row[2] for row in trials]
    found = feasible_top(table, by, k).tolist()
    feasible = [place for place, missing in enumerate(by) if missing == 0]
    if feasible:
        assert found == [feasible[place] for place in select_top(table[feasible], k)]
    else:
        assert found == sorted(range(len(by)), key=lambda place: by[place])[:k]


# --- what Optuna is told ------------------------------------------------------------------------------------------------


class Planted:
    """Minor accuracy wants wide cones everywhere; major accuracy falls below CE+ETF by a point at 0.316 rad of tau_major."""

    BEST = (1.2, math.sqrt(0.1))  # tau_minor, tau_major: the best that keeps the constraint

    def __init__(self, folder, **search):
        settings = {"family": "major_minor", "releases": ["gate"], "objectives": ["minor"], **search}
        self.study, self.folder, self.ledger = make_study("digits-lt", search=settings), folder, Ledger(folder)
        for job in protocol.noise_jobs(self.study):
            self.ledger.write_record(job.key, completed(job.experiment, {MINOR: 0.3, MAJOR: 0.8, NORM: 2.0}))
        self.resume()

    def resume(self):
        self.proposals = Proposals(self.study, self.ledger, storage_url(self.folder), "study")
        return self.proposals

    def metrics(self, job):
        angles = job.experiment.method.thresholds.angles
        minor, major = angles.get("tau_minor", 0.0), angles.get("tau_major", 0.0)
        return {
            MINOR: 0.6 - 0.2 * ((minor - 1.2) ** 2 + (major - 1.0) ** 2),
            MAJOR: 0.8 - 0.1 * major**2,
            NORM: 2.0 + major,
        }

    def run(self, count):
        for _ in range(count):
            job = self.proposals.ask()
            if self.ledger.record(job.key) is None:
                self.ledger.write_record(job.key, completed(job.experiment, self.metrics(job)))
            self.proposals.tell(job.number, self.ledger.record(job.key))

    def best(self):
        return protocol.candidates(self.study, self.ledger.proposals(), self.ledger.record)[0]

    @property
    def trials(self):
        study = optuna.load_study(study_name="study", storage=storage_url(self.folder))
        return [trial for trial in study.trials if trial.state != TrialState.WAITING]


def angles_of(row):
    return row["method"]["thresholds"]["angles"]


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "count", "near"), [("tpe", 50, 0.2), ("gp", 25, 0.1), ("nsga2", 60, 0.3)])
def test_the_best_feasible_setting_is_found(tmp_path, sampler, count, near):
    assert sampler in MODELS_CONSTRAINTS
    driver = Planted(tmp_path, sampler=sampler, constraints=[RELATIVE])
    driver.run(count)
    best = driver.best()
    assert violation(best["excess"]) == 0
    found = angles_of(best)
    assert math.dist((found["tau_minor"], found["tau_major"]), Planted.BEST) < near


@pytest.mark.slow
def test_what_is_told_steers_the_sampler(tmp_path):
    """Without the constraint the same search ends where major accuracy is lost."""
    free, bound = Planted(tmp_path / "free"), Planted(tmp_path / "bound", constraints=[RELATIVE])
    for driver in (free, bound):
        driver.run(40)
    assert angles_of(free.best())["tau_major"] > 0.6
    kept = [
        [row["params"]["tau_major"] < Planted.BEST[1] for row in d.ledger.proposals().values()] for d in (free, bound)
    ]
    assert sum(kept[1][15:]) > 2 * sum(kept[0][15:])


def test_optuna_holds_every_trials_constraints(tmp_path):
    both = [RELATIVE, {"metric": "log_norm", "at_most": 2.4}]
    driver = Planted(tmp_path, constraints=both)
    driver.run(9)
    for trial, row in zip(driver.trials, driver.ledger.proposals().values(), strict=True):
        metrics = driver.ledger.record(row["key"])["metrics"]
        assert trial.constraints == pytest.approx(
            {"major >= ce_etf - 1": 79 - 100 * metrics[MAJOR], "log_norm <= 2.4": metrics[NORM] - 2.4}, abs=1e-6
        )
    assert {all(v <= 0 for v in trial.constraints.values()) for trial in driver.trials} == {True, False}
    best = optuna.load_study(study_name="study", storage=storage_url(tmp_path)).best_trial
    assert all(value <= 0 for value in best.constraints.values())


@pytest.mark.slow
@pytest.mark.parametrize("sampler", MODELS_CONSTRAINTS)
def test_a_lost_storage_gets_its_constraints_back(tmp_path, sampler):
    driver = Planted(tmp_path, sampler=sampler, constraints=[RELATIVE])
    driver.run(10)
    before = [(trial.params, trial.values, trial.constraints) for trial in driver.trials]
    (tmp_path / "optuna.db").unlink()
    driver.resume()
    assert [(trial.params, trial.values, trial.constraints) for trial in driver.trials] == before
    assert all(trial.constraints for trial in driver.trials)
    driver.run(2)
    assert len(driver.trials) == 12


def test_killed_between_the_constraints_and_the_end_of_telling(tmp_path, monkeypatch, recwarn):
    driver = Planted(tmp_path, constraints=[RELATIVE])
    job = driver.proposals.ask()
    driver.ledger.write_record(job.key, completed(job.experiment, driver.metrics(job)))

    def killed(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "tell", killed)
        with pytest.raises(KeyboardInterrupt):
            driver.proposals.tell(0, driver.ledger.record(job.key))
    told = driver.trials[0].constraints
    assert told and driver.trials[0].state == TrialState.RUNNING
    driver.resume()
    assert not [one for one in recwarn if "already set" in str(one.message)]  # Optuna's word for setting one twice
    assert driver.trials[0].state == TrialState.COMPLETE
    assert driver.trials[0].constraints == told


def test_a_trial_without_what_is_bounded_is_told_as_failed(tmp_path):
    driver = Planted(tmp_path, constraints=[{"metric": "log_norm", "at_most": 3.0}])
    job = driver.proposals.ask()
    record = completed(job.experiment, driver.metrics(job) | {NORM: None})
    driver.ledger.write_record(job.key, record)
    driver.proposals.tell(0, driver.ledger.record(job.key))
    assert driver.trials[0].state == TrialState.FAIL


def test_stopped_trials_of_two_objectives_upset_no_sampler(tmp_path):
    """Optuna keeps no values of them: TPE, GP and NSGA-II must go on with what there is."""
    for sampler in MODELS_CONSTRAINTS:
        driver = Planted(tmp_path / sampler, objectives=["minor", "major"], sampler=sampler)
        for _ in range(10):
            job = driver.proposals.ask()
            stopped = records.ended("pruned", job.experiment, "stopped after 2 epochs: x", "stop", [])
            record = stopped if job.number % 5 else completed(job.experiment, driver.metrics(job))
            driver.ledger.write_record(job.key, record)
            driver.proposals.tell(job.number, driver.ledger.record(job.key))
        states = [trial.state for trial in driver.trials]
        assert states.count(TrialState.PRUNED) == 8 and states.count(TrialState.COMPLETE) == 2


# --- directions ---------------------------------------------------------------------------------------------------------


def test_optuna_minimises_what_is_to_be_minimised(tmp_path):
    driver = Planted(tmp_path, objectives=["minor", "log_norm"], sampler="nsga2")
    driver.run(9)
    directions = optuna.load_study(study_name="study", storage=storage_url(tmp_path)).directions
    assert [direction.name for direction in directions] == ["MAXIMIZE", "MINIMIZE"]
    rows = protocol.candidates(driver.study, driver.ledger.proposals(), driver.ledger.record)
    table = np.array([driver.trials[row["number"]].values for row in rows]) * [1, -1]
    every = np.array([trial.values for trial in driver.trials]) * [1, -1]
    assert not ((every >= table[0]).all(axis=1) & (every > table[0]).any(axis=1)).any()
    alone = Planted(tmp_path / "alone", objectives=["log_norm"])
    alone.run(6)
    assert alone.best()["search_values"] == [min(trial.value for trial in alone.trials)]


# --- selection ----------------------------------------------------------------------------------------------------------


class Table(dict):
    """Records by key."""

    __call__ = dict.get

    def put(self, config, minor, major):
        self[config.key] = completed(config, {MINOR: minor, MAJOR: major})


def chosen(search, selection, **settings):
    """Candidates and decision for trials of (minor, major) in the search and in the mean of the selection seeds."""
    study = make_study("digits-lt", search={"objectives": ["minor"], "constraints": [RELATIVE], **settings})
    table = Table()
    for seed in protocol.select_seeds(study):
        table.put(experiment(study, MethodConfig(name="ce_etf"), seed), 0.3, 0.8)
    rows = {}
    for number, (minor, major) in enumerate(search):
        method = hinge(0.1 * (number + 1))
        config = experiment(study, method, seed_of(study, SEARCH_SEED))
        table.put(config, minor, major)
        rows[number] = {"params": {}, "key": config.key, "name": str(number)}
        for place, seed in enumerate(protocol.select_seeds(study)):  # spread about the mean
            own, other = selection[number]
            table.put(experiment(study, method, seed), own, other + 0.01 * (place - 1))
    found = protocol.candidates(study, rows, table)
    return [row["number"] for row in found], protocol.winner_decision(study, found, table)


def test_no_infeasible_candidate_while_a_feasible_one_exists():
    search = [(0.9, 0.5), (0.5, 0.8), (0.6, 0.79), (0.8, 0.789)]
    numbers, decision = chosen(search, [(minor, major) for minor, major in search])
    assert numbers == [2, 1]
    assert decision["winner"]["number"] == 2
    assert decision["winner"]["excess"] == {"major >= ce_etf - 1": 0}


def test_the_selection_seeds_judge_the_constraint_too():
    """Trial 0 keeps it on the one seed of the search by luck."""
    numbers, decision = chosen([(0.9, 0.8), (0.5, 0.8)], [(0.9, 0.7), (0.5, 0.8)])
    assert numbers == [0, 1]
    assert decision["winner"]["number"] == 1
    assert decision["candidates"][0]["excess"] == {"major >= ce_etf - 1": pytest.approx(9)}


def test_where_nothing_is_feasible_the_least_violation_counts():
    numbers, decision = chosen([(0.9, 0.5), (0.5, 0.7), (0.6, 0.6)], [(0.9, 0.7), (0.5, 0.72), (0.6, 0.6)])
    assert numbers == [1, 2, 0]
    assert decision["winner"]["number"] == 1
    assert decision["winner"]["excess"] == {"major >= ce_etf - 1": pytest.approx(7)}


def test_without_constraints_rows_are_what_they_were():
    _, decision = chosen([(0.9, 0.5), (0.5, 0.8)], [(0.9, 0.5), (0.5, 0.8)], constraints=[])
    assert decision["winner"]["number"] == 0
    assert "excess" not in decision["winner"]
