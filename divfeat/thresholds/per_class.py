"""Families that give every class its own angle: in few directions for many classes, freely for few classes.

A hundred free angles cannot be searched in the tens of trials that a study has. `per_class` searches five numbers: the
angles of the largest and the smallest class; how much of the way between them is a jump at the boundary between major and
minor classes, the rest being linear in log class count; and two sine waves over the rank of the class count, which leave
both ends where they are. So it contains `global`, `count_curve` and `major_minor` exactly. Waves are shrunk towards the
curve: the higher their order, the narrower their range (1/4, then 1/8 of the box), as a prior that neighbours in count need
like angles. That 60 trials find angles planted in 100 classes, nearer than the simpler families could come, is shown in
tests/search/test_planted.py. What it cannot say: that two classes of the same count differ.

`each_K` (`each_10` for ten classes) says just that, one free angle a class in the order of the labels. It is searched up to
12 classes, and may be set for any number.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from divfeat.errors import ConfigError
from divfeat.thresholds.counts import COUNT_CURVE, curve, needs_a_tail, tail_share
from divfeat.thresholds.family import (
    DEFAULT_HIGH,
    PAPER_ANGLE,
    Family,
    Lift,
    Number,
    Offset,
    Parameters,
    ThresholdContext,
)
from divfeat.thresholds.plain import MAJOR_MINOR, needs_both_groups

#: Orders of the sine waves of `per_class`.
WAVES = (1, 2)
#: Classes up to which one free angle each is searched.
MOST_FREE = 12


# --- few directions -----------------------------------------------------------------------------------------------------


def count_rank(counts: Tensor) -> Tensor:
    """float64 [K] in [0, 1]: place of each class by falling count, over K - 1; classes of equal count share their mean."""
    counts = counts.cpu()
    larger = (counts.unsqueeze(0) > counts.unsqueeze(1)).sum(1)
    equal = (counts.unsqueeze(0) == counts.unsqueeze(1)).sum(1)
    return (larger + (equal - 1) / 2).double() / (len(counts) - 1)


def _per_class(parameters: Parameters, context: ThresholdContext) -> Tensor:
    head, tail = parameters["tau_head"], parameters["tau_tail"]
    share = torch.lerp(tail_share(context.class_counts), context.minor.cpu().double(), parameters["jump"])
    angles = curve(head, tail, share)
    rank = count_rank(context.class_counts)
    for order in WAVES:
        angles = angles + parameters[f"wave_{order}"] * torch.sin(math.pi * order * rank)
    return angles.clamp(0.0, max(DEFAULT_HIGH, head, tail))


def _needs_tail_and_groups(context: ThresholdContext) -> str | None:
    return needs_a_tail(context) or needs_both_groups(context)


_WAVES = tuple(f"wave_{order}" for order in WAVES)
_CALM = dict.fromkeys(_WAVES, 0.0)


def _calm(head: float, tail: float, jump: float) -> dict[str, float]:
    return {"tau_head": head, "tau_tail": tail, "jump": jump} | _CALM


PER_CLASS = Family(
    "per_class",
    ("tau_head", "tau_tail", "jump", *_WAVES),
    _per_class,
    # The paper's own setting of section 4.2, then curves in both directions, last no cone at all.
    (
        _calm(MAJOR_MINOR.tried_first[0]["tau_major"], MAJOR_MINOR.tried_first[0]["tau_minor"], 1.0),
        *(_calm(ends["tau_head"], ends["tau_tail"], 0.0) for ends in COUNT_CURVE.tried_first[1:]),
    ),
    "every class its own: from head to tail by a curve or a jump at the boundary, with two waves over the rank of the count",
    _needs_tail_and_groups,
    others=(Number("jump", 0.0, 1.0), *(Offset(f"wave_{order}", 1 / (4 * order)) for order in WAVES)),
    lifts={
        "global": lambda p, context: _calm(p["tau"], p["tau"], 0.0),
        "count_curve": lambda p, context: _calm(p["tau_head"], p["tau_tail"], 0.0),
        "major_minor": lambda p, context: _calm(p["tau_major"], p["tau_minor"], 1.0),
    },
    coneless=lambda p: all(value == 0 for name, value in p.items() if name != "jump"),
    widest=DEFAULT_HIGH,
)


# --- one free angle each ------------------------------------------------------------------------------------------------


def each_class(num_classes: int, contained: tuple[Family, ...]) -> Family:
    """The family `each_K` of one free angle a class, `tau_0` to `tau_(K-1)` in the order of the labels.

    Args:
        num_classes: K, at least 2.
        contained: Families whose angles it takes over.

    Raises:
        ConfigError: fewer than two classes.
    """
    if num_classes < 2:
        raise ConfigError(f"threshold family 'each_{num_classes}': there are at least two classes, e.g. 'each_10'")
    names = tuple(f"tau_{k}" for k in range(num_classes))

    def angles(parameters: Parameters, context: ThresholdContext) -> Tensor:
        return torch.tensor([parameters[name] for name in names], dtype=torch.float64)

    def requires(context: ThresholdContext) -> str | None:
        if context.num_classes == num_classes:
            return None
        return f"it has {num_classes} angles, but {context.num_classes} classes are trained; use 'each_{context.num_classes}'"

    def lift_from(family: Family) -> Lift:
        return lambda p, context: dict(zip(names, family.angles(p, context).tolist(), strict=True))

    return Family(
        f"each_{num_classes}",
        names,
        angles,
        tuple(dict.fromkeys(names, angle) for angle in (PAPER_ANGLE, 2 / 9 * math.pi, 0.0)),
        f"one free angle for each of {num_classes} classes",
        requires,
        lifts={family.name: lift_from(family) for family in contained},
        by_count=False,
        unsearchable=""
        if num_classes <= MOST_FREE
        else f"{num_classes} free angles need more trials than a study has (at most {MOST_FREE} are searched); use 'per_class'",
    )
