"""Dot regression against its formula and its gradient, and under a hinge."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from divfeat.frames import simplex_etf
from divfeat.losses import DotRegression, Hinge, Objective


def draw(n: int, dim: int = 6, classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    features = 2 * torch.randn(n, dim, generator=source, dtype=torch.float64)
    return features, torch.randint(classes, (n,), generator=source), simplex_etf(classes, dim, generator=source)


def regression(features: Tensor, labels: Tensor, frame: Tensor) -> Tensor:
    return Objective(criterion=DotRegression(frame))(features, features @ frame, labels)


def naive(features: Tensor, labels: Tensor, frame: Tensor) -> list[float]:
    """1/2 (m_y . h - |m_y| H)^2 / H with H the feature's length, in Python floats."""
    losses = []
    for h, y in zip(features.tolist(), labels.tolist(), strict=True):
        axis = frame[:, y].tolist()
        length = math.hypot(*h)
        dot = math.fsum(a * b for a, b in zip(axis, h, strict=True))
        losses.append(0.5 * (dot - math.hypot(*axis) * length) ** 2 / length)
    return losses


@settings(max_examples=40, deadline=None)
@given(classes=st.integers(2, 6), spare=st.integers(0, 3), scale=st.floats(0.1, 5), seed=st.integers(0, 2**31))
def test_the_loss_against_a_loop(classes: int, spare: int, scale: float, seed: int) -> None:
    features, labels, frame = draw(7, classes - 1 + spare, classes, seed)
    found = regression(features, labels, scale * frame)
    assert found.tolist() == pytest.approx(naive(features, labels, scale * frame), rel=1e-9, abs=1e-12)


def test_the_gradient_is_the_pull_alone() -> None:
    """-(1 - cos) w_y: nothing from the other axes, nothing through the length."""
    features, labels, frame = draw(20)
    ours = features.clone().requires_grad_()
    regression(ours, labels, frame).sum().backward()
    cosine = (features * frame.T[labels]).sum(1) / features.norm(dim=1)
    torch.testing.assert_close(ours.grad, -(1 - cosine)[:, None] * frame.T[labels], rtol=1e-10, atol=1e-12)


def test_gradcheck_on_features_of_one_length() -> None:
    """Where the head fixes the length, the stopped gradient stops nothing."""
    features, labels, frame = draw(6)

    def loss(raw: Tensor) -> Tensor:
        return regression(3 * torch.nn.functional.normalize(raw, dim=1), labels, frame)

    assert torch.autograd.gradcheck(loss, features.requires_grad_())


def test_it_is_least_on_the_axis_and_greatest_opposite() -> None:
    _, labels, frame = draw(4)
    own = frame.T[labels]
    torch.testing.assert_close(regression(3 * own, labels, frame), torch.zeros(4).double(), rtol=0, atol=1e-14)
    torch.testing.assert_close(regression(-3 * own, labels, frame), torch.full((4,), 6.0).double())


def test_the_other_logits_have_no_say() -> None:
    features, labels, frame = draw(20)
    logits = features @ frame
    own = torch.nn.functional.one_hot(labels, 4).bool()
    other = torch.where(own, logits, torch.full_like(logits, 1e6))
    criterion = DotRegression(frame)
    assert torch.equal(criterion(features, labels, logits), criterion(features, labels, other))


def test_under_a_hinge_nothing_pulls_inside_the_cone() -> None:
    features, labels, frame = draw(40)
    ours = (features + 6 * frame.T[labels]).requires_grad_()
    objective = Objective([Hinge(frame, 0.5)], criterion=DotRegression(frame))
    objective(ours, ours @ frame, labels).sum().backward()
    cosine = torch.nn.functional.cosine_similarity(ours.detach(), frame.T[labels])
    inside = cosine > math.cos(0.5)
    assert 0 < inside.sum() < 40
    assert (ours.grad[inside] == 0).all()
    assert (ours.grad[~inside].norm(dim=1) > 0).all()


def test_a_zero_feature_is_safe() -> None:
    _, labels, frame = draw(3)
    features = torch.zeros(3, 6, requires_grad=True)
    loss = regression(features, labels, frame.float())
    loss.sum().backward()
    assert (loss == 0).all() and torch.isfinite(features.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes_and_autocast(dtype: torch.dtype) -> None:
    features, labels, frame = draw(30)
    features = features.to(dtype)
    logits = (features.float() @ frame.float()).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = DotRegression(frame)(features, labels, logits)
    assert found.dtype == torch.float32
    own = logits.double().gather(1, labels[:, None]).squeeze(1)
    norms = features.double().norm(dim=1)
    torch.testing.assert_close(found.double(), (own - norms).square() / (2 * norms), rtol=1e-4, atol=1e-5)


def test_leading_dimensions_and_a_buffer() -> None:
    features, labels, frame = draw(10)
    stacked, frames = torch.stack([features, 2 * features]), torch.stack([frame, 3 * frame])
    criterion = DotRegression(frames)
    found = criterion(stacked, labels, stacked @ frames)
    for s in range(2):
        torch.testing.assert_close(found[s], regression(stacked[s], labels, frames[s]))
    assert list(criterion.state_dict()) == ["lengths"] and not list(criterion.parameters())
