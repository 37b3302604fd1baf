"""Class means against a frame: loops, scale and rotation, and what the two conventions have in common."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from divfeat.errors import DataError
from divfeat.frames import hierarchy_aware_frame, random_orthonormal, simplex_etf
from divfeat.hierarchy import Hierarchy, shipped
from divfeat.metrics import angular_collapse, cophenetic_correlation, self_duality
from tests.hierarchy.test_tree import trees


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seed=st.integers(0, 999), size=st.integers(2, 6), dim=st.integers(2, 7))
def test_it_is_that_of_a_plain_loop(seed: int, size: int, dim: int) -> None:
    means, frame = drawn(seed, size, dim), drawn(seed + 1, dim, size)

    def cosine(one, other):
        return float(one @ other / one.norm() / other.norm())

    signed = [
        cosine(means[i], means[j]) - cosine(frame[:, i], frame[:, j]) for i in range(size) for j in range(i + 1, size)
    ]
    mean = sum(signed) / len(signed)
    absolute = [abs(one) for one in signed]
    found = angular_collapse(means, frame)
    assert float(found.mean_absolute) == pytest.approx(sum(absolute) / len(signed))
    assert float(found.std_signed) == pytest.approx(
        math.sqrt(sum((one - mean) ** 2 for one in signed) / len(signed)), abs=1e-9
    )
    about = sum((one - sum(absolute) / len(signed)) ** 2 for one in absolute)
    assert float(found.std_absolute) == pytest.approx(math.sqrt(about / len(signed)), abs=1e-9)
    weights, features = frame.T / frame.norm(), means / means.norm()
    gap = math.sqrt(sum((float(weights[i, j] - features[i, j])) ** 2 for i in range(size) for j in range(dim)))
    assert float(self_duality(means, frame)) == pytest.approx(gap)
    assert float(self_duality(means, frame, squared=True)) == pytest.approx(gap**2)


def test_collapse_to_the_frame_is_zero_whatever_the_scale_and_the_rotation() -> None:
    frame = hierarchy_aware_frame(shipped("cifar10"), 12, gamma=2.0)
    means = 3.0 * frame.T
    assert angular_collapse(means, frame).mean_absolute < 1e-12
    assert self_duality(means, frame) < 1e-12
    turned = means @ random_orthonormal(12, 12, generator=torch.Generator().manual_seed(3))
    assert angular_collapse(turned, frame).mean_absolute < 1e-12 and self_duality(turned, frame) > 0.5
    # Its axes do not sum to zero: centred means miss it, and a simplex is another frame.
    assert angular_collapse(means - means.mean(0), frame).mean_absolute > 1e-3
    assert angular_collapse(means, simplex_etf(10, 12)).mean_absolute > 0.05


def test_an_absent_class_is_left_out() -> None:
    frame = simplex_etf(4, 5)
    means = frame.T.clone()
    means[2] = torch.nan
    assert angular_collapse(means, frame).mean_absolute < 1e-12
    assert angular_collapse(torch.full((4, 5), torch.nan), frame).std_signed.isnan()


@pytest.mark.parametrize(("means", "frame"), [((3, 5), (5, 4)), ((1, 5), (5, 1)), ((4,), (5, 4))])
def test_shapes_that_do_not_fit(means, frame) -> None:
    with pytest.raises(DataError, match="same K >= 2"):
        angular_collapse(torch.zeros(means), torch.zeros(frame))


@given(tree=trees(), seed=st.integers(0, 999), dim=st.integers(2, 7))
def test_the_cophenetic_correlation_is_that_of_a_plain_loop(tree: Hierarchy, seed: int, dim: int) -> None:
    means, distances = drawn(seed, tree.num_classes, dim), tree.distances().tolist()
    pairs = [(i, j) for i in range(tree.num_classes) for j in range(i)]
    gaps = [float(1 - torch.cosine_similarity(means[i], means[j], dim=0)) for i, j in pairs]
    apart = [distances[i][j] for i, j in pairs]
    found = cophenetic_correlation(means, tree)
    if tree.is_even:
        assert found.isnan()
    else:
        assert float(found) == pytest.approx(stats.pearsonr(gaps, apart).statistic, abs=1e-9)
        scaled = cophenetic_correlation(3 * means @ random_orthonormal(dim, dim), tree)
        assert float(scaled) == pytest.approx(float(found), abs=1e-9)


def test_the_cophenetic_correlation_of_axes() -> None:
    """High on hierarchy-aware ones, 1 where cosines fall alike a level, undefined on a simplex; absent classes are left out."""
    tree = shipped("cifar100")
    axes = hierarchy_aware_frame(tree, 100, gamma=2.0).T
    assert 0.97 < float(cophenetic_correlation(axes, tree)) < 1
    assert cophenetic_correlation(simplex_etf(100, 100).T, tree).isnan()
    linear = torch.linalg.cholesky(1 - tree.distances().double() / 10)
    assert float(cophenetic_correlation(linear, tree)) == pytest.approx(1)
    absent = linear.clone()
    absent[3] = math.nan
    assert float(cophenetic_correlation(absent, tree)) == pytest.approx(1)
    with pytest.raises(DataError, match="the tree has 100 classes"):
        cophenetic_correlation(axes[:99], tree)
