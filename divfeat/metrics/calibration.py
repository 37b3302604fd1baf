"""Expected calibration error (Naeini et al. 2015; Guo et al. 2017, equation 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from divfeat.errors import ConfigError, DataError
from divfeat.metrics._inputs import check_features, check_range, class_counts, class_sums, defined, exact, exact_device

_SUM_TOLERANCE = 0.05
"""How far probabilities may sum from 1: bfloat16 keeps three digits of each."""


@dataclass(frozen=True)
class Calibration:
    """A reliability diagram and its summary.

    Attributes:
        error: sum over bins of (n_b / N) |accuracy_b - confidence_b|, float64 scalar in [0, 1]; NaN without samples.
        counts: samples in each bin, int64 [B].
        confidence: mean confidence in each bin, float64 [B]; NaN for an empty bin.
        accuracy: accuracy in each bin, float64 [B]; NaN for an empty bin.
    """

    error: Tensor
    counts: Tensor
    confidence: Tensor
    accuracy: Tensor


class CalibrationAccumulator:
    """Streams `Calibration` in B equal-width bins (b/B, (b+1)/B] of confidence, the largest probability.

    Args:
        bins: B, 15 as in Guo et al.

    Raises:
        ConfigError: bins below 1.
        DataError: from `update` and `merge` for shapes, labels or bins that do not fit.
    """

    def __init__(self, bins: int = 15) -> None:
        if bins < 1:
            raise ConfigError(f"bins is {bins}: pass at least 1")
        self.bins = bins
        self._counts = torch.zeros(bins, dtype=torch.int64)
        self._sums = torch.zeros(2, bins, dtype=torch.float64)  # confidence, right

    @torch.no_grad()
    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Add a batch: probabilities [N, K] of any floating dtype, labels int64 [N] in [0, K)."""
        check_features(probabilities, labels)
        check_range(labels, probabilities.shape[1])
        device = exact_device(probabilities)
        probabilities = exact(probabilities)
        off = (probabilities.sum(dim=1) - 1).abs().max() if labels.numel() else probabilities.new_zeros(())
        if bool((probabilities < 0).any() | (off > _SUM_TOLERANCE)):
            raise DataError("rows are not probabilities (negative, or not summing to 1): pass logits.softmax(-1)")
        confidence, predictions = probabilities.max(dim=1)
        right = (predictions == labels.to(device)).double()
        edges = torch.arange(1, self.bins, dtype=torch.float64, device=device) / self.bins
        where = torch.bucketize(confidence, edges)  # an edge belongs to the bin below it
        self._counts = self._counts.to(device) + class_counts(where, self.bins)
        self._sums = self._sums.to(device) + class_sums(torch.stack([confidence, right]), where, self.bins)

    def merge(self, other: CalibrationAccumulator) -> CalibrationAccumulator:
        """Add all that another accumulator has seen; returns self."""
        if other.bins != self.bins:
            raise DataError(f"cannot merge calibration in {other.bins} bins into {self.bins}")
        self._counts = self._counts + other._counts.to(self._counts.device)
        self._sums = self._sums + other._sums.to(self._sums.device)
        return self

    def compute(self) -> Calibration:
        """The diagram of all batches so far."""
        confidence, accuracy = self._sums / self._counts
        gap = (self._sums[0] - self._sums[1]).abs().sum() / self._counts.sum()
        return Calibration(gap, self._counts.clone(), confidence, accuracy)


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> Tensor:
    """ECE = sum over bins of (n_b / N) |accuracy_b - confidence_b|, in equal-width bins (b/B, (b+1)/B] of confidence.

    Confidence is the largest probability. Biased upwards for few samples a bin, so compare at equal N and B.

    Args:
        probabilities: [N, K], `logits.softmax(-1)`.
        labels: int64 [N] in [0, K).
        bins: B.

    Returns:
        float64 scalar in [0, 1].

    Raises:
        DataError: wrong shapes or labels, rows that are not finite or not probabilities, no samples.
        ConfigError: bins below 1.
    """
    accumulator = CalibrationAccumulator(bins)
    accumulator.update(probabilities, labels)
    return defined(
        accumulator.compute().error, "expected_calibration_error", "finite probabilities and at least one sample"
    )
