"""Combinations of parts that mean nothing, refused with the reason and the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from divfeat.errors import ConfigError
from divfeat.methods.table import SECOND_SETTINGS, Method
from divfeat.parts import OFF, Parts
from divfeat.second import SECONDS

#: Parts that say when cones are closed: nothing where there is none.
OF_CONES = ("closed_first", "closed_last")


def check_parts(name: str, method: Method, parts: Parts, given: Mapping[str, Any]) -> None:
    """Refuse parts that mean nothing together, or on the axes of the method.

    Args:
        name: Of the method, for messages.
        method: What the name fixes.
        parts: Resolved.
        given: What the configuration itself says of each part, None where it leaves it to the name.

    Raises:
        ConfigError: naming the setting, its value and the remedy.
    """
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
    _check_regression(name, method, parts)
    _check_tree(name, method, parts, given)


def _check_regression(name: str, method: Method, parts: Parts) -> None:
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


#: Parts that are the whole criterion, off at their first value: a loss is one of them, or cross-entropy.
_CRITERIA = ("focal", "cosine", "soft_labels", "hierarchical_ce", "levels", "loss")
#: Parts that act on the softmax of a criterion, and those of the criteria above that have a place for them.
_IN_CRITERION = {"label_smoothing": ("focal", "cosine")}


def _check_tree(name: str, method: Method, parts: Parts, given: Mapping[str, Any]) -> None:
    """Refuse what hierarchies add where it means nothing."""
    for part in ("frame", "gamma", "s_min", "cosine", "cosine_schedule"):
        if getattr(parts, part) != getattr(OFF, part) and not method.frame:
            raise ConfigError(
                f"method.{part}={getattr(parts, part)} is of frozen axes, and those of {name!r} are learned: use haframe, "
                "ce_etf or hinge_ce"
            )
    if parts.frame == "hierarchy" and not parts.gamma:
        raise ConfigError(
            "method.frame='hierarchy' says nothing of how fast cosines fall with distance: set method.gamma too (CIFAR-100: 2)"
        )
    for part in ("gamma", "s_min"):
        if parts.frame != "hierarchy" and given[part] not in (None, getattr(OFF, part)):
            raise ConfigError(
                f"method.{part}={given[part]} is of the hierarchy-aware frame, and {name!r} has the frame {parts.frame!r}: set "
                "method.frame=hierarchy too, or leave it out"
            )
    if parts.cosine_schedule != "constant" and not parts.cosine:
        raise ConfigError(
            f"method.cosine_schedule={parts.cosine_schedule!r} is of the cosine loss, and {name!r} has none: set method.cosine "
            "too"
        )
    if given["pair_margin"] and parts.levels != "hafeature":
        raise ConfigError(
            f"method.pair_margin={given['pair_margin']} is of hafeature, and {name!r} has levels={parts.levels!r}: set "
            "method.levels=hafeature too, or leave it out"
        )
    if parts.levels == "hafeature" and not parts.pair_margin and given["pair_margin"] is None:
        raise ConfigError(
            "method.levels='hafeature' says nothing of its pairs: set method.pair_margin too (published: 3), or to 0 for none"
        )
    if parts.levels != "none" and method.frame:
        raise ConfigError(
            f"method.levels={parts.levels!r} learns a classifier for every level, and the axes of {name!r} are frozen: use "
            f"{parts.levels}, or a method with a learned classifier"
        )
    chosen = [part for part in _CRITERIA if getattr(parts, part) != getattr(OFF, part)]
    if len(chosen) > 1:
        first, second = (f"method.{part}={getattr(parts, part)}" for part in chosen[:2])
        raise ConfigError(f"{first} and {second} are two losses in place of one cross-entropy: set one of them to off")
    for part, places in _IN_CRITERION.items():
        if getattr(parts, part) and chosen and chosen[0] != "loss" and chosen[0] not in places:
            raise ConfigError(
                f"method.{part}={getattr(parts, part)} has no place in the loss that method.{chosen[0]} names: set one of the "
                "two to off"
            )
    if parts.levels != "none":
        for part in ("scale", "margin"):
            if getattr(parts, part):
                raise ConfigError(
                    f"method.{part}={getattr(parts, part)} is of a cosine classifier, and method.levels={parts.levels!r} has its "
                    f"own: set method.{part}=0"
                )
        if parts.second not in ("none", "crm", "post_hoc", "ncm"):
            raise ConfigError(
                f"method.second={parts.second!r} is not offered after method.levels={parts.levels!r}, which has a classifier for "
                "every level: use crm, post_hoc or ncm, or none"
            )


def _check_second(name: str, method: Method, parts: Parts, given: Mapping[str, Any]) -> None:
    read = () if parts.second == "none" else SECONDS[parts.second].settings
    for setting in SECOND_SETTINGS:
        if given[setting] is not None and setting not in read:
            readers = " or ".join(repr(second) for second, stage in SECONDS.items() if setting in stage.settings)
            raise ConfigError(
                f"method.{setting}={given[setting]} is a setting of the second stage {readers}, and {name!r} has "
                f"{parts.second!r}: set method.second too, or leave it out"
            )
    if parts.second != "none":
        SECONDS[parts.second].check_parts(name, method.frame, parts)
