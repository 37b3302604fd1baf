import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divfeat.errors import DataError
from divfeat.metrics import ClassStatisticsAccumulator, class_statistics
from tests.metrics.samples import DTYPES, close, cluster_sets, clustered, split


def naive(features, labels, num_classes):
    means, variances = [], []
    for k in range(num_classes):
        rows = [features[i].double() for i in range(len(labels)) if labels[i] == k]
        if not rows:
            means.append(torch.full((features.shape[1],), math.nan, dtype=torch.float64))
            variances.append(math.nan)
            continue
        mean = sum(rows) / len(rows)
        means.append(mean)
        variances.append(sum(float(((row - mean) ** 2).sum()) for row in rows) / len(rows))
    return torch.stack(means), torch.tensor(variances, dtype=torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
def test_against_a_loop_with_an_absent_class_and_a_singleton(dtype):
    features, labels = clustered([5, 0, 1, 9], dim=3)
    features = features.to(dtype)
    result = class_statistics(features, labels, 5)
    means, variances = naive(features, labels, 5)
    assert result.counts.tolist() == [5, 0, 1, 9, 0]
    assert (result.absent, result.singletons) == (2, 1)
    assert result.present.tolist() == [True, False, True, True, False]
    assert result.spread.tolist() == [True, False, False, True, False]
    close(result.means, means, 1e-12)
    close(result.variances, variances, 1e-12)


@given(cluster_sets(smallest=0).filter(lambda s: len(s[1]) > 0), st.integers(1, 6), st.integers(0, 7))
@settings(max_examples=30, deadline=None)
def test_batches_and_merge_equal_one_shot(data, pieces, cut):
    features, labels, k = data
    parts = split(features, labels, pieces)
    accumulators = [ClassStatisticsAccumulator(k), ClassStatisticsAccumulator(k)]
    for i, part in enumerate(parts):
        accumulators[i > cut].update(*part)
    result = accumulators[0].merge(accumulators[1]).compute()
    expected = class_statistics(features, labels, k)
    assert result.counts.equal(expected.counts)
    close(result.means, expected.means, 1e-12)
    close(result.variances, expected.variances, 1e-12)


def test_collapsed_classes_far_from_the_origin_have_no_variance():
    """The one-pass E[h^2] - mu^2 would leave about 1e4 of it in float32 and 1e-4 in float64."""
    means = torch.tensor([[1e6, 3.3], [1e6 + 1, -7.7]])
    labels = torch.arange(2).repeat(50)
    accumulator = ClassStatisticsAccumulator(2)
    for part in split(means[labels], labels, 7):
        accumulator.update(*part)
    assert accumulator.compute().variances.tolist() == [0, 0]


def test_merge_into_and_from_an_empty_accumulator():
    features, labels = clustered([3, 4], dim=2)
    full = ClassStatisticsAccumulator(2)
    full.update(features, labels)
    copied = ClassStatisticsAccumulator(2).merge(full).merge(ClassStatisticsAccumulator(2))
    copied.update(features, labels)  # must not write into the one it was merged from
    assert copied.compute().counts.tolist() == [6, 8]
    assert full.compute().counts.tolist() == [3, 4]
    close(full.compute().means, naive(features, labels, 2)[0])


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (torch.zeros(4, 2), torch.tensor([0, 1, 2, 3]), "span 0..3 but there are 3 classes"),
        (torch.zeros(4, 2), torch.tensor([0, -1, 2, 1]), "span -1..2"),
        (torch.zeros(4, 2), torch.zeros(3, dtype=torch.int64), "labels number 3 for 4 samples"),
        (torch.zeros(4, 2), torch.zeros(4), "int64"),
        (torch.zeros(4, 2), torch.zeros(4, dtype=torch.uint8), "uint8"),
        (torch.zeros(4), torch.zeros(4, dtype=torch.int64), "shape"),
        (torch.zeros(4, 2, dtype=torch.int64), torch.zeros(4, dtype=torch.int64), "floating"),
    ],
)
def test_bad_input_is_named(features, labels, message):
    with pytest.raises(DataError, match=message):
        ClassStatisticsAccumulator(3).update(features, labels)


def test_accumulators_that_do_not_fit():
    features, labels = clustered([3, 4], dim=2)
    accumulator = ClassStatisticsAccumulator(2)
    with pytest.raises(DataError, match="no batch"):
        accumulator.compute()
    accumulator.update(features, labels)
    with pytest.raises(DataError, match="1 dimensions where 2"):
        accumulator.update(features[:, :1], labels)
    with pytest.raises(DataError, match="3 classes into 2"):
        accumulator.merge(ClassStatisticsAccumulator(3))
    with pytest.raises(DataError, match="no samples"):
        class_statistics(features[:0], labels[:0])
