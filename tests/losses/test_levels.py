"""Losses over the scores of all levels against plain loops, and what they let through to the features."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from torch import Tensor, nn

from divfeat.errors import ConfigError
from divfeat.hierarchy import Hierarchy
from divfeat.losses import HierarchyAwareFeatures, LevelCrossEntropy, Objective
from divfeat.losses.objective import Step
from divfeat.models import FlamingoHead, HierarchyAwareHead, Taps
from tests.hierarchy.test_tree import trees

TREE = Hierarchy.from_nested({"a": {"b": ["x", "y"], "c": ["z"]}, "d": ["u", "v"]})


def draw(tree: Hierarchy, dim: int, seed: int, n: int = 7) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    features = 2 * torch.randn(n, dim, generator=source, dtype=torch.float64)
    return features, torch.randint(tree.num_classes, (n,), generator=source)


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    total = math.fsum(math.exp(value - top) for value in row)
    return [math.exp(value - top) / total for value in row]


def ancestor(tree: Hierarchy, label: int, level: int) -> int:
    """The node that stands for a class on a level: walked, not looked up in a table."""
    way = list(tree.ancestors(label))[::-1]
    return way[min(level, len(way) - 1)]


def groups(tree: Hierarchy, level: int) -> list[int]:
    """Nodes of a level in the order of their first class."""
    return list(dict.fromkeys(ancestor(tree, label, level) for label in range(tree.num_classes)))


def depth(tree: Hierarchy) -> int:
    return max(tree.depths[: tree.num_classes])


@settings(max_examples=40, deadline=None)
@given(tree=trees(), seed=st.integers(0, 9999))
def test_flamingo_adds_up_the_levels(tree: Hierarchy, seed: int) -> None:
    """Published order and chunks: coarse first, what is left over on the last ones, finer chunks seen by coarser classifiers."""
    levels = depth(tree)
    dim = 3 * levels + seed % levels
    head = FlamingoHead(dim, tree, seed=seed).double()
    features, labels = draw(tree, dim, seed)
    outputs = head(Taps(features, features))
    found = LevelCrossEntropy(tree)(features, labels, outputs.logits, Step(coarse=outputs.coarse))
    widths = [dim // levels + (level >= levels - dim % levels) for level in range(levels)]
    for i, label in enumerate(labels.tolist()):
        expected = 0.0
        for level in range(1, levels + 1):
            linear = head.levels[level - 1]
            seen = features[i, sum(widths[: level - 1]) :]
            scores = [float((w @ seen + b).detach()) for w, b in zip(linear.weight, linear.bias, strict=True)]
            nodes = groups(tree, level)
            expected -= math.log(softmax(scores)[nodes.index(ancestor(tree, label, level))])
        assert float(found[i]) == pytest.approx(expected, rel=1e-9)


def test_chunks_are_those_of_the_published_port() -> None:
    """512 features and five levels: 102, 102, 102, 103 and 103, classifiers of 512, 410, 308, 206 and 103 (methods.md 3.6)."""
    rows = [tuple(f"{level}.{k // 2 ** (4 - level)}" for level in range(5)) for k in range(16)]
    head = FlamingoHead(512, Hierarchy.from_table([("top", *row) for row in rows]))
    assert [linear.in_features for linear in head.levels][1:] == [
        427,
        342,
        257,
        172,
        86,
    ]  # six levels: 85, 85, 85, 85, 86, 86
    five = FlamingoHead(512, Hierarchy.from_table(rows))
    assert [linear.in_features for linear in five.levels] == [512, 410, 308, 206, 103]


def test_flamingo_pulls_a_chunk_by_its_own_level_alone() -> None:
    head = FlamingoHead(9, TREE, seed=3).double()
    features, _ = draw(TREE, 9, 0)
    features.requires_grad_()
    outputs = head(Taps(features, features))
    for level, scores in enumerate([*outputs.coarse, outputs.logits]):
        (gradient,) = torch.autograd.grad(scores.square().sum(), features, retain_graph=True)
        moved = gradient.abs().sum(0) > 0
        assert moved.tolist() == [3 * level <= place < 3 * level + 3 for place in range(9)]
    assert torch.allclose(outputs.logits, features @ head.axes + head.bias)


@settings(max_examples=40, deadline=None)
@given(tree=trees(), margin=st.sampled_from([0.0, 0.1, 0.4, 3.0]), seed=st.integers(0, 9999))
def test_hierarchy_aware_features_against_loops(tree: Hierarchy, margin: float, seed: int) -> None:
    """CE + JSD of each level with the one below + pairs - cosines of axes, sums and means as in Garg et al.; JSD by SciPy."""
    head = HierarchyAwareHead(4, tree, seed=seed).double()
    features, labels = draw(tree, 4, seed)
    outputs = head(Taps(features, features))
    step = Step(coarse=outputs.coarse, penalty=outputs.penalty)
    found = HierarchyAwareFeatures(tree, margin)(features, labels, outputs.logits, step)
    levels = depth(tree)
    units = [nn.functional.normalize(linear.weight.detach(), dim=1) for linear in head.levels]
    p = [
        [softmax([float(w @ row + b) for w, b in zip(unit, linear.bias, strict=True)]) for row in features]
        for unit, linear in zip(units, head.levels, strict=True)
    ]
    nodes = [groups(tree, level) for level in range(1, levels + 1)]
    below = [
        {
            node: [g for g, child in enumerate(nodes[at + 1]) if node in tree.ancestors(child)]
            for node in nodes[at]
        }
        for at in range(levels - 1)
    ]  # fmt: skip
    n = len(labels)
    total = -math.fsum(math.log(p[-1][i][y]) for i, y in enumerate(labels.tolist())) / n
    for at in range(levels - 1):
        for i in range(n):
            summed = [math.fsum(p[at + 1][i][child] for child in below[at][node]) for node in nodes[at]]
            total += float(jensenshannon(summed, p[at][i])) ** 2 / n
        axes = [
            float(nn.functional.cosine_similarity(units[at][g], units[at + 1][below[at][node]].sum(0), dim=0))
            for g, node in enumerate(nodes[at])
        ]
        total -= math.fsum(axes) / len(axes)
        pairs = []
        for i in range(n - 1):
            if ancestor(tree, int(labels[i]), at + 1) != ancestor(tree, int(labels[i + 1]), at + 1):
                a, b = p[at][i], p[at][i + 1]
                halves = [
                    math.fsum(u * math.log(2 * u / (u + v)) for u, v in zip(one, other, strict=True) if u > 0)
                    for one, other in ((a, b), (b, a))
                ]
                pairs.append(math.fsum(max(0.0, margin - half) for half in halves) / 2)
        total += math.fsum(pairs) / max(len(pairs), 1)
    assert float(found.mean()) == pytest.approx(total, rel=1e-6, abs=1e-9)


def test_on_a_flat_tree_both_are_cross_entropy() -> None:
    flat = Hierarchy.flat(["x", "y", "z"])
    features, labels = draw(flat, 5, 1)
    for head, criterion in (
        (FlamingoHead(5, flat, seed=2), LevelCrossEntropy(flat)),
        (HierarchyAwareHead(5, flat, seed=2), HierarchyAwareFeatures(flat)),
    ):
        outputs = head.double()(Taps(features, features))
        objective = Objective(criterion=criterion)
        found = objective(features, outputs.logits, labels, None, outputs.coarse, outputs.penalty)
        assert torch.allclose(found, nn.functional.cross_entropy(outputs.logits, labels, reduction="none"))


def test_gradients_are_finite_where_a_level_is_certain() -> None:
    """A probability of 0 has no logarithm, and its share of a divergence is 0."""
    head = HierarchyAwareHead(4, TREE, seed=0)
    features, labels = draw(TREE, 4, 0)
    features = (1e3 * features).float().requires_grad_()
    outputs = head(Taps(features, features))
    loss = HierarchyAwareFeatures(TREE)(
        features, labels, outputs.logits, Step(coarse=outputs.coarse, penalty=outputs.penalty)
    )
    loss.mean().backward()
    assert loss.isfinite().all() and features.grad.isfinite().all()


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"3 levels of the tree do not fit into 2 features.*wider backbone"):
        FlamingoHead(2, TREE)
    with pytest.raises(ConfigError, match=r"pair_margin=-1.0 of hafeature must be at least 0"):
        HierarchyAwareFeatures(TREE, -1.0)
