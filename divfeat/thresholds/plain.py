"""The families of the paper: no cone, one angle for all classes, one for major and one for minor ones (HingeCE, 4.1, 4.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from divfeat.thresholds.family import PAPER_ANGLE, Family, Parameters, ThresholdContext


def _none(parameters: Parameters, context: ThresholdContext) -> Tensor:
    return torch.zeros(context.num_classes, dtype=torch.float64)


def _global(parameters: Parameters, context: ThresholdContext) -> Tensor:
    return torch.full((context.num_classes,), float(parameters["tau"]), dtype=torch.float64)


def _major_minor(parameters: Parameters, context: ThresholdContext) -> Tensor:
    major, minor = (torch.tensor(float(parameters[name]), dtype=torch.float64) for name in ("tau_major", "tau_minor"))
    return torch.where(context.minor.cpu(), minor, major)


def needs_both_groups(context: ThresholdContext) -> str | None:
    """Why major and minor classes cannot be told apart here, or None."""
    minor = int(context.minor.sum())
    if 0 < minor < context.num_classes:
        return None
    which = "no class" if minor == 0 else "every class"
    low, high = int(context.class_counts.min()), int(context.class_counts.max())
    if low == high:
        return f"every class has {low} training images, so none is minor; use the family 'global', or make a long tail"
    counts = f"{low} to {high} training images"
    return (
        f"{which} is minor at data.boundary={context.boundary} (classes have {counts}); "
        f"set data.boundary between those counts, or use the family 'global'"
    )


_PI = math.pi

NONE = Family(
    "none",
    (),
    _none,
    ({},),
    "tau+ = 0 for every class: cross-entropy with a fixed frame",
    varies=False,
    by_count=False,
)

GLOBAL = Family(
    "global",
    ("tau",),
    _global,
    # Tables 1 and 3; no cone at all; the two ends of figure 3c's flat range.
    ({"tau": PAPER_ANGLE}, {"tau": 0.0}, {"tau": 11 / 36 * _PI}, {"tau": 5 / 12 * _PI}),
    "one angle for every class",
    varies=False,
    by_count=False,
)

MAJOR_MINOR = Family(
    "major_minor",
    ("tau_major", "tau_minor"),
    _major_minor,
    # Section 4.2 (nothing on major classes, figure 5's best range on minor ones), then section 5's two ranges.
    (
        {"tau_major": 0.0, "tau_minor": 2 / 9 * _PI},
        {"tau_major": 0.0, "tau_minor": 5 / 18 * _PI},
        {"tau_major": 11 / 90 * _PI, "tau_minor": 1 / 4 * _PI},
        {"tau_major": 0.0, "tau_minor": 0.0},
    ),
    "one angle for major and one for minor classes",
    needs_both_groups,
    lifts={"global": lambda p, context: {"tau_major": p["tau"], "tau_minor": p["tau"]}},
)
