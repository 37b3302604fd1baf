"""What stands beside the verdict: noise over seeds and images, power, and the optimism of a search."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from divfeat.errors import ConfigError, DataError
from divfeat.statistics._common import confidence_level, t_half_width
from divfeat.statistics.comparison import MIN_SEEDS


@dataclass(frozen=True)
class CrossedInterval:
    """Mean difference with an interval over new seeds and new test images.

    Attributes:
        mean: grand mean of the differences, points.
        half_width: of the interval, points.
        low: mean - half_width.
        high: mean + half_width.
        level: confidence level.
        seed_part: variance of the S seed means over S, points².
        image_part: variance of the N image means over N, points².
        interaction_part: residual mean square over SN, points², which both of them hold.
    """

    mean: float
    half_width: float
    low: float
    high: float
    level: float
    seed_part: float
    image_part: float
    interaction_part: float


def crossed_interval(differences: ArrayLike, *, level: float = 0.95) -> CrossedInterval:
    """Interval of the mean difference that also counts the finite test set: seeds x images, both random and crossed.

    With d[s, n] = mu + a_s + b_n + e_sn the variance of the grand mean is var(a)/S + var(b)/N + var(e)/(SN). The
    spread of the S seed means over S estimates the first and last term, that of the N image means over N the middle
    and last, the residual mean square over SN the last alone: seed part + image part - interaction part is unbiased.
    It can fall below its own parts by chance, so the larger of it and either part is taken: never negative, never
    narrower than seeds alone. Student's t with S - 1 degrees, the seeds being the scarcer factor.

    Args:
        differences: [S, N] correctness of the winner minus that of the baseline on test image n at seed s: -1, 0, 1, or
            times a weight of the image (mean 1) where the score is a weighted mean.
        level: confidence level; that of the comparisons of a `verdict` beside it.

    Raises:
        DataError: fewer than two seeds or images, or a value that is not finite.
        ConfigError: level out of range.
    """
    confidence_level(1 - level)
    d = 100 * np.asarray(differences, dtype=np.float64)
    if d.ndim != 2 or min(d.shape) < 2 or not np.isfinite(d).all():
        raise DataError(f"differences of shape {d.shape}: give finite [seeds, images] with at least two of each")
    seeds, images = d.shape
    by_seed, by_image, mean = d.mean(axis=1), d.mean(axis=0), float(d.mean())
    residual = d - by_seed[:, None] - by_image + mean
    seed_part = float(by_seed.var(ddof=1)) / seeds
    image_part = float(by_image.var(ddof=1)) / images
    interaction = float((residual**2).sum()) / ((seeds - 1) * (images - 1)) / (seeds * images)
    variance = max(seed_part + image_part - interaction, seed_part, image_part)
    half = t_half_width(math.sqrt(variance), seeds - 1, level)
    return CrossedInterval(mean, half, mean - half, mean + half, level, seed_part, image_part, interaction)


@dataclass(frozen=True)
class Optimism:
    """What the winner lost on the way, in points.

    Attributes:
        search: its validation score in the search.
        selection: mean of its validation scores on the further seeds, NaN without any.
        confirmation: mean of its test scores, NaN without any.
        from_search: search - confirmation.
        from_selection: selection - confirmation.
    """

    search: float
    selection: float
    confirmation: float
    from_search: float
    from_selection: float


def optimism(search: float, selection: ArrayLike, confirmation: ArrayLike) -> Optimism:
    """Validation value of the winner minus its confirmation value: how much the search flattered it.

    The value of the best of many trials is too high on average even when all are equal; its selection value, on
    further seeds, much less so. Validation and test images differ too, so a small gap of either sign is expected.

    Args:
        search: validation score of the winning trial in the search, points.
        selection: [R] its validation scores on the further seeds; empty when there was no selection (NaN then).
        confirmation: [S] its test scores, points.
    """
    selected, confirmed = (np.asarray(values, dtype=np.float64) for values in (selection, confirmation))
    chosen = float(selected.mean()) if selected.size else math.nan
    final = float(confirmed.mean()) if confirmed.size else math.nan
    return Optimism(float(search), chosen, final, float(search) - final, chosen - final)


@dataclass(frozen=True)
class NoiseFloor:
    """Spread of one configuration over seeds, with its chi-square interval.

    Attributes:
        sd: standard deviation, points; NaN below two seeds, as both ends.
        low: lower end of the interval, points.
        high: upper end.
        level: confidence level.
        seeds: S.
    """

    sd: float
    low: float
    high: float
    level: float
    seeds: int


def noise_floor(scores: ArrayLike, *, level: float = 0.95) -> NoiseFloor:
    """Spread over seeds of one configuration: [S] scores in points -> sd with its interval (NaN for S < 2).

    Raises:
        ConfigError: level out of range.
    """
    confidence_level(1 - level)
    values = np.asarray(scores, dtype=np.float64)
    degrees = values.size - 1
    if degrees < 1:
        return NoiseFloor(math.nan, math.nan, math.nan, level, values.size)
    sd = float(values.std(ddof=1))
    upper, lower = special.chdtri(degrees, [(1 - level) / 2, (1 + level) / 2])  # chdtri inverts the upper tail
    return NoiseFloor(sd, sd * math.sqrt(degrees / upper), sd * math.sqrt(degrees / lower), level, values.size)


def detectable_difference(
    sd: float, seeds: int, baselines: int, *, power: float = 0.8, alpha: float = 0.05, correlation: float = 0.0
) -> float:
    """Smallest true difference, in points, that `verdict` calls "better" with probability `power` at one baseline.

    The paired difference has sd * sqrt(2 (1 - correlation)); the power comes from the noncentral t with S - 1 degrees.
    Infinite for S < 5, where no verdict is given.

    Args:
        sd: noise floor of one method over seeds, points.
        seeds: S, confirmation seeds.
        baselines: B, which sets the level 1 - alpha / B.
        power: wanted chance of the verdict, above alpha / B and below 1.
        alpha: as in `verdict`.
        correlation: of winner and baseline over seeds; 0 promises nothing of the pairing.

    Raises:
        ConfigError: an argument out of range.
    """
    if baselines < 1 or not sd >= 0 or not -1 <= correlation <= 1 or not alpha < power < 1:
        raise ConfigError(
            f"sd = {sd}, baselines = {baselines}, power = {power}, correlation = {correlation}: needs sd >= 0, "
            f"one baseline or more, a power between alpha = {alpha} and 1, a correlation in [-1, 1]"
        )
    level = confidence_level(alpha, baselines)
    if seeds < MIN_SEEDS:
        return math.inf
    critical = t_half_width(1.0, seeds - 1, level)
    shift = optimize.brentq(lambda nc: stats.nct.sf(critical, seeds - 1, nc) - power, 1e-9, 2 * critical + 20)
    return float(shift) * sd * math.sqrt(2 * (1 - correlation) / seeds)
