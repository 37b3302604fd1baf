"""Focal loss against its formula, at its limits, and where p has been rounded to 1."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from divfeat.losses import Focal, Objective, cross_entropy


def draw(n: int, classes: int = 5, scale: float = 2.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, classes, generator=source, dtype=torch.float64)
    return logits, torch.randint(classes, (n,), generator=source)


def naive(logits: Tensor, labels: Tensor, gamma: float, alpha: float) -> list[float]:
    """(1 - p_y)^gamma * - sum_k t_k log p_k, t smoothed by alpha, in Python floats; 1 - p_y as the sum of the others."""
    losses = []
    for row, y in zip(logits.tolist(), labels.tolist(), strict=True):
        top = max(row)
        total = math.fsum(math.exp(v - top) for v in row)
        log_p = [v - top - math.log(total) for v in row]
        target = [(1 - alpha) * (k == y) + alpha / len(row) for k in range(len(row))]
        wrong = math.fsum(math.exp(value) for k, value in enumerate(log_p) if k != y)
        losses.append(wrong**gamma * -math.fsum(t * value for t, value in zip(target, log_p, strict=True)))
    return losses


@settings(max_examples=40, deadline=None)
@given(
    gamma=st.floats(0, 5),
    alpha=st.sampled_from([0.0, 0.1, 0.5]),
    k=st.integers(2, 7),
    scale=st.floats(0.1, 10),
    seed=st.integers(0, 2**31),
)
@example(gamma=0.5, alpha=0.1, k=2, scale=8.0, seed=0)  # p = 1 - 2e-9: a difference from 1 keeps seven digits
def test_the_loss_against_a_loop(gamma: float, alpha: float, k: int, scale: float, seed: int) -> None:
    logits, labels = draw(6, k, scale, seed)
    found = Focal(gamma, alpha)(logits, labels, logits)
    assert found.tolist() == pytest.approx(naive(logits, labels, gamma, alpha), rel=1e-7, abs=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_at_gamma_0_it_is_cross_entropy(alpha: float) -> None:
    logits, labels = draw(40)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    found, expected = Focal(0.0, alpha)(ours, labels, ours), cross_entropy(theirs, labels, alpha)
    assert torch.equal(found, expected)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-15)


@settings(max_examples=30, deadline=None)
@given(gamma=st.floats(0.05, 5), seed=st.integers(0, 2**31))
def test_it_never_exceeds_cross_entropy_and_shrinks_what_is_right_the_most(gamma: float, seed: int) -> None:
    logits, labels = draw(30, seed=seed)
    plain = cross_entropy(logits, labels)
    share = Focal(gamma)(logits, labels, logits) / plain
    assert (share <= 1).all()
    order = plain.argsort()
    assert (share[order].diff() >= -1e-12).all()


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_gradcheck_with_the_gradient_through_p(gamma: float) -> None:
    logits, labels = draw(6)
    assert torch.autograd.gradcheck(lambda v: Focal(gamma, 0.1)(v, labels, v), logits.requires_grad_())


@pytest.mark.parametrize("alpha", [0.0, 0.1])
@pytest.mark.parametrize("gamma", [0.01, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sample_that_is_surely_right_or_wrong_has_a_finite_gradient(
    gamma: float, alpha: float, dtype: torch.dtype
) -> None:
    logits = torch.tensor([[0.0, 4000.0], [4000.0, 0.0]], dtype=dtype, requires_grad=True)
    loss = Focal(gamma, alpha)(logits, torch.tensor([1, 1]), logits)
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(logits.grad).all()
    assert loss[1] > 1000


def test_right_samples_keep_their_digits_in_float32() -> None:
    """1 - p as a difference would be 0 or one part in 2^24."""
    logits = torch.tensor([[20.0, 0.0]])
    found = float(Focal(1.0)(logits, torch.tensor([0]), logits))
    assert found == pytest.approx(math.exp(-20) * math.log1p(math.exp(-20)), rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_float32_even_under_autocast(dtype: torch.dtype) -> None:
    logits, labels = draw(30)
    logits = logits.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = Focal(1.5)(logits, labels, logits)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.double(), torch.tensor(naive(logits, labels, 1.5, 0.0)).double(), rtol=1e-5, atol=1e-6
    )


def test_class_weights_are_no_part_of_p() -> None:
    logits, labels = draw(30)
    weights = torch.tensor([0.1, 0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    plain, weighted = Objective(criterion=Focal(2.0)), Objective(criterion=Focal(2.0), class_weights=weights)
    assert torch.equal(weighted(logits, logits, labels), plain(logits, logits, labels))
    assert torch.equal(weighted.weights(labels, 0.0), weights[labels])


def test_leading_dimensions() -> None:
    logits, labels = torch.randn(3, 7, 4, dtype=torch.float64), torch.randint(4, (3, 7))
    stacked = Focal(1.0)(logits, labels, logits)
    for s in range(3):
        torch.testing.assert_close(stacked[s], Focal(1.0)(logits[s], labels[s], logits[s]))
