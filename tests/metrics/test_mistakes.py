"""Mistakes in a tree against plain loops, on any tree; batches, merges and ties change nothing."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from divfeat.errors import DataError
from divfeat.hierarchy import Hierarchy, shipped
from divfeat.metrics import MistakesAccumulator, hierarchical_distance_at_k, lowest_risk, mistake_severity
from tests.hierarchy.test_tree import trees


def scores_of(tree: Hierarchy, seed: int, samples: int) -> tuple[Tensor, Tensor]:
    """Few different values, so that there are ties."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 6, (samples, tree.num_classes), generator=generator).float()
    return scores, torch.randint(0, tree.num_classes, (samples,), generator=generator)


def naive(scores: Tensor, labels: Tensor, tree: Hierarchy, k: int) -> tuple[float, float, list[float]]:
    """Severity, distance at k, accuracy by level."""
    distances = tree.distances().tolist()
    wrong, at_k, hits = [], [], [0] * len(tree.levels())
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        ranked = sorted(range(len(row)), key=lambda one: (-row[one], one))
        if ranked[0] != label:
            wrong.append(distances[label][ranked[0]])
        at_k.append(sum(distances[label][one] for one in ranked[:k]) / k)
        for level, groups in enumerate(tree.levels().tolist()):
            hits[level] += groups[ranked[0]] == groups[label]
    severity = sum(wrong) / len(wrong) if wrong else math.nan
    return severity, sum(at_k) / len(at_k), [one / len(labels) for one in hits]


@settings(max_examples=60)
@given(tree=trees(), seed=st.integers(0, 999), samples=st.integers(1, 30), data=st.data())
def test_they_are_those_of_a_plain_loop(tree: Hierarchy, seed: int, samples: int, data) -> None:
    scores, labels = scores_of(tree, seed, samples)
    k = data.draw(st.integers(1, tree.num_classes))
    severity, at_k, by_level = naive(scores, labels, tree, k)
    predictions = scores.argmax(1)  # the first of equal ones
    assert float(mistake_severity(predictions, labels, tree)) == pytest.approx(severity, nan_ok=True)
    assert float(hierarchical_distance_at_k(scores, labels, tree, k)) == pytest.approx(at_k)
    cut = data.draw(st.integers(0, samples))
    one, two = MistakesAccumulator(tree, [1, k]), MistakesAccumulator(tree, [1, k])
    one.update(scores[:cut], labels[:cut])
    two.update(scores[cut:], labels[cut:])
    found = one.merge(two).compute()
    assert found.distance_at[k] == pytest.approx(at_k)
    assert found.by_level == pytest.approx(by_level)
    assert found.top1 == pytest.approx(by_level[-1])
    assert found.severity == pytest.approx(severity, nan_ok=True)
    # At 1 it is the error times the severity.
    expected = 0.0 if found.top1 == 1 else (1 - found.top1) * severity
    assert found.distance_at[1] == pytest.approx(expected)


def test_the_best_ranking_goes_by_distance() -> None:
    """No ranking has a smaller distance at k than the classes by their distance to the label."""
    tree = shipped("cifar100")
    labels = torch.arange(100)
    ideal = -tree.distances()[labels].double()
    random = torch.rand(100, 100, generator=torch.Generator().manual_seed(0))
    for k in (1, 5, 20):
        best = hierarchical_distance_at_k(ideal, labels, tree, k)
        assert best == tree.distances().sort(1).values[:, :k].double().mean()
        assert best < hierarchical_distance_at_k(random, labels, tree, k)


def test_without_mistakes_severity_is_not_defined() -> None:
    tree = Hierarchy.flat(["a", "b", "c"])
    labels = torch.tensor([0, 1, 2])
    assert mistake_severity(labels, labels, tree).isnan()
    found = MistakesAccumulator(tree).compute()
    assert math.isnan(found.top1) and math.isnan(found.severity) and math.isnan(found.distance_at[1])
    assert list(found.distance_at) == [1]  # three classes have no fifth rank
    assert mistake_severity(torch.tensor([1, 1, 2]), labels, tree) == 1.0


@settings(max_examples=40)
@given(tree=trees(), seed=st.integers(0, 999))
def test_the_lowest_risk_is_an_expected_distance(tree: Hierarchy, seed: int) -> None:
    logits = 3 * torch.randn(5, tree.num_classes, generator=torch.Generator().manual_seed(seed))
    distances, found = tree.distances().tolist(), lowest_risk(logits, tree)
    for row, scores in zip(logits.tolist(), found.tolist(), strict=True):
        total = math.fsum(math.exp(value) for value in row)
        risks = [
            math.fsum(d * math.exp(value) / total for d, value in zip(distances[k], row, strict=True))
            for k in range(len(row))
        ]
        assert scores == pytest.approx([-risk for risk in risks], rel=1e-5)
    # Of all rankings it has the least distance at any k, as the model expects it.
    p = torch.softmax(logits.double(), 1)
    for k in range(1, tree.num_classes + 1):
        expected = (p @ tree.distances().double()).sort(1).values[:, :k].mean(1)
        ranked = found.sort(1, descending=True).indices[:, :k]
        torch.testing.assert_close((p @ tree.distances().double()).gather(1, ranked).mean(1), expected)


def test_on_a_flat_tree_the_lowest_risk_ranks_as_the_logits_do() -> None:
    tree = Hierarchy.flat(["a", "b", "c", "d"])
    logits = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(lowest_risk(logits, tree).argsort(1), logits.argsort(1))
    # A class in doubt between two that are near each other loses to their group.
    tree = Hierarchy.from_nested({"x": ["a", "b"], "y": ["c"]})
    doubt = torch.log(torch.tensor([[0.33, 0.31, 0.36]]))
    assert doubt.argmax() == 2 and lowest_risk(doubt, tree).argmax() == 0
    with pytest.raises(DataError, match="logits of 4 classes for a hierarchy of 3"):
        lowest_risk(logits, tree)


def at(scores: Tensor, labels: list[int], tree: Hierarchy, k: int) -> Tensor:
    return hierarchical_distance_at_k(scores, torch.tensor(labels, dtype=torch.int64), tree, k)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda tree: at(torch.zeros(2, 3), [0, 1], tree, 4), r"k=4: k must lie in \[1, 3\]"),
        (lambda tree: at(torch.zeros(2, 4), [0, 1], tree, 1), "hierarchy of 3 classes"),
        (lambda tree: at(torch.zeros(2, 3), [0, 3], tree, 1), "3"),
        (lambda tree: at(torch.zeros(0, 3), [], tree, 1), "at least one sample"),
        (lambda tree: mistake_severity(torch.tensor([0, 5]), torch.tensor([0, 1]), tree), "5"),
        (lambda tree: MistakesAccumulator(tree).merge(MistakesAccumulator(Hierarchy.flat(["x", "y"]))), "another hierarchy"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told(call, words: str) -> None:
    with pytest.raises(DataError, match=words):
        call(Hierarchy.flat(["a", "b", "c"]))
