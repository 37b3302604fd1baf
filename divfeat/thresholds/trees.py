"""Families that follow a tree of the classes: one angle for each group of a level, or for each depth that classes lie at."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from divfeat.errors import ConfigError
from divfeat.hierarchy import NAME_ONE, Hierarchy
from divfeat.thresholds.family import PAPER_ANGLE, Family, Parameters, ThresholdContext
from divfeat.thresholds.per_class import MOST_FREE

#: Tree to the place [K] of each class among the angles.
Places = Callable[[Hierarchy], Tensor]


def subtrees(groups: int) -> Family:
    """The family `subtrees_G`: one angle for each of the G groups of the level of the tree that has G, in the order of
    their first class.

    Args:
        groups: G, at least 2.

    Raises:
        ConfigError: fewer than two groups.
    """

    def why_not(tree: Hierarchy) -> str | None:
        if groups in tree.sizes:
            return None
        known = ", ".join(f"subtrees_{size}" for size in tree.sizes if size > 1)
        return f"no level of the tree has {groups} groups; its levels have those of {known}"

    def places(tree: Hierarchy) -> Tensor:
        return tree.levels()[tree.sizes.index(groups)]

    return _family("subtrees", groups, "groups of a level of the tree", places, why_not)


def depths(levels: int) -> Family:
    """The family `depths_D`: one angle for each of the D different depths that the classes of a ragged tree lie at, those next to
    the root first.

    Args:
        levels: D, at least 2.

    Raises:
        ConfigError: fewer than two depths.
    """

    def why_not(tree: Hierarchy) -> str | None:
        found = len(set(_own_depths(tree)))
        if found == levels:
            return None
        instead = f"use depths_{found}" if found > 1 else "use global, or subtrees_G with the G groups of a level"
        return f"the classes lie at {found} depth{'s' * (found > 1)} of the tree, not at {levels}; {instead}"

    def places(tree: Hierarchy) -> Tensor:
        own = _own_depths(tree)
        return torch.tensor([sorted(set(own)).index(depth) for depth in own])

    return _family("depths", levels, "depths at which classes lie in the tree", places, why_not)


def _own_depths(tree: Hierarchy) -> tuple[int, ...]:
    return tree.depths[: tree.num_classes]


def _family(kind: str, number: int, of: str, places: Places, why_not: Callable[[Hierarchy], str | None]) -> Family:
    if number < 2:
        raise ConfigError(f"threshold family '{kind}_{number}': there are at least two {of}; use the family 'global'")
    names = tuple(f"tau_{place}" for place in range(number))

    def angles(parameters: Parameters, context: ThresholdContext) -> Tensor:
        assert context.hierarchy is not None
        return torch.tensor([parameters[name] for name in names], dtype=torch.float64)[places(context.hierarchy)]

    def requires(context: ThresholdContext) -> str | None:
        if context.hierarchy is None:
            return f"there is no tree of the classes; {NAME_ONE}"
        return why_not(context.hierarchy)

    return Family(
        f"{kind}_{number}",
        names,
        angles,
        tuple(dict.fromkeys(names, angle) for angle in (PAPER_ANGLE, 2 / 9 * math.pi, 0.0)),
        f"one angle for each of {number} {of}",
        requires,
        lifts={"global": lambda parameters, context: dict.fromkeys(names, parameters["tau"])},
        by_count=False,
        unsearchable=""
        if number <= MOST_FREE
        else f"{number} angles need more trials than a study has (at most {MOST_FREE} are searched); use a coarser level",
    )
