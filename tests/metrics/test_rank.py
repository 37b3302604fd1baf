import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divfeat.errors import DataError
from divfeat.metrics import NumericalRankAccumulator, numerical_rank
from tests.metrics.samples import DTYPES, close, cluster_sets, clustered, normal, rotation, split


def naive(features, labels, centred):
    ranks = []
    for k in sorted(set(labels.tolist())):
        rows = features[labels == k].double().numpy()
        if len(rows) > 1:
            rows = rows - rows.mean(axis=0) if centred else rows
            ranks.append(np.linalg.norm(rows, "nuc") ** 2 / np.linalg.norm(rows, "fro") ** 2)
    return sum(ranks) / len(ranks)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("counts", "dim"), [([9, 0, 6, 1, 5], 12), ([90, 40, 2, 17], 3)], ids=["n < D", "n > D"])
def test_against_numpy(counts, dim, dtype, centred):
    features, labels = clustered(counts, dim)
    features = features.to(dtype)
    close(numerical_rank(features, labels, 7, centred=centred), naive(features, labels, centred))


@given(cluster_sets(), st.integers(0, 99), st.sampled_from([1e-14, 1e-3, 7e4]), st.booleans())
@settings(max_examples=30, deadline=None)
def test_free_of_rotation_scale_and_order_and_bounded(data, seed, scale, centred):
    features, labels, _ = data
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    moved = scale * (features @ rotation(features.shape[1], seed))[order]
    value = numerical_rank(features, labels, centred=centred)
    close(numerical_rank(moved, labels[order], centred=centred), value, 1e-8)
    largest = min(features.shape[1], int(labels.bincount().max()))
    assert 1 - 1e-12 <= value <= largest + 1e-12


@given(
    cluster_sets(smallest=0).filter(lambda s: int(s[1].bincount(minlength=1).max()) > 1),
    st.integers(1, 9),
    st.integers(0, 9),
)
@settings(max_examples=30, deadline=None)
def test_stream_and_merge_equal_one_shot(data, pieces, cut):
    features, labels, k = data
    accumulators = [NumericalRankAccumulator(k), NumericalRankAccumulator(k)]
    for i, part in enumerate(split(features, labels, pieces)):
        accumulators[i > cut].update(*part)
    result = accumulators[0].merge(accumulators[1]).compute()
    close(result.uncentred, naive(features, labels, False), 1e-8)
    close(result.centred, naive(features, labels, True), 1e-8)


def test_long_streams_keep_small_factors():
    """1000 samples of 4 dimensions in batches of 8: each class holds at most 2 (D + 1) rows, and nothing is lost."""
    features, labels = clustered([700, 300], dim=4)
    features = features + 100  # centring must survive an offset
    accumulator = NumericalRankAccumulator(2)
    for rows, batch in zip(features.split(8), labels.split(8), strict=True):
        accumulator.update(rows, batch)
        assert all(sum(len(b) for b in blocks) <= 10 for blocks in accumulator._blocks.values())
    result = accumulator.compute()
    close(result.uncentred, naive(features, labels, False))
    close(result.centred, naive(features, labels, True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_full_collapse_is_one_and_centred_is_undefined(dtype):
    labels = torch.arange(3).repeat(30)
    points = (5 + normal((3, 8), 1)).to(dtype)
    assert abs(numerical_rank(points[labels], labels) - 1) < 1e-12
    with pytest.raises(DataError, match="numerical_rank is undefined"):
        numerical_rank(points[labels], labels, centred=True)


def test_near_collapse_is_exact_where_a_float32_gram_is_not():
    """methods.md 1.5: 1e-3 noise about one point, 1.0052 in float64; take the singular values by hand from numpy."""
    labels = torch.zeros(200, dtype=torch.int64)
    features = torch.ones(1, 64) / 8 + 1e-5 * normal((200, 64), 0).float()
    expected = naive(features, labels, False)
    gram = torch.linalg.eigvalsh(features.T @ features).clamp_min(0).sqrt()
    wrong = float(gram.sum() ** 2 / gram.square().sum())
    assert abs(wrong - expected) > 10 * abs(float(numerical_rank(features, labels)) - expected) + 1e-4
    close(numerical_rank(features, labels), expected, 1e-10)


def test_known_values():
    labels = torch.zeros(8, dtype=torch.int64)
    assert abs(numerical_rank(torch.eye(8), labels) - 8) < 1e-12
    assert abs(numerical_rank(torch.eye(8), labels, centred=True) - 7) < 1e-12
    plus_minus = torch.tensor([[1.0, 0], [-1, 0]]).repeat(4, 1)
    assert abs(numerical_rank(plus_minus, labels) - 1) < 1e-12


def test_absent_singleton_and_collapsed_classes_are_counted():
    features, labels = clustered([9, 0, 1, 6, 5], dim=4)
    features[labels == 3] = 0.3
    features[labels == 4] = 0
    accumulator = NumericalRankAccumulator(6)
    accumulator.update(features, labels)
    result = accumulator.compute()
    assert (result.classes, result.absent, result.singletons, result.collapsed) == (3, 2, 1, 2)
    assert result.by_class.isnan().tolist() == [False, True, True, False, True, True]
    assert result.by_class_centred.isnan().tolist() == [False, True, True, True, True, True]
    close(result.by_class[3], 1.0, 1e-12)
    close(result.uncentred, (naive(features[labels == 0], labels[labels == 0], False) + 1) / 2)


def test_features_that_are_not_finite_are_undefined():
    features, labels = clustered([4, 4], dim=3)
    features[labels == 1] = math.inf
    close(numerical_rank(features, labels), naive(features[labels == 0], labels[labels == 0], False))
    with pytest.raises(DataError, match="finite"):
        numerical_rank(features * math.nan, labels)


def test_accumulators_that_do_not_fit():
    features, labels = clustered([4, 4], dim=3)
    accumulator = NumericalRankAccumulator(2)
    accumulator.update(features, labels)
    with pytest.raises(DataError, match="2 dimensions where 3"):
        accumulator.update(features[:, :2], labels)
    with pytest.raises(DataError, match="3 classes into 2"):
        accumulator.merge(NumericalRankAccumulator(3))
