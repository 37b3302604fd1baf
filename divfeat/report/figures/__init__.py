"""The figures of a report: each function takes plain arrays and a path, writes a PNG, and returns its caption.

Where the path is a function it is called with the figure, and nothing is written.
"""

from divfeat.report.figures.across import forest, trials_by_threshold
from divfeat.report.figures.by_count import accuracy_by_count, collapse_by_count, gain_by_count
from divfeat.report.figures.class_thresholds import angles_by_count, group_accuracy_by_threshold
from divfeat.report.figures.comparison import confirmation, gain_by_class
from divfeat.report.figures.features import feature_projection
from divfeat.report.figures.front import pareto_front
from divfeat.report.figures.held import score_by_held_loss
from divfeat.report.figures.thresholds import accuracy_by_threshold, diversity_by_threshold, two_thresholds
from divfeat.report.figures.tradeoff import group_tradeoff
from divfeat.report.figures.training import cosines_over_epochs, optimisation_history

__all__ = [
    "accuracy_by_count",
    "accuracy_by_threshold",
    "angles_by_count",
    "collapse_by_count",
    "confirmation",
    "cosines_over_epochs",
    "diversity_by_threshold",
    "feature_projection",
    "forest",
    "gain_by_class",
    "gain_by_count",
    "group_accuracy_by_threshold",
    "group_tradeoff",
    "optimisation_history",
    "pareto_front",
    "score_by_held_loss",
    "trials_by_threshold",
    "two_thresholds",
]
