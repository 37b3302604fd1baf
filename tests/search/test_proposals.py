import json
import math
import shutil
from collections import Counter

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from divfeat import record as records
from divfeat.errors import ConfigError
from divfeat.objectives import OBJECTIVES
from divfeat.search.jobs import experiment
from divfeat.search.ledger import Ledger
from divfeat.search.proposals import Proposals, make_sampler, storage_url
from divfeat.search.subjects import search_space, tried_first
from divfeat.thresholds import PAPER_ANGLE
from tests.search.samples import METRIC, SECOND, bowl, completed, curve, make_study

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

SAMPLERS = ("tpe", "gp", "cmaes", "nsga2", "qmc", "random")
GLOBAL_FIRST = 6  # four settings, the first under three ways of letting go


WALKED = 12  # trials of the default study that tests start from


class Driver:
    """A study's search without training, taken up as often as a test likes."""

    def __init__(self, folder, preset="digits", objective=bowl, train=None, **search):
        self.folder, self.objective = folder, objective
        self.study = make_study(preset, search=search, **({"train": train} if train else {}))
        self.ledger = Ledger(folder)
        self.resume()

    def resume(self) -> Proposals:
        self.proposals = Proposals(self.study, self.ledger, storage_url(self.folder), "study")
        return self.proposals

    def record(self, job):
        value = self.objective(job.experiment)
        metrics = dict(zip(self.proposals.metrics, value if isinstance(value, tuple) else (value,), strict=True))
        return completed(job.experiment, metrics)

    def run(self, count):
        """`count` trials, one after another."""
        for _ in range(count):
            job = self.proposals.ask()
            if self.ledger.record(job.key) is None:
                self.ledger.write_record(job.key, self.record(job))
            self.proposals.tell(job.number, self.ledger.record(job.key))

    @property
    def params(self):
        return [row["params"] for row in self.ledger.proposals().values()]

    @property
    def trials(self):
        """As anybody else sees the study."""
        return optuna.load_study(study_name="study", storage=storage_url(self.folder)).trials

    def agrees(self) -> bool:
        """Whether ledger and storage hold the same proposals under the same numbers."""
        trials = [trial for trial in self.trials if trial.state != TrialState.WAITING]
        return [trial.params for trial in trials] == self.params


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    """Optuna's tables without a study, made once: that takes longer than most tests."""
    folder = tmp_path_factory.mktemp("empty")
    optuna.storages.RDBStorage(storage_url(folder))
    return folder / "optuna.db"


@pytest.fixture(scope="module")
def walk(tmp_path_factory, empty_database):
    """Folders of the default study as they were after 0, 1, ... trials, and all that it proposed."""
    folder = tmp_path_factory.mktemp("walk")
    study = folder / "study"
    study.mkdir()
    shutil.copy(empty_database, study / "optuna.db")
    driver = Driver(study)
    for done in range(WALKED):
        shutil.copytree(study, folder / str(done))
        driver.run(1)
    shutil.copytree(study, folder / str(WALKED))
    return folder, driver.params


@pytest.fixture
def make(tmp_path, empty_database):
    """A fresh study."""

    def made(name="study", **options):
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(empty_database, folder / "optuna.db")
        return Driver(folder, **options)

    return made


@pytest.fixture
def take_up(tmp_path, walk):
    """The default study after so many trials."""

    def taken(done):
        shutil.copytree(walk[0] / str(done), tmp_path / "study")
        return Driver(tmp_path / "study")

    return taken


# --- spaces and samplers ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_searches_the_box_and_goes_on_as_if_uninterrupted(make, tmp_path, sampler):
    options = {"sampler": sampler} | ({"preset": "digits-lt", "objectives": ["balanced"]} if sampler == "cmaes" else {})
    driver = make(**options)
    driver.run(10)
    shutil.copytree(driver.folder, tmp_path / "again")
    driver.run(3)
    np.random.seed(0)  # noqa: NPY002 - global state must not matter
    again = Driver(tmp_path / "again", **options)
    again.run(3)
    assert again.params == driver.params
    assert [trial.values for trial in again.trials] == [trial.values for trial in driver.trials]
    trials = driver.trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 13
    assert driver.agrees()
    high = driver.study.search.high
    angles = [name for name in trials[0].params if name != "release"]
    for trial in trials:
        assert set(trial.params) == {*angles, "release"}
        assert all(0 <= trial.params[name] <= high for name in angles)
        assert trial.params["release"] in driver.study.search.releases
    first = len(tried_first(driver.study))
    assert len({tuple(trial.params[name] for name in angles) for trial in trials[first:]}) == 13 - first


def test_cmaes_needs_two_angles_and_says_what_to_use():
    with pytest.raises(ConfigError, match=r"'cmaes' needs two numbers or more.*'global' has 1.*tpe"):
        search_space(make_study(search={"sampler": "cmaes"}))
    space = search_space(make_study("digits-lt", search={"sampler": "cmaes"}))
    assert set(space) == {"tau_major", "tau_minor", "release"}
    with pytest.raises(ConfigError, match="cmaes"):
        make_study("digits-lt", search={"sampler": "cmaes", "objectives": ["balanced", "minor"]})


def test_one_way_of_letting_go_is_no_dimension(make):
    driver = make(releases=["theorem"], low=0.1, high=0.7)
    space = search_space(driver.study)
    assert set(space) == {"tau"}
    assert (space["tau"].low, space["tau"].high) == (0.1, 0.7)
    job = driver.proposals.ask()
    assert job.experiment.method.release == "theorem"
    assert driver.proposals.ask().experiment.method.release == "theorem"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_sampled_on_its_own_differs_between_trials(sampler):
    """A sampler is made anew for each trial; a constant seed would draw the same release for ever."""
    space = search_space(make_study())["release"]
    study = optuna.create_study(direction="maximize")
    study.ask()
    (trial,) = study.get_trials()
    drawn = [make_sampler(sampler, seed, 0).sample_independent(study, trial, "release", space) for seed in range(12)]
    assert set(drawn) == set(space.choices)


# --- tried first --------------------------------------------------------------------------------------------------------


def test_the_papers_angle_is_tried_under_every_release_then_the_others_under_one(make):
    driver = make()
    rows = tried_first(driver.study)
    assert len(rows) == GLOBAL_FIRST
    assert rows[:2] == [{"tau": PAPER_ANGLE, "release": name} for name in ("gate", "paper")]
    assert rows[2] == {"tau": math.pi / 4, "release": "theorem"}  # wider, the loss could not fall below log K
    assert [row["release"] for row in rows[3:]] == ["gate"] * 3
    driver.run(3)
    driver.resume()
    driver.run(5)
    driver.resume()
    assert len(driver.trials) == 8
    assert driver.params[:GLOBAL_FIRST] == rows
    assert all(row not in rows for row in driver.params[GLOBAL_FIRST:])


def test_settings_outside_the_searched_box_are_left_out(make):
    study = make_study(search={"low": 0.5, "high": PAPER_ANGLE})
    assert [row["tau"] for row in tried_first(study)] == [PAPER_ANGLE, PAPER_ANGLE, math.pi / 4, 11 / 36 * math.pi]
    driver = make(low=0.2, high=0.3)
    assert tried_first(driver.study) == []
    driver.run(2)
    assert all(0.2 <= row["tau"] <= 0.3 for row in driver.params)


def test_settings_of_numbers_that_are_no_angles(make):
    """They keep their own ranges, whatever the box of angles, and stay as they are under `theorem`."""
    study = make_study("digits-lt", search={"family": "per_class", "releases": ["theorem", "gate"], "high": 1.0})
    space = search_space(study)
    assert {name: (side.low, side.high) for name, side in space.items() if name != "release"} == {
        "tau_head": (0.0, 1.0), "tau_tail": (0.0, 1.0), "jump": (0.0, 1.0), "wave_1": (-0.25, 0.25),
        "wave_2": (-0.125, 0.125),
    }  # fmt: skip
    rows = tried_first(study)
    assert [row["release"] for row in rows] == ["theorem", "gate", "theorem", "theorem"]
    assert rows[0]["jump"] == rows[1]["jump"] == 1
    assert rows[2]["tau_tail"] == math.pi / 4  # 50 degrees, wider than `theorem` can use
    assert rows[3]["tau_head"] == rows[3]["tau_tail"] == 0  # 60 degrees at the head lies outside this box
    driver = make("numbers", preset="digits-lt", family="bent_curve", releases=["gate"])
    driver.run(6)
    assert all(set(row) == {"tau_head", "tau_tail", "bend"} and -2 <= row["bend"] <= 2 for row in driver.params)
    assert {row["bend"] for row in driver.params[:5]} == {0.0, 1.0}


def test_own_numbers_are_searched_together_with_the_angles(make):
    """They start where the method has them, and go along with the angles of every stage and release."""
    base = {"name": "hinge_la", "logit_adjustment": 1.5, "class_balanced": 0.999}

    def objective(config):
        parts = config.method
        lacking = math.log10(1 - parts.class_balanced) + 4
        return 0.9 - (parts.logit_adjustment - 2.5) ** 2 - 0.1 * lacking**2 - 0.01 * bowl(config)

    own = ["logit_adjustment", "class_balanced"]
    driver = make(method=base, own=own, releases=["gate"], objective=objective)
    space = search_space(driver.study)
    assert set(space) == {"tau", "logit_adjustment", "1-class_balanced"} and space["1-class_balanced"].log
    rows = tried_first(driver.study)
    assert len(rows) == 4 and all(row["logit_adjustment"] == 1.5 for row in rows)
    assert all(row["1-class_balanced"] == pytest.approx(0.001) for row in rows)
    driver.run(30)
    driver.resume()
    assert driver.agrees()
    methods = [driver.proposals.job(n, params).experiment.method for n, params in enumerate(driver.params)]
    assert methods[0].name == "hinge_la" and methods[0].class_balanced == 0.999
    best = max(methods, key=lambda method: objective(experiment(driver.study, method, 0)))
    assert best.logit_adjustment == pytest.approx(2.5, abs=0.5) and best.class_balanced > 0.999
    assert all(
        method.class_balanced == pytest.approx(1 - row["1-class_balanced"])
        for method, row in zip(methods, driver.params, strict=True)
    )


def test_a_family_without_numbers_still_searches_those_of_the_method(make):
    driver = make(family="none", method="hinge_la", own=["logit_adjustment"])
    assert set(search_space(driver.study)) == {"logit_adjustment"}
    driver.run(3)
    jobs = [driver.proposals.job(n, params) for n, params in enumerate(driver.params)]
    assert jobs[0].name == "ce_etf_la" and len({job.key for job in jobs}) == 3


def test_a_kill_while_enqueuing_loses_none_and_doubles_none(make):
    driver = make()
    shutil.rmtree(driver.folder)
    driver.folder.mkdir()
    rows = tried_first(driver.study)
    partly = optuna.create_study(storage=storage_url(driver.folder), study_name="study", directions=["maximize"])
    for row in rows[:2]:
        partly.enqueue_trial(row)
    driver.resume()
    driver.run(GLOBAL_FIRST)
    assert driver.params == rows


# --- the same study proposes the same -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("done", [0, 3, 6, 9])
def test_a_resumed_study_goes_on_as_an_uninterrupted_one(take_up, walk, done):
    driver = take_up(done)
    driver.run(WALKED - done)
    assert driver.params == walk[1]


def test_another_seed_proposes_something_else(take_up, walk):
    driver = take_up(GLOBAL_FIRST)
    driver.study = driver.study.model_copy(update={"seed": 1})
    driver.resume()
    driver.run(3)
    assert all(a != b for a, b in zip(driver.params[GLOBAL_FIRST:], walk[1][GLOBAL_FIRST:9], strict=True))


# --- telling ------------------------------------------------------------------------------------------------------------


def test_each_end_is_told_for_what_it_is(make):
    driver = make(asha={"first_rung": 2, "reduction": 2}, train={"epochs": 9})
    assert driver.proposals.rungs == (2, 4, 8)
    ask = driver.proposals.ask
    complete, pruned, failed, nan, bare = (ask() for _ in range(5))
    history = curve([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    nothing = {METRIC: float("nan")}
    for job, record in (
        (complete, completed(complete.experiment, {METRIC: 0.9}, history)),
        (pruned, records.ended("pruned", pruned.experiment, "", "pruned", history[:4])),
        (failed, records.ended("failed", failed.experiment, "diverged", "nan", history[:2])),
        (nan, completed(nan.experiment, nothing, history)),
        (bare, records.ended("pruned", bare.experiment, "", "pruned", [])),
    ):
        driver.ledger.write_record(job.key, record)
        driver.proposals.tell(job.number, driver.ledger.record(job.key))
    found = driver.trials[:5]
    assert [trial.state.name for trial in found] == ["COMPLETE", "PRUNED", "FAIL", "FAIL", "PRUNED"]
    assert found[0].values == [0.9]
    assert found[0].intermediate_values == {
        2: 0.2,
        4: 0.4,
        8: 0.8,
        9: 0.9,
    }  # the end too: it is what the trial is worth
    assert found[1].intermediate_values == {2: 0.2, 4: 0.4}
    assert found[2].values is None
    assert not any(trial.state == TrialState.RUNNING for trial in driver.trials)


def test_the_dashboard_is_told_names_keys_and_degrees(make):
    """Parameters are radians; a value is never another than the ledger's."""
    driver = make(preset="digits-lt")
    driver.run(10)
    for trial, row in zip(driver.trials, driver.ledger.proposals().values(), strict=True):
        assert (trial.user_attrs["name"], trial.user_attrs["key"]) == (row["name"], row["key"])
        degrees = {name: trial.user_attrs.get(f"{name}_deg") for name in ("tau_major", "tau_minor")}
        if row["name"] == "ce_etf":
            assert set(degrees.values()) == {None}
        else:
            assert degrees == {name: pytest.approx(math.degrees(row["params"][name]), abs=1e-3) for name in degrees}
        assert trial.intermediate_values == {}  # no halving: the objective is measured at the end alone
    said = driver.proposals.optuna.user_attrs
    assert said["objective balanced"].endswith("a share of 1; maximize") and "degrees" in said["angles"]


def test_telling_twice_changes_nothing(take_up):
    driver = take_up(2)
    before = [(trial.state, trial.values, trial.datetime_complete) for trial in driver.trials]
    job = driver.proposals.job(0, driver.params[0])
    driver.proposals.tell(0, completed(job.experiment, {METRIC: 0.123}))
    driver.proposals.tell(1, records.ended("failed", job.experiment, "late", "nan", []))
    assert [(trial.state, trial.values, trial.datetime_complete) for trial in driver.trials] == before


def test_two_objectives_are_told_together(make):
    driver = make(
        objectives=["fine_probe", "accuracy"], sampler="nsga2", objective=lambda config: (bowl(config), bowl(config, 0))
    )
    driver.run(8)
    for trial, proposal in zip(driver.trials, driver.ledger.proposals().values(), strict=True):
        metrics = driver.ledger.record(proposal["key"])["metrics"]
        assert trial.values == [metrics[METRIC], metrics[SECOND]]
    half = driver.proposals.ask()
    driver.proposals.tell(half.number, completed(half.experiment, {METRIC: 0.5, SECOND: None}))
    assert driver.trials[-1].state == TrialState.FAIL
    seen = optuna.load_study(study_name="study", storage=storage_url(driver.folder))
    assert seen.metric_names == ["fine_probe", "accuracy"]
    assert seen.directions == [optuna.study.StudyDirection.MAXIMIZE] * 2


@pytest.mark.parametrize("undefined", [None, math.nan])
def test_a_trial_without_a_mistake_has_a_severity_of_0(make, undefined):
    """Recorded as null, since there is nothing to take a mean over; it must not be the trial that failed."""
    severity = OBJECTIVES["severity"].validation
    driver = make(objectives=["fine_probe", "severity"], sampler="nsga2")
    job = driver.proposals.ask()
    driver.proposals.tell(job.number, completed(job.experiment, {METRIC: 1.0, severity: undefined}))
    assert (driver.trials[0].state, driver.trials[0].values) == (TrialState.COMPLETE, [1.0, 0.0])
    job = driver.proposals.ask()
    driver.proposals.tell(job.number, completed(job.experiment, {METRIC: 1.0}))
    assert driver.trials[job.number].state == TrialState.FAIL  # not recorded at all


def test_two_proposals_may_mean_one_experiment(take_up):
    """tau+ = 0 is CE+ETF under every way of letting go."""
    driver = take_up(GLOBAL_FIRST)
    zero = {name: driver.proposals.job(0, {"tau": 0.0, "release": name}) for name in ("gate", "paper", "theorem")}
    assert zero["gate"].key == zero["paper"].key == zero["theorem"].key
    assert zero["gate"].name == "ce_etf"
    for _ in range(2):
        driver.proposals.optuna.enqueue_trial({"tau": 0.3, "release": "gate"})
    first, second = driver.proposals.ask(), driver.proposals.ask()
    assert (first.number, second.number) == (GLOBAL_FIRST, GLOBAL_FIRST + 1)
    assert first.key == second.key
    assert [job.number for job in driver.proposals.pending()] == [first.number, second.number]
    driver.ledger.write_record(first.key, driver.record(first))
    assert driver.proposals.pending() == []
    driver.resume()
    assert [trial.state for trial in driver.trials] == [TrialState.COMPLETE] * (GLOBAL_FIRST + 2)


# --- reconciling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["before note", "before parameters", "between parameters"])
@pytest.mark.parametrize("done", [1, 9])
def test_killed_while_asking(take_up, walk, monkeypatch, where, done):
    """What was being asked comes again: enqueued, at random or modelled."""
    driver = take_up(done)
    calls = Counter()
    storage = type(driver.proposals.optuna._storage)
    target, name = (Ledger, "write_proposal") if where == "before note" else (storage, "set_trial_param")
    real = getattr(target, name)

    def killed(*arguments):
        calls["made"] += 1
        if where == "between parameters" and calls["made"] == 1:
            return real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(target, name, killed)
        with pytest.raises(KeyboardInterrupt):
            driver.proposals.ask()
    assert len(driver.params) == done
    assert driver.trials[done].state == TrialState.RUNNING
    driver.resume()
    assert driver.params == walk[1][: done + 1]
    assert driver.agrees()
    (pending,) = driver.proposals.pending()
    assert pending.number == done
    driver.ledger.write_record(pending.key, driver.record(pending))
    driver.resume()
    assert driver.trials[done].state == TrialState.COMPLETE


def test_killed_between_note_and_run(take_up):
    driver = take_up(7)
    job = driver.proposals.ask()
    proposals = driver.resume()
    assert [(again.number, again.key, again.experiment) for again in proposals.pending()] == [
        (7, job.key, job.experiment)
    ]
    assert len(proposals) == 8
    assert driver.trials[7].state == TrialState.RUNNING
    assert proposals.ask().number == 8


@pytest.mark.parametrize("status", ["completed", "pruned", "failed"])
def test_killed_between_record_and_tell(make, status):
    driver = make(asha={"first_rung": 2}, train={"epochs": 7})
    driver.run(2)
    job = driver.proposals.ask()
    history = curve([0.1, 0.2, 0.3])
    record = completed(job.experiment, {METRIC: 0.7}, history)
    if status != "completed":
        record = records.ended(status, job.experiment, "why", "why", history)
    driver.ledger.write_record(job.key, record)
    driver.resume()
    trial = driver.trials[2]
    states = {"completed": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    assert trial.state == states[status]
    told = {"completed": {2: 0.2, 7: 0.7}, "pruned": {2: 0.2}, "failed": {}}
    assert trial.intermediate_values == told[status]
    assert trial.user_attrs.get("cause") == (None if status == "completed" else "why")
    assert driver.proposals.pending() == []


def test_killed_between_the_rungs_and_the_end_of_telling(make, monkeypatch):
    driver = make(asha={"first_rung": 1, "reduction": 2}, train={"epochs": 4})
    job = driver.proposals.ask()
    record = records.ended("pruned", job.experiment, "", "pruned", curve([0.1, 0.2]))
    driver.ledger.write_record(job.key, record)

    def killed(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "tell", killed)
        with pytest.raises(KeyboardInterrupt):
            driver.proposals.tell(0, record)
    assert driver.trials[0].intermediate_values == {1: 0.1, 2: 0.2}
    driver.resume()
    assert driver.trials[0].state == TrialState.PRUNED
    assert driver.trials[0].intermediate_values == {1: 0.1, 2: 0.2}


@pytest.mark.parametrize("done", [2, 9])
def test_a_lost_storage_is_rebuilt_with_the_same_numbers(take_up, walk, done):
    driver = take_up(done)
    running = driver.proposals.ask()
    values = [trial.values for trial in driver.trials[:done]]
    (driver.folder / "optuna.db").unlink()
    driver.resume()
    assert driver.params == walk[1][: done + 1]
    assert driver.agrees()
    assert [trial.values for trial in driver.trials[:done]] == values
    assert driver.trials[done].state == TrialState.RUNNING
    assert [job.key for job in driver.proposals.pending()] == [running.key]
    driver.ledger.write_record(running.key, driver.record(running))
    driver.resume()
    assert driver.trials[done].values == [driver.objective(running.experiment)]
    driver.run(2)
    assert driver.params == walk[1][: done + 3]


@pytest.mark.parametrize(("copied", "done"), [(0, 2), (3, 8), (7, 11)])
def test_an_older_copy_of_the_storage_is_brought_up_to_date(take_up, walk, copied, done):
    driver = take_up(done)
    pending = driver.proposals.ask()
    shutil.copy(walk[0] / str(copied) / "optuna.db", driver.folder / "optuna.db")
    driver.resume()
    assert driver.params == walk[1][: done + 1]
    assert driver.agrees()
    assert [trial.state for trial in driver.trials[:done]] == [TrialState.COMPLETE] * done
    driver.proposals.tell(pending.number, driver.record(pending))
    driver.run(1)
    assert driver.trials[done + 1].state == TrialState.COMPLETE


def test_a_proposal_whose_file_is_gone_moves_no_other(take_up, walk):
    driver = take_up(5)
    (driver.folder / "proposals" / "00002.json").unlink()
    (driver.folder / "optuna.db").unlink()
    driver.resume()
    assert [trial.params for trial in driver.trials[:5]] == [*walk[1][:2], {}, *walk[1][3:5]]
    assert driver.trials[2].state == TrialState.FAIL
    assert driver.proposals.ask().number == 5


def test_the_rung_table_holds_ended_and_running_trials(make):
    driver = make(asha={"first_rung": 2, "reduction": 2}, train={"epochs": 9})
    done, pruned, running = (driver.proposals.ask() for _ in range(3))
    driver.ledger.write_record(done.key, completed(done.experiment, {METRIC: 0.9}, curve([0.1] * 4 + [0.5] * 5)))
    history = curve([0.2, 0.3])
    driver.ledger.write_record(pruned.key, records.ended("pruned", pruned.experiment, "", "pruned", history))
    for event in curve([0.4, 0.6, 0.7]):
        driver.ledger.event(running.key, event)
    assert driver.resume().rung_table() == {
        2: {done.key: 0.1, pruned.key: 0.3, running.key: 0.6},
        4: {done.key: 0.1},
        8: {done.key: 0.5},
    }


# --- what it is for -----------------------------------------------------------------------------------------------------


def test_opens_as_an_ordinary_study(take_up):
    driver = take_up(3)
    (summary,) = optuna.get_all_study_summaries(storage_url(driver.folder))
    assert summary.study_name == "study"
    study = optuna.load_study(study_name="study", storage=storage_url(driver.folder))
    assert study.best_value == max(trial.value for trial in study.trials[:3])
    assert study.best_params == driver.params[study.best_trial.number]
    assert study.metric_names == ["fine_probe"]


def test_folders_may_have_odd_names(make):
    driver = make("50 % of #1 & ümlaut")
    driver.run(1)
    assert (driver.folder / "optuna.db").is_file()
    assert driver.agrees()


def test_tpe_finds_a_planted_optimum_better_than_random():
    """Mean distance to it of the best of 30 trials, over 5 seeds; in memory, since only the sampler matters here."""
    space = search_space(make_study())
    gap = dict.fromkeys(("tpe", "random"), 0.0)
    for name in gap:
        for seed in range(5):
            study = optuna.create_study(direction="maximize")
            for number in range(30):
                study.sampler = make_sampler(name, 1000 * seed + number, seed)
                trial = study.ask(space)
                bonus = 0.05 if trial.params["release"] == "theorem" else 0.0
                study.tell(trial, bonus - abs(trial.params["tau"] - 0.47))
            gap[name] += 0.05 - study.best_value
    assert gap["tpe"] < 0.5 * gap["random"]


def test_proposals_are_plain_json(take_up):
    driver = take_up(7)
    for path in (driver.folder / "proposals").iterdir():
        row = json.loads(path.read_text())
        assert set(row) == {"number", "params", "key", "name"}
        assert driver.proposals.job(row["number"], row["params"]).key == row["key"]


def paused(driver, count):
    """So many trials asked for, none finished: each has told its objective at the first rung."""
    for _ in range(count):
        job = driver.proposals.ask()
        for event in curve([bowl(job.experiment)] * 2):
            driver.ledger.event(job.key, event)


def test_a_sampler_learns_from_trials_that_wait_at_a_rung(make):
    """As from those that were pruned there; without that it would draw as if it knew nothing, or shun what is good."""
    asha = {"first_rung": 2, "reduction": 3}
    driver = make("waiting", asha=asha, promote=True, releases=["gate"])
    paused(driver, 30)
    angles = [params["tau"] for params in driver.params]
    early, late = angles[4:10], angles[-12:]
    assert np.mean(np.abs(np.array(late) - 1.0)) < 0.5 * np.mean(np.abs(np.array(early) - 1.0)), angles
    assert {trial.state for trial in driver.trials} == {TrialState.RUNNING}  # nothing is decided yet
    assert driver.agrees()


def test_trials_that_wait_are_taken_up_again_and_told_once(make):
    driver = make("again", asha={"first_rung": 2, "reduction": 3}, promote=True, releases=["gate"])
    paused(driver, 12)
    expected = driver.proposals.ask().experiment.method
    shutil.rmtree(driver.folder)
    again = make("again", asha={"first_rung": 2, "reduction": 3}, promote=True, releases=["gate"])
    paused(again, 12)
    assert len(again.resume().pending()) == 12 and again.proposals.ask().experiment.method == expected
    job = again.proposals.pending()[0]
    again.ledger.write_record(job.key, again.record(job))
    again.proposals.tell(job.number, again.ledger.record(job.key))
    assert [trial.state for trial in again.trials].count(TrialState.COMPLETE) == 1
