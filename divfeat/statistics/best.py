"""As good as the best: simultaneous bounds on a grid of thresholds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

from divfeat.errors import ConfigError, DataError
from divfeat.statistics._common import ZERO_SPREAD, Floats, confidence_level, t_half_width

MIN_GRID, MIN_GRID_SEEDS = 8, 3
"""Smallest grid and number of seeds that `as_good_as_best` answers for."""


@dataclass(frozen=True)
class AsGood:
    """Which grid points are as good as the best.

    Attributes:
        status: "determined" or "undetermined", the latter with its `reason`.
        best: index of the highest mean (-1 where there is none).
        difference: [G] mean minus the highest mean of the others, points.
        lower: [G] simultaneous lower bounds of the true difference to the best of the others, at most 0.
        good: [G] lower > -margin.
        interval: first and last index of the contiguous good range around the best.
        half_width: points by which every bound lies below its difference, before 0 caps it; NaN where nothing was
            computed.
    """

    status: Literal["determined", "undetermined"]
    reason: str
    best: int
    difference: Floats
    lower: Floats
    good: NDArray[np.bool_]
    interval: tuple[int, int] | None
    half_width: float = math.nan


def as_good_as_best(values: ArrayLike, margin: float, alpha: float = 0.05) -> AsGood:
    """Multiple comparisons with the best (Hsu, 1981, 1984) on a grid in ascending order.

    With probability 1 - alpha every lower bound holds, so every point called good is truly within `margin` of the
    best. Seeds are blocks: the error is the pooled residual of the two-way table with (G - 1)(S - 1) degrees, the
    critical value Dunnett's one-sided for G - 1 comparisons. Needs equal error variance along the grid.

    Args:
        values: [G, S] validation scores in points, grid point by seed.
        margin: points.
        alpha: chance that any bound fails.

    Returns:
        "undetermined" for G < 8, S < 3, a missing value, no spread, or too much noise to vouch even for the best.

    Raises:
        DataError: not two-dimensional.
        ConfigError: alpha or margin out of range.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2:
        raise DataError(f"values of shape {table.shape}: give [grid points, seeds]")
    if not margin > 0:
        raise ConfigError(f"margin = {margin} points: must be positive; give 0.5, say")
    confidence_level(alpha)
    grid, seeds = table.shape
    nothing = np.full(grid, math.nan)

    def undetermined(reason: str) -> AsGood:
        return AsGood("undetermined", reason, -1, nothing, nothing, np.zeros(grid, dtype=bool), None)

    if grid < MIN_GRID:
        return undetermined(f"the grid has {grid} points; at least {MIN_GRID} are needed")
    if seeds < MIN_GRID_SEEDS:
        return undetermined(f"there are {seeds} seeds; at least {MIN_GRID_SEEDS} are needed")
    if not np.isfinite(table).all():
        return undetermined(f"{int((~np.isfinite(table)).sum())} of {table.size} values are missing")
    degrees = (grid - 1) * (seeds - 1)
    means = table.mean(axis=1)
    residual = table - means[:, None] - table.mean(axis=0) + table.mean()
    sd = math.sqrt(float((residual**2).sum()) / degrees)
    if sd <= ZERO_SPREAD:
        return undetermined("the curve is the same for every seed, so nothing says how sure it is")
    half = dunnett_critical(grid - 1, degrees, alpha) * sd * math.sqrt(2 / seeds)
    best = int(means.argmax())
    rivals = np.full(grid, means[best])
    rivals[best] = np.delete(means, best).max()
    difference = means - rivals
    lower = np.minimum(difference - half, 0.0)
    good = lower > -margin
    if not good[best]:
        reason = f"the noise is too large: bounds lie {half:.2f} points below the differences, the margin is {margin:g}"
        return AsGood("undetermined", reason, best, difference, lower, good, None, half)
    bad = np.flatnonzero(~good)
    first = int(bad[bad < best].max(initial=-1)) + 1
    last = int(bad[bad > best].min(initial=grid)) - 1
    return AsGood("determined", "", best, difference, lower, good, (first, last), half)


@lru_cache(maxsize=256)
def dunnett_critical(comparisons: int, degrees: int, alpha: float = 0.05) -> float:
    """One-sided critical value of Dunnett's test (1955): P(max of the comparisons' t > value) = alpha, correlations 1/2.

    t_i = (z_i - z_0) / (sqrt(2) s): given z_0 and s the comparisons are independent, so the probability is a double
    integral of Phi(z_0 + sqrt(2) s value) ** comparisons, done by Gauss-Hermite (z_0) and Gauss-Legendre (s).

    Args:
        comparisons: treatments against one control, at least 1.
        degrees: of freedom of the pooled variance, at least 1.
        alpha: chance that any t exceeds the value.
    """
    z, z_weights = np.polynomial.hermite_e.hermegauss(96)
    z_weights = z_weights / z_weights.sum()
    nodes, s_weights = np.polynomial.legendre.leggauss(96)
    chi = stats.chi(degrees, scale=1 / math.sqrt(degrees))
    low, high = chi.ppf(1e-13), chi.isf(1e-13)
    s = low + (high - low) * (nodes + 1) / 2
    s_weights = s_weights * chi.pdf(s)
    s_weights = s_weights / s_weights.sum()

    def excess(value: float) -> float:
        inside = special.ndtr(z[:, None] + math.sqrt(2) * value * s) ** comparisons
        return float(z_weights @ inside @ s_weights) - (1 - alpha)

    widest = t_half_width(1.0, degrees, 1 - 2 * alpha / comparisons)  # Bonferroni's value bounds Dunnett's
    return float(optimize.brentq(excess, -widest - 1, widest + 1e-6, xtol=1e-10))
