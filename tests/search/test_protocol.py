import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from divfeat import record as records
from divfeat.config import MethodConfig
from divfeat.losses import RELEASES
from divfeat.methods import canonical, parts_of
from divfeat.search import protocol, workload
from divfeat.search.jobs import SEARCH_SEED, Job, baseline, experiment, seed_of
from divfeat.search.subjects import baseline_subject, own_params, threshold_method
from divfeat.search.tuning import tunable, tuned_methods
from divfeat.second import SECONDS
from divfeat.settings import preset_names
from divfeat.stages import stage_key
from divfeat.thresholds import FAMILIES, PAPER_ANGLE, family_named
from tests.search.samples import METRIC, SECOND, completed, hinge, make_study


class Table:
    """Records by key."""

    def __init__(self):
        self.records = {}

    def __call__(self, key):
        return self.records.get(key)

    def put(self, config, value=0.5, **metrics):
        strengths = {"probe/strength": 1e-3, "probe/strength_before": 1e-4}
        self.records[config.key] = completed(config, strengths | {METRIC: value} | metrics)

    def fail(self, config):
        self.records[config.key] = records.ended("failed", config, "nan", "nan", [])


@pytest.fixture
def table():
    return Table()


# --- calibration --------------------------------------------------------------------------------------------------------


def calibrated(table, values, **rates):
    study = make_study(protocol={"learning_rates": [0.01, 0.1], "weight_decays": [1e-4, 1e-3], **rates})
    jobs = protocol.calibration_jobs(study)
    for job, value in zip(jobs, values, strict=True):
        if value is not None:
            table.put(job.experiment, **{"val/accuracy": value})
        else:
            table.fail(job.experiment)
    return study, jobs, protocol.calibration_decision(jobs, table)


def test_calibration_is_ce_over_every_pair_on_the_searchs_seed(table):
    study, jobs, _ = calibrated(table, [0.5] * 4)
    pairs = [(job.experiment.train.lr, job.experiment.train.weight_decay) for job in jobs]
    assert pairs == [(0.01, 1e-4), (0.01, 1e-3), (0.1, 1e-4), (0.1, 1e-3)]
    assert {(job.phase, job.experiment.method.name, job.experiment.seed, job.experiment.role) for job in jobs} == {
        ("calibrate", "ce", seed_of(study, SEARCH_SEED), "search")
    }


def test_one_empty_list_keeps_the_presets_value_and_two_skip_the_phase():
    study = make_study(protocol={"learning_rates": [0.01], "weight_decays": []})
    (job,) = protocol.calibration_jobs(study)
    assert (job.experiment.train.lr, job.experiment.train.weight_decay) == (0.01, study.train.weight_decay)
    assert protocol.calibration_jobs(make_study(protocol={"learning_rates": [], "weight_decays": []})) == []


@pytest.mark.parametrize(
    ("values", "chosen"),
    [
        ([0.1, 0.2, 0.4, 0.3], (0.1, 1e-4)),
        ([0.2, 0.4, 0.4, 0.4], (0.01, 1e-3)),  # ties keep the first
        ([0.4, 0.4, 0.4, 0.4], (0.01, 1e-4)),
        ([None, None, 0.1, 0.3], (0.1, 1e-3)),
        ([0.0, None, None, None], (0.01, 1e-4)),
        ([None] * 4, (None, None)),
    ],
)
def test_the_best_accuracy_of_ce_decides(table, values, chosen):
    study, _, decision = calibrated(table, values)
    assert (decision["lr"], decision["weight_decay"]) == chosen
    assert [row["value"] for row in decision["tried"]] == values
    if chosen[0] is not None:
        frozen = protocol.with_calibration(study, decision)
        assert (frozen.train.lr, frozen.train.weight_decay) == chosen
        assert frozen.model_copy(update={"train": study.train}) == study


def test_a_nan_accuracy_never_wins(table):
    _, jobs, decision = calibrated(table, [0.1, 0.2, 0.3, 0.4])
    assert decision["weight_decay"] == 1e-3
    table.put(jobs[3].experiment, **{"val/accuracy": None})  # as NaN comes back from disk
    decision = protocol.calibration_decision(jobs, table)
    assert (decision["lr"], decision["weight_decay"]) == (0.1, 1e-4)


# --- seeds --------------------------------------------------------------------------------------------------------------


def test_search_selection_and_confirmation_share_no_seed():
    study = make_study(protocol={"select_seeds": 20, "confirm_seeds": 30})
    search, select, confirm = (
        {seed_of(study, SEARCH_SEED)},
        set(protocol.select_seeds(study)),
        set(protocol.confirm_seeds(study)),
    )
    assert (len(select), len(confirm)) == (20, 30)
    assert not search & select and not search & confirm and not select & confirm


# --- candidates ---------------------------------------------------------------------------------------------------------


def proposed(study, table, rows):
    """Proposals with (angle, release) and values; None is a failed trial, ... one that is not done."""
    proposals = {}
    for number, (angle, release, values) in enumerate(rows):
        config = experiment(study, hinge(angle, release), seed_of(study, SEARCH_SEED))
        proposals[number] = {"number": number, "key": config.key, "name": f"{release} {angle}", "params": {}}
        if values is None:
            table.fail(config)
        elif values is not ...:
            table.put(config, **dict(zip((METRIC, SECOND), values, strict=False)) | {"value": values[0]})
    return proposals


def test_candidates_are_the_top_by_value_each_experiment_once(table):
    study = make_study(protocol={"select_top": 3})
    rows = [
        (0.0, "gate", [0.8]),
        (0.0, "paper", [0.8]),  # the same experiment
        (0.5, "gate", [0.9]),
        (0.6, "gate", None),
        (0.7, "gate", ...),
        (0.8, "gate", [0.8]),
        (0.9, "gate", [0.7]),
        (1.0, "gate", [None]),
    ]
    chosen = protocol.candidates(study, proposed(study, table, rows), table)
    assert [row["number"] for row in chosen] == [2, 0, 5]
    assert chosen[0]["search_values"] == [0.9]
    assert MethodConfig.model_validate(chosen[1]["method"]) == MethodConfig(name="ce_etf")
    few = protocol.candidates(study, proposed(study, Table(), rows[3:5]), Table())
    assert few == []


def test_what_a_search_starts_from_is_a_candidate_however_it_looked_at_one_seed(table):
    """And wins where the further seeds say so: what looked best at one seed must not win over it unseen."""
    study = make_study(protocol={"select_top": 2})
    rows = [(0.5, "gate", [0.9]), (0.0, "gate", [0.6]), (0.7, "gate", [0.8]), (0.8, "gate", [0.7])]
    chosen = protocol.candidates(study, proposed(study, table, rows), table)
    assert [(row["number"], row.get("start", False)) for row in chosen] == [(0, False), (2, False), (1, True)]
    put_seeds(study, table, hinge(0.5), [0.5] * 3)
    put_seeds(study, table, hinge(0.7), [0.6] * 3)
    put_seeds(study, table, MethodConfig(name="ce_etf"), [0.7] * 3)
    assert protocol.winner_decision(study, chosen, table)["winner"]["name"] == chosen[2]["name"]
    untried = protocol.candidates(study, proposed(study, Table(), rows[:1]), table)
    assert [row["number"] for row in untried] == [0]


def test_the_published_numbers_of_a_tuned_baseline_are_a_candidate(table):
    study = make_study(protocol={"select_top": 1, "baselines": ["focal"], "tune": True})
    proposals = {}
    for number, (gamma, value) in enumerate([(None, 0.5), (2.0, 0.9), (3.0, 0.8)]):
        method = MethodConfig(name="focal", focal=gamma)
        config = experiment(study, method, seed_of(study, SEARCH_SEED))
        table.put(config, value)
        proposals[number] = {"number": number, "key": config.key, "name": str(number)}
    chosen = protocol.candidates(study, proposals, table, "focal")
    assert [(row["number"], row.get("start", False)) for row in chosen] == [(1, False), (0, True)]


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_tries_no_cones_first_once(name):
    if family_named(name).parameters:
        assert sum(family_named(name).coneless(setting) for setting in family_named(name).tried_first) == 1


def test_pruned_trials_are_no_candidates(table):
    study = make_study()
    proposals = proposed(study, table, [(0.5, "gate", [0.9]), (0.6, "gate", [0.5])])
    key = proposals[0]["key"]
    table.records[key] = table.records[key] | {"status": "pruned"}
    assert [row["number"] for row in protocol.candidates(study, proposals, table)] == [1]


def test_with_two_objectives_the_front_comes_first(table):
    study = make_study(search={"objectives": ["fine_probe", "accuracy"]}, protocol={"select_top": 3})
    rows = [
        (0.1, "gate", [0.70, 0.40]),  # beaten by 1 and 2
        (0.2, "gate", [0.80, 0.41]),
        (0.3, "gate", [0.78, 0.50]),  # nearest to the best of both
        (0.4, "gate", [0.70, 0.52]),
        (0.5, "gate", [0.99, None]),
    ]
    chosen = protocol.candidates(study, proposed(study, table, rows), table)
    assert [row["number"] for row in chosen] == [2, 1, 3]
    assert [row["search_values"] for row in chosen] == [rows[n][2] for n in (2, 1, 3)]


# --- winner -------------------------------------------------------------------------------------------------------------


def chosen_row(study, angle, release="gate", number=0):
    method = canonical(hinge(angle, release))
    key = experiment(study, method, seed_of(study, SEARCH_SEED)).key
    return {"name": f"{angle}", "method": method.to_dict(), "number": number, "key": key, "search_values": [0.0]}


def put_seeds(study, table, method, values):
    for seed, value in zip(protocol.select_seeds(study), values, strict=True):
        config = experiment(study, method, seed)
        table.fail(config) if value is None else table.put(config, value)


def test_the_winner_is_decided_on_selection_seeds_alone(table):
    study = make_study()
    rows = [chosen_row(study, 0.5, number=0), chosen_row(study, 0.6, number=1)]
    for angle, search, values in ((0.5, 0.99, [0.6, 0.6, 0.6]), (0.6, 0.10, [0.7, 0.5, 0.66])):
        table.put(experiment(study, hinge(angle), seed_of(study, SEARCH_SEED)), search)
        for seed in protocol.confirm_seeds(study):
            table.put(experiment(study, hinge(angle), seed), search)
        put_seeds(study, table, hinge(angle), values)
    decision = protocol.winner_decision(study, rows, table)
    assert decision["winner"]["number"] == 1
    assert decision["winner"]["values"] == [[0.7, 0.5, 0.66]]
    assert decision["winner"]["mean"] == [pytest.approx(0.62)]
    assert decision["seeds"] == protocol.select_seeds(study)
    assert [row["number"] for row in decision["candidates"]] == [0, 1]


def test_equal_means_keep_the_one_that_the_search_ranked_first(table):
    study = make_study()
    rows = [chosen_row(study, 0.6, number=4), chosen_row(study, 0.5, number=2)]
    for angle in (0.5, 0.6):
        put_seeds(study, table, hinge(angle), [0.5, 0.25, 0.75])
    assert protocol.winner_decision(study, rows, table)["winner"]["number"] == 4


def test_a_failed_candidate_neither_wins_nor_stops_the_others(table):
    study = make_study()
    rows = [chosen_row(study, 0.5, number=0), chosen_row(study, 0.6, number=1)]
    put_seeds(study, table, hinge(0.5), [None] * 3)
    put_seeds(study, table, hinge(0.6), [0.1, None, 0.3])
    decision = protocol.winner_decision(study, rows, table)
    assert decision["winner"]["number"] == 1
    put_seeds(study, table, hinge(0.7), [0.05, 0.05, 0.05])
    steady = [*rows, chosen_row(study, 0.7, number=2)]
    assert protocol.winner_decision(study, steady, table)["winner"]["number"] == 2
    assert decision["winner"]["values"] == [[0.1, 0.3]]
    assert decision["candidates"][0]["mean"] == [None]
    put_seeds(study, table, hinge(0.6), [None] * 3)
    with pytest.raises(ValueError, match="no candidate"):
        protocol.winner_decision(study, rows, table)


def test_two_objectives_compromise(table):
    study = make_study(search={"objectives": ["fine_probe", "accuracy"]})
    rows = [chosen_row(study, angle, number=n) for n, angle in enumerate((0.4, 0.5, 0.6))]
    for angle, (one, other) in zip((0.4, 0.5, 0.6), ((0.9, 0.1), (0.85, 0.8), (0.1, 0.9)), strict=True):
        for seed in protocol.select_seeds(study):
            table.put(experiment(study, hinge(angle), seed), one, **{SECOND: other})
    decision = protocol.winner_decision(study, rows, table)
    assert decision["winner"]["number"] == 1
    assert decision["winner"]["mean"] == [pytest.approx(0.85), pytest.approx(0.8)]


@pytest.mark.parametrize(
    ("angle", "release", "equals"),
    [
        (0.0, "gate", "ce_etf"),
        (0.0, "paper", "ce_etf"),
        (0.0, "theorem", "ce_etf"),
        (PAPER_ANGLE, "paper", "hinge_fixed"),
        (PAPER_ANGLE, "gate", None),
        (0.3, "paper", None),
    ],
)
def test_a_winner_that_is_a_baseline_is_called_so(table, angle, release, equals):
    study = make_study()
    put_seeds(study, table, hinge(angle, release), [0.5] * 3)
    row = chosen_row(study, angle, release)
    winner = protocol.winner_decision(study, [row], table)["winner"]
    assert protocol.same_baselines(study, winner) == ((equals,) if equals else ())
    assert protocol.same_baselines(make_study(protocol={"baselines": ["ce"]}), winner) == ()


# --- grid ---------------------------------------------------------------------------------------------------------------


def test_the_grid_spans_the_searched_range_for_one_angle_only():
    angles = protocol.grid_angles(make_study(search={"low": 0.1, "high": 1.2}, protocol={"grid_points": 12}))
    assert len(angles) == 12
    assert (angles[0], angles[-1]) == (0.1, 1.2)
    assert np.allclose(np.diff(angles), 0.1)
    assert protocol.grid_angles(make_study(protocol={"grid_points": 0})) == []
    assert protocol.grid_angles(make_study("digits-lt", protocol={"grid_points": 9})) == []


def test_geometry_has_no_grid_of_what_is_as_good():
    for objectives, points in ((["numerical_rank"], 0), (["fine_probe", "numerical_rank"], 8)):
        assert len(protocol.grid_angles(make_study(search={"objectives": objectives}))) == points


@pytest.mark.parametrize("release", RELEASES)
def test_the_grid_shares_its_zero_with_the_noise_floor(release):
    study = make_study()
    jobs = protocol.grid_jobs(study, release)
    noise = [job.key for job in protocol.noise_jobs(study)]
    assert len(jobs) == 8 * 3
    assert len({job.key for job in jobs}) == 24
    assert [job.key for job in jobs[:3]] == noise
    assert not set(noise) & {job.key for job in jobs[3:]}
    assert {job.experiment.seed for job in jobs} == set(protocol.select_seeds(study))
    assert {job.experiment.role for job in jobs} == {"search"}
    assert {job.experiment.method.release for job in jobs[3:]} == {release}


# --- confirmation -------------------------------------------------------------------------------------------------------


def confirmation_jobs(study, winner, table):
    return protocol.confirmation_jobs(study, winner, protocol.frozen_strengths(study, winner, table, {}))


def test_confirmation_trains_anew_with_the_strength_that_validation_chose(table):
    study = make_study()
    strengths = {"probe/strength": [1e-4, 1e-2, 1e-3], "probe/strength_before": [1e-5, 1e-5, 1e-1]}
    row = chosen_row(study, 0.5)
    for name, method in protocol.confirmed_methods(study, row).items():
        for i, seed in enumerate(protocol.select_seeds(study)):
            scale = 1.0 if name == "winner" else 10.0
            chosen = {metric: scale * values[i] for metric, values in strengths.items()}
            table.put(experiment(study, method, seed), 0.5, **chosen)
    jobs = confirmation_jobs(study, row, table)
    assert Counter(job.name for job in jobs) == dict.fromkeys(
        ["winner", "ce", "ce_no_projector", "ce_etf", "hinge_fixed"], 5
    )
    assert len({job.key for job in jobs}) == 25
    for job in jobs:
        config = job.experiment
        scale = 1.0 if job.name == "winner" else 10.0
        assert (job.phase, config.role, job.rungs) == ("confirm", "confirm", ())
        assert config.probe.strengths == (pytest.approx(scale * 1e-3),)
        assert config.probe.strengths_before == (pytest.approx(scale * 1e-5),)
        assert config.train == study.train and config.data == study.data and config.model == study.model
    for name in ("winner", "ce"):
        assert [job.experiment.seed for job in jobs if job.name == name] == protocol.confirm_seeds(study)
    assert next(job for job in jobs if job.name == "hinge_fixed").experiment.method == baseline("hinge_fixed", study)


def test_an_even_number_of_strengths_meets_in_the_geometric_middle(table):
    study = make_study(protocol={"select_seeds": 2})
    for seed, strength in zip(protocol.select_seeds(study), (1e-4, 1e-2), strict=True):
        table.put(experiment(study, hinge(0.5), seed), **{"probe/strength": strength})
    strengths = protocol.frozen_strengths(study, chosen_row(study, 0.5), table, {})
    config = protocol.confirmation_experiments(study, hinge(0.5), strengths)[0]
    assert config.probe.strengths == (pytest.approx(1e-3),)


@pytest.mark.parametrize(("chosen", "middle"), [((0.0, 0.1, 1.0), 0.1), ((0.1, 1.0, 10.0), 1.0)])
def test_several_strengths_of_sgd_are_frozen_too(table, chosen, middle):
    study = make_study(probe={"solver": "sgd", "strengths": [0, 0.1, 1, 10]})
    for seed, strength in zip(protocol.select_seeds(study), chosen, strict=True):
        table.put(
            experiment(study, hinge(0.5), seed), **{"probe/strength": strength, "probe/strength_before": strength}
        )
    strengths = protocol.frozen_strengths(study, chosen_row(study, 0.5), table, {})
    config = protocol.confirmation_experiments(study, hinge(0.5), strengths)[0]
    assert config.probe.strengths == (middle,) and config.probe.strengths_before == (middle,)


@pytest.mark.parametrize("strengths", [None, [0.1]])
def test_one_strength_of_sgd_needs_no_freezing(table, strengths):
    study = make_study(probe={"solver": "sgd", "strengths": strengths})
    frozen = protocol.frozen_strengths(study, chosen_row(study, 0.5), table, {})
    configs = protocol.confirmation_experiments(study, hinge(0.5), frozen)
    assert len(configs) == 5 and all(config.probe == study.probe for config in configs)


def test_what_was_frozen_stays(table):
    study = make_study(protocol={"baselines": ["ce"]})
    row, other = chosen_row(study, 0.5), chosen_row(study, 0.6)
    for method in (hinge(0.5), hinge(0.6), MethodConfig(name="ce")):
        put_seeds(study, table, method, [0.5] * 3)
    known = protocol.frozen_strengths(study, row, table, {})
    for key in known:
        known[key] = {"strengths": 7.0, "strengths_before": 7.0}
    later = protocol.frozen_strengths(study, other, table, known)
    assert {key: later[key] for key in known} == known and len(later) == 3


def test_a_baseline_without_a_finished_selection_run_is_left_out(table):
    study = make_study(protocol={"baselines": ["ce", "ce_etf"]})
    row = chosen_row(study, 0.5)
    put_seeds(study, table, hinge(0.5), [0.5, None, None])
    put_seeds(study, table, MethodConfig(name="ce_etf"), [None] * 3)
    assert {job.name for job in confirmation_jobs(study, row, table)} == {"winner"}


def test_a_winner_that_is_a_baseline_is_trained_once(table):
    study = make_study()
    row = chosen_row(study, 0.0)
    put_seeds(study, table, MethodConfig(name="ce_etf"), [0.5] * 3)
    winner, etf = (
        [job.key for job in confirmation_jobs(study, row, table) if job.name == name] for name in ("winner", "ce_etf")
    )
    assert winner == etf


# --- the plan -----------------------------------------------------------------------------------------------------------


def jobs_of(study, trials, release="gate"):
    """Every job of a study in order, with invented records; nothing coincides by chance.

    What a search starts from is tried first and scores least, so that it is a candidate beside the top and never wins.
    """
    starts = {protocol.method_key(baseline(name, study)) for name in ("no_cones", *tunable(study))}
    table, rng = Table(), np.random.default_rng(0)
    several = trials > study.protocol.select_top

    def run(jobs):
        for job in jobs:
            if table(job.key) is None:
                start = protocol.method_key(job.experiment.method) in starts
                scale = 1e-3 if start else 1.0
                scores = {name: scale * rng.random() for name in ("val/accuracy", "val/accuracy_balanced")}
                distances = {one.validation: rng.random() + start for one in protocol.objectives(study) if one.sign < 0}
                table.put(job.experiment, scale * rng.random(), **scores, **distances)
        return jobs

    made = run(protocol.calibration_jobs(study))
    if made:
        study = protocol.with_calibration(study, protocol.calibration_decision(made, table))
    made = made + run(protocol.noise_jobs(study))
    family, proposals = family_named(study.search.family), {}
    space = family.space(study.search.low, study.search.high)
    (plain,) = [setting for setting in family.tried_first if family.coneless(setting)] or [None]
    started = several and study.search.low == 0 and trials >= len(family.tried_first)
    for number in range(trials):
        first = started and number == 0
        angles = plain if first else {side.name: float(rng.uniform(side.low, side.high)) for side in space}
        scale = 1.0 if first else float(rng.uniform(0.9, 1.1))
        own = {name: scale * value for name, value in own_params(study.search.method, study.search.own).items()}
        method = threshold_method(study, {**angles, "release": release, **own})
        config = experiment(study, method, seed_of(study, SEARCH_SEED))
        proposals[number] = {"number": number, "key": config.key, "name": str(number)}
        made += run([Job(config, "search", str(number), number)])
    chosen, rivals = protocol.candidates(study, proposals, table), {}
    for name in tunable(study):
        subject, proposals = baseline_subject(study, name), {}
        for number in range(trials):
            first = several and number == 0
            params = {name: float(rng.uniform(side.low, side.high)) for name, side in subject.space.items()}
            params = subject.first[0] if first else params
            config = experiment(study, subject.method(params), seed_of(study, SEARCH_SEED))
            proposals[number] = {"number": number, "key": config.key, "name": str(number)}
            made += run([Job(config, "tune", str(number), number)])
        rivals[name] = protocol.candidates(study, proposals, table, name)
    made += run(protocol.selection_jobs(study, chosen, rivals))
    winner = protocol.winner_decision(study, chosen, table)["winner"]
    tuned = tuned_methods(protocol.tuned_decision(study, rivals, dict.fromkeys(rivals, trials), table))
    made += run(protocol.grid_jobs(study, winner["method"]["release"]))
    strengths = protocol.frozen_strengths(study, winner, table, {}, tuned)
    return made + run(protocol.confirmation_jobs(study, winner, strengths, tuned))


def walk(study, trials):
    """Phase -> the experiments that it is the first to need."""
    first = {}
    for job in jobs_of(study, trials):
        first.setdefault(job.key, job.phase)
    return Counter(first.values())


@pytest.mark.parametrize("preset", preset_names())
def test_the_plan_counts_the_distinct_experiments_of_every_preset(preset):
    study = make_study(preset)
    plan = workload.planned_runs(study, 20)
    assert plan == walk(study, 20)
    assert list(plan) == [
        name for name in ("calibrate", "noise", "search", "tune", "select", "grid", "confirm") if name in plan
    ]


@settings(max_examples=15, deadline=None)
@given(
    trials=st.integers(1, 6),
    low=st.sampled_from([0.0, 0.2]),
    baselines=st.sets(
        st.sampled_from(["ce", "ce_no_projector", "ce_etf", "hinge_fixed", "ce_smooth", "ldam", "ldam_drw"])
    ),
    tune=st.booleans(),
    base=st.sampled_from(["hinge_ce", "hinge_la"]),
    rates=st.integers(0, 2),
    top=st.integers(1, 3),
    seeds=st.integers(2, 4),
    confirm=st.integers(2, 4),
    grid=st.sampled_from([0, 8, 9]),
)
def test_the_plan_counts_the_distinct_experiments_of_any_protocol(
    trials, low, baselines, tune, base, rates, top, seeds, confirm, grid
):
    study = make_study(
        search={"low": low, "method": base},
        protocol={
            "tune": tune,
            "baselines": sorted(baselines),
            "learning_rates": [0.1, 0.2][:rates],
            "weight_decays": [],
            "select_top": top,
            "select_seeds": seeds,
            "confirm_seeds": confirm,
            "grid_points": grid,
        },
    )
    assert workload.planned_runs(study, trials) == walk(study, trials)


FOLLOWING = {"crt", "tau_norm", "ncm", "m2m", "oltr"}
ALONE = {"learning_rates": [], "weight_decays": [], "grid_points": 0, "select_seeds": 2, "confirm_seeds": 2}


@pytest.mark.parametrize("tune", [True, False])
@pytest.mark.parametrize("second", [None, "crt"])
@pytest.mark.parametrize("top", [2, 5])
@pytest.mark.parametrize(
    "baselines",
    [("ce", "ce_etf", "crt", "focal", "ncm", "tau_norm"), ("m2m", "oltr"), ("ldam_drw", "ncm"), ("ce", "focal")],
)
def test_the_plan_counts_every_first_stage_once_and_every_second(baselines, top, second, tune):
    """Tuned or not, of the baselines and of the searched method."""
    trials = 4
    study = make_study(
        search={"method": {"name": "hinge_ce", "second": second}},
        protocol=ALONE | {"tune": tune, "baselines": baselines, "select_top": top},
    )
    jobs = {job.key: job.experiment for job in jobs_of(study, trials)}
    stages = {stage_key(config) for config in jobs.values()}
    followed = {stage_key(config) for config in jobs.values() if config.method.name in FOLLOWING & set(baselines)}
    assert followed <= workload.shared_stages(study)
    assert tune or followed == workload.shared_stages(study)
    seconds = [parts_of(config.method) for config in jobs.values()]
    cost = len(stages) + sum(SECONDS[p.second].trainings(p, study.train.epochs) for p in seconds if p.second != "none")
    assert workload.planned_runs(study, trials) == walk(study, trials)
    assert sum(workload.planned_trainings(study, trials).values()) == pytest.approx(cost)


TWO_STAGES = ["ce", "crt", "tau_norm", "ncm", "balanced_softmax", "logit_adjustment", "ce_etf"]


def test_the_plan_counts_two_names_of_one_training_once():
    study = make_study("digits-lt", protocol={"baselines": TWO_STAGES})
    assert workload.planned_runs(study, 20) == walk(study, 20)


def test_the_plan_knows_that_first_stages_are_trained_once():
    """60 epochs: CE, logit adjustment, three candidates; CE+ETF is the noise floor. cRT's ten epochs cost a third."""
    study = make_study("digits-lt", protocol={"baselines": TWO_STAGES, "select_top": 3})
    runs, costs = workload.planned_runs(study, 20), workload.planned_trainings(study, 20)
    crt = 10 / 60 / 3
    assert (runs["select"], costs["select"]) == ((3 + 5) * 3, pytest.approx((3 + 2 + crt) * 3))
    assert (runs["confirm"], costs["confirm"]) == ((1 + 6) * 5, pytest.approx((1 + 3 + crt) * 5))
    assert {name: costs[name] for name in ("calibrate", "noise", "search")} == {
        "calibrate": 2,
        "noise": 3,
        "search": 20,
    }
    plain = make_study("digits-lt")
    assert workload.planned_trainings(plain, 20) == workload.planned_runs(plain, 20)
    alone = make_study("digits-lt", protocol={"baselines": ["m2m"]})
    assert workload.planned_trainings(alone, 20)["confirm"] == pytest.approx((1 + 1 + 5) * 5)


def test_first_stages_of_two_stage_baselines_are_shared():
    study = make_study("digits-lt", protocol={"baselines": TWO_STAGES})
    ce = [("search", seed) for seed in protocol.select_seeds(study)]
    ce += [("confirm", seed) for seed in protocol.confirm_seeds(study)]
    expected = {stage_key(experiment(study, MethodConfig(name="ce"), seed, role)) for role, seed in ce}
    assert workload.shared_stages(study) == expected and len(expected) == 8
    assert workload.shared_stages(make_study("digits-lt")) == frozenset()


def test_two_names_of_one_training_are_planned_once():
    """A study refuses them; what is counted are trainings all the same."""
    names = ["ce", "logit_adjustment", "balanced_softmax"]
    study = make_study(protocol={"baselines": names, "grid_points": 0})
    one = make_study(protocol={"baselines": names[:2], "grid_points": 0})
    assert workload.planned_runs(study, 5) == workload.planned_runs(one, 5) == walk(study, 5)


def test_metric_of_reads_completed_records_only(table):
    config = experiment(make_study(), hinge(0.5), 0)
    assert protocol.metric_of(None, METRIC) is None
    table.put(config, 0.25)
    assert protocol.metric_of(table(config.key), METRIC) == 0.25
    assert protocol.metric_of(table(config.key), "missing") is None
    table.fail(config)
    assert protocol.metric_of(table(config.key), METRIC) is None


def test_angles_stay_radians():
    assert max(protocol.grid_angles(make_study())) == pytest.approx(17 / 36 * math.pi)
