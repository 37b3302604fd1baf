"""A method made for one set of classes: a head (axes) and an objective (loss)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from divfeat.axes import frame_of, tree_of
from divfeat.config import MethodConfig
from divfeat.errors import ConfigError
from divfeat.losses import (
    ConeGate,
    CosineToFrame,
    CrossEntropy,
    DotRegression,
    Focal,
    HierarchicalCrossEntropy,
    HierarchyAwareFeatures,
    Hinge,
    LevelCrossEntropy,
    LogitAdjustment,
    Margin,
    Objective,
    SoftLabels,
    class_balanced_weights,
    theorem_tau_minus,
)
from divfeat.methods.resolving import parts_of
from divfeat.methods.table import METHODS, method_named
from divfeat.models import CosineHead, FlamingoHead, FrameHead, Head, HierarchyAwareHead, LinearHead
from divfeat.thresholds import MovingThresholds, ThresholdContext, family_named, resolve


@dataclass(frozen=True)
class BuiltMethod:
    """A method made for one set of classes.

    Attributes:
        head: Module from taps to outputs; in optimizer and checkpoint.
        objective: Loss a sample.
        tau_plus: float64 [K] radians, zeros where the method has no thresholds.
        moving: What moves them during training, or None.
    """

    head: Head
    objective: Objective
    tau_plus: Tensor
    moving: MovingThresholds | None = None


def build_method(config: MethodConfig, dim: int, context: ThresholdContext, seed: int) -> BuiltMethod:
    """Head and objective of `config` for features of `dim` dimensions.

    Transforms apply in this order: the hinge, which clamps <w_k, u> as it is, then the margin, then the prior.

    The frame's rotation is drawn from a generator keyed by `seed`, apart from every other stream.

    Raises:
        ConfigError: parts that mean nothing together, a tree that is not there or says nothing, thresholds given to a method
            without any, more classes than dim + 1, angles that do not fit, a class without images under a part that counts them.
    """
    method, parts = method_named(config.name), parts_of(config)
    if not method.hinge and config.thresholds.family != "none":
        hinged = " or ".join(name for name, other in METHODS.items() if other.hinge)
        raise ConfigError(
            f"method {config.name!r} has no thresholds, but method.thresholds.family={config.thresholds.family!r}; "
            f"use {hinged}, or the family 'none'"
        )
    counts, classes = context.class_counts, context.num_classes
    tau_plus = torch.zeros(classes, dtype=torch.float64)
    transforms: list[nn.Module] = []
    gate: nn.Module | None = None
    cone: ConeGate | Hinge | None = None
    criterion: nn.Module = CrossEntropy(parts.label_smoothing)
    if parts.focal:
        criterion = Focal(parts.focal, parts.label_smoothing)
    elif parts.soft_labels:
        criterion = SoftLabels(tree_of(config.name, "method.soft_labels", context.hierarchy), parts.soft_labels)
    elif parts.hierarchical_ce:
        tree = tree_of(config.name, "method.hierarchical_ce", context.hierarchy, uneven=parts.nothing_on_an_even_tree)
        criterion = HierarchicalCrossEntropy(tree, parts.hierarchical_ce)
    if method.frame:
        frame = frame_of(config.name, parts, dim, context, seed)
        head: Head = FrameHead(frame, length=parts.scale or None)
        if parts.loss == "dot_regression":
            criterion = DotRegression(frame)
        if method.hinge:
            tau_plus = resolve(config.thresholds.spec(), context)
            if config.release == "gate":
                gate = cone = ConeGate(frame, tau_plus)
            else:
                tau_minus = theorem_tau_minus(frame, tau_plus) if config.release == "theorem" else math.pi
                cone = Hinge(frame, tau_plus, tau_minus)
                transforms.append(cone)
        if parts.cosine:
            criterion = CosineToFrame(
                frame, parts.cosine, parts.label_smoothing, schedule=parts.cosine_schedule, cone=cone
            )
    elif parts.levels != "none":
        why = f"method.levels={parts.levels!r}"
        tree = tree_of(config.name, why, context.hierarchy, uneven=parts.nothing_on_an_even_tree)
        if parts.levels == "flamingo":
            head, criterion = FlamingoHead(dim, tree, seed=seed), LevelCrossEntropy(tree)
        else:
            head, criterion = HierarchyAwareHead(dim, tree, seed=seed), HierarchyAwareFeatures(tree, parts.pair_margin)
    else:
        head = CosineHead(dim, classes, parts.scale, seed=seed) if parts.scale else LinearHead(dim, classes, seed=seed)
    if parts.margin:
        transforms.append(Margin(counts, parts.margin, parts.scale))
    if parts.logit_adjustment:
        transforms.append(LogitAdjustment(counts, parts.logit_adjustment))
    weights = class_balanced_weights(counts, parts.class_balanced) if parts.class_balanced else None
    closed = parts.closed_first, parts.closed_last
    objective = Objective(transforms, gate, criterion, weights, parts.deferred, closed)
    family = family_named(config.thresholds.family)
    if cone is None or not family.moves:
        return BuiltMethod(head, objective, tau_plus)

    def place(tau: Tensor) -> None:
        cone.tau_plus.copy_(tau)
        if isinstance(cone, Hinge) and config.release == "theorem":
            cone.tau_minus.copy_(theorem_tau_minus(frame, tau))

    moving = MovingThresholds(family, config.thresholds.angles, context, place)
    return BuiltMethod(head, objective, moving.tau_plus, moving)
