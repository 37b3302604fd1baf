"""Baselines with their own numbers searched: what is searched, and whole studies over several sessions without training."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from divfeat import record as records
from divfeat.config import ExperimentConfig, MethodConfig
from divfeat.errors import ConfigError
from divfeat.methods import METHODS, canonical, parts_of
from divfeat.ranges import RANGES
from divfeat.search import protocol, workload
from divfeat.search.interrupt import StoppedError
from divfeat.search.jobs import baseline, name_of, own_numbers
from divfeat.search.proposals import Proposals, storage_url
from divfeat.search.subjects import baseline_subject, corners, own_params, own_values
from divfeat.search.tuning import baselines, tunable, tuned_methods
from divfeat.study_config import StudyConfig
from tests.search.samples import curve, make_study
from tests.search.test_study import World, angle_of, scored, stop_in

TUNED = {
    "baselines": ["ce", "ldam", "focal"],
    "tune": True,
    "grid_points": 0,
    "learning_rates": [],
    "weight_decays": [],
}
STUDY = make_study(protocol=TUNED, search={"releases": ["gate"]})
TRIALS = 20
#: Planted: what LDAM and the focal loss are best at.
MARGIN, SCALE, GAMMA = 0.2, 15.0, 3.0


def planted(config: ExperimentConfig) -> float:
    parts = parts_of(config.method)
    if parts.margin:
        return 0.9 - (parts.margin - MARGIN) ** 2 - 0.1 * math.log(parts.scale / SCALE) ** 2
    if parts.focal:
        return 0.8 - 0.1 * math.log(parts.focal / GAMMA) ** 2
    return 0.7 - 0.01 * angle_of(config)


def truth(config: ExperimentConfig) -> Any:
    return scored(config, planted(config))


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., World]:
    def made(name: str = "a", config: StudyConfig = STUDY) -> World:
        world = World(tmp_path / name, config, monkeypatch)
        world.outcome = truth
        return world

    return made


def proposed(world: World) -> dict[str, list[Any]]:
    return {name: list(world.ledger.proposals(name).values()) for name in ("", "ldam", "focal")}


def confirmed(world: World, name: str) -> list[ExperimentConfig]:
    found = []
    for key, info in world.ledger.started().items():
        if (info["phase"], info["name"]) == ("confirm", name):
            found.append(ExperimentConfig.model_validate(world.ledger.record(key)["config"]))  # type: ignore[index]
    return found


# --- what is searched -------------------------------------------------------------------------------------------------------


def test_every_published_number_lies_in_its_range_and_every_method_with_numbers_has_some() -> None:
    without = {name for name, method in METHODS.items() if not method.searched}
    assert without == {"ce", "ce_no_projector", "ce_etf", "hinge_ce", "resampling", "ncm"} | {
        *("ce_type2", "crm", "crm_type2", "flamingo", "flamingo_type2", "hafeature", "hafeature_type2"),
    }
    for name, method in METHODS.items():
        for part in method.searched:
            assert RANGES[part].holds(getattr(method.parts, part)), (name, part)
    assert all(side.low < side.high and (side.low > 0 or not side.log) for side in RANGES.values())


def test_the_ends_of_every_range_are_valid_and_buildable() -> None:
    tail = make_study("digits-lt")
    for name in METHODS:
        if name == "hinge_ce" or not own_numbers(name, tail):
            continue
        subject = baseline_subject(tail, name)
        for corner in corners(subject.space):
            assert MethodConfig.model_validate(subject.method(corner).to_dict()) == subject.method(corner)


@given(st.sampled_from([name for name, method in METHODS.items() if method.searched]), st.data())
def test_searched_numbers_and_methods_go_both_ways(name: str, data: st.DataObject) -> None:
    """What is proposed is what is trained, under the baseline's name; the published numbers give the baseline itself."""
    subject = baseline_subject(STUDY, name)
    published = baseline(name, STUDY)
    assert canonical(subject.method(subject.first[0])) == canonical(published)
    params = {}
    for number, side in subject.space.items():
        assert isinstance(side, FloatDistribution)
        params[number] = data.draw(st.floats(side.low, side.high))
    method = canonical(subject.method(params))
    numbers = own_numbers(name, STUDY)
    assert method.name == canonical(published).name
    assert canonical(MethodConfig.model_validate(method.to_dict())) == method
    assert own_params(method, numbers) == pytest.approx(params, rel=1e-9)
    assert {part: getattr(parts_of(method), part) for part in numbers} == own_values(params, numbers)
    untouched = parts_of(method).other_than(parts_of(published)).keys()
    assert untouched <= set(numbers)


def test_a_share_close_to_one_is_searched_by_what_it_lacks() -> None:
    side = baseline_subject(STUDY, "class_balanced").space["1-class_balanced"]
    assert isinstance(side, FloatDistribution) and side.log and (side.low, side.high) == (1e-5, 0.1)
    assert own_params(MethodConfig(name="class_balanced"), ["class_balanced"]) == {"1-class_balanced": 1 - 0.9999}
    assert own_values({"1-class_balanced": 1 - 0.9999}, ["class_balanced"]) == {"class_balanced": 0.9999}
    assert str(RANGES["class_balanced"]) == "0.9 to 0.99999, log scale of 1 - it"


def test_what_is_fixed_by_definition_is_not_searched() -> None:
    names = ["ce", "ce_etf", "resampling", "hinge_fixed", "focal", "hinge_la"]
    assert tunable(make_study(protocol={"baselines": names, "tune": True})) == ("focal", "hinge_la")
    assert tunable(make_study(protocol={"baselines": names})) == ()


def test_cmaes_needs_two_numbers_of_a_baseline_too() -> None:
    config = make_study("digits-lt", protocol={"baselines": ["focal"], "tune": True}, search={"sampler": "cmaes"})
    with pytest.raises(ConfigError, match=r"'cmaes' needs two numbers.*'focal' has 1 of its own.*protocol.tune=false"):
        baseline_subject(config, "focal")
    assert baseline_subject(config, "ldam").space


# --- whole studies ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_study_finds_what_was_planted_in_its_baselines(make: Callable[..., World]) -> None:
    world = make()
    world.session(TRIALS)
    rows = proposed(world)
    assert {name: len(some) for name, some in rows.items()} == dict.fromkeys(rows, TRIALS)
    assert [rows[name][0]["name"] for name in ("ldam", "focal")] == ["ldam", "focal"]  # as published, first
    tuned = world.ledger.phase("tuned")
    assert tuned is not None and {name: found["trials"] for name, found in tuned.items()} == {
        "ldam": TRIALS,
        "focal": TRIALS,
    }
    methods = tuned_methods(tuned)
    ldam, focal = parts_of(methods["ldam"]), parts_of(methods["focal"])
    assert ldam.margin == pytest.approx(MARGIN, abs=0.1) and 8 < ldam.scale < 25
    assert focal.focal == pytest.approx(GAMMA, rel=0.25)
    for name, found in tuned.items():  # the best of the trials, on the search's seed; on further seeds all agree
        best = max(rows[name], key=lambda row: planted(experiment_of(world, row["key"])))
        assert found["winner"]["key"] == best["key"]
    for name in ("ldam", "focal"):
        configs = confirmed(world, name)
        assert len(configs) == STUDY.protocol.confirm_seeds
        assert {name_of(config.method) for config in configs} == {name_of(methods[name])}
        assert {config.role for config in configs} == {"confirm"}
    assert world.progress is not None and world.progress.done == world.progress.plan
    assert world.progress.plan["tune"] == 2 * TRIALS
    states = [trial.state for trial in proposals_of(world, "ldam").optuna.trials]
    assert states == [TrialState.COMPLETE] * TRIALS
    assert {info["phase"] for info in world.ledger.started().values()} == {
        "noise",
        "search",
        "tune",
        "select",
        "confirm",
    }


def experiment_of(world: World, key: str) -> ExperimentConfig:
    return ExperimentConfig.model_validate(world.ledger.record(key)["config"])  # type: ignore[index]


def proposals_of(world: World, name: str) -> Proposals:
    subject, storage = baseline_subject(world.config, name), storage_url(world.folder)
    return Proposals(world.config, world.ledger, storage, f"{world.folder.name}.{name}", subject=subject)


@pytest.mark.slow
def test_a_study_killed_in_the_middle_of_tuning_goes_on_as_an_uninterrupted_one(make: Callable[..., World]) -> None:
    whole = make("whole")
    whole.session(10)
    world = make()
    for stop in (16, 3, 7):  # after noise floor and search in `ldam`, again there, then in `focal`
        world.outcome = stop_in("search", stop, truth)
        with pytest.raises(StoppedError):
            world.session(10)
    assert 0 < len(world.ledger.proposals("focal")) < 10 == len(world.ledger.proposals("ldam"))
    (world.folder / "optuna.db").unlink()  # a projection of the ledger
    world.outcome = truth
    world.session(10)
    assert proposed(world) == proposed(whole)
    assert world.ledger.phase("tuned") == whole.ledger.phase("tuned")
    assert all(world.ledger.record(key) for key in world.ledger.started())
    assert world.progress is not None and world.progress.done == world.progress.plan


def test_what_was_frozen_stays_when_lost_runs_are_mended(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published focal loss is best where it is not lost; a resume after the test was read must not choose it."""
    third = protocol.select_seeds(STUDY)[2]

    def lossy(config: ExperimentConfig) -> Any:
        published = parts_of(config.method).focal == 1
        if published and config.seed == third:
            return "lost"
        return scored(config, 0.95 if published else planted(config))

    world = make()
    world.outcome = stop_in("confirm", 3, lossy)
    with pytest.raises(StoppedError):
        world.session(5)
    frozen = world.ledger.phase("tuned")
    assert frozen is not None and parts_of(tuned_methods(frozen)["focal"]).focal != 1
    world.outcome = lambda config: scored(config, 0.95 if parts_of(config.method).focal == 1 else planted(config))
    monkeypatch.setattr(protocol, "tuned_decision", lambda *given: pytest.fail("decided again"))
    world.session(5)
    assert world.ledger.phase("tuned") == frozen
    assert {role for role, _ in world.ran} == {"confirm"}


def test_baselines_are_chosen_under_the_constraints_of_the_search(make: Callable[..., World]) -> None:
    """The more focal the better, and the worse the accuracy: of both searches Optuna is told what misses the bound."""
    bound = {"metric": "accuracy", "at_least": 50.0}
    world = make(
        config=make_study(
            protocol={**TUNED, "baselines": ["ce", "focal"]}, search={"releases": ["gate"], "constraints": [bound]}
        )
    )

    def bounded(config: ExperimentConfig) -> Any:
        focal = parts_of(config.method).focal
        record = scored(config, 0.5 + 0.09 * focal)
        record["metrics"]["val/accuracy"] = 0.4 if focal > 2 else 0.6
        return record

    world.outcome = bounded
    world.session(TRIALS)
    found = {
        number: parts_of(MethodConfig.model_validate(world.ledger.record(row["key"])["config"]["method"])).focal  # type: ignore[index]
        for number, row in world.ledger.proposals("focal").items()
    }
    assert max(found.values()) > 2
    chosen = tuned_methods(world.ledger.phase("tuned"))["focal"]
    assert parts_of(chosen).focal == max(focal for focal in found.values() if focal <= 2)
    for trial in proposals_of(world, "focal").optuna.get_trials():
        assert trial.constraints == {"accuracy >= 50": pytest.approx(10.0 if found[trial.number] > 2 else -10.0)}


@pytest.mark.slow
def test_a_baseline_that_diverges_at_most_of_its_settings_does_not_end_the_study(make: Callable[..., World]) -> None:
    world = make()

    def fragile(config: ExperimentConfig) -> Any:
        parts = parts_of(config.method)
        if parts.margin and parts.margin != 0.5:
            return records.ended("failed", config, "diverged", "nan", [])
        return truth(config)

    world.outcome = fragile
    world.session(TRIALS)
    assert world.ledger.phase("done") is not None
    tried = [world.ledger.record(row["key"]) for row in world.ledger.proposals("ldam").values()]
    assert [row["status"] for row in tried if row is not None] == ["completed"] + ["failed"] * (TRIALS - 1)
    assert canonical(tuned_methods(world.ledger.phase("tuned"))["ldam"]) == MethodConfig(name="ldam")
    assert confirmed(world, "ldam")


def test_a_lost_trial_is_made_again(make: Callable[..., World]) -> None:
    world = make()

    def lossy(config: ExperimentConfig) -> Any:
        return "lost" if parts_of(config.method).margin == 0.5 else truth(config)

    world.outcome = stop_in("search", 3 + 6 + 3, lossy)
    with pytest.raises(StoppedError):
        world.session(6)
    world.outcome = truth
    world.session(6)
    live, every = world.ledger.proposals("ldam"), world.ledger.proposals("ldam", lost=True)
    assert len(live) == 6 and len(every) == 7
    assert [row["name"] for row in live.values()].count("ldam") == 1
    assert len(world.ledger.proposals(lost=True)) == 6


@pytest.mark.slow
def test_an_extended_study_tunes_on_and_keeps_what_the_test_set_has_judged(make: Callable[..., World]) -> None:
    world = make()
    world.session(5)
    first, read = tuned_methods(world.ledger.phase("tuned")), world.test_reads
    strengths = world.ledger.phase("winner")["strengths"]  # type: ignore[index]
    world.session(14)
    assert {name: len(some) for name, some in proposed(world).items()} == {"": 14, "ldam": 14, "focal": 14}
    second = tuned_methods(world.ledger.phase("tuned"))
    assert planted_of(second["ldam"]) > planted_of(first["ldam"])
    assert world.test_reads[: len(read)] == read
    ended = world.ledger.phase("winner")
    assert ended is not None and {key: ended["strengths"][key] for key in strengths} == strengths
    assert {name_of(config.method) for config in confirmed(world, "ldam")} == {
        name_of(m["ldam"]) for m in (first, second)
    }
    assert world.progress is not None and world.progress.done == world.progress.plan


def planted_of(method: MethodConfig) -> float:
    return planted(ExperimentConfig(data=STUDY.data, model=STUDY.model, train=STUDY.train, method=method))


def test_halving_compares_the_trials_of_one_baseline(make: Callable[..., World]) -> None:
    world = make(config=make_study(protocol=TUNED, search={"releases": ["gate"], "asha": {"first_rung": 2}}))
    world.session(4)
    running = {name: proposals_of(world, name).ask() for name in ("ldam", "focal")}
    for value, job in enumerate(running.values()):
        for event in curve([0.1, 0.2 + value]):
            world.ledger.event(job.key, event)
    assert all(job.rungs[0] == 2 and job.phase == "tune" for job in running.values())
    assert proposals_of(world, "ldam").rung_table() == {2: {running["ldam"].key: 0.2}}
    assert proposals_of(world, "focal").rung_table() == {2: {running["focal"].key: 1.2}}
    assert Proposals(world.config, world.ledger, storage_url(world.folder), "a").rung_table() == {}


def test_two_names_of_one_training_are_refused(make: Callable[..., World]) -> None:
    for names, settings, told in (
        (
            ["ce", "logit_adjustment", "balanced_softmax"],
            {},
            "'logit_adjustment' and 'balanced_softmax' are one training",
        ),
        (["ce_etf", "no_cones"], {}, "'ce_etf' and 'no_cones' are one training"),
        (["ce", "mixup"], {"train": {"mixup": 1.0}}, "'ce' and 'mixup' are one training"),
        (
            ["hinge_la", "hinge_fixed"],
            {"search": {"method": "hinge_la"}},
            "'hinge_la' and 'hinge_fixed' are one training",
        ),
    ):
        world = make(config=make_study(protocol={"baselines": names}, **settings))
        with pytest.raises(ConfigError, match=rf"{told} here.*second share of protocol.alpha.*leave one"):
            world.session(4)
        assert not world.folder.exists()


def test_thresholds_are_searched_on_top_of_a_prior_correction(make: Callable[..., World]) -> None:
    """Its strength too; the same method without cones gets as many trials for it."""
    search = {"releases": ["gate"], "method": "hinge_la", "own": ["logit_adjustment"], "high": 1.2}
    rules = {**TUNED, "baselines": ["no_cones", "hinge_fixed"], "grid_points": 8}
    world = make(config=make_study(protocol=rules, search=search))

    def adjusted(config: ExperimentConfig) -> Any:
        strength = parts_of(config.method).logit_adjustment
        return scored(config, 0.9 - 0.1 * (strength - 2) ** 2 - 0.1 * (angle_of(config) - 0.7) ** 2)

    world.outcome = adjusted
    world.session(TRIALS)
    winner = world.ledger.phase("winner")["winner"]["method"]  # type: ignore[index]
    assert winner["name"] == "hinge_la" and winner["logit_adjustment"] == pytest.approx(2, abs=0.3)
    (bare,) = tuned_methods(world.ledger.phase("tuned")).values()
    assert bare.name == "ce_etf_la" and parts_of(bare).logit_adjustment == pytest.approx(2, abs=0.3)
    assert len(world.ledger.proposals("no_cones")) == len(world.ledger.proposals()) == TRIALS
    grid = [info["name"] for info in world.ledger.started().values() if info["phase"] == "grid"]
    assert len(grid) == 8 * 3 and all(f"logit_adjustment={winner['logit_adjustment']:g}" in name for name in grid)
    assert world.ledger.phase("grid")["own"] == {"logit_adjustment": winner["logit_adjustment"]}  # type: ignore[index]
    assert {config.method.name for config in confirmed(world, "hinge_fixed")} == {"hinge_la"}
    assert world.progress is not None and world.progress.done == world.progress.plan


def test_the_dry_run_counts_the_trials_of_baselines() -> None:
    plan = workload.planned_runs(STUDY, 7)
    assert plan["tune"] == 14
    assert plan["select"] == (3 + (3 + 1) * 2 + 1) * 3 and plan["confirm"] == 4 * 5
    assert "tune" not in workload.planned_runs(make_study(protocol={**TUNED, "tune": False}), 7)


def test_a_baseline_none_of_whose_candidates_finished_stays_as_published() -> None:
    rows = [
        {"name": "focal", "method": MethodConfig(name="focal", focal=2).to_dict(), "key": "a", "search_values": [0.5]}
    ]
    ended: dict[str, Any] = {}
    for seed in protocol.select_seeds(STUDY):
        config = protocol.experiment(STUDY, MethodConfig(name="focal", focal=2), seed)
        ended[config.key] = records.ended("failed", config, "diverged", "nan", [])
    decision = protocol.tuned_decision(STUDY, {"focal": rows, "ldam": []}, {"focal": 5, "ldam": 5}, ended.get)
    assert {name: found["winner"] for name, found in decision.items()} == {"focal": None, "ldam": None}
    assert tuned_methods(decision) == {}
    assert baselines(STUDY, tuned_methods(decision))["focal"] == MethodConfig(name="focal")
    published = {job.name for job in protocol.selection_jobs(STUDY, [], {"focal": rows, "ldam": []})}
    assert published == {"focal", "ldam", "ce"}


def test_tuning_is_part_of_the_identity_where_it_is_on() -> None:
    plain = make_study().identity
    assert make_study(protocol={"tune": False}).identity == plain != make_study(protocol={"tune": True}).identity
