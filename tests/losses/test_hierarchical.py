"""Losses that know a tree, against plain loops on any tree, at their limits, in half precision and stacked."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from divfeat.errors import ConfigError
from divfeat.frames import hierarchy_aware_frame, simplex_etf
from divfeat.hierarchy import Hierarchy, shipped
from divfeat.losses import CosineToFrame, HierarchicalCrossEntropy, Objective, SoftLabels, cross_entropy
from tests.hierarchy.test_tree import trees


def draw(classes: int, dim: int, seed: int, n: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Features, labels, logits."""
    source = torch.Generator().manual_seed(seed)
    features = torch.randn(n, dim, generator=source, dtype=torch.float64)
    logits = 3 * torch.randn(n, classes, generator=source, dtype=torch.float64)
    return features, torch.randint(classes, (n,), generator=source), logits


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    total = math.fsum(math.exp(value - top) for value in row)
    return [math.exp(value - top) / total for value in row]


@settings(max_examples=50)
@given(tree=trees(), alpha=st.floats(0, 2), seed=st.integers(0, 9999))
def test_hierarchical_cross_entropy_is_a_walk_to_the_root(tree: Hierarchy, alpha: float, seed: int) -> None:
    features, labels, logits = draw(tree.num_classes, 3, seed)
    below = tree.subtrees()
    expected = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        p, loss = softmax(row), 0.0
        *way, _ = tree.ancestors(label)
        for node in way:
            mine, above = (
                math.fsum(p[k] for k in below[one].nonzero().flatten().tolist()) for one in (node, tree.parents[node])
            )
            loss -= math.exp(-alpha * (tree.depths[node] - 1)) * math.log(mine / above)
        expected.append(loss)
    found = HierarchicalCrossEntropy(tree, alpha)(features, labels, logits)
    assert found.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@settings(max_examples=50)
@given(tree=trees(), beta=st.floats(0.1, 30), seed=st.integers(0, 9999))
def test_soft_labels_fall_with_the_distance(tree: Hierarchy, beta: float, seed: int) -> None:
    features, labels, logits = draw(tree.num_classes, 3, seed)
    distances = tree.distances().tolist()
    largest = max(map(max, distances))
    expected = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        target, p = softmax([-beta * d / largest for d in distances[label]]), softmax(row)
        expected.append(-math.fsum(t * math.log(one) for t, one in zip(target, p, strict=True)))
    found = SoftLabels(tree, beta)(features, labels, logits)
    assert found.tolist() == pytest.approx(expected, rel=1e-9)


@settings(max_examples=50)
@given(size=st.integers(2, 7), extra=st.integers(0, 3), alpha=st.floats(0, 1), seed=st.integers(0, 9999))
def test_the_cosine_loss_is_a_sum_over_classes(size: int, extra: int, alpha: float, seed: int) -> None:
    dim = size + extra
    features, labels, logits = draw(size, dim, seed)
    frame = torch.randn(dim, size, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)

    def cosine(one: Tensor, other: Tensor) -> float:
        return float(one @ other / one.norm() / other.norm())

    expected = []
    for h, label, row in zip(features, labels.tolist(), logits.tolist(), strict=True):
        gaps = [(cosine(frame[:, i], h) - cosine(frame[:, i], frame[:, label])) ** 2 for i in range(size)]
        expected.append((1 - alpha) * -math.log(softmax(row)[label]) + alpha * math.fsum(gaps))
    found = CosineToFrame(frame, alpha)(features, labels, logits)
    assert found.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_limits() -> None:
    tree = shipped("cifar10")
    features, labels, logits = draw(10, 12, 0, n=40)
    plain = cross_entropy(logits, labels)
    frame = hierarchy_aware_frame(tree, 12, gamma=2.0)
    for loss in (HierarchicalCrossEntropy(tree, 0.0), SoftLabels(tree, 500.0), CosineToFrame(frame, 0.0)):
        torch.testing.assert_close(loss(features, labels, logits), plain, rtol=0, atol=1e-12)
    collapsed = 4.0 * frame.T[labels]
    assert CosineToFrame(frame, 1.0)(collapsed, labels, logits).max() < 1e-12
    assert CosineToFrame(simplex_etf(10, 12), 1.0)(collapsed, labels, logits).min() > 1e-3
    # A mistake within a group costs less than one between groups, which cross-entropy does not know.
    near, far = (10.0 * torch.eye(10, dtype=torch.float64)[[other]] for other in (1, 2))
    right = torch.tensor([0])
    for loss in (HierarchicalCrossEntropy(tree, 0.1), SoftLabels(tree, 4.0)):
        assert loss(features[:1], right, near) < loss(features[:1], right, far)


@pytest.mark.parametrize("make", [
    lambda tree: HierarchicalCrossEntropy(tree, 0.4),
    lambda tree: SoftLabels(tree, 10.0),
    lambda tree: CosineToFrame(hierarchy_aware_frame(tree, 12, gamma=2.0), 0.4),
])  # fmt: skip
def test_in_half_precision_stacked_and_as_an_objective(make) -> None:
    loss: nn.Module = make(shipped("cifar10"))
    features, labels, logits = draw(10, 12, 1, n=8)
    whole = loss(features, labels, logits)
    stacked = loss(torch.stack([features] * 2), labels.expand(2, -1), torch.stack([logits] * 2))
    torch.testing.assert_close(stacked, torch.stack([whole] * 2))
    half = loss(features.bfloat16(), labels, logits.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), whole, rtol=0.05, atol=0.05)
    extreme = (1e4 * logits).float().requires_grad_()
    value = loss(features.float(), labels, extreme)
    value.sum().backward()
    assert value.isfinite().all() and extreme.grad.isfinite().all()
    objective = Objective(criterion=loss)
    torch.testing.assert_close(objective(features, logits, labels), whole)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: loss(features, labels, v), (logits,))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda tree: HierarchicalCrossEntropy(tree, -0.1), "alpha=-0.1 of hierarchical cross-entropy"),
        (lambda tree: SoftLabels(tree, 0.0), "beta=0.0 of soft labels"),
        (lambda tree: CosineToFrame(simplex_etf(10, 12), 1.5), "alpha=1.5 of the cosine loss"),
    ],
)
def test_what_is_out_of_range_is_told(make, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make(shipped("cifar10"))
