"""Hierarchies that ship with divfeat, as tables under `trees/`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from divfeat.errors import ConfigError, unknown
from divfeat.hierarchy.tree import Hierarchy

_TREES = Path(__file__).with_name("trees")
#: By name: CIFAR-100 in five levels (HAFrame's: 100, 20, 8, 4, 2), CIFAR-10 in two (10, 2).
SHIPPED = ("cifar10", "cifar100")


@cache
def shipped(name: str) -> Hierarchy:
    """One of `SHIPPED`.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in SHIPPED:
        raise ConfigError(unknown("hierarchy", name, SHIPPED))
    return Hierarchy.load(_TREES / f"{name}.csv")
