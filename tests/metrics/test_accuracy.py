import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, recall_score

from divfeat.errors import DataError
from divfeat.metrics import (
    ConfusionAccumulator,
    accuracy,
    accuracy_by_class,
    accuracy_by_group,
    balanced_accuracy,
    confusion,
)
from tests.metrics.samples import close


@st.composite
def decisions(draw):
    """(predictions, labels, K); predictions stay within the present classes, as scikit-learn averages over both."""
    k = draw(st.integers(1, 6))
    labels = draw(st.lists(st.integers(0, k - 1), min_size=1, max_size=40))
    predictions = draw(st.lists(st.sampled_from(sorted(set(labels))), min_size=len(labels), max_size=len(labels)))
    return torch.tensor(predictions), torch.tensor(labels), k


def naive_by_class(predictions, labels, k):
    values = []
    for c in range(k):
        right = [int(p == y) for p, y in zip(predictions.tolist(), labels.tolist(), strict=True) if y == c]
        values.append(sum(right) / len(right) if right else math.nan)
    return values


@given(decisions(), st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=40, deadline=None)
@pytest.mark.filterwarnings("ignore:A single label was found")
def test_against_scikit_learn_and_a_loop_in_any_batches(data, first, second):
    predictions, labels, k = data
    a, b = ConfusionAccumulator(k), ConfusionAccumulator(k)
    lower, upper = sorted((first, second))
    a.update(predictions[:lower], labels[:lower])
    b.update(predictions[lower:upper], labels[lower:upper])
    a.update(predictions[upper:], labels[upper:])
    result = a.merge(b).compute()
    assert result.counts.equal(confusion(predictions, labels, k).counts)
    assert result.counts.tolist() == confusion_matrix(labels, predictions, labels=range(k)).tolist()
    assert result.absent == k - len(set(labels.tolist()))
    close(result.top1, accuracy_score(labels, predictions), 1e-12)
    close(result.top1, accuracy(predictions, labels), 1e-12)
    close(result.balanced, balanced_accuracy_score(labels, predictions), 1e-12)
    close(result.balanced, balanced_accuracy(predictions, labels, k), 1e-12)
    close(result.by_class, naive_by_class(predictions, labels, k), 1e-12)
    recalls = recall_score(labels, predictions, labels=range(k), average=None, zero_division=math.nan)
    close(accuracy_by_class(predictions, labels, k), torch.from_numpy(recalls), 1e-12)


def test_by_group_over_samples():
    labels = torch.tensor([0, 0, 0, 0, 1, 2, 2, 3])
    predictions = torch.tensor([0, 0, 0, 1, 0, 2, 2, 0])
    close_groups(
        accuracy_by_group(predictions, labels, torch.tensor([0, 0, 1, 1, 5])), {"0": 3 / 5, "1": 2 / 3, "5": math.nan}
    )
    minor = torch.tensor([False, True, True, True, True])
    close_groups(
        accuracy_by_group(predictions, labels, {"minor": minor, "major": ~minor, "all": minor | ~minor}),
        {"minor": 2 / 4, "major": 3 / 4, "all": 5 / 8},
    )


def close_groups(actual, expected):
    assert list(actual) == list(expected)
    close(list(actual.values()), list(expected.values()), 1e-12)
    assert all(type(value) is float for value in actual.values())


@given(decisions())
@settings(max_examples=20, deadline=None)
def test_a_group_for_each_class_is_the_accuracy_by_class(data):
    predictions, labels, k = data
    groups = accuracy_by_group(predictions, labels, torch.arange(k))
    close(list(groups.values()), accuracy_by_class(predictions, labels, k), 1e-12)


def test_num_classes_covers_predictions_too():
    assert confusion(torch.tensor([4, 0]), torch.tensor([1, 0])).counts.shape == (5, 5)


def test_input_that_does_not_fit():
    one = torch.tensor([1, 0])
    with pytest.raises(DataError, match="predictions number 1 for 2"):
        accuracy(one[:1], one)
    with pytest.raises(DataError, match="int64"):
        accuracy(torch.zeros(2, 3), one)
    with pytest.raises(DataError, match="at least one sample"):
        accuracy(one[:0], one[:0])
    with pytest.raises(DataError, match=r"predictions span 0\.\.1"):
        ConfusionAccumulator(1).update(one, one * 0)
    with pytest.raises(DataError, match=r"labels span 0\.\.1"):
        accuracy_by_class(one, one, 1)
    with pytest.raises(DataError, match="3 classes into 2"):
        ConfusionAccumulator(2).merge(ConfusionAccumulator(3))
    with pytest.raises(DataError, match="'minor'"):
        accuracy_by_group(one, one, {"minor": torch.tensor([0, 1])})
    with pytest.raises(DataError, match="lengths"):
        accuracy_by_group(one, one, {"a": one > 0, "b": torch.ones(3) > 0})
    with pytest.raises(DataError, match="groups"):
        accuracy_by_group(one, one, torch.zeros(2))
