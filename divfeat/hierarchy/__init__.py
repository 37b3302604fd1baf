"""Class hierarchies: one tree of any depth, its distances and levels, where it is read from, and those that ship."""

from divfeat.hierarchy.shipped import SHIPPED, shipped
from divfeat.hierarchy.tree import Hierarchy

#: What to do where there is no tree, for messages.
NAME_ONE = "set data.hierarchy to flat, coarse, cifar10, cifar100, aircraft or a file"

__all__ = ["NAME_ONE", "SHIPPED", "Hierarchy", "shipped"]
