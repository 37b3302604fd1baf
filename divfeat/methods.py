"""Methods by name: a head (axes) and an objective (loss), the one place that knows which combination a name means."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from divfeat.config import MethodConfig
from divfeat.errors import ConfigError, unknown
from divfeat.frames import simplex_etf
from divfeat.losses import ConeGate, Hinge, Objective, theorem_tau_minus
from divfeat.models import FrameHead, Head, LinearHead
from divfeat.thresholds import ThresholdContext, resolve


@dataclass(frozen=True)
class Method:
    """What a method's name fixes.

    Attributes:
        projector: Whether a linear layer follows the backbone (needed to reach an ETF from pooled ReLU features).
        frame: Whether the classifier is a frozen simplex ETF; else it is learned.
        label_smoothing: Default alpha.
        hinge: Whether thresholds apply.
        summary: One line, with its source.
    """

    projector: bool
    frame: bool
    label_smoothing: float
    hinge: bool
    summary: str


METHODS: dict[str, Method] = {
    "ce": Method(True, False, 0.0, False, "cross-entropy, learned classifier, with projector"),
    "ce_no_projector": Method(False, False, 0.0, False, "cross-entropy, learned classifier, the plain network"),
    "ce_smooth": Method(True, False, 0.1, False, "cross-entropy with label smoothing 0.1 (HingeCE, 4.1)"),
    "ce_etf": Method(True, True, 0.0, False, "cross-entropy with a frozen simplex ETF (HingeCE, 'CE+ETF')"),
    "ce_etf_smooth": Method(True, True, 0.1, False, "CE+ETF with label smoothing 0.1 (HingeCE, 'Smooth+ETF')"),
    "hinge_ce": Method(True, True, 0.0, True, "CE over hinged logits of a frozen simplex ETF (HingeCE, equation 7)"),
}


def method_named(name: str) -> Method:
    """The method called `name`.

    Raises:
        ConfigError: unknown name; lists the known ones.
    """
    if name not in METHODS:
        raise ConfigError(unknown("method", name, METHODS))
    return METHODS[name]


@dataclass(frozen=True)
class BuiltMethod:
    """A method made for one set of classes.

    Attributes:
        head: Module from taps to outputs; in optimizer and checkpoint.
        objective: Loss a sample.
        tau_plus: float64 [K] radians, zeros where the method has no thresholds.
    """

    head: Head
    objective: Objective
    tau_plus: Tensor


def build_method(config: MethodConfig, dim: int, context: ThresholdContext, seed: int) -> BuiltMethod:
    """Head and objective of `config` for features of `dim` dimensions.

    The frame's rotation is drawn from a generator keyed by `seed`, apart from every other stream.

    Raises:
        ConfigError: thresholds given to a method without any, more classes than dim + 1, angles that do not fit.
    """
    method = method_named(config.name)
    if not method.hinge and config.thresholds.family != "none":
        raise ConfigError(
            f"method {config.name!r} has no thresholds, but method.thresholds.family={config.thresholds.family!r}; "
            "use hinge_ce, or the family 'none'"
        )
    smoothing = method.label_smoothing if config.label_smoothing is None else config.label_smoothing
    classes = context.num_classes
    tau_plus = torch.zeros(classes, dtype=torch.float64)
    if not method.frame:
        return BuiltMethod(LinearHead(dim, classes, seed=seed), Objective(label_smoothing=smoothing), tau_plus)
    frame = simplex_etf(classes, dim, generator=torch.Generator().manual_seed(seed))
    head = FrameHead(frame)
    if not method.hinge:
        return BuiltMethod(head, Objective(label_smoothing=smoothing), tau_plus)
    tau_plus = resolve(config.thresholds.spec(), context)
    if config.release == "gate":
        objective = Objective(gate=ConeGate(frame, tau_plus), label_smoothing=smoothing)
    else:
        tau_minus = theorem_tau_minus(frame, tau_plus) if config.release == "theorem" else math.pi
        objective = Objective([Hinge(frame, tau_plus, tau_minus)], label_smoothing=smoothing)
    return BuiltMethod(head, objective, tau_plus)
