"""Class hierarchies: one tree of any depth, its distances and levels, where it is read from, and those that ship."""

from divfeat.hierarchy.shipped import SHIPPED, shipped
from divfeat.hierarchy.tree import Hierarchy

__all__ = ["SHIPPED", "Hierarchy", "shipped"]
