"""Logit adjustment against Menon et al.'s loss written out, and the losses it becomes or equals."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from divfeat.errors import ConfigError
from divfeat.frames import simplex_etf
from divfeat.losses import Hinge, LogitAdjustment, Objective, cross_entropy, hinge_logits

COUNTS = torch.tensor([5000, 600, 40, 3])


def draw(n: int, classes: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, classes, generator=source, dtype=torch.float64)
    return logits.to(dtype), torch.randint(classes, (n,), generator=source)


def naive(logits: Tensor, labels: Tensor, counts: list[int], tau: float) -> list[float]:
    """log(1 + sum over k != y of (pi_k / pi_y)^tau exp(v_k - v_y)), in Python floats."""
    losses = []
    for v, y in zip(logits.double().tolist(), labels.tolist(), strict=True):
        pi = [n / sum(counts) for n in counts]
        others = [(pi[k] / pi[y]) ** tau * math.exp(v[k] - v[y]) for k in range(len(v)) if k != y]
        losses.append(math.log1p(math.fsum(others)))
    return losses


def adjusted(logits: Tensor, labels: Tensor, counts: Tensor, tau: float = 1.0) -> Tensor:
    return Objective([LogitAdjustment(counts, tau)])(logits, logits, labels)


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(1, 10**6), min_size=2, max_size=7), tau=st.floats(0, 3), seed=st.integers(0, 2**31))
def test_the_loss_against_a_loop(counts: list[int], tau: float, seed: int) -> None:
    logits, labels = draw(6, len(counts), seed)
    found = adjusted(logits, labels, torch.tensor(counts), tau)
    assert found.tolist() == pytest.approx(naive(logits, labels, counts, tau), rel=1e-9, abs=1e-12)


def test_at_tau_1_it_is_balanced_softmax() -> None:
    """Ren et al.: n_y exp(v_y) / sum_k n_k exp(v_k)."""
    logits, labels = draw(20, 4)
    weighted = COUNTS * logits.exp()
    share = weighted.gather(1, labels[:, None]).squeeze(1) / weighted.sum(1)
    torch.testing.assert_close(adjusted(logits, labels, COUNTS), -share.log(), rtol=1e-12, atol=1e-12)


def test_without_tau_or_without_imbalance_it_is_cross_entropy() -> None:
    logits, labels = draw(20, 4)
    assert torch.equal(adjusted(logits, labels, COUNTS, 0.0), cross_entropy(logits, labels))
    balanced = adjusted(logits, labels, torch.full((4,), 70), 1.7)
    torch.testing.assert_close(balanced, cross_entropy(logits, labels), rtol=1e-12, atol=1e-13)


@given(st.integers(1, 1000))
def test_only_shares_count(times: int) -> None:
    logits, labels = draw(5, 4)
    assert torch.allclose(adjusted(logits, labels, COUNTS * times), adjusted(logits, labels, COUNTS), rtol=1e-12)


def test_gradcheck() -> None:
    logits, labels = draw(6, 4)
    assert torch.autograd.gradcheck(lambda v: adjusted(v, labels, COUNTS, 1.3), logits.requires_grad_())


def test_it_comes_after_the_hinge() -> None:
    """Sample by sample: clamp <w_k, u>, then add the prior; the clamp's bound knows nothing of the prior."""
    frame = simplex_etf(4, 6)
    features, labels = draw(60, 6)[0], torch.arange(60) % 4
    features = features + 4 * frame.T[labels]
    prior = torch.log(COUNTS.double() / COUNTS.sum())
    rows = []
    for u, y in zip(features, labels.tolist(), strict=True):
        row = u @ frame
        row[y] = min(float(row[y]), float(u.norm()) * math.cos(0.7))
        rows.append(row + prior)
    objective = Objective([Hinge(frame, 0.7), LogitAdjustment(COUNTS)])
    found = objective(features, features @ frame, labels)
    torch.testing.assert_close(found, cross_entropy(torch.stack(rows), labels), rtol=1e-12, atol=1e-12)
    swapped = Objective([LogitAdjustment(COUNTS), Hinge(frame, 0.7)])(features, features @ frame, labels)
    assert not torch.allclose(found, swapped)
    assert (hinge_logits(features, labels, frame, 0.7) != features @ frame).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_and_autocast(dtype: torch.dtype) -> None:
    logits, labels = draw(30, 4, dtype=dtype)
    part = LogitAdjustment(COUNTS)
    found = part(logits, labels, logits)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(found.double(), logits.double() + part.offset, rtol=2e-6, atol=2e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(part(logits, labels, logits), found)


def test_leading_dimensions_and_a_buffer() -> None:
    logits, labels = torch.randn(3, 5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    part = LogitAdjustment(COUNTS)
    stacked = part(logits, labels, logits)
    for s in range(3):
        assert torch.equal(stacked[s], part(logits[s], labels, logits[s]))
    assert list(part.state_dict()) == ["offset"] and not list(part.parameters())


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([5, 0, 3], r"logit adjustment needs training images of every class, but 1 of 3 have none \(class 1\)"),
        ([5, float("nan")], "1 of 2 have none"),
        ([], "one count a class"),
        ([[1, 2]], "one count a class"),
    ],
)
def test_counts_that_do_not_do(counts: list[float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LogitAdjustment(torch.tensor(counts))
