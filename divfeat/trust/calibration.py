"""How often the verdict errs, finds, and covers, over drawn noise: the study's own functions on drawn answers.

Every study that is drawn is judged by `divfeat.statistics.verdict` and `crossed_interval`, called as the report calls them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from divfeat.report.arrays import Floats
from divfeat.statistics import crossed_interval, detectable_difference, verdict
from divfeat.trust.noise import Noise, World, world

#: Numbers of confirmation seeds that are judged; of the power curve too.
SEEDS, POWER_SEEDS = (5, 10), (5, 10, 20)
#: True differences of the power curve, points.
DIFFERENCES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
#: Margins of equivalence, points: that of the presets, and one that noise like this leaves room for.
MARGINS = (0.5, 2.0)
#: In "lapses" so many runs of the winner score so many points less.
LAPSE_RATE, LAPSE = 0.1, 3.0
ALPHA = 0.05
#: Studies on one draw of test images, where their true scores are those on these images.
_ON_ONE_WORLD = 50
#: Most numbers drawn at once.
_AT_ONCE = 2**25


@dataclass(frozen=True)
class Case:
    """A way in which studies of equal methods come about.

    Attributes:
        name: In results and on figures.
        about: In a sentence.
        exact: Methods are equal on these test images; else over all images, of which each study draws its own.
        paired: Winner and baselines share seeds.
        lapses: The winner's runs fail now and then, as much as makes it equal on average.
    """

    name: str
    about: str
    exact: bool
    paired: bool = True
    lapses: bool = False


CASES = (
    Case("these images", "equal on these test images, seeds shared", exact=True),
    Case("unpaired", "the same, every method on seeds of its own", exact=True, paired=False),
    Case("lapses", f"one run in ten of the winner {LAPSE:g} points lower, as good on average", exact=True, lapses=True),
    Case("new images", "equal over all images, of which each study's test set is a sample", exact=False),
)


@dataclass
class Count:
    """Events among studies."""

    events: int = 0
    studies: int = 0

    def add(self, *happened: bool) -> None:
        """One more study each."""
        self.events += sum(map(bool, happened))
        self.studies += len(happened)

    @property
    def rate(self) -> float:
        """Share of the studies."""
        return self.events / self.studies

    def to_list(self) -> list[float]:
        """Percent, and its binomial standard error, which two events of either kind more keep above 0."""
        number = self.studies + 4
        near = (self.events + 2) / number
        return [round(100 * self.rate, 3), round(100 * math.sqrt(near * (1 - near) / number), 3)]


@dataclass
class Null:
    """What was said of studies of equal methods, at S seeds.

    Attributes:
        by_image: Whether the answers say all: lapses are points, no answers.
        wrong: Studies with a false "better" or "worse".
        holds: Studies all of whose intervals hold.
        each: Intervals that hold.
        images_wrong: Studies of which some interval over seeds and images does not hold.
    """

    by_image: bool = True
    wrong: Count = field(default_factory=Count)
    holds: Count = field(default_factory=Count)
    each: Count = field(default_factory=Count)
    images_wrong: Count = field(default_factory=Count)

    def add(self, answers: NDArray[np.bool_], lapse: Floats) -> None:
        """Judge one study: [M, S, N] answers, the winner's first; `lapse` [S] points that its runs lose."""
        scores = 100 * answers.mean(axis=2)
        scores[0] -= lapse
        seeds = range(answers.shape[1])
        baselines = {str(place): row for place, row in enumerate(scores[1:])}
        found = verdict(scores[0], baselines, seeds=seeds, alpha=ALPHA)
        inside = [one.low <= 0 <= one.high for one in found.comparisons]
        self.wrong.add(any(one.verdict in ("better", "worse") for one in found.comparisons))
        self.holds.add(all(inside))
        self.each.add(*inside)
        if not self.by_image:
            return
        first = answers[0].astype(np.int8)
        crossed = [
            crossed_interval(first - row, level=one.level)
            for row, one in zip(answers[1:], found.comparisons, strict=True)
        ]
        self.images_wrong.add(any(not one.low <= 0 <= one.high for one in crossed))

    def to_dict(self) -> dict[str, Any]:
        """Percent of studies with their binomial standard errors."""
        found = {"false": self.wrong, "holds": self.holds, "each": self.each, "false_with_images": self.images_wrong}
        return {name: count.to_list() for name, count in found.items() if count.studies}


def null(noise: Noise, case: Case, studies: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Studies of equal methods: one row a number of seeds.

    A row has, as [percent, standard error], studies with a false "better" or "worse" (`false`), studies whose intervals all hold
    (`holds`), intervals that hold (`each`), and studies where the interval over seeds and images of some baseline misses 0
    (`false_with_images`).
    """
    found = {seeds: Null(by_image=not case.lapses) for seeds in SEEDS}
    methods = noise.baselines + 1
    true = [noise.accuracy + LAPSE_RATE * LAPSE * case.lapses, *[noise.accuracy] * noise.baselines]
    for here, number in _worlds(noise, case, methods, studies, rng):
        threshold = here.thresholds(true)[:, None, None].astype(np.float32)
        for chunk in _chunks(number, methods * max(SEEDS) * noise.images):
            for answers in here.latent(rng, chunk, max(SEEDS), paired=case.paired) > -threshold:
                lapse = np.where(rng.random(max(SEEDS)) < LAPSE_RATE, LAPSE * case.lapses, 0.0)
                for seeds, row in found.items():
                    row.add(answers[:, :seeds], lapse[:seeds])
    level = 100 * (1 - ALPHA / noise.baselines)
    return [{"seeds": seeds, "case": case.name, "level": level, **row.to_dict()} for seeds, row in found.items()]


def power(noise: Noise, studies: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Studies of methods that differ: one row a number of seeds and true difference on these test images.

    One baseline of B, at the level that B of them leave it. A row has, as [percent, standard error], how often the winner is
    called `better` or `worse`, and at each margin `equivalent` (given that it is neither of them: the rules' order).
    """
    names = ("better", "worse", *(f"equivalent_{margin:g}" for margin in MARGINS))
    differences = [difference for difference in DIFFERENCES if noise.accuracy + difference < 100]
    found = {(seeds, d): {name: Count() for name in names} for seeds in POWER_SEEDS for d in differences}
    for here, number in _worlds(noise, CASES[0], 2, studies, rng):
        base = np.float32(here.thresholds([noise.accuracy] * 2)[1])
        shifted = [np.float32(here.thresholds([noise.accuracy + d, noise.accuracy])[0]) for d in differences]
        for chunk in _chunks(number, 2 * max(POWER_SEEDS) * noise.images):
            for winner, baseline in here.latent(rng, chunk, max(POWER_SEEDS)):
                theirs = 100 * (baseline > -base).mean(axis=1)
                for difference, threshold in zip(differences, shifted, strict=True):
                    ours = 100 * (winner > -threshold).mean(axis=1)
                    for seeds in POWER_SEEDS:
                        said = [
                            verdict(
                                ours[:seeds], {"b": theirs[:seeds]}, seeds=range(seeds), margin=margin, alpha=ALPHA,
                                looks=noise.baselines,
                            ).comparisons[0].verdict
                            for margin in MARGINS
                        ]  # fmt: skip
                        row = found[seeds, difference]
                        row["better"].add(said[0] == "better")
                        row["worse"].add(said[0] == "worse")
                        for margin, one in zip(MARGINS, said, strict=True):
                            row[f"equivalent_{margin:g}"].add(one == "equivalent")
    return [
        {"seeds": seeds, "difference": difference, **{name: count.to_list() for name, count in row.items()}}
        for (seeds, difference), row in found.items()
    ]


def detectable(noise: Noise) -> dict[str, float]:
    """Points that `--dry-run` would say S seeds detect with probability 0.8, from the spread of one method on these images."""
    within = noise.accuracy / 100
    return {
        str(seeds): detectable_difference(spread(noise, within), seeds, noise.baselines, alpha=ALPHA)
        for seeds in POWER_SEEDS
    }


def spread(noise: Noise, accuracy: float) -> float:
    """Standard deviation over seeds of one method's score on N images, points; `accuracy` a share."""
    rng = np.random.default_rng(0)
    here = world(noise, rng, 1, exact=True)
    threshold = np.float32(here.thresholds([100 * accuracy])[0])
    scores = [100 * (rows > -threshold).mean(axis=-1) for rows in (here.latent(rng, 1, 20) for _ in range(10))]
    return float(np.concatenate(scores).std(ddof=1))


def drawn(noise: Noise, studies: int, seeds: int, rng: np.random.Generator) -> dict[str, float]:
    """`told` of drawn studies on images of their own, averaged: what to compare a real study's with."""
    rows = []
    for _ in range(studies):
        here = world(noise, rng, noise.baselines + 1, exact=False)
        threshold = here.thresholds([noise.accuracy] * (noise.baselines + 1)).astype(np.float32)
        (answers,) = here.latent(rng, 1, seeds) > -threshold[:, None, None]
        rows.append(told(list(answers.astype(np.float64))))
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def told(answers: Sequence[Floats]) -> dict[str, float]:
    """Spread of a study's scores, points: of a method and of a difference over seeds, and what images add to a difference.

    Args:
        answers: Of each method, the winner's first: [S, N].
    """
    scores = [100 * rows.mean(axis=1) for rows in answers]
    crossed = [crossed_interval(answers[0] - rows) for rows in answers[1:]]
    return {
        "sd": float(np.mean([row.std(ddof=1) for row in scores])),
        "sd of differences": float(np.mean([(scores[0] - row).std(ddof=1) for row in scores[1:]])),
        "images": float(np.mean([math.sqrt(one.image_part) for one in crossed])),
        "interaction": float(np.mean([math.sqrt(one.interaction_part) for one in crossed])),
    }


def _worlds(
    noise: Noise, case: Case, methods: int, studies: int, rng: np.random.Generator
) -> Iterator[tuple[World, int]]:
    """Draws of test images, and how many studies are made on each."""
    size = _ON_ONE_WORLD if case.exact else 1
    for first in range(0, studies, size):
        yield world(noise, rng, methods, exact=case.exact), min(size, studies - first)


def _chunks(studies: int, size: int) -> Iterator[int]:
    """`studies` in parts of at most `_AT_ONCE` numbers, `size` each."""
    part = max(1, _AT_ONCE // size)
    for first in range(0, studies, part):
        yield min(part, studies - first)
