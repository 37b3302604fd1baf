"""A search that begins in plain families: what each stage proposes, what it knows, and a kill at any moment."""

import math
import shutil
from itertools import pairwise

import optuna
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from divfeat import record as records
from divfeat.data.splits import long_tail_counts
from divfeat.errors import ConfigError
from divfeat.methods import parts_of
from divfeat.search.ledger import Ledger
from divfeat.search.proposals import Proposals, storage_url
from divfeat.search.refine import Refinement, refinement
from divfeat.settings import make_configs
from divfeat.study_config import SearchConfig
from divfeat.thresholds import ThresholdContext, resolve
from tests.search.samples import completed, curve, make_study

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

CONTEXT = ThresholdContext(torch.as_tensor(long_tail_counts(10, 20, 110)), boundary=30)
STAGES = ("global", "major_minor", "per_class")
TRIALS = 24


def angles(config):
    """tau+ of every class in a proposed training."""
    found = config.method.thresholds
    return resolve(found.spec(), CONTEXT)


def objective(config):
    """Highest where the head has 20 degrees and the tail 50; letting go matters little."""
    best = torch.deg2rad(torch.linspace(20, 50, 10, dtype=torch.float64))
    return 0.8 - float(((angles(config) - best) ** 2).mean()) + 0.001 * (config.method.release == "gate")


class Refined:
    """A refined search without training, taken up as often as a test likes."""

    def __init__(self, folder, trials=TRIALS, stages=STAGES, **search):
        folder.mkdir(exist_ok=True)
        self.folder = folder
        *plain, last = stages
        self.study = make_study("digits-lt", search={"family": last, "refine": plain, **search})
        self.ledger = Ledger(folder)
        self.resume(trials)

    def resume(self, trials=TRIALS):
        stages = refinement(self.study.search, trials, CONTEXT)
        self.proposals = Proposals(self.study, self.ledger, storage_url(self.folder), "study", stages)
        return self.proposals

    def tell(self, job, record=None):
        """How the job went; by default the objective says."""
        if self.ledger.record(job.key) is None:
            values = (objective(job.experiment), -objective(job.experiment))
            metrics = dict(zip(self.proposals.metrics, values, strict=False))
            self.ledger.write_record(job.key, record or completed(job.experiment, metrics))
        self.proposals.tell(job.number, self.ledger.record(job.key))

    def run(self, count):
        for _ in range(count):
            self.tell(self.proposals.ask())

    @property
    def rows(self):
        return list(self.ledger.proposals().values())

    @property
    def trials(self):
        return optuna.load_study(study_name="study", storage=storage_url(self.folder)).trials

    @property
    def families(self):
        return [row.get("stage", {"family": STAGES[-1]})["family"] for row in self.rows]

    def agrees(self):
        """Whether ledger and storage hold the same proposals under the same numbers."""
        trials = [trial for trial in self.trials if trial.state != TrialState.WAITING]
        return [trial.params for trial in trials] == [row["params"] for row in self.rows]


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """Folders of one refined search as they were after 0, 1, ... trials, and all that it proposed."""
    folder = tmp_path_factory.mktemp("walk")
    driver = Refined(folder / "study")
    for done in range(TRIALS):
        shutil.copytree(driver.folder, folder / str(done))
        driver.run(1)
    return folder, driver


@pytest.fixture
def take_up(tmp_path, walk):
    def taken(done):
        shutil.copytree(walk[0] / str(done), tmp_path / "study")
        return Refined(tmp_path / "study")

    return taken


# --- stages -------------------------------------------------------------------------------------------------------------


def test_trials_are_split_as_the_families_have_numbers():
    assert Refinement(STAGES, 24, CONTEXT).ends() == [3, 9, 24]
    assert Refinement(STAGES, 3, CONTEXT).ends() == [1, 2, 3]
    assert Refinement(("global", "count_curve", "bent_curve"), 30, CONTEXT).ends() == [5, 15, 30]


@given(st.integers(3, 500), st.lists(st.sampled_from(STAGES), max_size=4))
@example(7, ["global", "per_class"])  # two rounded shares fell together
@settings(deadline=None, max_examples=50)
def test_every_stage_has_a_trial_and_all_are_spent(trials, more):
    stages = (*STAGES, *more)
    ends = Refinement(stages, max(trials, len(stages)), CONTEXT).ends()
    assert ends[0] >= 1 and all(a < b for a, b in pairwise(ends))
    assert ends[-1] == max(trials, len(stages))


def test_stages_follow_each_other_and_each_trial_is_trained_as_it_was_drawn(walk):
    _, driver = walk
    assert driver.families == ["global"] * 3 + ["major_minor"] * 6 + ["per_class"] * 15
    trained = [driver.ledger.record(row["key"])["config"]["method"] for row in driver.rows]
    for row, method, family in zip(driver.rows, trained, driver.families, strict=True):
        assert method["name"] == "ce_etf" or method["thresholds"]["family"] == family
        # The same angles in the last family, whose space the study has.
        numbers = {name: value for name, value in row["params"].items() if name != "release"}
        lifted = resolve({"family": STAGES[-1], **numbers}, CONTEXT)
        own = {name: value for name, value in row.get("stage", row)["params"].items() if name != "release"}
        assert torch.equal(lifted, resolve({"family": family, **own}, CONTEXT))
    assert all(set(trial.params) == {*numbers, "release"} for trial in driver.trials)
    assert [trial.state for trial in driver.trials] == [TrialState.COMPLETE] * TRIALS
    assert driver.agrees()


def test_nothing_is_trained_twice_and_settings_known_are_not_tried_again(walk):
    """The head's 0 and 0 of `major_minor` is CE+ETF, which `per_class` need not try; nor the paper's step."""
    _, driver = walk
    keys = [row["key"] for row in driver.rows]
    assert len(set(keys)) == len(keys)
    first = [row["stage"]["params"] for row in driver.rows if row.get("stage", {}).get("family") == "per_class"]
    assert all(setting["jump"] == 0 for setting in first)  # its first setting is the paper's for major and minor


def test_later_stages_try_their_settings_under_the_leading_way(walk):
    _, driver = walk
    rows = driver.rows
    assert [row["stage"]["params"]["release"] for row in rows[:3]] == ["gate", "paper", "theorem"]
    scores = [driver.ledger.record(row["key"])["metrics"][driver.proposals.metrics[0]] for row in rows[:3]]
    leading = rows[scores.index(max(scores))]["params"]["release"]
    assert leading == "theorem" == rows[3]["params"]["release"]  # 45 degrees, as wide as it gets, comes closest


def test_a_stage_draws_from_what_the_ones_before_it_measured(walk, monkeypatch):
    """All of it, in the stage's own space, with the same scores."""
    _, driver = walk
    seen = []
    real = optuna.Study.add_trial
    monkeypatch.setattr(optuna.Study, "add_trial", lambda study, trial: (seen.append(trial), real(study, trial))[1])
    rows, trials = driver.ledger.proposals(), driver.trials[:9]
    space = {
        name: optuna.distributions.FloatDistribution(0.0, driver.study.search.high)
        for name in ("tau_major", "tau_minor")
    } | {"release": optuna.distributions.CategoricalDistribution(driver.study.search.releases)}
    sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=1)
    drawn = driver.proposals.refinement.draw(1, rows, trials, space, sampler, ["maximize"])
    assert set(drawn) == set(space)
    assert [trial.value for trial in seen] == [trial.value for trial in trials]
    for number, trial in enumerate(seen[:3]):
        tau = rows[number]["stage"]["params"]["tau"]
        assert (trial.params["tau_major"], trial.params["tau_minor"]) == (tau, tau)


def test_a_stage_knows_directions_and_constraints(tmp_path):
    """Of the first ways of letting go `paper` has the least norm, but only `theorem` keeps the bound: it leads."""
    norms = {"gate": 1.0, "paper": 0.5, "theorem": 3.0}
    bound = {"metric": "numerical_rank", "at_least": 2.0}
    driver = Refined(tmp_path, objectives=["log_norm"], constraints=[bound], stages=("global", "major_minor"), trials=9)

    def tell(job):
        release = driver.rows[job.number]["params"]["release"]
        metrics = {"feature/log_norm": norms[release], "collapse/numerical_rank": 1.0 + 2 * (release == "theorem")}
        driver.tell(job, completed(job.experiment, metrics))

    for _ in range(3):
        tell(driver.proposals.ask())
    assert driver.proposals._leading_release(driver.trials) == "theorem"
    drawn, studies = driver.proposals.refinement, []
    real = optuna.create_study
    space = driver.proposals.space  # the last stage's
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optuna, "create_study", lambda **how: studies.append(real(**how)) or studies[-1])
        directions = driver.proposals.directions
        drawn.draw(1, driver.ledger.proposals(), driver.trials, space, optuna.samplers.RandomSampler(), directions)
    assert studies[0].direction.name == "MINIMIZE"
    assert [trial.constraints for trial in studies[0].trials[:3]] == [trial.constraints for trial in driver.trials[:3]]
    assert driver.trials[0].constraints == {"numerical_rank >= 2": 1.0}
    free = Refined(tmp_path / "free", objectives=["log_norm"], stages=("global", "major_minor"), trials=9)
    for _ in range(3):
        job = free.proposals.ask()
        free.tell(
            job, completed(job.experiment, {"feature/log_norm": norms[free.rows[job.number]["params"]["release"]]})
        )
    assert free.proposals._leading_release(free.trials) == "paper"


def test_what_runs_and_what_was_pruned_is_known_too_and_what_failed_is_not(tmp_path):
    driver = Refined(tmp_path, asha={"first_rung": 2, "reduction": 2}, releases=["gate"])
    running, pruned, failed = (driver.proposals.ask() for _ in range(3))
    history = curve([0.1, 0.2, 0.3], driver.proposals.metrics[0])
    driver.tell(pruned, records.ended("pruned", pruned.experiment, "", "pruned", history))
    driver.tell(failed, records.ended("failed", failed.experiment, "diverged", "nan", []))
    study = optuna.create_study(direction="maximize")
    rows, found = driver.ledger.proposals(), driver.proposals.refinement
    space = {name: optuna.distributions.FloatDistribution(0.0, 1.5) for name in ("tau_major", "tau_minor")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optuna, "create_study", lambda **_: study)
        found.draw(1, rows, driver.trials, space, optuna.samplers.RandomSampler(seed=0), ["maximize"])
    assert [trial.state for trial in study.trials[:2]] == [TrialState.RUNNING, TrialState.PRUNED]
    assert study.trials[1].intermediate_values == {2: 0.2}
    assert len(study.trials) == 3  # and the one asked
    driver.run(9)
    assert driver.trials[0].state == TrialState.RUNNING
    assert running.key in {job.key for job in driver.proposals.pending()}


def test_two_objectives_and_one_way_of_letting_go(tmp_path):
    driver = Refined(tmp_path, trials=9, objectives=["balanced", "minor"], releases=["gate"])
    driver.run(9)
    assert [len(trial.values) for trial in driver.trials] == [2] * 9
    assert all("release" not in row["params"] for row in driver.rows)


# --- the same study proposes the same -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("done", [0, 2, 3, 5, 8, 9, 12, 20])
def test_a_resumed_search_goes_on_as_an_uninterrupted_one(take_up, walk, done):
    driver = take_up(done)
    driver.run(TRIALS - done)
    assert driver.rows == walk[1].rows


def test_an_extension_stays_in_the_stage_it_has_reached(take_up):
    driver = take_up(20)
    driver.resume(trials=300)
    driver.run(3)
    assert set(driver.families[9:]) == {"per_class"}


def test_a_study_stopped_early_goes_on_in_the_stage_that_its_trials_ask_for(take_up):
    driver = take_up(5)
    driver.resume(trials=48)  # 6 in the first stage, which is over
    driver.run(14)
    assert driver.families == ["global"] * 3 + ["major_minor"] * 15 + ["per_class"]


# --- killed ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "done"),  # the last stage's own sampler, as for trial 15, enqueues nothing
    [
        *((where, done) for where in ("before enqueuing", "after enqueuing") for done in (1, 4, 8, 9)),
        *((where, done) for where in ("while asking", "before noting") for done in (2, 7, 15)),
    ],
)
def test_killed_while_asking(take_up, walk, monkeypatch, where, done):
    """What was being proposed comes again, under its number, in its stage."""
    driver = take_up(done)
    target, name, after = {
        "before enqueuing": (optuna.Study, "enqueue_trial", False),
        "after enqueuing": (optuna.Study, "enqueue_trial", True),
        "while asking": (type(driver.proposals.optuna._storage), "set_trial_param", False),
        "before noting": (Ledger, "write_proposal", False),
    }[where]
    real = getattr(target, name)

    def killed(*arguments, **named):
        if after:
            real(*arguments, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(target, name, killed)
        with pytest.raises(KeyboardInterrupt):
            driver.proposals.ask()
    driver.resume()
    driver.run(done + 1 - len(driver.rows))
    for job in driver.proposals.pending():
        driver.tell(job)
    assert driver.rows == walk[1].rows[: done + 1]
    assert driver.agrees()
    driver.run(2)
    assert driver.rows == walk[1].rows[: done + 3]


@pytest.mark.parametrize("done", [2, 7, 12])
def test_a_lost_storage_is_rebuilt(take_up, walk, done):
    driver = take_up(done)
    running = driver.proposals.ask()
    (driver.folder / "optuna.db").unlink()
    driver.resume()
    assert driver.agrees()
    assert [job.key for job in driver.proposals.pending()] == [running.key]
    driver.tell(running)
    driver.run(3)
    assert driver.rows == walk[1].rows[: done + 4]


@pytest.mark.parametrize(("copied", "done"), [(0, 2), (2, 6), (5, 12), (11, 14)])
def test_an_older_copy_of_the_storage_is_brought_up_to_date(take_up, walk, copied, done):
    driver = take_up(done)
    shutil.copy(walk[0] / str(copied) / "optuna.db", driver.folder / "optuna.db")
    driver.resume()
    assert driver.agrees()
    driver.run(3)
    assert driver.rows == walk[1].rows[: done + 3]


@pytest.mark.parametrize("lost", [1, 5, 11])
def test_a_lost_proposal_is_made_again_in_its_own_stage(take_up, walk, lost):
    driver = take_up(13)
    row = driver.ledger.proposals()[lost]
    (driver.ledger.run_folder(row["key"]) / "record.json").unlink()
    driver.ledger.write_proposal(lost, row | {"lost": True})
    driver.resume()
    again = driver.proposals.ask()
    assert again.key == row["key"] and again.number == 13
    assert driver.ledger.proposals()[13].get("stage") == row.get("stage")
    driver.tell(again)
    driver.resume()
    driver.run(1)
    assert len(driver.rows) == 14


# --- what is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"refine": ["gloabl"]}, "unknown threshold family 'gloabl'"),
        ({"refine": ["per_class"], "family": "global"}, r"'global' does not contain 'per_class'; it contains no other"),
        ({"refine": ["major_minor", "count_curve"], "family": "per_class"}, "'count_curve' does not contain 'major_minor'"),
        ({"refine": ["global"], "family": "global"}, "'global' does not contain 'global'"),
        ({"refine": ["none"], "family": "global"}, "'global' does not contain 'none'"),
        ({"refine": ["global"], "family": "major_minor", "sampler": "cmaes"}, "sampler that starts from any trials: tpe, gp"),
    ],
)  # fmt: skip
def test_stages_that_are_refused(search, message):
    with pytest.raises(ConfigError, match=message):
        make_configs("digits-lt", {"search": search})


def test_without_a_refinement_nothing_changes():
    assert refinement(SearchConfig(), 20, CONTEXT) is None
    assert make_study().identity == make_study(search={"refine": []}).identity
    with pytest.raises(ValueError, match="needs its Refinement"):
        Proposals(make_study("digits-lt", search={"refine": ["global"]}), None, "sqlite://", "study")  # type: ignore[arg-type]


def test_a_lift_out_of_the_box_ends_at_its_edge():
    """`per_class` may lead below a box that does not begin at 0, one free angle each may not."""
    found = Refinement(("per_class", "each_10"), 20, CONTEXT)
    space = {f"tau_{k}": optuna.distributions.FloatDistribution(0.3, 1.4) for k in range(10)}
    params = {"tau_head": 0.35, "tau_tail": 0.5, "jump": 0.0, "wave_1": -0.2, "wave_2": 0.0, "release": "gate"}
    lifted = found.lifted(params, "per_class", "each_10", space)
    assert lifted["release"] == "gate" and lifted["tau_0"] == 0.35 and lifted["tau_4"] == 0.3
    assert not math.isclose(lifted["tau_9"], 0.3)


def test_own_numbers_go_along_from_stage_to_stage(tmp_path):
    """Each stage searches them too; in the last family's space they are what they were drawn as."""
    base = {"method": "hinge_la", "own": ["logit_adjustment"]}
    driver = Refined(tmp_path / "study", 14, stages=("global", "major_minor"), **base)
    driver.run(7)
    driver.resume(14)
    driver.run(7)
    assert driver.agrees()
    assert {row["stage"]["family"] for row in driver.rows if "stage" in row} == {"global", "major_minor"}
    strengths = [row["params"]["logit_adjustment"] for row in driver.rows]
    for number, row in enumerate(driver.rows):
        method = driver.proposals.job(number, row["params"], row.get("stage")).experiment.method
        assert parts_of(method).logit_adjustment == strengths[number]
        assert "stage" not in row or row["stage"]["params"]["logit_adjustment"] == strengths[number]
    drawn = set(strengths) - {1.0}
    assert len(drawn) > 5 and all(0.25 <= strength <= 3 for strength in drawn)
