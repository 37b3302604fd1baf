"""Frozen class axes by name: what a method's `frame` means, each a function of the classes, the tree and the images' means."""

from __future__ import annotations

import torch
from torch import Tensor

from divfeat.errors import ConfigError
from divfeat.frames import class_mean_frame, hierarchy_aware_frame, orthonormal_frame, simplex_etf
from divfeat.hierarchy import NAME_ONE, Hierarchy
from divfeat.parts import Parts
from divfeat.thresholds import ThresholdContext


def frame_of(name: str, parts: Parts, dim: int, context: ThresholdContext, seed: int) -> Tensor:
    """The axes that `parts.frame` names.

    Args:
        name: Of the method, for messages.
        parts: Its frame, with gamma and s_min of the hierarchy-aware one.
        dim: D.
        context: Classes; their tree and the means of their images where the frame needs them.
        seed: Of the rotation.

    Returns:
        float64 [D, K], unit columns.

    Raises:
        ConfigError: no tree or no means where the frame needs them, numbers out of range, or dim below the rank.
    """
    generator = torch.Generator().manual_seed(seed)
    if parts.frame == "simplex":
        return simplex_etf(context.num_classes, dim, generator=generator)
    if parts.frame == "orthonormal":
        return orthonormal_frame(context.num_classes, dim, generator=generator)
    if parts.frame == "class_means":
        if context.class_means is None:
            raise ConfigError(f"method.frame='class_means' of {name!r} needs the means of the classes' images")
        return class_mean_frame(context.class_means, dim, generator=generator)
    tree = tree_of(name, "method.frame='hierarchy'", context.hierarchy)
    s_min = parts.s_min
    return hierarchy_aware_frame(tree, dim, gamma=parts.gamma, s_min=s_min, generator=generator)  # type: ignore[arg-type]


def tree_of(name: str, why: str, hierarchy: Hierarchy | None, *, uneven: bool = False) -> Hierarchy:
    """`hierarchy`, if there is one.

    Args:
        name: Of the method, for the message.
        why: What needs it.
        hierarchy: Of the classes, or None.
        uneven: Whether what needs it is nothing but cross-entropy where all classes are at one distance.

    Raises:
        ConfigError: there is none, or one that is even.
    """
    if hierarchy is None:
        raise ConfigError(f"{name!r} ({why}) needs a tree of the classes: {NAME_ONE}")
    if uneven and hierarchy.is_even:
        raise ConfigError(
            f"{name!r} ({why}) is cross-entropy by another name where all classes are at one distance, as in the tree that "
            "data.hierarchy names: name one in which some are nearer than others, or use ce_no_projector"
        )
    return hierarchy
