"""Methods by name: what each combines, and that HingeCE is what `build_method` builds."""

import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, get_args

import pytest
import torch
from torch import nn

from divfeat.config import MethodConfig, Release, ThresholdSpec, TrainConfig
from divfeat.errors import ConfigError
from divfeat.frames import simplex_etf
from divfeat.losses import (
    RELEASES,
    ConeGate,
    DotRegression,
    Hinge,
    HingeCE,
    LogitAdjustment,
    Margin,
    class_balanced_weights,
    theorem_tau_minus,
)
from divfeat.methods import (
    METHODS,
    OFF,
    Method,
    Parts,
    build_method,
    canonical,
    method_named,
    parts_of,
    train_of,
)
from divfeat.models import CosineHead, FrameHead, LinearHead, Taps
from divfeat.thresholds import ThresholdContext, resolve

COUNTS = torch.tensor([90, 70, 50, 30, 10])
CONTEXT = ThresholdContext(COUNTS, boundary=50)
MAJOR_MINOR = ThresholdSpec(family="major_minor", angles={"tau_major": 0.3, "tau_minor": 0.9})
DIM = 12


def config(name: str, **settings: Any) -> MethodConfig:
    return MethodConfig(name=name, **settings)


def batch(seed: int, frame: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    labels = torch.arange(60) % 5
    return torch.randn(60, DIM, generator=source) + 3 * frame.float().T[labels], labels


def losses(built: Any, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    outputs = built.head(Taps(features, features))
    return built.objective(outputs.features, outputs.logits, labels)


def test_releases_are_the_same_everywhere() -> None:
    assert get_args(Release) == RELEASES


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("release", RELEASES)
def test_hinge_ce_is_the_module_of_the_same_thresholds(release: str, smoothing: float) -> None:
    built = build_method(
        config("hinge_ce", thresholds=MAJOR_MINOR, release=release, label_smoothing=smoothing), DIM, CONTEXT, seed=4
    )
    frame = simplex_etf(5, DIM, generator=torch.Generator().manual_seed(4))
    tau = torch.tensor([0.3, 0.3, 0.9, 0.9, 0.9], dtype=torch.float64)
    module = {
        "paper": HingeCE(frame, tau, label_smoothing=smoothing),
        "theorem": HingeCE(frame, tau, theorem_tau_minus(frame, tau), label_smoothing=smoothing),
        "gate": HingeCE(frame, tau, label_smoothing=smoothing, gate=True),
    }[release]
    assert torch.equal(built.head.axes, frame)
    assert torch.equal(built.tau_plus, tau)
    features, labels = batch(0, frame)
    ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
    found, expected = losses(built, ours, labels), module(theirs, labels, reduction="none")
    assert torch.equal(found, expected)
    found.mean().backward()
    expected.mean().backward()
    assert torch.equal(ours.grad, theirs.grad)
    assert torch.equal(built.head.score(features), module.logits(features))


def test_the_releases_differ_where_cones_bind() -> None:
    values = []
    for release in RELEASES:
        built = build_method(config("hinge_ce", thresholds=MAJOR_MINOR, release=release), DIM, CONTEXT, seed=4)
        values.append(losses(built, *batch(0, built.head.axes)))
    assert not any(torch.equal(values[i], values[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("release", RELEASES)
def test_without_cones_hinge_ce_is_ce_etf(release: str) -> None:
    etf = build_method(config("ce_etf"), DIM, CONTEXT, seed=4)
    none = build_method(config("hinge_ce", release=release), DIM, CONTEXT, seed=4)
    assert torch.equal(etf.head.axes, none.head.axes)
    features, labels = batch(0, etf.head.axes)
    assert torch.equal(losses(etf, features, labels), losses(none, features, labels))
    expected = nn.functional.cross_entropy(features @ etf.head.axes.float(), labels, reduction="none")
    assert torch.equal(losses(etf, features, labels), expected)


HEADS = {(True, False): FrameHead, (True, True): FrameHead, (False, False): LinearHead, (False, True): CosineHead}


#: What needs a tree, or belongs beside it, is looked at in tests/test_tree_methods.py.
PLAIN = [name for name, method in METHODS.items() if not method.tree]


@pytest.mark.parametrize("name", PLAIN)
def test_what_a_name_fixes(name: str) -> None:
    method = method_named(name)
    built = build_method(config(name), DIM, CONTEXT, seed=0)
    assert isinstance(built.head, HEADS[method.frame, bool(method.parts.scale)])
    assert bool(list(built.head.parameters())) == (not method.frame)  # a frame is never in the optimizer
    assert built.head.length == (method.parts.scale or None)
    assert built.tau_plus.tolist() == [0.0] * 5
    assert built.head.axes.shape == (DIM, 5)
    assert list(built.objective.parameters()) == []
    assert method.summary


def names(condition: Callable[[Method], object]) -> set[str]:
    return {name for name in PLAIN if condition(METHODS[name])}


def test_the_table_of_methods() -> None:
    """Section 4.1: smoothing 0.1; CE+ETF has the projector, plain CE does not. The others: methods.md 2.3."""
    assert names(lambda method: not method.projector) == {"ce_no_projector"}
    assert names(lambda method: method.frame) == {
        *("ce_etf", "ce_etf_smooth", "hinge_ce", "etf_dr", "ce_etf_la", "hinge_la"),
    }
    assert names(lambda method: method.hinge) == {"hinge_ce", "hinge_la"}
    on = {name: METHODS[name].parts.other_than(OFF) for name in PLAIN}
    assert {name: parts for name, parts in on.items() if parts} == {
        "ce_smooth": {"label_smoothing": 0.1},
        "ce_etf_smooth": {"label_smoothing": 0.1},
        "focal": {"focal": 1.0},
        "class_balanced": {"class_balanced": 0.9999},
        "ldam": {"scale": 30.0, "margin": 0.5},
        "ldam_drw": {"scale": 30.0, "margin": 0.5, "class_balanced": 0.9999, "deferred": 0.8},
        "logit_adjustment": {"logit_adjustment": 1.0},
        "balanced_softmax": {"logit_adjustment": 1.0},
        "etf_dr": {"loss": "dot_regression", "scale": 1.0, "feature_norm": True, "mixup": 1.0},
        "mixup": {"mixup": 1.0},
        "resampling": {"sampling": "balanced"},
        "ce_etf_la": {"logit_adjustment": 1.0},
        "hinge_la": {"logit_adjustment": 1.0},
        "crt": {"second": "crt", "second_epochs": 10, "second_lr": 0.2},
        "lws": {"second": "lws", "second_epochs": 5, "second_lr": 0.2},
        "tau_norm": {"second": "tau_norm", "exponent": 1.0},
        "ncm": {"second": "ncm"},
        "post_hoc_la": {"second": "post_hoc", "prior_strength": 1.0},
        "m2m": {"second": "m2m", "m2m_start": 0.8, "m2m_beta": 0.999, "m2m_gamma": 0.9, "m2m_lambda": 0.5},
        "oltr": {"second": "oltr", "second_epochs": 60, "second_lr": 0.1, "centroid_loss": 0.01},
    }


def test_parts_are_fields_of_the_configuration_and_off_by_default() -> None:
    known = set(MethodConfig.model_fields) - {"name", "thresholds", "release"}
    assert {field.name for field in fields(Parts)} == known
    for name in ("ce", "ce_etf", "hinge_ce"):
        assert parts_of(config(name)) == OFF
    assert all(getattr(MethodConfig(), name) is None for name in known)


# --- the names, sample by sample -------------------------------------------------------------------------------------------


def log_softmax(row: list[float]) -> list[float]:
    top = max(row)
    total = top + math.log(math.fsum(math.exp(value - top) for value in row))
    return [value - total for value in row]


def cosines(u: torch.Tensor, axes: torch.Tensor) -> list[float]:
    return [float(u @ axes[:, k] / u.norm() / axes[:, k].norm()) for k in range(axes.shape[1])]


def naive_ldam(u: torch.Tensor, y: int, axes: torch.Tensor, raw: list[float]) -> float:
    margin = 0.5 * (10 / float(COUNTS[y])) ** 0.25
    return -log_softmax([30 * (c - margin * (k == y)) for k, c in enumerate(cosines(u, axes))])[y]


def naive_adjusted(u: torch.Tensor, y: int, axes: torch.Tensor, raw: list[float]) -> float:
    return -log_softmax([v + math.log(float(COUNTS[k]) / 250) for k, v in enumerate(raw)])[y]


def naive_focal(u: torch.Tensor, y: int, axes: torch.Tensor, raw: list[float]) -> float:
    log_p = log_softmax(raw)[y]
    return (1 - math.exp(log_p)) * -log_p


def naive_regression(u: torch.Tensor, y: int, axes: torch.Tensor, raw: list[float]) -> float:
    return (cosines(u, axes)[y] - 1) ** 2 / 2


def naive_ce(u: torch.Tensor, y: int, axes: torch.Tensor, raw: list[float]) -> float:
    return -log_softmax(raw)[y]


NAIVE = {
    "ce": naive_ce,
    "focal": naive_focal,
    "class_balanced": naive_ce,
    "ldam": naive_ldam,
    "ldam_drw": naive_ldam,
    "logit_adjustment": naive_adjusted,
    "balanced_softmax": naive_adjusted,
    "etf_dr": naive_regression,
    "ce_etf_la": naive_adjusted,
    "mixup": naive_ce,
    "resampling": naive_ce,
}


@pytest.mark.parametrize("name", NAIVE)
def test_a_name_against_its_formula(name: str) -> None:
    built = build_method(config(name), DIM, CONTEXT, seed=4)
    built.head.double()
    features, labels = batch(0, simplex_etf(5, DIM))
    features = features.double()
    outputs = built.head(Taps(features, features))
    found = built.objective(outputs.features, outputs.logits, labels)
    axes, bias = built.head.axes.detach(), built.head.bias
    raw = features @ axes + (0 if bias is None else bias.detach())
    expected = [NAIVE[name](u, y, axes, v.tolist()) for u, y, v in zip(features, labels.tolist(), raw, strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    if method_named(name).parts.scale:
        scale = method_named(name).parts.scale
        assert outputs.logits[7].tolist() == pytest.approx([scale * c for c in cosines(features[7], axes)])
    else:
        assert torch.allclose(outputs.logits, raw)  # what is scored knows neither prior nor margin


@pytest.mark.parametrize(("name", "start"), [("class_balanced", 0.0), ("ldam_drw", 0.8)])
def test_class_weights_of_a_name(name: str, start: float) -> None:
    objective = build_method(config(name), DIM, CONTEXT, seed=4).objective
    labels = torch.arange(5)
    raw = [(1 - 0.9999) / (1 - 0.9999**n) for n in COUNTS.tolist()]
    expected = pytest.approx([5 * value / sum(raw) for value in raw])
    assert objective.weights(labels, start).tolist() == expected
    assert objective.weights(labels, 0.99).tolist() == expected
    assert start == 0 or objective.weights(labels, start - 1e-3) is None


# --- combinations ----------------------------------------------------------------------------------------------------------


def test_a_part_of_the_configuration_replaces_the_names_own() -> None:
    assert (
        build_method(config("ce", label_smoothing=0.3), DIM, CONTEXT, seed=0).objective.criterion.label_smoothing == 0.3
    )
    off = build_method(config("ce_etf_smooth", label_smoothing=0.0), DIM, CONTEXT, seed=0)
    assert off.objective.criterion.label_smoothing == 0.0
    assert parts_of(config("ldam", scale=20)) == replace(METHODS["ldam"].parts, scale=20.0)
    assert parts_of(config("ldam_drw", class_balanced=0)) == METHODS["ldam"].parts
    assert parts_of(config("ldam", scale=0, margin=0)) == OFF == parts_of(config("focal", focal=0))
    assert isinstance(build_method(config("ldam", scale=0, margin=0), DIM, CONTEXT, seed=0).head, LinearHead)


def test_a_method_replaces_what_train_says_and_nothing_else() -> None:
    plain, mixing = TrainConfig(epochs=3), TrainConfig(epochs=3, mixup=0.3, cutmix=0.4, sampling="square_root")
    assert train_of(config("mixup"), plain) == plain.model_copy(update={"mixup": 1.0})
    assert train_of(config("mixup"), mixing) == mixing.model_copy(update={"mixup": 1.0})
    assert train_of(config("mixup", mixup=0), mixing).mixup == 0
    assert train_of(config("resampling"), mixing) == mixing.model_copy(update={"sampling": "balanced"})
    assert train_of(config("ce", sampling="natural", cutmix=0), mixing) == TrainConfig(epochs=3, mixup=0.3)
    assert train_of(config("etf_dr"), plain).mixup == 1.0
    assert train_of(config("etf_dr", mixup=0.2), plain).mixup == 0.2
    for name in ("ce", "ldam", "hinge_la"):
        assert train_of(config(name), mixing) is not plain and train_of(config(name), mixing) == mixing


def test_dot_regression_that_mixes_as_train_says_is_not_called_etf_dr() -> None:
    """None cannot be given over a name's own value."""
    without = config("ce_etf", loss="dot_regression", scale=1, feature_norm=True)
    assert canonical(without) == without
    assert canonical(without.model_copy(update={"mixup": 0.5})) == config("etf_dr", mixup=0.5)
    assert canonical(without.model_copy(update={"mixup": 0.0})) == config("etf_dr", mixup=0.0)


@pytest.mark.parametrize("release", RELEASES)
def test_hinge_la_is_hinge_then_prior(release: str) -> None:
    """The gate looks at the plain logits, and the order of hinge and prior is the hinge first."""
    built = build_method(config("hinge_la", thresholds=MAJOR_MINOR, release=release), DIM, CONTEXT, seed=4)
    plain = build_method(config("hinge_ce", thresholds=MAJOR_MINOR, release=release), DIM, CONTEXT, seed=4)
    features, labels = batch(0, built.head.axes)
    logits = features @ built.head.axes.float()
    prior = torch.log(COUNTS.double() / COUNTS.sum()).float()
    hinged = logits
    for transform in plain.objective.transforms:
        hinged = transform(features, labels, hinged)
    expected = nn.functional.cross_entropy(hinged + prior, labels, reduction="none")
    if release == "gate":
        expected = expected.masked_fill(plain.objective.gate(features, labels, logits), 0.0)
    torch.testing.assert_close(losses(built, features, labels), expected)
    assert not torch.allclose(expected, losses(plain, features, labels))


def test_without_cones_hinge_la_is_ce_etf_la() -> None:
    hinge, etf = (build_method(config(name), DIM, CONTEXT, seed=4) for name in ("hinge_la", "ce_etf_la"))
    features, labels = batch(0, etf.head.axes)
    assert torch.equal(losses(hinge, features, labels), losses(etf, features, labels))


def test_everything_at_once_in_its_order() -> None:
    """Hinge on cosines, then the margin, then the prior; focal loss of that; class weights late."""
    settings = {"scale": 30, "margin": 0.4, "logit_adjustment": 0.7, "focal": 2, "class_balanced": 0.9, "deferred": 0.5}
    built = build_method(config("hinge_ce", thresholds=MAJOR_MINOR, **settings), DIM, CONTEXT, seed=4)
    assert [type(part) for part in built.objective.transforms] == [Hinge, Margin, LogitAdjustment]
    features, labels = batch(0, built.head.axes)
    features = features.double()
    outputs = built.head(Taps(features, features))
    tau, clamped = built.tau_plus.tolist(), 0
    for u, y, found in zip(
        features, labels.tolist(), built.objective(outputs.features, outputs.logits, labels).tolist(), strict=True
    ):
        row = [30 * value for value in cosines(u, built.head.axes)]
        clamped += row[y] > 30 * math.cos(tau[y])
        row[y] = min(row[y], 30 * math.cos(tau[y])) - 30 * 0.4 * (10 / float(COUNTS[y])) ** 0.25
        log_p = log_softmax([v + 0.7 * math.log(float(COUNTS[k]) / 250) for k, v in enumerate(row)])
        assert found == pytest.approx((1 - math.exp(log_p[y])) ** 2 * -log_p[y], rel=1e-7, abs=1e-12)
    assert 0 < clamped < 60
    assert built.objective.weights(labels, 0.49) is None
    assert torch.equal(built.objective.weights(labels, 0.5), class_balanced_weights(COUNTS, 0.9)[labels])


def test_cones_that_close_are_another_training_and_no_cones_close() -> None:
    closing = config("hinge_ce", thresholds=MAJOR_MINOR, closed_last=0.2)
    assert canonical(closing) == closing
    assert canonical(closing.model_copy(update={"closed_last": 0.0})) == config("hinge_ce", thresholds=MAJOR_MINOR)
    assert canonical(config("hinge_la", closed_first=0.2)) == config("ce_etf_la")
    assert build_method(closing, DIM, CONTEXT, seed=0).objective.closed == (0.0, 0.2)


def test_ldam_on_a_frame_and_dot_regression_under_cones() -> None:
    ldam = build_method(config("ce_etf", scale=30, margin=0.5), DIM, CONTEXT, seed=4)
    assert isinstance(ldam.head, FrameHead) and ldam.head.length == 30
    hinged = build_method(config("hinge_ce", thresholds=MAJOR_MINOR, loss="dot_regression"), DIM, CONTEXT, seed=4)
    assert isinstance(hinged.objective.criterion, DotRegression) and hinged.head.length is None
    features, labels = batch(0, hinged.head.axes)
    inside = ConeGate(hinged.head.axes, hinged.tau_plus)(features, labels, features @ hinged.head.axes.float())
    features.requires_grad_()
    losses(hinged, features, labels).sum().backward()
    assert 0 < inside.sum() < 60
    assert torch.equal(features.grad.norm(dim=1) == 0, inside)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "ce",
            {"margin": 0.5},
            r"margin=0.5 is measured in cosines, and the logits of 'ce' are none: set method.scale",
        ),
        ("ldam", {"scale": 0}, "margin=0.5 is measured in cosines"),
        ("ldam", {"deferred": 0.8}, r"deferred=0.8 says when class weights start, and 'ldam' has none: set"),
        ("ldam_drw", {"class_balanced": 0, "deferred": 0.5}, "'ldam_drw' has none"),
        (
            "ce_etf",
            {"closed_last": 0.2},
            r"closed_last=0.2 says when cones are closed, and 'ce_etf' has none: use hinge_ce",
        ),
        ("hinge_ce", {"closed_first": 0.6, "closed_last": 0.4}, "leave no epoch in which the cones are open"),
        ("ce", {"loss": "dot_regression"}, "needs frozen axes, and those of 'ce' are learned"),
        ("etf_dr", {"logit_adjustment": 1}, r"logit_adjustment=1.0 acts on a softmax.*set method.logit_adjustment=0"),
        ("etf_dr", {"focal": 2}, "focal=2.0 acts on a softmax"),
        ("etf_dr", {"margin": 0.1}, "margin=0.1 acts on a softmax"),
        ("ce_etf_smooth", {"loss": "dot_regression"}, r"label_smoothing=0.1 acts on a softmax"),
        ("hinge_la", {"loss": "dot_regression"}, r"logit_adjustment=1.0 acts on a softmax"),
    ],
)
def test_parts_that_mean_nothing_together(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_method(config(name, **settings), DIM, CONTEXT, seed=0)


@pytest.mark.parametrize("name", ["ldam", "class_balanced", "logit_adjustment", "hinge_la"])
def test_parts_that_count_images_need_some_of_every_class(name: str) -> None:
    with pytest.raises(ConfigError, match=r"needs training images of every class, but 1 of 3 have none \(class 2\)"):
        build_method(config(name), DIM, ThresholdContext(torch.tensor([5, 4, 0])), seed=0)


@pytest.mark.parametrize("name", ["ce", "ce_etf", "ldam"])
def test_the_seed_draws_head_or_frame(name: str) -> None:
    def axes(seed: int) -> torch.Tensor:
        torch.manual_seed(torch.seed())  # the global stream has no say
        return build_method(config(name), DIM, CONTEXT, seed=seed).head.axes

    assert torch.equal(axes(1), axes(1))
    assert not torch.equal(axes(1), axes(2))


def test_thresholds_follow_the_class_counts() -> None:
    built = build_method(config("hinge_ce", thresholds=MAJOR_MINOR), DIM, CONTEXT, seed=0)
    assert torch.equal(built.tau_plus, resolve(MAJOR_MINOR.spec(), CONTEXT))


def test_as_many_classes_as_fit() -> None:
    build_method(config("ce_etf"), 4, CONTEXT, seed=0)
    with pytest.raises(ConfigError, match=r"dim=3.*at least 4"):
        build_method(config("ce_etf"), 3, CONTEXT, seed=0)
    build_method(config("ce"), 3, CONTEXT, seed=0)  # a learned classifier has no such bound


def test_methods_that_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown method 'hinge'. Did you mean 'hinge_..'\? Known: ce, "):
        method_named("hinge")
    for name in ("ce", "ce_etf", "ldam"):
        with pytest.raises(
            ConfigError, match=f"method '{name}' has no thresholds.*'major_minor'.*use hinge_ce or hinge_la"
        ):
            build_method(config(name, thresholds=MAJOR_MINOR), DIM, CONTEXT, seed=0)
    with pytest.raises(ConfigError, match="no class is minor"):
        build_method(config("hinge_ce", thresholds=MAJOR_MINOR), DIM, ThresholdContext(COUNTS, boundary=5), seed=0)
    wide = ThresholdSpec(family="global", angles={"tau": math.radians(110)})
    with pytest.raises(ConfigError, match="release 'theorem' needs cones narrower"):
        build_method(config("hinge_ce", thresholds=wide, release="theorem"), DIM, CONTEXT, seed=0)
