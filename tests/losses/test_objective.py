"""The objective: transforms in order, then cross-entropy, then the gate; one loss a sample."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from divfeat.errors import ConfigError
from divfeat.frames import simplex_etf
from divfeat.losses import ConeGate, CrossEntropy, Hinge, Objective, cross_entropy, hinge_logits, inside_cone
from divfeat.losses.functional import at_least_float32, reduce

PI = torch.tensor(math.pi, dtype=torch.float64)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(*lead: int, classes: int = 5, dim: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Features [*lead, dim] near their axes, labels [*lead], frame."""
    frame = simplex_etf(classes, dim)
    labels = torch.randint(classes, lead, generator=generator(1))
    noise = torch.randn(*lead, dim, generator=generator(2), dtype=torch.float64)
    return noise + 3 * frame.T[labels], labels, frame


def naive_cross_entropy(logits: Tensor, labels: Tensor, alpha: float) -> list[float]:
    """- sum_k t_k log softmax_k with t <- t (1 - alpha) + alpha / K, in Python floats."""
    losses = []
    for row, y in zip(logits.double().tolist(), labels.tolist(), strict=True):
        top = max(row)
        log_sum = top + math.log(math.fsum(math.exp(value - top) for value in row))
        target = [(1 - alpha) * (k == y) + alpha / len(row) for k in range(len(row))]
        losses.append(math.fsum(t * (log_sum - value) for t, value in zip(target, row, strict=True)))
    return losses


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 8), k=st.integers(2, 9), alpha=st.floats(0, 0.9), scale=st.floats(0.01, 300), seed=st.integers()
)
def test_cross_entropy_against_a_loop(n: int, k: int, alpha: float, scale: float, seed: int) -> None:
    source = generator(seed % 2**40)
    logits = scale * torch.randn(n, k, generator=source, dtype=torch.float64)
    labels = torch.randint(k, (n,), generator=source)
    found = cross_entropy(logits, labels, alpha)
    assert found.tolist() == pytest.approx(naive_cross_entropy(logits, labels, alpha), rel=1e-11, abs=1e-11)


def test_cross_entropy_over_leading_dimensions() -> None:
    logits = torch.randn(3, 2, 7, 4, generator=generator(0), dtype=torch.float64)
    own, shared = torch.randint(4, (3, 2, 7), generator=generator(1)), torch.randint(4, (7,), generator=generator(2))
    for labels in (own, shared):
        found = cross_entropy(logits, labels, 0.1)
        assert found.shape == (3, 2, 7)
        for i in range(3):
            for j in range(2):
                target = labels if labels is shared else own[i, j]
                torch.testing.assert_close(
                    found[i, j], F.cross_entropy(logits[i, j], target, reduction="none", label_smoothing=0.1)
                )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cross_entropy_of_half_precision_is_float32_even_under_autocast(dtype: torch.dtype) -> None:
    logits = (8 * torch.randn(20, 6, generator=generator(0))).to(dtype)
    labels = torch.arange(20) % 6
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = cross_entropy(logits, labels)
    assert found.dtype == torch.float32
    assert torch.equal(found, F.cross_entropy(logits.float(), labels, reduction="none"))


def test_at_least_float32_widens_only_halves() -> None:
    for dtype, expected in (
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        values = torch.ones(2, dtype=dtype)
        assert at_least_float32(values).dtype == expected
        assert (at_least_float32(values) is values) == (dtype == expected)


def test_reductions_run_over_the_samples_alone() -> None:
    losses = torch.arange(6.0).reshape(2, 3)
    assert reduce(losses, "mean").tolist() == [1.0, 4.0]
    assert reduce(losses, "sum").tolist() == [3.0, 12.0]
    assert reduce(losses, "none") is losses
    with pytest.raises(ConfigError, match="unknown reduction 'max'; known: mean, sum, none"):
        reduce(losses, "max")


def test_an_empty_objective_is_cross_entropy_of_the_logits_given() -> None:
    features, labels, frame = batch(20)
    logits = features @ frame + 1.5 * torch.arange(5)  # a head of its own, bias and all
    found = Objective()(features, logits, labels)
    assert torch.equal(found, F.cross_entropy(logits, labels, reduction="none"))
    smooth = Objective(criterion=CrossEntropy(0.2))(features, logits, labels)
    torch.testing.assert_close(smooth, F.cross_entropy(logits, labels, reduction="none", label_smoothing=0.2))


def test_the_hinge_clamps_the_logits_it_is_given() -> None:
    features, labels, frame = batch(20)
    hinge = Hinge(frame, 0.8)
    logits = features @ frame
    assert torch.equal(hinge(features, labels, logits), hinge_logits(features, labels, frame, 0.8))
    low = hinge(features, labels, logits - 100)
    assert torch.equal(low, logits - 100)  # far below every bound
    half = hinge(features.bfloat16(), labels, logits.bfloat16())
    assert half.dtype == torch.float32


class Add(nn.Module):
    """A transform of the logits it is given, such as a logit adjustment."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        return logits + self.value


class Times(nn.Module):
    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        return 2 * logits


def test_transforms_apply_in_order() -> None:
    features, labels, frame = batch(20)
    prior = torch.arange(5, dtype=torch.float64)
    hinge = Hinge(frame, torch.full((5,), 0.8, dtype=torch.float64), PI)
    hinged = hinge_logits(features, labels, frame, 0.8)
    own = F.one_hot(labels, 5).bool()
    bound = features.norm(dim=-1, keepdim=True) * math.cos(0.8)
    shifted = features @ frame + prior
    for transforms, logits in (
        ([Add(prior), hinge], torch.where(own, torch.minimum(shifted, bound), shifted)),
        ([hinge, Add(prior), Times()], 2 * (hinged + prior)),
        ([hinge, Times(), Add(prior)], 2 * hinged + prior),
    ):
        found = Objective(transforms)(features, features @ frame, labels)
        torch.testing.assert_close(found, F.cross_entropy(logits, labels, reduction="none"))


def test_class_weights_are_those_of_the_labels() -> None:
    weights = torch.tensor([0.5, 1.0, 2.0])
    assert Objective(class_weights=weights).weights(torch.tensor([2, 0, 0]), 0.0).tolist() == [2.0, 0.5, 0.5]
    assert Objective().weights(torch.tensor([0]), 0.9) is None
    with pytest.raises(ConfigError, match="must be positive"):
        Objective(class_weights=torch.tensor([1.0, 0.0]))


class Squares(nn.Module):
    """A criterion of features, labels and transformed logits."""

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        return features.square().sum(-1) + labels + logits.square().sum(-1)


def test_the_criterion_sees_what_the_transforms_made() -> None:
    features, labels, frame = batch(20)
    gate = ConeGate(frame, 0.6)
    found = Objective([Times()], gate, Squares())(features, features @ frame, labels)
    expected = features.square().sum(-1) + labels + (2 * features @ frame).square().sum(-1)
    assert torch.equal(found, torch.where(inside_cone(features, labels, frame, 0.6), 0.0, expected))


@pytest.mark.parametrize("lead", [(60,), (2, 60)])
def test_the_gate_drops_samples_after_every_transform(lead: tuple[int, ...]) -> None:
    features, labels, frame = batch(*lead)
    tau = torch.tensor([0.0, 0.3, 0.6, 0.9, 1.2], dtype=torch.float64)
    gate = ConeGate(frame, tau)
    inside = inside_cone(features, labels, frame, tau)
    assert torch.equal(gate(features, labels, features @ frame), inside)
    assert 0 < inside.sum() < inside.numel()
    found = Objective([Times()], gate, CrossEntropy(0.1))(features, features @ frame, labels)
    expected = cross_entropy(2 * features @ frame, labels, 0.1)
    assert found.shape == lead
    assert torch.equal(found, torch.where(inside, 0.0, expected))


def test_buffers_only_and_copies_of_the_callers_tensors() -> None:
    _, _, frame = batch(1)
    tau = torch.full((5,), 0.8, dtype=torch.float64)
    objective = Objective([Hinge(frame, tau, PI)], ConeGate(frame, tau))
    assert list(objective.parameters()) == []
    assert set(objective.state_dict()) == {
        *(f"transforms.0.{name}" for name in ("lengths", "tau_plus", "tau_minus")),
        *(f"gate.{name}" for name in ("lengths", "tau_plus")),
    }
    tau.zero_()
    frame.zero_()
    assert all(float(value.abs().sum()) > 0 for value in objective.state_dict().values())
