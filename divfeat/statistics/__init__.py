"""What a study may claim: paired intervals and verdicts, noise, optimism, as-good-as-the-best, winners.

Scores are in points (percent, 0 to 100) and higher is better; objectives to be minimised are negated by the caller. What
is no score, as the geometry of features, is compared without being called better or worse.
Everything here is a pure function of plain arrays, and the study itself selects with `select_top` and judges with
`verdict`, so a simulation of these functions is a simulation of the study.
"""

from divfeat.statistics._common import ZERO_SPREAD, listed, t_half_width
from divfeat.statistics.best import MIN_GRID, MIN_GRID_SEEDS, AsGood, as_good_as_best, dunnett_critical
from divfeat.statistics.comparison import MIN_SEEDS, Comparison, Verdict, VerdictName, verdict
from divfeat.statistics.hypervolume import hypervolume
from divfeat.statistics.noise import (
    CrossedInterval,
    NoiseFloor,
    Optimism,
    crossed_interval,
    detectable_difference,
    noise_floor,
    optimism,
)
from divfeat.statistics.winners import pareto_front, select_top

__all__ = [
    "MIN_GRID",
    "MIN_GRID_SEEDS",
    "MIN_SEEDS",
    "ZERO_SPREAD",
    "AsGood",
    "Comparison",
    "CrossedInterval",
    "NoiseFloor",
    "Optimism",
    "Verdict",
    "VerdictName",
    "as_good_as_best",
    "crossed_interval",
    "detectable_difference",
    "dunnett_critical",
    "hypervolume",
    "listed",
    "noise_floor",
    "optimism",
    "pareto_front",
    "select_top",
    "t_half_width",
    "verdict",
]
