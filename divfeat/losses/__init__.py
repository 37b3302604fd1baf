"""Losses, one idea a file. To add one: docs/add-a-loss.md."""

from divfeat.losses.functional import cross_entropy
from divfeat.losses.hinge import RELEASES, ConeGate, Hinge, HingeCE, hinge_logits, inside_cone, theorem_tau_minus
from divfeat.losses.objective import Objective

__all__ = [
    "RELEASES",
    "ConeGate",
    "Hinge",
    "HingeCE",
    "Objective",
    "cross_entropy",
    "hinge_logits",
    "inside_cone",
    "theorem_tau_minus",
]
