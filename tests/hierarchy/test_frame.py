"""Hierarchy-aware frames: the Gram matrix asked for, the published values, and the simplex ETF at both ends."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from divfeat.errors import ConfigError
from divfeat.frames import hierarchy_aware_frame, hierarchy_similarity, simplex_etf
from divfeat.hierarchy import Hierarchy, shipped
from tests.hierarchy.published import AIRCRAFT, INATURALIST, tree_of_sizes
from tests.hierarchy.test_tree import trees

EXACT = {"rtol": 0, "atol": 1e-9}


def naive(tree: Hierarchy, gamma: float, s_min: float) -> Tensor:
    distances, size = tree.distances().tolist(), tree.num_classes
    largest = max(map(max, distances))
    found = torch.zeros(size, size, dtype=torch.float64)
    for i in range(size):
        for j in range(size):
            found[i, j] = 1.0 if i == j else (1 - s_min) * math.exp(-gamma * distances[i][j] / largest) + s_min
    return found


def gram(frame: Tensor) -> Tensor:
    return frame.T @ frame


@settings(max_examples=60)
@given(
    tree=trees(), gamma=st.floats(0.05, 20), share=st.floats(0, 0.99), spare=st.integers(0, 3), seed=st.integers(0, 99)
)
def test_the_gram_matrix_is_the_similarity(tree: Hierarchy, gamma: float, share: float, spare: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    exact = hierarchy_aware_frame(tree, tree.num_classes - 1 + spare, gamma=gamma, generator=generator)
    similarity = hierarchy_similarity(tree, gamma)
    torch.testing.assert_close(gram(exact), similarity, **EXACT)
    # The closed form is the bound: the similarity is singular there, and a little below it no Gram matrix.
    bound = bound_of(tree, gamma)
    torch.testing.assert_close(similarity, naive(tree, gamma, bound), **EXACT)
    assert abs(torch.linalg.eigvalsh(similarity)[0]) < 1e-9
    assert torch.linalg.eigvalsh(naive(tree, gamma, bound * (1 + 1e-3)))[0] < 0
    s_min = bound + share * (1 - bound)
    frame = hierarchy_aware_frame(tree, tree.num_classes, gamma=gamma, s_min=s_min, generator=generator)
    torch.testing.assert_close(gram(frame), naive(tree, gamma, s_min), **EXACT)


def bound_of(tree: Hierarchy, gamma: float) -> float:
    """From any entry off the diagonal."""
    distances = tree.distances()
    i, j = (distances == distances.max()).nonzero()[0].tolist()
    decay, similarity = math.exp(-gamma), float(hierarchy_similarity(tree, gamma)[i, j])
    return (similarity - decay) / (1 - decay)


@pytest.mark.parametrize(
    ("tree", "sizes", "gamma", "s_min", "exact", "cosines"),
    [
        (shipped("cifar100"), [2, 4, 8, 20, 100], 2.0, -0.30007, -0.30574, (0.571, 0.284, 0.0915, -0.0376, -0.1241)),
        (tree_of_sizes(AIRCRAFT), [30, 70, 100], 1.0, -0.61004, -0.61467, (0.5436, 0.2166, -0.0177)),
        (tree_of_sizes(INATURALIST), [3, 4, 9, 34, 57, 72, 1010], 5.0, -0.03126, -0.03202,
         (0.474, 0.216, 0.090, 0.028, -0.002, -0.017, -0.024)),
    ],
    ids=["cifar100", "aircraft", "inaturalist19"],
)  # fmt: skip
def test_the_published_values(tree: Hierarchy, sizes: list, gamma: float, s_min: float, exact: float, cosines) -> None:
    """methods.md 3.1: s_min by the grid and exactly, and the cosine at each distance."""
    assert tree.sizes == sizes
    assert bound_of(tree, gamma) == pytest.approx(exact, abs=5e-6)
    grid = hierarchy_similarity(tree, gamma, "grid")
    assert float(grid.min()) == pytest.approx((1 - s_min) * math.exp(-gamma) + s_min, abs=1e-5)
    distances = tree.distances()
    for distance, value in enumerate(cosines, 1):
        assert float(grid[distances == distance].mean()) == pytest.approx(value, abs=6e-4)
        assert float(grid[distances == distance].std()) < 1e-12


@settings(max_examples=40)
@given(tree=trees(), gamma=st.floats(0.1, 10), digits=st.integers(5, 7))
def test_a_bound_that_is_copied_is_taken(tree: Hierarchy, gamma: float, digits: int) -> None:
    """From a table, rounded either way, and from the message."""
    bound = bound_of(tree, gamma)
    with pytest.raises(ConfigError, match=r"must lie in \[") as told:
        hierarchy_similarity(tree, gamma, bound - 0.01)
    said = float(str(told.value).split("must lie in [")[1].split(",")[0])
    assert bound <= said < bound + 2e-6
    for s_min in (round(bound, digits), said):
        found = hierarchy_similarity(tree, gamma, s_min)
        torch.testing.assert_close(found, naive(tree, gamma, max(s_min, bound)), **EXACT)
        hierarchy_aware_frame(tree, tree.num_classes, gamma=gamma, s_min=s_min)


@pytest.mark.parametrize("tree", [shipped("cifar100"), tree_of_sizes(INATURALIST)], ids=["cifar100", "inaturalist19"])
@pytest.mark.parametrize("gamma", [0.001, 0.01, 1])
def test_the_rank_of_a_large_tree(tree: Hierarchy, gamma: float) -> None:
    """One less than there are classes at the exact s_min, with cosines that fall as slowly as a thousandth."""
    frame = hierarchy_aware_frame(tree, tree.num_classes - 1, gamma=gamma)
    torch.testing.assert_close(gram(frame), hierarchy_similarity(tree, gamma), **EXACT)


@settings(max_examples=20)
@given(tree=trees(), gamma=st.floats(1.0, 10))
def test_the_grid_ends_at_most_a_step_above_the_bound(tree: Hierarchy, gamma: float) -> None:
    distances = tree.distances()
    i, j = (distances == distances.max()).nonzero()[0].tolist()
    value = (float(hierarchy_similarity(tree, gamma, "grid")[i, j]) - math.exp(-gamma)) / (1 - math.exp(-gamma))
    bound, step = bound_of(tree, gamma), (1 - 1 / (tree.num_classes - 1)) / 99
    assert bound - 1e-5 <= value <= max(bound, -1.0) + step + 1e-9


@given(size=st.integers(2, 30), gamma=st.floats(0.1, 10))
def test_a_flat_tree_gives_the_simplex_etf(size: int, gamma: float) -> None:
    tree = Hierarchy.flat([str(label) for label in range(size)])
    frame = hierarchy_aware_frame(tree, size - 1, gamma=gamma)
    torch.testing.assert_close(gram(frame), gram(simplex_etf(size, size - 1)), **EXACT)
    torch.testing.assert_close(frame.sum(1), torch.zeros(size - 1, dtype=torch.float64), rtol=0, atol=1e-6)


def test_a_large_gamma_gives_the_simplex_etf() -> None:
    tree = shipped("cifar100")
    torch.testing.assert_close(hierarchy_similarity(tree, 500.0), gram(simplex_etf(100, 99)), rtol=0, atol=1e-9)
    near, far = (hierarchy_similarity(tree, gamma) for gamma in (0.5, 5.0))
    siblings = tree.distances() == 1
    assert near[siblings].min() > far[siblings].max()


def test_another_generator_is_another_rotation() -> None:
    tree = shipped("cifar10")
    one, again = (hierarchy_aware_frame(tree, 12, gamma=1.0) for _ in range(2))
    other = hierarchy_aware_frame(tree, 12, gamma=1.0, generator=torch.Generator().manual_seed(1))
    assert torch.equal(one, again) and not torch.allclose(one, other)
    assert hierarchy_aware_frame(tree, 12, gamma=1.0, dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gamma": 0.0}, "gamma=0.0 of a hierarchy-aware frame: it must be a number above 0"),
        ({"gamma": math.inf}, "gamma=inf"),
        ({"s_min": -0.31}, r"s_min=-0.31 .* gamma=2 on these 100 classes it must lie in \[-0.305739, 1\)"),
        ({"s_min": 1.0}, "s_min=1 "),
        ({"s_min": "best"}, "s_min='best' .*: known are exact, grid, or a number"),
        ({"dim": 98}, "100 classes of this hierarchy do not fit in dim=98: at gamma=2 their frame has rank 99"),
        ({"dim": 99, "s_min": -0.3}, "rank 100"),
    ],
)
def test_what_gives_no_frame_is_told(changes, words: str) -> None:
    settings = {"dim": 100, "gamma": 2.0} | changes
    with pytest.raises(ConfigError, match=words):
        hierarchy_aware_frame(shipped("cifar100"), settings.pop("dim"), **settings)


@pytest.mark.parametrize("s_min", ["exact", "grid", 0.1])
def test_a_frame_is_the_same_where_eigenvectors_are_not(monkeypatch: pytest.MonkeyPatch, s_min: float | str) -> None:
    """A tree's equal eigenvalues leave their eigenvectors to the machine: any basis of theirs gives the same axes."""
    tree = shipped("cifar100")

    def made() -> torch.Tensor:
        return hierarchy_aware_frame(tree, 100, gamma=2.0, s_min=s_min, generator=torch.Generator().manual_seed(1))

    plain, eigh = made(), torch.linalg.eigh

    def turned(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Other eigenvectors of the same matrix: turned within those of each value, all signs changed."""
        values, vectors = eigh(matrix)
        source = torch.Generator().manual_seed(2)
        place = 0
        while place < len(values):
            alike = int((values[place:] - values[place] < 1e-9).sum())
            turn, _ = torch.linalg.qr(torch.randn(alike, alike, generator=source, dtype=torch.float64))
            vectors[:, place : place + alike] = vectors[:, place : place + alike] @ turn
            place += alike
        return values, -vectors

    monkeypatch.setattr(torch.linalg, "eigh", turned)
    assert not torch.allclose(turned(torch.eye(3, dtype=torch.float64))[1], eigh(torch.eye(3, dtype=torch.float64))[1])
    torch.testing.assert_close(made(), plain, rtol=0, atol=1e-9)
