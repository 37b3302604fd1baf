"""Second stages as parts of a method: keys, what goes with what, and what is refused with its reason."""

from typing import Any

import pytest
import torch

from divfeat import experiment
from divfeat.config import MethodConfig
from divfeat.data.prepare import prepare
from divfeat.errors import ConfigError
from divfeat.methods import METHODS, canonical, first_stage, parts_of
from divfeat.parts import OFF
from divfeat.second import SECONDS
from divfeat.stages import second_key, stage_key
from divfeat.thresholds import ThresholdContext
from tests.second.samples import config, data

CONE = {"thresholds": {"family": "global", "angles": {"tau": 0.5}}}
#: Of long tails; `crm` is looked at in tests/test_tree_methods.py.
TWO_STAGES = [name for name, method in METHODS.items() if method.parts.second != "none" and not method.tree]


def test_every_second_stage_has_a_name() -> None:
    assert [*(METHODS[name].parts.second for name in TWO_STAGES), "crm"] == list(SECONDS)


@pytest.mark.parametrize("name", TWO_STAGES)
def test_the_first_stage_of_a_name_is_ce(name: str) -> None:
    method = {"name": name}
    assert first_stage(MethodConfig.model_validate(method)) == MethodConfig(name="ce")
    two, ce = config(method=method), config(method={"name": "ce"})
    assert stage_key(two) == stage_key(ce) == second_key(ce) != second_key(two)
    assert second_key(two) == second_key(config(method=method, probe={"strengths": [1.0]}))
    assert two.key != ce.key
    bare = config(method={"name": "ce_no_projector", "second": METHODS[name].parts.second})
    assert stage_key(bare) == stage_key(config(method={"name": "ce_no_projector"})) != stage_key(ce)


@pytest.mark.parametrize(
    ("method", "first"),
    [
        ({"name": "hinge_ce", **CONE, "second": "crt"}, {"name": "hinge_ce", **CONE}),
        ({"name": "hinge_ce", "second": "ncm"}, {"name": "ce_etf"}),  # no cones: CE+ETF
        ({"name": "balanced_softmax", "second": "lws", "second_epochs": 2}, {"name": "logit_adjustment"}),
        ({"name": "ldam_drw", "second": "post_hoc", "prior_strength": 0.3}, {"name": "ldam_drw"}),
        ({"name": "crt", "focal": 1.0}, {"name": "focal"}),
        ({"name": "ce", "second": "none"}, {"name": "ce"}),
        ({"name": "m2m", "second": "none"}, {"name": "ce"}),
    ],
)
def test_stages_are_shared_whatever_the_second(method: dict[str, Any], first: dict[str, Any]) -> None:
    assert stage_key(config(method=method)) == stage_key(config(method=first))
    assert first_stage(MethodConfig.model_validate(method)) == canonical(MethodConfig.model_validate(first))


@pytest.mark.parametrize(
    ("method", "plainest"),
    [
        ({"name": "ce", "second": "crt"}, {"name": "crt"}),
        ({"name": "crt", "second_epochs": 10}, {"name": "crt"}),
        ({"name": "crt", "second": "lws"}, {"name": "lws"}),
        ({"name": "ce", "second": "lws", "second_epochs": 10}, {"name": "lws", "second_epochs": 10}),
        ({"name": "tau_norm", "second": "none"}, {"name": "ce"}),
        ({"name": "ce", "second": "post_hoc", "prior_strength": 1.0}, {"name": "post_hoc_la"}),
    ],
)
def test_two_spellings_have_one_key(method: dict[str, Any], plainest: dict[str, Any]) -> None:
    found = canonical(MethodConfig.model_validate(method))
    assert found == canonical(found) == MethodConfig.model_validate(plainest)


@pytest.mark.parametrize("second", SECONDS)
@pytest.mark.parametrize("name", ["focal", "ldam_drw", "ce_etf", "hinge_ce", "ce_no_projector"])
def test_canonical_keeps_every_setting(name: str, second: str) -> None:
    """Also one at the value that stands for off in `Parts`, which the published one must not replace."""
    if second == "tau_norm" and name in ("ldam_drw", "ce_etf", "hinge_ce"):
        return
    for settings in ({}, {"exponent": 0.0}, {"second_epochs": 3}, {"m2m_start": 0.0}, {"centroid_loss": 0.0}):
        if not settings.keys() <= SECONDS[second].settings.keys():
            continue
        method = MethodConfig.model_validate({"name": name, "second": second, **settings})
        parts = parts_of(method)
        assert parts_of(canonical(method)) == parts
        expected = {"second": second, **SECONDS[second].settings, **settings}
        assert {key: getattr(parts, key) for key in expected} == expected
        assert parts.other_than(OFF).keys() - expected.keys() == METHODS[name].parts.other_than(OFF).keys()


def test_a_key_without_a_second_stage_holds_nothing_of_it() -> None:
    assert MethodConfig(name="ce").to_dict().keys() == {"name", "thresholds", "release", "label_smoothing"}


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"name": "ce_etf", "second": "tau_norm"}, r"the axes of 'ce_etf' are a frame's, all of length 1.*use it after"),
        ({"name": "hinge_ce", "second": "tau_norm"}, "a frame's, all of length 1"),
        ({"name": "ldam", "second": "tau_norm"}, r"cosine classifier \(method.scale\), all of length 1"),
        ({"name": "logit_adjustment", "second": "post_hoc"}, r"logit_adjustment=1\) has kept it out already"),
        ({"name": "etf_dr", "second": "post_hoc"}, "logits of a softmax, and method.loss='dot_regression' has none"),
        ({"name": "etf_dr", "second": "m2m"}, "probabilities of a softmax"),
        ({"name": "crt", "second_epochs": 0}, r"second_epochs=0: 'crt' is trained in two stages.*second='none'"),
        ({"name": "oltr", "second_epochs": 0}, "'oltr' is trained in two stages"),
        ({"name": "ce", "second_epochs": 3}, r"second_epochs=3 is a setting of the second stage 'crt' or 'lws' or 'oltr'.*"
                                              r"'ce' has 'none': set method.second"),
        ({"name": "crt", "exponent": 0.5}, r"exponent=0.5 is a setting of the second stage 'tau_norm', and 'crt' has 'crt'"),
        ({"name": "ncm", "prior_strength": 1}, "'post_hoc', and 'ncm' has 'ncm'"),
        ({"name": "tau_norm", "second": "none", "exponent": 1}, "'tau_norm' has 'none'"),
    ],
)  # fmt: skip
def test_pairs_that_mean_nothing_are_refused(method: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parts_of(MethodConfig.model_validate(method))
    with pytest.raises(ConfigError, match=message):
        experiment.build(config(method=method), data())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": {"epochs": 4}}, r"last 0.2 of the epochs, and train.epochs=4 leaves none.*lower method.m2m_start=0.8"),
        ({"train": {"mixup": 0.2}}, "set both to 0"),
        ({"train": {"cutmix": 1.0}}, "set both to 0"),
        ({"method": {"name": "hinge_ce", "second": "m2m",
                     "thresholds": {"family": "quantile", "angles": {"share": 0.5}}}}, "family 'quantile' move"),
    ],
)  # fmt: skip
def test_what_m2m_cannot_work_on_is_told_before_training(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        experiment.build(config({"method": {"name": "m2m"}}, change), data())


def test_m2m_needs_classes_of_several_sizes() -> None:
    even = config(method={"name": "m2m"}, data={"imbalance": 1.0})
    with pytest.raises(ConfigError, match=r"all have 60 training images: set data.imbalance"):
        experiment.build(even, prepare(even.data, "search"))


@pytest.mark.parametrize("second", ["ncm", "post_hoc", "m2m", "oltr"])
def test_a_class_without_images_is_told_before_training(second: str) -> None:
    made = config(method={"name": "ce", "second": second})
    counts = data().class_counts.copy()
    counts[7] = 0
    with pytest.raises(
        ConfigError, match=rf"second='{second}' .*but 1 of 10 classes have no training images \(class 7\)"
    ):
        SECONDS[second].check(made, parts_of(made.method), ThresholdContext(torch.as_tensor(counts)))


def test_what_stages_cost() -> None:
    def trainings(name: str, epochs: int) -> float:
        parts = METHODS[name].parts
        return SECONDS[parts.second].trainings(parts, epochs)

    assert [trainings(name, 100) for name in ("tau_norm", "ncm", "post_hoc_la")] == [0, 0, 0]
    assert 0 < trainings("lws", 100) < trainings("crt", 100) < 0.1 < trainings("crt", 10) < 1
    assert trainings("oltr", 30) == 2
    assert trainings("m2m", 200) == pytest.approx(5)
