"""Methods by name: what each combines, and that HingeCE is what `build_method` builds."""

import math
from typing import Any, get_args

import pytest
import torch
from torch import nn

from divfeat.config import MethodConfig, Release, ThresholdSpec
from divfeat.errors import ConfigError
from divfeat.frames import simplex_etf
from divfeat.losses import RELEASES, HingeCE, theorem_tau_minus
from divfeat.methods import METHODS, build_method, method_named
from divfeat.models import FrameHead, LinearHead, Taps
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


@pytest.mark.parametrize("name", METHODS)
def test_what_a_name_fixes(name: str) -> None:
    method = method_named(name)
    built = build_method(config(name), DIM, CONTEXT, seed=0)
    assert isinstance(built.head, FrameHead if method.frame else LinearHead)
    assert bool(list(built.head.parameters())) == (not method.frame)  # a frame is never in the optimizer
    assert built.objective.label_smoothing == method.label_smoothing
    assert built.tau_plus.tolist() == [0.0] * 5
    assert built.head.axes.shape == (DIM, 5)
    assert list(built.objective.parameters()) == []
    assert method.summary


def test_the_table_of_methods() -> None:
    """Section 4.1: smoothing 0.1; CE+ETF has the projector, plain CE does not."""
    assert {name for name, method in METHODS.items() if not method.projector} == {"ce_no_projector"}
    assert {name for name, method in METHODS.items() if method.frame} == {"ce_etf", "ce_etf_smooth", "hinge_ce"}
    assert {name for name, method in METHODS.items() if method.label_smoothing == 0.1} == {"ce_smooth", "ce_etf_smooth"}
    assert {name for name, method in METHODS.items() if method.hinge} == {"hinge_ce"}


def test_smoothing_can_be_set_and_unset() -> None:
    assert build_method(config("ce", label_smoothing=0.3), DIM, CONTEXT, seed=0).objective.label_smoothing == 0.3
    off = build_method(config("ce_etf_smooth", label_smoothing=0.0), DIM, CONTEXT, seed=0)
    assert off.objective.label_smoothing == 0.0


@pytest.mark.parametrize("name", ["ce", "ce_etf"])
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
    with pytest.raises(ConfigError, match=r"unknown method 'hinge'. Did you mean 'hinge_ce'\? Known: ce, "):
        method_named("hinge")
    for name in ("ce", "ce_etf"):
        with pytest.raises(ConfigError, match=f"method '{name}' has no thresholds.*'major_minor'.*use hinge_ce"):
            build_method(config(name, thresholds=MAJOR_MINOR), DIM, CONTEXT, seed=0)
    with pytest.raises(ConfigError, match="no class is minor"):
        build_method(config("hinge_ce", thresholds=MAJOR_MINOR), DIM, ThresholdContext(COUNTS, boundary=5), seed=0)
    wide = ThresholdSpec(family="global", angles={"tau": math.radians(110)})
    with pytest.raises(ConfigError, match="release 'theorem' needs cones narrower"):
        build_method(config("hinge_ce", thresholds=wide, release="theorem"), DIM, CONTEXT, seed=0)
