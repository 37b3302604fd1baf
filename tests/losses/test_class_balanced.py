"""Class-balanced weights against the effective number of images, counted; and their deferred start."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from divfeat.errors import ConfigError
from divfeat.losses import Objective, class_balanced_weights

COUNTS = torch.tensor([5000, 600, 40, 3])
counts_lists = st.lists(st.integers(1, 10**6), min_size=1, max_size=8)


def naive(counts: list[int], beta: float) -> list[float]:
    """One over 1 + beta + ... + beta^(n-1), the effective number, to the sum K."""
    inverse = [1 / sum(beta**i for i in range(n)) for n in counts]
    return [value * len(counts) / sum(inverse) for value in inverse]


@given(st.lists(st.integers(1, 300), min_size=1, max_size=6), st.sampled_from([0.0, 0.5, 0.9, 0.999, 0.9999]))
def test_against_the_effective_number_summed_up(counts: list[int], beta: float) -> None:
    assert class_balanced_weights(torch.tensor(counts), beta).tolist() == pytest.approx(naive(counts, beta), rel=1e-9)


@given(counts_lists, st.floats(0, 1, exclude_max=True))
def test_they_sum_to_the_number_of_classes_and_a_rarer_class_weighs_no_less(counts: list[int], beta: float) -> None:
    weights = class_balanced_weights(torch.tensor(counts), beta)
    assert weights.dtype == torch.float64 and (weights > 0).all()
    assert float(weights.sum()) == pytest.approx(len(counts))
    order = torch.tensor(counts).argsort(descending=True)
    assert (weights[order].diff() >= -1e-9).all()


def test_the_two_ends() -> None:
    assert class_balanced_weights(COUNTS, 0.0).tolist() == [1.0] * 4
    assert class_balanced_weights(torch.full((3,), 70), 0.99).tolist() == pytest.approx([1.0] * 3)
    inverse = 1 / COUNTS.double()
    towards_1 = class_balanced_weights(COUNTS, 1 - 1e-12)
    torch.testing.assert_close(towards_1, 4 * inverse / inverse.sum(), rtol=1e-4, atol=0)


def test_the_published_weights_of_cifar10_at_imbalance_100() -> None:
    """LDAM-DRW's expression in float64, for the counts of methods.md 1.6."""
    counts = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    raw = [(1 - 0.9999) / (1 - 0.9999**n) for n in counts]
    expected = [value / sum(raw) * 10 for value in raw]
    assert class_balanced_weights(torch.tensor(counts), 0.9999).tolist() == pytest.approx(expected, rel=1e-9)


def test_deferred_weights_start_at_their_epoch() -> None:
    """LDAM-DRW: 160 of 200 epochs without, the rest with."""
    labels = torch.tensor([3, 0])
    weights = class_balanced_weights(COUNTS, 0.9999)
    objective = Objective(class_weights=weights, deferred=0.8)
    for epoch in range(200):
        found = objective.weights(labels, epoch / 200)
        assert found is None if epoch < 160 else torch.equal(found, weights[labels])


@given(epochs=st.integers(1, 400), data=st.data())
def test_a_share_that_names_an_epoch_starts_with_it(epochs: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, epochs - 1))
    objective = Objective(class_weights=torch.ones(2), deferred=first / epochs)
    with_weights = [
        epoch for epoch in range(epochs) if objective.weights(torch.tensor([0]), epoch / epochs) is not None
    ]
    assert with_weights == list(range(first, epochs))


@pytest.mark.parametrize("beta", [-0.1, 1.0, float("nan")])
def test_beta_out_of_range(beta: float) -> None:
    with pytest.raises(ConfigError, match=r"of the class-balanced weights must lie in \[0, 1\)"):
        class_balanced_weights(COUNTS, beta)


def test_a_class_without_images_is_refused() -> None:
    with pytest.raises(ConfigError, match="class-balanced weights needs training images of every class"):
        class_balanced_weights(torch.tensor([0, 3]), 0.9)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_start_outside_the_training(share: float) -> None:
    with pytest.raises(ConfigError, match="is a share of the epochs"):
        Objective(class_weights=torch.ones(2), deferred=share)
