"""Families of cone thresholds: a few numbers in, one angle tau+ a class out.

A family is one function of (parameters, context), one search space, one validation and one list of settings to try
first. Angles are radians inside. To add one: write a `Family`, put it in `FAMILIES` (docs/add-a-threshold-family.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from torch import Tensor

from divfeat.errors import ConfigError
from divfeat.thresholds.boundary import FREE_BOUNDARY
from divfeat.thresholds.counts import BENT_CURVE, COUNT_CURVE, FEW, GROUPS, MANY, shot_groups
from divfeat.thresholds.family import (
    DEFAULT_HIGH,
    PAPER_ANGLE,
    Dimension,
    Family,
    Number,
    Offset,
    ThresholdContext,
    check_angle,
)
from divfeat.thresholds.moving import QUANTILE, MovingThresholds
from divfeat.thresholds.per_class import MOST_FREE, PER_CLASS, each_class
from divfeat.thresholds.plain import GLOBAL, MAJOR_MINOR, NONE
from divfeat.thresholds.trees import depths, subtrees

__all__ = [
    "DEFAULT_HIGH",
    "FAMILIES",
    "FEW",
    "MANY",
    "MOST_FREE",
    "NUMBERED",
    "PAPER_ANGLE",
    "Dimension",
    "Family",
    "MovingThresholds",
    "Number",
    "Offset",
    "ThresholdContext",
    "check_angle",
    "check_parameters",
    "family_named",
    "lift",
    "resolve",
    "shot_groups",
]

#: By name; those of `NUMBERED` besides, which depend on a number.
FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (NONE, GLOBAL, MAJOR_MINOR, FREE_BOUNDARY, COUNT_CURVE, BENT_CURVE, GROUPS, PER_CLASS, QUANTILE)
}


def family_named(name: str) -> Family:
    """The family called `name`.

    Raises:
        ConfigError: unknown name; the message lists the known ones.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    start, _, number = name.rpartition("_")
    if start in NUMBERED and number.isascii() and number.isdigit() and len(number) < 6 and number == str(int(number)):
        return _numbered(start, int(number))
    numbered = (
        "each_K with the number of classes as K, e.g. each_10; over a tree of the classes subtrees_G with the groups of a level, "
        "and depths_D"
    )
    raise ConfigError(f"unknown threshold family {name!r}; known: {', '.join(FAMILIES)}, {numbered}")


def _each(num_classes: int) -> Family:
    return each_class(num_classes, tuple(f for f in FAMILIES.values() if f.parameters and not f.moves))


#: Families whose name ends in a number, by what is before it.
NUMBERED = {"each": _each, "subtrees": subtrees, "depths": depths}


@lru_cache(maxsize=16)
def _numbered(kind: str, number: int) -> Family:
    return NUMBERED[kind](number)


def resolve(spec: Mapping[str, Any], context: ThresholdContext) -> Tensor:
    """Angles tau+ of every class.

    Args:
        spec: ``{"family": name, **parameters}``, angles and offsets in radians.
        context: Class counts and the like.

    Returns:
        float64 Tensor [K], radians.

    Raises:
        ConfigError: unknown family, missing or surplus parameter, a value outside its range, or a family that makes no
            sense for these classes.
    """
    family = family_named(str(spec.get("family", "")))
    parameters = {name: value for name, value in spec.items() if name != "family"}
    check_parameters(family, parameters)
    reason = family.requires(context)
    if reason:
        raise ConfigError(f"threshold family {family.name!r}: {reason}")
    return family.angles(parameters, context)


def check_parameters(family: Family, parameters: Mapping[str, float]) -> None:
    """Refuse missing or surplus parameters and values outside their ranges.

    Raises:
        ConfigError: naming the parameter and the family.
    """
    family.check(parameters)


def lift(parameters: Mapping[str, float], source: str, target: str, context: ThresholdContext) -> dict[str, float]:
    """Parameters of the family `target` that give every class the angle that `parameters` give it in `source`.

    Equal up to float rounding; offsets may leave the range they are searched in.

    Args:
        parameters: Of `source`, radians.
        source: Name of a family.
        target: Name of one that contains it, or the same.
        context: Class counts and the like.

    Raises:
        ConfigError: unknown family, or a target that does not contain the source.
    """
    if source == target:
        return dict(parameters)
    found = family_named(target).lifts.get(family_named(source).name)
    if found is None:
        known = ", ".join(family_named(target).lifts) or "no other"
        raise ConfigError(f"threshold family {target!r} does not contain {source!r}; it contains {known}")
    return found(parameters, context)
