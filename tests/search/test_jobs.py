import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from divfeat.config import MethodConfig, ThresholdSpec
from divfeat.errors import ConfigError
from divfeat.losses import RELEASES
from divfeat.methods import METHODS, parts_of
from divfeat.search.jobs import (
    CONFIRM_SEED,
    PAPER_MINOR,
    SEARCH_SEED,
    SELECT_SEED,
    baseline,
    canonical,
    every_baseline,
    every_tree_baseline,
    experiment,
    name_of,
    own_numbers,
    seed_of,
)
from divfeat.search.protocol import method_key
from divfeat.search.subjects import baseline_subject
from divfeat.thresholds import PAPER_ANGLE
from tests.search.samples import as_first_shipped, hinge, make_study

ETF = MethodConfig(name="ce_etf")
GLOBAL = ThresholdSpec(family="global", angles={"tau": 1.0})
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
        MethodConfig(name="hinge_la", thresholds=GLOBAL),
        MethodConfig(name="hinge_ce", thresholds=GLOBAL, label_smoothing=0.1),
        MethodConfig(name="logit_adjustment", logit_adjustment=0.3),
        MethodConfig(name="focal", focal=2),
        MethodConfig(name="ldam_drw", class_balanced=0.999, deferred=0.5),
        MethodConfig(name="ce", feature_norm=True),
        MethodConfig(name="ldam", scale=20),
        MethodConfig(name="ce_etf", scale=30, margin=0.5),
        MethodConfig(name="ce", mixup=0),
        MethodConfig(name="ce", sampling="natural"),
        MethodConfig(name="mixup", mixup=0.2),
        MethodConfig(name="hinge_ce", thresholds=GLOBAL, mixup=1),
        MethodConfig(name="ldam", sampling="balanced"),
    ):
        assert canonical(method) == method


def test_thresholds_and_release_mean_nothing_to_other_methods():
    told = {"mixup": {"mixup": 1.0}, "etf_dr": {"mixup": 1.0}, "resampling": {"sampling": "balanced"}}
    for name in set(METHODS) - {"hinge_ce", "hinge_la", "hinge_haf", "balanced_softmax"}:
        dressed = MethodConfig.model_validate({"name": name, "release": "theorem", "thresholds": GLOBAL.to_dict()})
        plainest = MethodConfig.model_validate({"name": name, **told.get(name, {})})
        assert canonical(dressed) == canonical(MethodConfig(name=name)) == plainest


@pytest.mark.parametrize(
    ("method", "plainest"),
    [
        (MethodConfig(name="balanced_softmax"), MethodConfig(name="logit_adjustment")),
        (MethodConfig(name="hinge_la"), MethodConfig(name="ce_etf_la")),
        (MethodConfig(name="hinge_la", logit_adjustment=2), MethodConfig(name="ce_etf_la", logit_adjustment=2)),
        (MethodConfig(name="hinge_la", logit_adjustment=0), MethodConfig(name="ce_etf")),
        (MethodConfig(name="hinge_ce", label_smoothing=0.1), MethodConfig(name="ce_etf_smooth")),
        (MethodConfig(name="hinge_ce", thresholds=GLOBAL, logit_adjustment=1),
         MethodConfig(name="hinge_la", thresholds=GLOBAL)),
        (MethodConfig(name="ce", scale=30, margin=0.5), MethodConfig(name="ldam")),
        (MethodConfig(name="ldam", scale=30), MethodConfig(name="ldam")),
        (MethodConfig(name="ce", scale=20, margin=0.5), MethodConfig(name="ldam", scale=20)),
        (MethodConfig(name="ldam", class_balanced=0.9999, deferred=0.8), MethodConfig(name="ldam_drw")),
        (MethodConfig(name="ce", logit_adjustment=1.5), MethodConfig(name="logit_adjustment", logit_adjustment=1.5)),
        (MethodConfig(name="ldam_drw", class_balanced=0), MethodConfig(name="ldam")),
        (MethodConfig(name="ce_smooth", label_smoothing=0), MethodConfig(name="ce")),
        (MethodConfig(name="ce", label_smoothing=0, focal=0), MethodConfig(name="ce")),
        (MethodConfig(name="ce", mixup=1), MethodConfig(name="mixup", mixup=1)),
        (MethodConfig(name="ce", mixup=0.2), MethodConfig(name="mixup", mixup=0.2)),
        (MethodConfig(name="mixup", mixup=0), MethodConfig(name="ce", mixup=0)),
        (MethodConfig(name="resampling", sampling="natural"), MethodConfig(name="ce", sampling="natural")),
        (MethodConfig(name="mixup", sampling="square_root"),
         MethodConfig(name="mixup", mixup=1, sampling="square_root")),
    ],
)  # fmt: skip
def test_two_spellings_of_one_training_have_one_key(method, plainest):
    assert canonical(method) == plainest == canonical(plainest)
    assert experiment(STUDY, method, 3).key == experiment(STUDY, plainest, 3).key


parts = st.fixed_dictionaries(
    {},
    optional={
        "label_smoothing": st.sampled_from([0.0, 0.1, 0.2]),
        "logit_adjustment": st.sampled_from([0.0, 1.0, 1.5]),
        "scale": st.sampled_from([1.0, 20.0, 30.0]),
        "margin": st.sampled_from([0.0, 0.5]),
        "focal": st.sampled_from([0.0, 1.0]),
        "class_balanced": st.sampled_from([0.0, 0.9999]),
        "feature_norm": st.booleans(),
        "loss": st.sampled_from(["cross_entropy", "dot_regression"]),
        "mixup": st.sampled_from([0.0, 0.2, 1.0]),
        "cutmix": st.sampled_from([0.0, 1.0]),
        "sampling": st.sampled_from(["natural", "balanced", "square_root"]),
        "frame": st.sampled_from(["simplex", "hierarchy", "orthonormal"]),
        "gamma": st.sampled_from([0.0, 2.0, 3.0]),
        "s_min": st.sampled_from(["exact", "grid", 0.1]),
        "neck": st.sampled_from(["linear", "transformation"]),
        "cosine": st.sampled_from([0.0, 0.4, 0.7]),
        "levels": st.sampled_from(["none", "flamingo", "hafeature"]),
        "pair_margin": st.sampled_from([0.0, 3.0]),
        "soft_labels": st.sampled_from([0.0, 10.0]),
        "hierarchical_ce": st.sampled_from([0.0, 0.1]),
    },
)


@given(st.sampled_from([*METHODS]), st.sampled_from([0.0, 0.9]), st.sampled_from(RELEASES), parts)
def test_canonical_is_idempotent_and_decides_the_key(name, angle, release, given_parts):
    """Whatever is given, the plainest name stands for the same head, cones and parts."""
    thresholds = ThresholdSpec(family="global", angles={"tau": angle})
    method = MethodConfig(name=name, thresholds=thresholds, release=release, **given_parts)
    try:
        wanted = parts_of(method)
    except ConfigError:
        with pytest.raises(ConfigError):
            canonical(method)
        return
    once = canonical(method)
    assert canonical(once) == once
    assert experiment(STUDY, method, 3).key == experiment(STUDY, once, 3).key
    assert parts_of(once) == wanted
    before, after = METHODS[name], METHODS[once.name]
    necks = wanted.neck != "linear"
    assert (before.projector or necks, before.frame) == (after.projector or necks, after.frame)
    assert after.hinge == (before.hinge and angle > 0)
    if after.hinge:
        assert (once.thresholds, once.release) == (thresholds, release)


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


#: Of every baseline there was when studies were first run, at seed 0. What was computed then must be found again.
KEYS = {
    "digits": {
        "ce": "275b314e828652af",
        "ce_no_projector": "ddb13491ce0d6340",
        "ce_etf": "cce287d2f9962b28",
        "hinge_fixed": "c28451dab2400976",
        "ce_smooth": "9ed3662f6338f293",
        "ce_etf_smooth": "067d771c635773a8",
    },
    "digits-lt": {
        "ce": "9ddcd5aa9451e01a",
        "ce_no_projector": "a144eb07038fbdc1",
        "ce_etf": "8db1fcd46d71efcb",
        "hinge_fixed": "4ba1ffe1fae03ae8",
        "ce_smooth": "e3ae4438c6f53035",
        "ce_etf_smooth": "760b2416a88d77a6",
    },
    "cifar10": {
        "ce": "072ec400e6f9c171",
        "ce_no_projector": "293fd86668a6e34e",
        "ce_etf": "ec982cb5930f8f49",
        "hinge_fixed": "1e3f360d96e6a77d",
        "ce_smooth": "0dba954f14a23b46",
        "ce_etf_smooth": "bbd3866218c32e9f",
    },
}


@pytest.mark.parametrize("preset", KEYS)
def test_the_keys_of_the_first_baselines_are_pinned(preset):
    study = as_first_shipped(preset)
    assert {name: experiment(study, baseline(name, study), 0).key for name in KEYS[preset]} == KEYS[preset]


def test_the_method_keys_of_the_first_methods_are_pinned():
    """A winner's decision stores probe strengths under them."""
    assert method_key(hinge(PAPER_ANGLE)) == "85f1eae66adcf82b"
    assert method_key(ETF) == "c1517acd5eb4a9d8"


def test_baselines_by_name():
    study = make_study()
    assert baseline("ce_smooth", study) == MethodConfig(name="ce_smooth")
    fixed = baseline("hinge_fixed", study)
    assert (fixed.name, fixed.release) == ("hinge_ce", "paper")
    assert fixed.thresholds == ThresholdSpec(family="global", angles={"tau": PAPER_ANGLE})
    tail = baseline("hinge_fixed", make_study("digits-lt")).thresholds
    assert tail == ThresholdSpec(family="major_minor", angles={"tau_major": 0.0, "tau_minor": PAPER_MINOR})
    on_tail = make_study("digits-lt", search={"family": "global"})
    assert baseline("hinge_fixed", on_tail) == fixed
    assert baseline("hinge_la", study) == fixed.model_copy(update={"name": "hinge_la"})
    assert baseline("hinge_la", make_study("digits-lt")).thresholds == tail

    for family, expected in (("global", fixed.thresholds), ("count_curve", tail), ("each_10", tail)):
        assert baseline("hinge_fixed", make_study("digits-lt", search={"family": family})).thresholds == expected


def test_the_baselines_of_another_base_follow_it():
    base = {"name": "hinge_ce", "logit_adjustment": 1.0, "class_balanced": 0.9999, "deferred": 0.8}
    study = make_study(search={"method": base, "own": ["deferred"]})
    fixed, bare = baseline("hinge_fixed", study), baseline("no_cones", study)
    assert fixed == baseline("hinge_fixed", STUDY).model_copy(
        update={name: base[name] for name in base if name != "name"}
    )
    assert name_of(fixed) == "hinge_la paper 65.0 deg class_balanced=0.9999 deferred=0.8"
    assert name_of(bare) == "ce_etf_la class_balanced=0.9999 deferred=0.8"
    assert baseline("hinge_la", study) == baseline("hinge_la", STUDY)
    assert canonical(baseline("no_cones", STUDY)) == ETF
    assert canonical(baseline("no_cones", make_study(search={"method": "hinge_la"}))) == MethodConfig(name="ce_etf_la")
    assert own_numbers("no_cones", study) == ("deferred",) and own_numbers("hinge_fixed", study) == ()
    assert own_numbers("no_cones", STUDY) == ()
    closing = make_study(search={"method": "hinge_la", "own": ["logit_adjustment", "closed_last"]})
    assert own_numbers("no_cones", closing) == ("logit_adjustment",)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"hinge_ce"}))
def test_every_method_is_a_baseline(name):
    study = make_study("digits-lt", protocol={"baselines": ["ce", name] if name != "ce" else ["ce"]})
    method = baseline(name, study)
    assert method.name == name
    assert parts_of(method) == METHODS[name].parts
    assert (method.thresholds.family != "none") == METHODS[name].hinge
    assert experiment(study, method, 0).key == experiment(study, canonical(method), 0).key


def test_tables_over_a_flat_tree_leave_out_what_is_cross_entropy_there():
    study = make_study("digits-lt", data={"hierarchy": "flat"})
    names = {"crm", "crm_type2", "flamingo", "flamingo_type2", "hierarchical_ce"}
    for rows in (every_baseline, every_tree_baseline):
        assert set(rows(make_study("digits-lt", data={"hierarchy": "coarse"}))) - set(rows(study)) == names
    assert {"haframe", "hafeature", "tree_soft_labels"} <= {*every_tree_baseline(study)}


def test_own_numbers_of_a_baseline_replace_those_of_its_name():
    """As FGVC-Aircraft's HAFrame has others than CIFAR-100's; what is left out stays as the name has it."""
    rules = {"own": {"haframe": {"gamma": 1}, "ldam": {}}}
    study = make_study("digits-hierarchy", protocol=rules)
    assert baseline("haframe", study) == MethodConfig(name="haframe", gamma=1)
    assert parts_of(baseline("haframe", study)).cosine == METHODS["haframe"].parts.cosine == 0.4
    for name in ("haframe_ce", "ldam"):
        assert baseline(name, study) == MethodConfig(name=name)
    assert study.identity != make_study("digits-hierarchy").identity
    assert make_study(protocol={"own": {}}).identity == make_study().identity
    aircraft = make_study("aircraft-hierarchy")
    published = {"gamma": 1.0, "cosine": 0.5}
    assert baseline("haframe", aircraft) == MethodConfig(name="haframe", **published)
    assert canonical(baseline("no_cones", aircraft)) == canonical(baseline("haframe", aircraft))
    assert baseline_subject(aircraft, "haframe").first == [published]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"own": {"haframes": {}}}, "unknown method 'haframes'. Did you mean 'haframe'"),
        ({"own": {"haframe": {"beta": 1}}}, "'beta' is no number of 'haframe''s own that .* here; it has gamma, cosine"),
        ({"own": {"ce": {"gamma": 1}}}, "'gamma' is no number of 'ce''s own that could be given here; it has none"),
        ({"own": {"haframe": {"cosine": 1.5}}}, "cosine=1.5"),
        ({"own": {"haframe": {"gamma": 0}}}, "set method.gamma too"),
        ({"own": {"haframe": {"gamma": 20}}, "tune": True}, "gamma=20 of 'haframe' lies outside the range .* 0.5 to 8, log"),
    ],
)  # fmt: skip
def test_own_numbers_that_mean_nothing_are_told(rules, message):
    with pytest.raises(ConfigError, match=message):
        make_study("digits-hierarchy", protocol=rules)


def test_every_baseline_leaves_out_what_a_study_trains_alike():
    assert {"ce", "mixup", "balanced_softmax", "no_cones"} & set(every_baseline(make_study())) == {"ce", "mixup"}
    mixed = every_baseline(make_study(train={"mixup": 1.0, "sampling": "balanced"}))
    assert "ce" in mixed and not {"mixup", "resampling"} & set(mixed)
    adjusted = every_baseline(make_study(search={"method": {"name": "hinge_la", "logit_adjustment": 2.0}}))
    assert {"no_cones", "hinge_fixed", "ce_etf_la", "hinge_la"} <= set(adjusted)


def test_the_searched_method_is_no_baseline_without_angles():
    with pytest.raises(ConfigError, match=r"'hinge_ce' has no angles of its own; use hinge_fixed .*or ce_etf"):
        baseline("hinge_ce", make_study())


@pytest.mark.parametrize("name", ["ce_etff", ""])
def test_an_unknown_baseline_is_refused_with_the_known_ones(name):
    with pytest.raises(ConfigError, match=r"unknown baseline.*ce_no_projector.*hinge_fixed"):
        baseline(name, make_study())


def test_names_people_read():
    assert name_of(hinge(PAPER_ANGLE)) == "gate 65.0 deg"
    assert {name_of(hinge(0.0, release)) for release in RELEASES} == {"ce_etf"}
    two = {"family": "major_minor", "angles": {"tau_major": 0.0, "tau_minor": PAPER_MINOR}}
    assert name_of(MethodConfig.model_validate({"thresholds": two})) == "paper 0.0/40.0 deg"
    assert name_of(MethodConfig(name="ce")) == "ce"
    assert name_of(MethodConfig(name="hinge_la", thresholds=GLOBAL, release="gate")) == "hinge_la gate 57.3 deg"
    late = MethodConfig(thresholds=GLOBAL, class_balanced=0.9999, deferred=0.8)
    assert name_of(late) == "paper 57.3 deg class_balanced=0.9999 deferred=0.8"
    assert name_of(MethodConfig(name="ce", scale=20, margin=0.5)) == "ldam scale=20"
    assert name_of(MethodConfig(name="ce_etf", feature_norm=True)) == "ce_etf feature_norm=True"
    assert name_of(MethodConfig(name="balanced_softmax")) == "logit_adjustment"
    assert name_of(MethodConfig(name="etf_dr")) == "etf_dr"
    assert name_of(MethodConfig(name="mixup", mixup=0.2)) == "mixup mixup=0.2"
    assert name_of(MethodConfig(name="ce", sampling="natural")) == "ce sampling=natural"
    assert name_of(MethodConfig(name="hinge_la", mixup=1)) == "ce_etf_la mixup=1"


@pytest.mark.parametrize(
    ("family", "angles", "name"),
    [
        ("bent_curve", {"tau_head": 0.0, "tau_tail": PAPER_MINOR, "bend": -0.5}, "paper 0.0/40.0 deg, bend -0.50"),
        (
            "per_class",
            {"tau_head": 0.0, "tau_tail": PAPER_MINOR, "jump": 0.25, "wave_1": 0.0, "wave_2": -math.pi / 36},
            "paper 0.0/40.0/+0.0/-5.0 deg, jump 0.25",
        ),
        ("groups", {"tau_many": 0.0, "tau_medium": PAPER_MINOR, "tau_few": 0.1}, "paper 0.0/40.0/5.7 deg"),
        ("each_3", {"tau_0": 0.0, "tau_1": PAPER_MINOR, "tau_2": 0.1}, "paper 0.0/40.0/5.7 deg"),
        ("each_9", {f"tau_{k}": math.pi / 36 * k for k in range(9)}, "paper each_9 0.0 to 40.0 deg"),
    ],
)
def test_names_of_what_is_no_angle_and_of_many(family, angles, name):
    method = MethodConfig(thresholds=ThresholdSpec(family=family, angles=angles))
    assert name_of(method) == name
    recorded = json.loads(json.dumps(method.to_dict(), sort_keys=True))  # as a record on disk has it
    assert name_of(MethodConfig.model_validate(recorded)) == name


@given(st.integers(0, 10**6), st.integers(1, 20))
def test_studies_with_different_seeds_share_no_training_seed(one, apart):
    def seeds(seed):
        study = STUDY.model_copy(update={"seed": seed})
        return {seed_of(study, stream, i) for stream in (SEARCH_SEED, SELECT_SEED, CONFIRM_SEED) for i in range(1000)}

    assert len(seeds(one)) == 3000
    assert not seeds(one) & seeds(one + apart)
