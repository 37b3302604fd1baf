"""What makes scores of equal methods differ: measured in a study's answers, image by image, and drawn again.

A method m at seed s answers image n correctly where

    threshold_m + seed_s + own_ms + difficulty_n + taste_mn + shared_sn + rest_msn > 0

with independent normal parts (a probit model with crossed effects). `difficulty` is what all methods find hard, `taste` what one
method does, whatever the seed; `seed` and `own` move all images of a run at once, the former for all methods of that seed alike;
`shared` is what methods of one seed get right or wrong together. The last four image parts have variance 1 in all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from divfeat.errors import DataError
from divfeat.report.arrays import Floats

#: Of Newton's method for the thresholds: at most so many steps, until one is as small as that.
_STEPS, _TINY = 30, 1e-9
Singles = NDArray[np.float32]


@dataclass(frozen=True)
class Noise:
    """Measured noise of one study's confirmation.

    Attributes:
        accuracy: Percent, mean over methods.
        images: N of the test set.
        baselines: B, other methods than the winner that are not the same training as another.
        seed_sd: Of a method's true score over seeds, points: without what the finite test set adds.
        seed_share: Share of that variance which methods of one seed have in common.
        difficulty: Variance of what all methods find hard.
        taste: Variance of what one method finds hard.
        shared: Variance of what methods of one seed get wrong together.
    """

    accuracy: float
    images: int
    baselines: int
    seed_sd: float
    seed_share: float
    difficulty: float
    taste: float
    shared: float

    @property
    def seed_variance(self) -> float:
        """Of the seeds' parts together, on the scale of the threshold."""
        slope = 100 * _density(special.ndtri(self.accuracy / 100))
        return float((self.seed_sd / slope) ** 2)


def fit(answers: Mapping[str, NDArray[np.float64]]) -> Noise:
    """Noise by the method of moments; parts that come out negative are 0.

    Variances on the threshold's scale follow from how often two runs are both right (tetrachoric correlations): of one method at
    two seeds, of two methods at two seeds, of two methods at one seed.

    Args:
        answers: Method -> [S, N] 1 where image n was answered correctly at seed s; two or more methods that differ.

    Raises:
        DataError: fewer than two methods or seeds, or answers of other images.
    """
    tables = distinct(answers)
    if len(tables) < 2 or len({table.shape for table in tables}) > 1 or len(tables[0]) < 2:
        raise DataError(
            f"answers of shapes {[table.shape for table in tables]}: give two different methods or more, over the same images "
            "and two seeds or more"
        )
    images = tables[0].shape[1]
    pairs = list(itertools.combinations(tables, 2))
    means = [float(table.mean()) for table in tables]
    within = np.mean(
        [_tetrachoric(_both(table, table, other_seed=True), p, p) for table, p in zip(tables, means, strict=True)]
    )
    apart, together = (
        np.mean([_tetrachoric(_both(a, b, other_seed=other), float(a.mean()), float(b.mean())) for a, b in pairs])
        for other in (True, False)
    )
    variance = np.mean([_seed_covariance(table, table) for table in tables])
    covariance = np.mean([_seed_covariance(a, b) for a, b in pairs])
    difficulty = float(np.clip(apart, 0, within))
    return Noise(
        accuracy=100 * float(np.mean(means)),
        images=images,
        baselines=len(tables) - 1,
        seed_sd=100 * math.sqrt(max(float(variance), 0.0)),
        seed_share=float(np.clip(covariance / variance, 0, 1)) if variance > 0 else 0.0,
        difficulty=difficulty,
        taste=float(within - difficulty),
        shared=float(np.clip(together - apart, 0, 1 - within)),
    )


def distinct(answers: Mapping[str, Floats]) -> list[Floats]:
    """Answers of the methods, of those that are one training the first's alone."""
    tables: list[Floats] = []
    for table in answers.values():
        if not any(np.array_equal(table, other) for other in tables):
            tables.append(np.asarray(table, dtype=np.float64))
    return tables


def _both(first: Floats, second: Floats, *, other_seed: bool) -> float:
    """Share of images that both answer correctly: over all pairs of different seeds, or at the same seed."""
    seeds = len(first)
    same = float((first * second).sum(axis=0).mean())
    if not other_seed:
        return same / seeds
    return (float((first.sum(axis=0) * second.sum(axis=0)).mean()) - same) / (seeds * (seeds - 1))


def _tetrachoric(both: float, first: float, second: float) -> float:
    """Correlation of two normals above thresholds with probabilities `first` and `second`, and `both` together."""
    x, y = -special.ndtri(first), -special.ndtri(second)

    def excess(correlation: float) -> float:
        above = stats.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]]).cdf([-x, -y])
        return float(above) - both

    low, high = -0.999, 0.9999
    if excess(high) < 0:
        return 1.0
    return float(optimize.brentq(excess, low, high, xtol=1e-6))


def _seed_covariance(first: Floats, second: Floats) -> float:
    """Covariance of two methods' scores over seeds, shares squared, without what is left of it on other images."""
    residuals = [
        table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean() for table in (first, second)
    ]
    seeds, images = first.shape
    rest = float((residuals[0] * residuals[1]).sum()) / ((seeds - 1) * (images - 1))
    scores = float(np.cov(first.mean(axis=1), second.mean(axis=1))[0, 1])
    return scores - rest / images


@dataclass(frozen=True)
class World:
    """Test images as M methods meet them.

    Attributes:
        noise: Its parts.
        images: [M, N] difficulty + taste.
        exact: Whether a method's true score is the one expected on these very images; else that over all images there might be,
            which these are a sample of.
    """

    noise: Noise
    images: Floats
    exact: bool

    def thresholds(self, accuracies: Sequence[float]) -> Floats:
        """[M] thresholds at which the methods' true scores are these.

        Args:
            accuracies: [M] percent.
        """
        noise, wanted = self.noise, np.asarray(accuracies, dtype=np.float64) / 100
        found = special.ndtri(wanted) * math.sqrt(1 + noise.seed_variance)
        if not self.exact:
            return found
        beside = math.sqrt(noise.seed_variance + 1 - noise.difficulty - noise.taste)
        for _ in range(_STEPS):  # Newton's
            at = (found[:, None] + self.images) / beside
            step = (special.ndtr(at).mean(axis=1) - wanted) / (_density(at).mean(axis=1) / beside)
            found = found - step
            if np.abs(step).max() < _TINY:
                break
        return found

    def latent(self, rng: np.random.Generator, studies: int, seeds: int, *, paired: bool = True) -> Singles:
        """[studies, M, S, N] all but the threshold: an answer is correct where this lies above minus the method's threshold.

        Args:
            rng: Source.
            studies: Confirmations on these images, each on seeds of its own.
            seeds: S.
            paired: Whether the methods of a study have the same seeds; else each has its own.
        """
        noise, (methods, images) = self.noise, self.images.shape
        share, shared = (noise.seed_share, noise.shared) if paired else (0.0, 0.0)
        rest = 1 - noise.difficulty - noise.taste - shared
        found = _normal(rng, (studies, methods, seeds, images), rest)
        if shared:
            found += _normal(rng, (studies, 1, seeds, images), shared)
        found += self.images[:, None, :].astype(np.float32)
        found += _normal(rng, (studies, 1, seeds, 1), noise.seed_variance * share)
        found += _normal(rng, (studies, methods, seeds, 1), noise.seed_variance * (1 - share))
        return found


def world(noise: Noise, rng: np.random.Generator, methods: int, *, exact: bool) -> World:
    """N test images, drawn anew; `exact` as of `World`."""
    difficulty = math.sqrt(noise.difficulty) * rng.standard_normal(noise.images)
    taste = math.sqrt(noise.taste) * rng.standard_normal((methods, noise.images))
    return World(noise, difficulty + taste, exact)


def _normal(rng: np.random.Generator, shape: tuple[int, ...], variance: float) -> Singles:
    found = rng.standard_normal(shape, dtype=np.float32)
    found *= np.float32(math.sqrt(variance))
    return found


def _density(x: Floats) -> Floats:
    return np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
