"""Losses, one idea a file. To add one: docs/add-a-loss.md."""

from divfeat.losses.class_balanced import class_balanced_weights
from divfeat.losses.cosine import CosineToFrame
from divfeat.losses.dot_regression import DotRegression
from divfeat.losses.focal import Focal
from divfeat.losses.functional import cross_entropy
from divfeat.losses.hierarchical import HierarchicalCrossEntropy
from divfeat.losses.hinge import RELEASES, ConeGate, Hinge, HingeCE, hinge_logits, inside_cone, theorem_tau_minus
from divfeat.losses.levels import HierarchyAwareFeatures, LevelCrossEntropy
from divfeat.losses.logit_adjustment import LogitAdjustment
from divfeat.losses.margin import Margin
from divfeat.losses.objective import CrossEntropy, Objective
from divfeat.losses.soft_labels import SoftLabels

__all__ = [
    "RELEASES",
    "ConeGate",
    "CosineToFrame",
    "CrossEntropy",
    "DotRegression",
    "Focal",
    "HierarchicalCrossEntropy",
    "HierarchyAwareFeatures",
    "Hinge",
    "HingeCE",
    "LevelCrossEntropy",
    "LogitAdjustment",
    "Margin",
    "Objective",
    "SoftLabels",
    "class_balanced_weights",
    "cross_entropy",
    "hinge_logits",
    "inside_cone",
    "theorem_tau_minus",
]
