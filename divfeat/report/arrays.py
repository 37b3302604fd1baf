"""Arrays with gaps: a score that is missing is NaN, and means and spreads are those of the finite ones."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from divfeat.statistics import t_half_width

Floats = NDArray[np.float64]


def finite(values: Floats) -> Floats:
    """The finite values, in order."""
    return values[np.isfinite(values)]


def mean_sd(table: Floats, axis: int = -1) -> tuple[Floats, Floats]:
    """Mean and standard deviation over the finite values of an axis; NaN where there is none, or fewer than two."""
    known = np.isfinite(table)
    count = known.sum(axis=axis)
    mean = np.where(count > 0, np.where(known, table, 0.0).sum(axis=axis) / np.maximum(count, 1), math.nan)
    deviation = np.where(known, table - np.expand_dims(mean, axis), 0.0)
    sd = np.sqrt((deviation**2).sum(axis=axis) / np.maximum(count - 1, 1))
    return mean, np.where(count > 1, sd, math.nan)


def mean_of(values: Floats) -> float:
    """Mean of the finite values, NaN where there is none."""
    return float(mean_sd(values)[0])


def sd_of(values: Floats) -> float:
    """Standard deviation of the finite values, NaN below two."""
    return float(mean_sd(values)[1])


def half_width_of(values: Floats, level: float = 0.95) -> float:
    """Half the width of the Student-t interval of the finite values' mean, NaN below two."""
    count = int(np.isfinite(values).sum())
    return t_half_width(sd_of(values) / math.sqrt(count), count - 1, level) if count > 1 else math.nan
