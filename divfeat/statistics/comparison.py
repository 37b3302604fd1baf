"""The verdict: winner against baselines by paired differences on fresh seeds."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from divfeat.errors import ConfigError, DataError
from divfeat.statistics._common import ZERO_SPREAD, Floats, confidence_level, listed, t_half_width

VerdictName = Literal["better", "worse", "higher", "lower", "equivalent", "not shown", "no verdict"]

MIN_SEEDS = 5
"""Fewer paired seeds than this give no verdict."""


@dataclass(frozen=True)
class Comparison:
    """The winner against one baseline: paired differences d_s = winner - baseline, in points.

    Attributes:
        name: of the baseline.
        mean: of the paired differences, NaN where no seed has both scores.
        sd: their standard deviation, NaN below two pairs.
        half_width: of the Student-t interval, NaN below two pairs.
        low: mean - half_width.
        high: mean + half_width.
        level: confidence level of this one interval.
        verdict: by the rules of `verdict`.
        correlation: Pearson's of winner and baseline over seeds, NaN where either does not vary.
        seeds: the S seeds.
        differences: [S], NaN where a score is missing.
        within_margin: the whole interval lies inside the margin, which may hold beside "better" or "worse".
        reason: of a "no verdict" and of a "not shown" without spread, else "".
        same_config: the winner's configuration is this baseline's.
    """

    name: str
    mean: float
    sd: float
    half_width: float
    low: float
    high: float
    level: float
    verdict: VerdictName
    correlation: float
    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    within_margin: bool = False
    reason: str = ""
    same_config: bool = False


@dataclass(frozen=True)
class Verdict:
    """One `Comparison` a baseline, and the whole in one sentence.

    Attributes:
        comparisons: in the order the baselines were given.
        margin: of equivalence, points.
        alpha: chance that any interval misses, over all winners that were judged.
        looks: winners that these seeds and images have judged, this one included.
        measure: what was compared where it is no score, else "".
    """

    comparisons: tuple[Comparison, ...]
    margin: float
    alpha: float
    looks: int = 1
    measure: str = ""

    def named(self, verdict: VerdictName) -> list[str]:
        """Names of the baselines against which the verdict is `verdict`."""
        return [c.name for c in self.comparisons if c.verdict == verdict]

    def withheld(self, reason: str) -> Verdict:
        """The same differences and intervals without a verdict on any, for a reason that holds for all."""
        without = [replace(one, verdict="no verdict", reason=reason, within_margin=False) for one in self.comparisons]
        return replace(self, comparisons=tuple(without))

    @property
    def tone(self) -> Literal["good", "bad", "neutral"]:
        """ "good": better than every baseline; "bad": worse than one at least; "neutral": anything else."""
        if self.named("worse"):
            return "bad"
        return "good" if self.comparisons and len(self.named("better")) == len(self.comparisons) else "neutral"

    @property
    def sentence(self) -> str:
        """The overall verdict, with the number of seeds and the simultaneous level."""
        if not self.comparisons:
            return "No verdict: there is no baseline to compare the winner with."
        phrases: dict[VerdictName, str] = {
            "better": "better than {}",
            "worse": "worse than {}",
            "higher": "higher than {}",
            "lower": "lower than {}",
            "equivalent": f"equivalent to {{}} (within ±{self.margin:g} points)",
            "not shown": "no difference shown against {}",
            "no verdict": "no verdict against {}",
        }
        parts = [phrase.format(listed(names)) for key, phrase in phrases.items() if (names := self.named(key))]
        who = f"{self.measure[0].upper()}{self.measure[1:]} of the winner" if self.measure else "The winner"
        text = f"{who}: {'; '.join(parts)}."
        small = [c.name for c in self.comparisons if c.within_margin and c.verdict in ("better", "worse")]
        if small:
            text += f" The difference to {listed(small)} lies wholly within the margin of {self.margin:g} points."
        for reason in dict.fromkeys(c.reason for c in self.comparisons if c.reason):
            text += f" {reason[0].upper()}{reason[1:]}."
        if same := [c.name for c in self.comparisons if c.same_config]:
            text += f" The winner's configuration is that of {listed(same)}."
        if self.looks > 1:
            text += (
                f" These seeds and test images have judged {self.looks} winners of this study, which share the error of "
                f"{100 * self.alpha:g} %."
            )
        seeds, level = len(self.comparisons[0].seeds), 100 * confidence_level(self.alpha, self.looks)
        return f"{text} {seeds} paired seed{'s' * (seeds != 1)}, simultaneous {level:.4g} % intervals."


def verdict(
    winner_scores: ArrayLike,
    baseline_scores: Mapping[str, ArrayLike],
    *,
    seeds: Sequence[int],
    margin: float = 0.5,
    alpha: float = 0.05,
    looks: int = 1,
    same_config: Collection[str] = (),
    measure: str = "",
) -> Verdict:
    """Judge the frozen winner against B baselines on the same S confirmation seeds.

    Two-sided Student-t interval of the paired differences at level 1 - alpha / (B looks): by Bonferroni all intervals
    of all winners judged at this level hold together with probability 1 - alpha. Rules, the first that applies: a score
    missing or not finite, or S < 5: "no verdict" (a run that failed is not dropped: runs do not fail at random); sd = 0:
    "not shown"; low > 0: "better"; high < 0: "worse"; interval inside (-margin, margin): "equivalent"; else "not shown".
    So a difference that is both sure and smaller than the margin is "better" (or "worse") with `within_margin` set, and
    the sentence says it.

    Args:
        winner_scores: [S] test scores in points.
        baseline_scores: name -> [S] test scores in points, same seeds in the same order.
        seeds: the S seeds, all different.
        margin: equivalence margin in points, fixed before the search.
        alpha: chance that any of the intervals misses.
        looks: distinct winners that were shown these seeds and images, this one included: who extends a search until
            some winner comes out better has looked as often.
        same_config: names of the baselines whose configuration the winner's equals.
        measure: what is compared, where it is no score: then the verdicts are "higher" and "lower" for "better" and "worse",
            and nothing is "equivalent", since the margin is one of scores.

    Raises:
        DataError: the lengths differ from the number of seeds, or a seed is listed twice.
        ConfigError: alpha, looks or margin out of range.
    """
    if looks < 1:
        raise ConfigError(f"looks = {looks}: the winner at hand is the first; give 1 or more")
    if not margin >= 0:
        raise ConfigError(f"margin = {margin} points: the equivalence margin cannot be negative; give 0.5, say")
    if len(set(seeds)) != len(seeds):
        raise DataError(f"seeds {list(seeds)} name a seed twice: pairs must be independent; give each seed once")
    level = confidence_level(alpha, max(len(baseline_scores), 1) * looks)
    winner = _scores("the winner", winner_scores, len(seeds))
    comparisons = [
        _compare(name, winner, _scores(name, scores, len(seeds)), tuple(seeds), margin, level, name in same_config)
        for name, scores in baseline_scores.items()
    ]
    if measure:
        comparisons = [replace(one, verdict=_WITHOUT_SCORE[one.verdict], within_margin=False) for one in comparisons]
    return Verdict(tuple(comparisons), margin, alpha, looks, measure)


#: Of what is no score.
_WITHOUT_SCORE: dict[VerdictName, VerdictName] = {
    "better": "higher",
    "worse": "lower",
    "equivalent": "not shown",
    "not shown": "not shown",
    "no verdict": "no verdict",
}


def _scores(name: str, values: ArrayLike, seeds: int) -> Floats:
    scores = np.asarray(values, dtype=np.float64)
    if scores.shape != (seeds,):
        raise DataError(f"scores of {name} have shape {scores.shape}, but there are {seeds} seeds; give one a seed")
    return np.where(np.isfinite(scores), scores, math.nan)


def _compare(
    name: str, winner: Floats, baseline: Floats, seeds: tuple[int, ...], margin: float, level: float, same: bool
) -> Comparison:
    differences = winner - baseline
    finite = np.isfinite(differences)
    paired = differences[finite]
    count = paired.size
    mean = float(paired.mean()) if count else math.nan
    sd = float(paired.std(ddof=1)) if count > 1 else math.nan
    half = t_half_width(sd / math.sqrt(count), count - 1, level) if count > 1 else math.nan
    low, high = mean - half, mean + half
    within = -margin < low and high < margin
    spread = sd > ZERO_SPREAD
    reason = ""
    result: VerdictName = "not shown"
    if count < len(seeds):
        missing = ", ".join(str(seed) for seed, ok in zip(seeds, finite, strict=True) if not ok)
        result, reason = "no verdict", f"no score of the winner or of {name} for seed {missing}"
    elif count < MIN_SEEDS:
        result, reason = "no verdict", f"a verdict needs at least {MIN_SEEDS} seeds"
    elif not spread:
        reason = f"the difference to {name} is the same for every seed, so nothing says how sure it is"
    elif low > 0:
        result = "better"
    elif high < 0:
        result = "worse"
    elif within:
        result = "equivalent"
    return Comparison(
        name,
        mean,
        sd,
        half,
        low,
        high,
        level,
        result,
        _correlation(winner[finite], baseline[finite]),
        seeds,
        tuple(differences.tolist()),
        within_margin=bool(within and spread),
        reason=reason,
        same_config=same,
    )


def _correlation(first: Floats, second: Floats) -> float:
    if first.size < 2 or min(first.std(), second.std()) <= ZERO_SPREAD:
        return math.nan
    return float(np.corrcoef(first, second)[0, 1])
