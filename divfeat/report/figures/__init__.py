"""The figures of a report: each function takes plain arrays and a path, writes a PNG, and returns its caption.

Where the path is a function it is called with the figure, and nothing is written.
"""

from divfeat.report.figures.across import forest, trials_by_threshold
from divfeat.report.figures.by_count import accuracy_by_count, collapse_by_count, gain_by_count
from divfeat.report.figures.class_thresholds import angles_by_count, group_accuracy_by_threshold
from divfeat.report.figures.comparison import confirmation, gain_by_class
from divfeat.report.figures.features import feature_projection
from divfeat.report.figures.front import pareto_front
from divfeat.report.figures.gram import class_cosines
from divfeat.report.figures.held import score_by_held_loss
from divfeat.report.figures.severity import severity_by_accuracy
from divfeat.report.figures.thresholds import accuracy_by_threshold, diversity_by_threshold, two_thresholds
from divfeat.report.figures.tradeoff import group_tradeoff
from divfeat.report.figures.training import angular_over_epochs, cosines_over_epochs, optimisation_history
from divfeat.report.figures.trees import mistakes_on_tree, tree

__all__ = [
    "accuracy_by_count",
    "accuracy_by_threshold",
    "angles_by_count",
    "angular_over_epochs",
    "class_cosines",
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
    "mistakes_on_tree",
    "optimisation_history",
    "pareto_front",
    "score_by_held_loss",
    "severity_by_accuracy",
    "tree",
    "trials_by_threshold",
    "two_thresholds",
]
