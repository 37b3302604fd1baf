"""Edges that mistakes cross, against a naive walk on any tree, and what must hold of them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divfeat.errors import DataError
from divfeat.hierarchy import Hierarchy, shipped
from divfeat.metrics import confusion, crossed_edges, mistake_severity
from tests.hierarchy.test_tree import trees


def answers(tree: Hierarchy, seed: int, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions, labels."""
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randint(0, tree.num_classes, (2, samples), generator=generator)
    return first, second


def shares(tree: Hierarchy, predictions: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return crossed_edges(confusion(predictions, labels, tree.num_classes), tree)


def walked(tree: Hierarchy, predictions: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """Up from both ends until they meet, one step at a time."""
    crossed, wrong = [0] * len(tree.names), 0
    for here, there in zip(labels.tolist(), predictions.tolist(), strict=True):
        wrong += here != there
        while here != there:
            # A parent comes after its children, so the smaller number is not above the other.
            crossed[min(here, there)] += 1
            here, there = (tree.parents[here], there) if here < there else (here, tree.parents[there])
    return [count / wrong if wrong else math.nan for count in crossed]


@settings(max_examples=80)
@given(tree=trees(), seed=st.integers(0, 999), samples=st.integers(1, 40))
def test_they_are_those_of_a_naive_walk(tree: Hierarchy, seed: int, samples: int) -> None:
    predictions, labels = answers(tree, seed, samples)
    assert shares(tree, predictions, labels).tolist() == pytest.approx(walked(tree, predictions, labels), nan_ok=True)


@settings(max_examples=80)
@given(tree=trees(), seed=st.integers(0, 999), samples=st.integers(1, 40))
def test_below_the_root_they_say_twice_which_mistakes_no_group_holds(tree: Hierarchy, seed: int, samples: int) -> None:
    predictions, labels = answers(tree, seed, samples)
    wrong = predictions != labels
    if not wrong.any():
        return
    found, coarsest = shares(tree, predictions, labels), tree.levels()[0]
    below_root = found[list(tree.children[-1])].sum()
    apart = coarsest[predictions] != coarsest[labels]
    assert float(below_root) == pytest.approx(2 * float(apart[wrong].double().mean()))
    assert float(found[-1]) == 0 and float(found.min()) >= 0 and float(found.max()) <= 1


@settings(max_examples=40)
@given(classes=st.integers(2, 9), seed=st.integers(0, 999), samples=st.integers(1, 40))
def test_on_a_flat_tree_they_are_false_negatives_and_false_positives(classes: int, seed: int, samples: int) -> None:
    tree = Hierarchy.flat([f"class {k}" for k in range(classes)])
    predictions, labels = answers(tree, seed, samples)
    wrong = predictions != labels
    if not wrong.any():
        return
    missed, called = (torch.bincount(ends[wrong], minlength=classes) for ends in (labels, predictions))
    expected = (missed + called).double() / wrong.sum()
    torch.testing.assert_close(shares(tree, predictions, labels)[:-1], expected)


def test_where_all_classes_lie_equally_deep_they_add_up_to_twice_the_severity() -> None:
    tree = shipped("cifar100")
    predictions, labels = answers(tree, 3, 500)
    found = shares(tree, predictions, labels)
    assert float(found.sum()) == pytest.approx(2 * float(mistake_severity(predictions, labels, tree)))


def test_without_mistakes_and_of_other_classes() -> None:
    tree = Hierarchy.flat(["a", "b", "c"])
    same = torch.tensor([0, 1, 2])
    assert shares(tree, same, same).isnan().all()
    with pytest.raises(DataError, match="a confusion of 2 classes for a hierarchy of 3"):
        crossed_edges(confusion(same[:2], same[:2], 2), tree)
