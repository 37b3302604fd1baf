"""Methods by name: a head (axes) and an objective (loss), the one place that knows which combination a name means."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from divfeat.config import MethodConfig, Second, TrainConfig
from divfeat.errors import ConfigError, unknown
from divfeat.frames import simplex_etf
from divfeat.losses import (
    ConeGate,
    CrossEntropy,
    DotRegression,
    Focal,
    Hinge,
    LogitAdjustment,
    Margin,
    Objective,
    class_balanced_weights,
    theorem_tau_minus,
)
from divfeat.models import CosineHead, FrameHead, Head, LinearHead
from divfeat.parts import OFF, Parts
from divfeat.second import SECONDS
from divfeat.thresholds import MovingThresholds, ThresholdContext, family_named, resolve

#: Parts that replace a setting of `TrainConfig`.
_OF_TRAINING = ("mixup", "cutmix", "sampling")
#: Parts that say when cones are closed: nothing where there is none.
OF_CONES = ("closed_first", "closed_last")
#: Settings of the second stages, each read by some of them.
_SECOND_SETTINGS = sorted({name for stage in SECONDS.values() for name in stage.settings})


def with_second(parts: Parts, second: Second) -> Parts:
    """`parts` followed by a second stage at its published settings, or by none."""
    settings = {name: getattr(OFF, name) for name in _SECOND_SETTINGS}
    return replace(parts, second=second, **settings | ({} if second == "none" else dict(SECONDS[second].settings)))


@dataclass(frozen=True)
class Method:
    """What a method's name fixes.

    Attributes:
        summary: One line, with its source.
        projector: Whether a linear layer follows the backbone (needed to reach an ETF from pooled ReLU features).
        frame: Whether the classifier is a frozen simplex ETF; else it is learned.
        hinge: Whether thresholds apply.
        parts: Values of the parts where the configuration gives none.
        searched: The parts whose values are the method's own numbers: they are searched where it stands as a baseline
            (`protocol.tune`), in their ranges (divfeat.ranges), the published values above first.
    """

    summary: str
    projector: bool = True
    frame: bool = False
    hinge: bool = False
    parts: Parts = OFF
    searched: tuple[str, ...] = ()

    @property
    def structure(self) -> tuple[bool, bool, bool]:
        """What no part can change."""
        return self.projector, self.frame, self.hinge


_LDAM = Parts(scale=30.0, margin=0.5)
_ADJUSTED = Parts(logit_adjustment=1.0)

#: Of two names for one combination the first is the canonical one.
METHODS: dict[str, Method] = {
    "ce": Method("cross-entropy, learned classifier, with projector"),
    "ce_no_projector": Method("cross-entropy, learned classifier, the plain network", projector=False),
    "ce_smooth": Method(
        "cross-entropy with label smoothing 0.1 (HingeCE, 4.1)",
        parts=Parts(label_smoothing=0.1),
        searched=("label_smoothing",),
    ),
    "ce_etf": Method("cross-entropy with a frozen simplex ETF (HingeCE, 'CE+ETF')", frame=True),
    "ce_etf_smooth": Method(
        "CE+ETF with label smoothing 0.1 (HingeCE, 'Smooth+ETF')",
        frame=True,
        parts=Parts(label_smoothing=0.1),
        searched=("label_smoothing",),
    ),
    "hinge_ce": Method(
        "CE over hinged logits of a frozen simplex ETF (HingeCE, equation 7)",
        frame=True,
        hinge=True,
    ),
    "focal": Method(
        "focal loss over a softmax, gamma 1 (Lin et al. 2018, as LDAM's code has it)",
        parts=Parts(focal=1.0),
        searched=("focal",),
    ),
    "mixup": Method(
        "CE on images mixed in pairs, alpha 1 (Zhang et al. 2018)",
        parts=Parts(mixup=1.0),
        searched=("mixup",),
    ),
    "resampling": Method(
        "CE on batches in which every class is drawn alike (class-balanced sampling)",
        parts=Parts(sampling="balanced"),
    ),
    "class_balanced": Method(
        "CE with class-balanced weights, beta 0.9999 (Cui et al. 2019)",
        parts=Parts(class_balanced=0.9999),
        searched=("class_balanced",),
    ),
    "ldam": Method(
        "margins by class count on a cosine classifier (Cao et al. 2019)",
        parts=_LDAM,
        searched=("margin", "scale"),
    ),
    "ldam_drw": Method(
        "LDAM, class-balanced weights after 0.8 of the epochs (Cao et al. 2019)",
        parts=replace(_LDAM, class_balanced=0.9999, deferred=0.8),
        searched=("margin", "scale", "class_balanced", "deferred"),
    ),
    "logit_adjustment": Method(
        "CE of v + log prior (Menon et al. 2021, the loss)",
        parts=_ADJUSTED,
        searched=("logit_adjustment",),
    ),
    "balanced_softmax": Method(
        "the same loss by its other name (Ren et al. 2020)",
        parts=_ADJUSTED,
        searched=("logit_adjustment",),
    ),
    "etf_dr": Method(
        "frozen simplex ETF with dot regression on batch-normalised features of length 1, mixup (Yang et al. 2022)",
        frame=True,
        parts=Parts(loss="dot_regression", scale=1.0, feature_norm=True, mixup=1.0),
        searched=("mixup",),
    ),
    "ce_etf_la": Method(
        "CE+ETF with logit adjustment: hinge_la without cones",
        frame=True,
        parts=_ADJUSTED,
        searched=("logit_adjustment",),
    ),
    "hinge_la": Method(
        "HingeCE with logit adjustment after the hinge",
        frame=True,
        hinge=True,
        parts=_ADJUSTED,
        searched=("logit_adjustment",),
    ),
    "crt": Method(
        "CE, then a new classifier on frozen features, classes sampled alike (Kang et al. 2020, cRT)",
        parts=with_second(OFF, "crt"),
        searched=("second_lr",),
    ),
    "lws": Method(
        "CE, then one factor a class on its logits, learned on frozen features (Kang et al. 2020, LWS)",
        parts=with_second(OFF, "lws"),
        searched=("second_lr",),
    ),
    "tau_norm": Method(
        "CE, then w_k / ||w_k|| without bias (Kang et al. 2020, tau-normalised)",
        parts=with_second(OFF, "tau_norm"),
        searched=("exponent",),
    ),
    "ncm": Method(
        "CE, then the nearest mean of centred features of length 1 (Kang et al. 2020, NCM)",
        parts=with_second(OFF, "ncm"),
    ),
    "post_hoc_la": Method(
        "CE, then v - log prior (Menon et al. 2021, post hoc)",
        parts=with_second(OFF, "post_hoc"),
        searched=("prior_strength",),
    ),
    "m2m": Method(
        "CE, then a second network on images translated from major to minor classes (Kim et al. 2020, M2m)",
        parts=with_second(OFF, "m2m"),
        searched=("m2m_beta", "m2m_gamma", "m2m_lambda"),
    ),
    "oltr": Method(
        "CE, then features enriched from a memory of centroids (Liu et al. 2019, OLTR, without attention)",
        parts=with_second(OFF, "oltr"),
        searched=("second_lr", "centroid_loss"),
    ),
}


def method_named(name: str) -> Method:
    """The method called `name`.

    Raises:
        ConfigError: unknown name; lists the known ones.
    """
    if name not in METHODS:
        raise ConfigError(unknown("method", name, METHODS))
    return METHODS[name]


def parts_of(config: MethodConfig) -> Parts:
    """The method's own parts, and over them those that the configuration gives.

    Raises:
        ConfigError: unknown name, or parts that mean nothing together.
    """
    method = method_named(config.name)
    given = {field.name: getattr(config, field.name) for field in fields(Parts)}
    base = method.parts
    if config.second is not None and config.second != base.second:
        base = with_second(base, config.second)
    parts = replace(base, **{name: value for name, value in given.items() if value is not None})
    _check_parts(config.name, method, parts, given)
    # Weights that are off start at no time: one spelling for one training.
    return parts if parts.class_balanced else replace(parts, deferred=0.0)


def train_of(config: MethodConfig, train: TrainConfig) -> TrainConfig:
    """`train` with what the method replaces in it.

    Raises:
        ConfigError: unknown name, or parts that mean nothing together.
    """
    parts = parts_of(config)
    replaced = {name: getattr(parts, name) for name in _OF_TRAINING}
    return train.model_copy(update={name: value for name, value in replaced.items() if value is not None})


def spelled_out(config: MethodConfig, train: TrainConfig) -> MethodConfig:
    """The method, canonical, with all it is trained with: the same for two that one study trains alike."""
    resolved = train_of(config, train)
    return canonical(config.model_copy(update={name: getattr(resolved, name) for name in _OF_TRAINING}))


def _check_parts(name: str, method: Method, parts: Parts, given: Mapping[str, Any]) -> None:
    if parts.margin and not parts.scale:
        raise ConfigError(
            f"method.margin={parts.margin} is measured in cosines, and the logits of {name!r} are none: set method.scale too "
            "(LDAM: 30)"
        )
    if given["deferred"] and not parts.class_balanced:
        raise ConfigError(
            f"method.deferred={parts.deferred} says when class weights start, and {name!r} has none: set "
            "method.class_balanced too (LDAM-DRW: 0.9999)"
        )
    for part in OF_CONES:
        if given[part] and not method.hinge:
            raise ConfigError(
                f"method.{part}={given[part]} says when cones are closed, and {name!r} has none: use hinge_ce or hinge_la, or "
                "leave it out"
            )
    if parts.closed_first + parts.closed_last >= 1:
        raise ConfigError(
            f"method.closed_first={parts.closed_first} and method.closed_last={parts.closed_last} leave no epoch in which the "
            "cones are open: their sum must be less than 1"
        )
    _check_second(name, method, parts, given)
    if parts.loss != "dot_regression":
        return
    if not method.frame:
        raise ConfigError(
            f"method.loss='dot_regression' needs frozen axes, and those of {name!r} are learned (all classes on one axis "
            "would minimise it): use etf_dr, ce_etf or hinge_ce"
        )
    for part in ("label_smoothing", "logit_adjustment", "margin", "focal"):
        if value := getattr(parts, part):
            raise ConfigError(
                f"method.{part}={value} acts on a softmax, and method.loss='dot_regression' has none: set method.{part}=0"
            )


def _check_second(name: str, method: Method, parts: Parts, given: Mapping[str, Any]) -> None:
    read = () if parts.second == "none" else SECONDS[parts.second].settings
    for setting in _SECOND_SETTINGS:
        if given[setting] is not None and setting not in read:
            readers = " or ".join(repr(second) for second, stage in SECONDS.items() if setting in stage.settings)
            raise ConfigError(
                f"method.{setting}={given[setting]} is a setting of the second stage {readers}, and {name!r} has "
                f"{parts.second!r}: set method.second too, or leave it out"
            )
    if parts.second != "none":
        SECONDS[parts.second].check_parts(name, method.frame, parts)


def first_stage(method: MethodConfig) -> MethodConfig:
    """`method` without its second stage, by its plainest name: what trains alike in the first stage is equal here.

    Raises:
        ConfigError: unknown name, or parts that mean nothing together.
    """
    return canonical(method.model_copy(update=dict.fromkeys(_SECOND_SETTINGS) | {"second": "none"}))


def epochs_of(method: MethodConfig, epochs: int) -> int:
    """Epochs of both stages, where the first has `epochs`."""
    parts = parts_of(method)
    return epochs if parts.second == "none" else epochs + SECONDS[parts.second].epochs(parts, epochs)


def canonical(method: MethodConfig) -> MethodConfig:
    """`method` by its plainest name, so that two spellings of one training share its key.

    A hinge without cones clamps nothing, whenever that is, and is CE+ETF, bit for bit. Of the names with the same head and
    hinge it gets the one with the most parts alike (on or off, then in value; the first of several), and only the values that
    differ: None, which leaves a setting to `train`, cannot be given over a name's own. What a name replaces in `train` is
    always told, so that no key of `etf_dr` from before it mixed images stands for one that does.

    Raises:
        ConfigError: unknown name, or parts that mean nothing together.
    """
    projector, frame, hinge = method_named(method.name).structure
    no_cone = family_named(method.thresholds.family).coneless(method.thresholds.angles)
    structure = (projector, frame, hinge and not no_cone)
    parts = parts_of(method)
    if no_cone:
        parts = replace(parts, closed_first=0.0, closed_last=0.0)
    differing = {
        name: parts.other_than(known.parts)
        for name, known in METHODS.items()
        if known.structure == structure and known.parts.second in ("none", parts.second)
    }
    fitting = [name for name, values in differing.items() if None not in values.values()]
    name = min(fitting, key=lambda name: (len(parts.on ^ METHODS[name].parts.on), len(differing[name])))
    cones = {"thresholds": method.thresholds, "release": method.release} if hinge and not no_cone else {}
    given = differing[name] | {part: value for part in _OF_TRAINING if (value := getattr(parts, part)) is not None}
    if "second" in given:  # whose published settings would fill in what is not given
        given |= {setting: getattr(parts, setting) for setting in SECONDS[parts.second].settings}
    return MethodConfig(name=name, **cones, **given)


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
        ConfigError: parts that mean nothing together, thresholds given to a method without any, more classes than dim + 1,
            angles that do not fit, a class without images under a part that counts them.
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
    if method.frame:
        frame = simplex_etf(classes, dim, generator=torch.Generator().manual_seed(seed))
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
