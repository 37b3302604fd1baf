"""Families whose angle follows the class count: a curve over its logarithm, or one angle for each group of counts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from divfeat.thresholds.family import Family, Number, Parameters, ThresholdContext

#: A class of more than 100 training images is one of the many, one of fewer than 20 one of the few (Liu et al. 2019,
#: "Large-Scale Long-Tailed Recognition in an Open World", section 5); the others are medium.
MANY, FEW = 100, 20
#: Largest class over smallest from which on a set has a tail: a split of a balanced set lies below.
LEAST_IMBALANCE = 1.5


# --- curves -----------------------------------------------------------------------------------------------------------


def tail_share(counts: Tensor) -> Tensor:
    """float64 [K]: 0 for the largest class, 1 for the smallest, between them linear in the logarithm of the count."""
    logs = torch.log(counts.double().cpu())
    return (logs.max() - logs) / (logs.max() - logs.min())


def curve(head: float, tail: float, share: Tensor) -> Tensor:
    """float64 [K] from `head` at share 0 to `tail` at share 1; both ends, and equal ends, are met exactly."""
    ends = torch.tensor([head, tail], dtype=torch.float64)
    return torch.lerp(ends[0], ends[1], share).clamp(ends.min(), ends.max())


def needs_a_tail(context: ThresholdContext) -> str | None:
    """Why there is no head and no tail to run a curve between, or None."""
    counts = context.class_counts
    smallest, largest = int(counts.min()), int(counts.max())
    if smallest < 1:
        empty = int((counts < 1).nonzero()[0])
        return f"class {empty} has no training image, so its count has no logarithm; leave the class out"
    if largest < LEAST_IMBALANCE * smallest:
        return (
            f"classes have {smallest} to {largest} training images, too much alike for an angle to follow the count; use the "
            "family 'global', or make a long tail (data.imbalance)"
        )
    return None


def _count_curve(parameters: Parameters, context: ThresholdContext) -> Tensor:
    return curve(parameters["tau_head"], parameters["tau_tail"], tail_share(context.class_counts))


def _bent_curve(parameters: Parameters, context: ThresholdContext) -> Tensor:
    share = tail_share(context.class_counts) ** (2.0 ** parameters["bend"])
    return curve(parameters["tau_head"], parameters["tau_tail"], share)


_PI = math.pi
#: Both directions: cones on the tail alone (section 4.2, at both ends of figure 5's best range), then on the head alone;
#: last no cone at all.
_ENDS = (
    {"tau_head": 0.0, "tau_tail": 2 / 9 * _PI},
    {"tau_head": 0.0, "tau_tail": 5 / 18 * _PI},
    {"tau_head": 1 / 3 * _PI, "tau_tail": 0.0},
    {"tau_head": 0.0, "tau_tail": 0.0},
)

COUNT_CURVE = Family(
    "count_curve",
    ("tau_head", "tau_tail"),
    _count_curve,
    _ENDS,
    "one angle for the largest and one for the smallest class, linear in log class count between them",
    needs_a_tail,
    lifts={"global": lambda p, context: {"tau_head": p["tau"], "tau_tail": p["tau"]}},
)

BENT_CURVE = Family(
    "bent_curve",
    ("tau_head", "tau_tail", "bend"),
    _bent_curve,
    # Bent by 1, the line becomes a parabola: the larger half of the classes stays close to the head's angle.
    ({**_ENDS[0], "bend": 1.0}, *({**ends, "bend": 0.0} for ends in _ENDS)),
    "a count_curve with a bend: the angle changes near the tail (bend > 0) or near the head (bend < 0)",
    needs_a_tail,
    others=(Number("bend", -2.0, 2.0),),
    lifts={
        "global": lambda p, context: {"tau_head": p["tau"], "tau_tail": p["tau"], "bend": 0.0},
        "count_curve": lambda p, context: {**p, "bend": 0.0},
    },
    coneless=lambda p: p["tau_head"] == 0 and p["tau_tail"] == 0,
)


# --- groups -----------------------------------------------------------------------------------------------------------


def shot_groups(counts: Tensor) -> dict[str, Tensor]:
    """bool [K] by name: many (> 100 training images), medium (20 to 100) and few (< 20)."""
    counts = counts.cpu()
    return {"many": counts > MANY, "medium": (counts >= FEW) & (counts <= MANY), "few": counts < FEW}


def _groups(parameters: Parameters, context: ThresholdContext) -> Tensor:
    found = torch.zeros(context.num_classes, dtype=torch.float64)
    for name, mask in shot_groups(context.class_counts).items():
        found[mask] = float(parameters[f"tau_{name}"])
    return found


def _needs_every_group(context: ThresholdContext) -> str | None:
    sizes = {name: int(mask.sum()) for name, mask in shot_groups(context.class_counts).items()}
    empty = [name for name, size in sizes.items() if size == 0]
    if not empty:
        return None
    counts = context.class_counts
    return (
        f"no class is {' or '.join(empty)}: {sizes['many']} classes have more than {MANY} training images, "
        f"{sizes['medium']} have {FEW} to {MANY}, {sizes['few']} have fewer than {FEW} (classes have {int(counts.min())} to "
        f"{int(counts.max())}); use the family 'count_curve', 'major_minor' or 'global'"
    )


GROUPS = Family(
    "groups",
    ("tau_many", "tau_medium", "tau_few"),
    _groups,
    # The paper's minor classes (<= 50) are the few and most of the medium ones; then angles that grow to either side.
    (
        {"tau_many": 0.0, "tau_medium": 2 / 9 * _PI, "tau_few": 2 / 9 * _PI},
        {"tau_many": 0.0, "tau_medium": 11 / 90 * _PI, "tau_few": 1 / 4 * _PI},
        {"tau_many": 1 / 4 * _PI, "tau_medium": 11 / 90 * _PI, "tau_few": 0.0},
        {"tau_many": 0.0, "tau_medium": 0.0, "tau_few": 0.0},
    ),
    f"one angle each for classes of more than {MANY}, {FEW} to {MANY}, and fewer than {FEW} training images",
    _needs_every_group,
    lifts={"global": lambda p, context: dict.fromkeys(("tau_many", "tau_medium", "tau_few"), p["tau"])},
)
