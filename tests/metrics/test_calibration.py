import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from divfeat.errors import ConfigError, DataError
from divfeat.metrics import CalibrationAccumulator, expected_calibration_error
from tests.metrics.samples import DTYPES, close, normal, split


def outputs(n, k, seed=0, scale=2.0):
    labels = torch.randint(k, (n,), generator=torch.Generator().manual_seed(seed))
    logits = scale * normal((n, k), seed)
    logits[torch.arange(n), labels] += 1.5
    return logits.softmax(-1), labels


def naive(probabilities, labels, bins):
    table = [[] for _ in range(bins)]
    for row, label in zip(probabilities.double().tolist(), labels.tolist(), strict=True):
        confidence = max(row)
        index = next(b for b in range(bins) if confidence <= (b + 1) / bins or b == bins - 1)
        table[index].append((confidence, row.index(confidence) == label))
    total = 0.0
    for members in table:
        if members:
            confidence = sum(c for c, _ in members) / len(members)
            right = sum(r for _, r in members) / len(members)
            total += len(members) / len(labels) * abs(confidence - right)
    return total


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bins", [1, 7, 15])
def test_against_a_loop(dtype, bins):
    probabilities, labels = outputs(200, 5)
    probabilities = probabilities.to(dtype)
    expected = naive(probabilities, labels, bins)
    assert bins == 1 or expected > 0.01
    close(expected_calibration_error(probabilities, labels, bins), expected)


def test_bins_are_scikit_learns():
    probabilities, labels = outputs(500, 3, seed=4)
    accumulator = CalibrationAccumulator(10)
    accumulator.update(probabilities, labels)
    result = accumulator.compute()
    confidence, predictions = probabilities.max(dim=1)
    share, mean = calibration_curve((predictions == labels).numpy(), confidence.numpy(), n_bins=10)
    filled = result.counts > 0
    assert result.counts.sum() == 500
    assert filled.equal(~result.confidence.isnan())
    close(result.accuracy[filled], torch.from_numpy(share))
    close(result.confidence[filled], torch.from_numpy(mean))


def test_an_edge_belongs_to_the_bin_below():
    accumulator = CalibrationAccumulator(4)
    accumulator.update(torch.tensor([[0.5, 0.5, 0], [0.75, 0.25, 0], [1, 0, 0]]), torch.tensor([0, 0, 0]))
    assert accumulator.compute().counts.tolist() == [0, 1, 1, 1]


def test_known_values():
    sure = torch.tensor([[1.0, 0.0]] * 4)
    assert expected_calibration_error(sure, torch.tensor([0, 0, 0, 0])) == 0
    assert expected_calibration_error(sure, torch.tensor([1, 1, 1, 1])) == 1
    half = torch.tensor([[0.75, 0.25]] * 4)
    assert expected_calibration_error(half, torch.tensor([0, 0, 0, 1])) == 0


@given(
    st.integers(1, 60), st.integers(2, 5), st.integers(0, 99), st.integers(1, 6), st.integers(0, 7), st.integers(1, 20)
)
@settings(max_examples=30, deadline=None)
def test_stream_merge_and_order(n, k, seed, pieces, cut, bins):
    probabilities, labels = outputs(n, k, seed)
    accumulators = [CalibrationAccumulator(bins), CalibrationAccumulator(bins)]
    for i, part in enumerate(split(probabilities, labels, pieces)):
        accumulators[i > cut].update(*part)
    merged = accumulators[0].merge(accumulators[1]).compute()
    one = expected_calibration_error(probabilities, labels, bins)
    close(merged.error, one, 1e-12)
    close(expected_calibration_error(probabilities.flip(0), labels.flip(0), bins), one, 1e-12)
    assert 0 <= one <= 1


def test_input_that_does_not_fit():
    probabilities, labels = outputs(6, 3)
    with pytest.raises(DataError, match=r"softmax\(-1\)"):
        expected_calibration_error(probabilities.log(), labels)
    with pytest.raises(DataError, match=r"softmax\(-1\)"):
        expected_calibration_error(probabilities * 3, labels)
    with pytest.raises(DataError, match="at least one sample"):
        expected_calibration_error(probabilities[:0], labels[:0])
    with pytest.raises(DataError, match="finite"):
        expected_calibration_error(probabilities * math.nan, labels)
    with pytest.raises(DataError, match="span"):
        expected_calibration_error(probabilities, labels + 3)
    with pytest.raises(ConfigError, match="bins is 0"):
        CalibrationAccumulator(0)
    with pytest.raises(DataError, match="4 bins into 3"):
        CalibrationAccumulator(3).merge(CalibrationAccumulator(4))
