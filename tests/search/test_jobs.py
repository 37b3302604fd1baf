import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from divfeat.config import MethodConfig, ThresholdSpec
from divfeat.errors import ConfigError
from divfeat.losses import RELEASES
from divfeat.methods import METHODS
from divfeat.search.jobs import (
    CONFIRM_SEED,
    PAPER_MINOR,
    SEARCH_SEED,
    SELECT_SEED,
    baseline,
    canonical,
    experiment,
    name_of,
    seed_of,
)
from divfeat.thresholds import PAPER_ANGLE
from tests.search.samples import hinge, make_study

ETF = MethodConfig(name="ce_etf")
STUDY = make_study()


@pytest.mark.parametrize("release", RELEASES)
def test_a_hinge_that_clamps_nothing_is_ce_etf(release):
    assert canonical(hinge(0.0, release)) == ETF
    both = {"family": "major_minor", "angles": {"tau_major": 0.0, "tau_minor": 0.0}}
    assert canonical(MethodConfig.model_validate({"thresholds": both, "release": release})) == ETF
    assert canonical(MethodConfig(thresholds=ThresholdSpec(), release=release)) == ETF
    bent = {"family": "bent_curve", "angles": {"tau_head": 0.0, "tau_tail": 0.0, "bend": 1.0}}
    assert canonical(MethodConfig.model_validate({"thresholds": bent, "release": release})) == ETF


def test_what_is_not_the_same_training_keeps_its_name():
    half = {"family": "major_minor", "angles": {"tau_major": 0.0, "tau_minor": 0.1}}
    for method in (
        hinge(1e-9),
        MethodConfig.model_validate({"thresholds": half}),
        MethodConfig(thresholds=ThresholdSpec(), label_smoothing=0.1),
    ):
        assert canonical(method) == method


def test_thresholds_and_release_mean_nothing_to_other_methods():
    for name in set(METHODS) - {"hinge_ce"}:
        dressed = MethodConfig.model_validate(
            {"name": name, "release": "theorem", "thresholds": {"family": "global", "angles": {"tau": 1.0}}}
        )
        assert canonical(dressed) == canonical(MethodConfig(name=name)) == MethodConfig(name=name)


@given(st.floats(0, 17 / 36 * math.pi), st.sampled_from(["gate", "paper", "theorem"]))
def test_canonical_is_idempotent_and_decides_the_key(angle, release):
    method = hinge(angle, release)
    once = canonical(method)
    assert canonical(once) == once
    assert experiment(STUDY, method, 3).key == experiment(STUDY, once, 3).key


def test_the_key_follows_what_decides_a_result():
    study = make_study()
    base = experiment(study, ETF, 3)
    others = [
        experiment(study, ETF, 4),
        experiment(study, MethodConfig(name="ce"), 3),
        experiment(study, ETF, 3, "confirm"),
        experiment(study, ETF, 3, train=study.train.model_copy(update={"lr": 0.2})),
        experiment(make_study(data={"seed": 1}), ETF, 3),
    ]
    assert len({base.key, *(other.key for other in others)}) == 6
    assert experiment(make_study(protocol={"margin": 2.0}), ETF, 3).key == base.key


def test_baselines_by_name():
    study = make_study()
    assert baseline("ce_smooth", study) == MethodConfig(name="ce_smooth")
    fixed = baseline("hinge_fixed", study)
    assert (fixed.name, fixed.release) == ("hinge_ce", "paper")
    assert fixed.thresholds == ThresholdSpec(family="global", angles={"tau": PAPER_ANGLE})
    tail = baseline("hinge_fixed", make_study("digits-lt")).thresholds
    assert tail == ThresholdSpec(family="major_minor", angles={"tau_major": 0.0, "tau_minor": PAPER_MINOR})
    for family, expected in (("global", fixed.thresholds), ("count_curve", tail), ("each_10", tail)):
        assert baseline("hinge_fixed", make_study("digits-lt", search={"family": family})).thresholds == expected


@pytest.mark.parametrize("name", ["hinge_ce", "ce_etff", ""])
def test_an_unknown_baseline_is_refused_with_the_known_ones(name):
    with pytest.raises(ConfigError, match=r"unknown baseline.*ce_no_projector.*hinge_fixed"):
        baseline(name, make_study())


def test_names_people_read():
    assert name_of(hinge(PAPER_ANGLE)) == "gate 65.0 deg"
    assert {name_of(hinge(0.0, release)) for release in RELEASES} == {"ce_etf"}
    two = {"family": "major_minor", "angles": {"tau_major": 0.0, "tau_minor": PAPER_MINOR}}
    assert name_of(MethodConfig.model_validate({"thresholds": two})) == "paper 0.0/40.0 deg"
    assert name_of(MethodConfig(name="ce")) == "ce"


@pytest.mark.parametrize(
    ("family", "angles", "name"),
    [
        ("bent_curve", {"tau_head": 0.0, "tau_tail": PAPER_MINOR, "bend": -0.5}, "paper 0.0/40.0 deg, bend -0.50"),
        (
            "per_class",
            {"tau_head": 0.0, "tau_tail": PAPER_MINOR, "jump": 0.25, "wave_1": 0.0, "wave_2": -math.pi / 36},
            "paper 0.0/40.0/+0.0/-5.0 deg, jump 0.25",
        ),
        ("each_3", {"tau_0": 0.0, "tau_1": PAPER_MINOR, "tau_2": 0.1}, "paper 0.0/40.0/5.7 deg"),
        ("each_9", {f"tau_{k}": math.pi / 36 * k for k in range(9)}, "paper each_9 0.0 to 40.0 deg"),
    ],
)
def test_names_of_what_is_no_angle_and_of_many(family, angles, name):
    assert name_of(MethodConfig(thresholds=ThresholdSpec(family=family, angles=angles))) == name


@given(st.integers(0, 10**6), st.integers(1, 20))
def test_studies_with_different_seeds_share_no_training_seed(one, apart):
    def seeds(seed):
        study = STUDY.model_copy(update={"seed": seed})
        return {seed_of(study, stream, i) for stream in (SEARCH_SEED, SELECT_SEED, CONFIRM_SEED) for i in range(1000)}

    assert len(seeds(one)) == 3000
    assert not seeds(one) & seeds(one + apart)
