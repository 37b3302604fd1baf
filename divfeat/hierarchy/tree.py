"""One labelled tree: a table of parents, of any depth and also ragged, and what follows from it as tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from divfeat.errors import ConfigError, DataError, unknown
from divfeat.validation import digest

#: Between the names of a path from the top down: names of classes hold slashes and dots.
ARROW = " > "


@dataclass(frozen=True)
class Hierarchy:
    """A tree whose leaves are classes.

    Attributes:
        names: Of all nodes: the K classes first, in label order, then the inner nodes, parents after their children, the root
            last. Inner nodes may share a name in different branches, classes may not.
        parents: Place of each node's parent in `names`; -1 for the root.
        num_classes: K, at least 2.

    The *height* of a node is the longest way down to a class, so a class has 0. The *distance* of two classes is the height of
    their lowest common ancestor (Bertinetto et al., CVPR 2020; HAFrame, slide "Pair-wise Cosine Similarity"): siblings have 1,
    unless the tree is ragged and something deeper lies beside them. *Level* l is what lies l steps below the root; a class that
    lies higher stands for itself on all deeper levels.

    Raises:
        DataError: no tree: two roots, a cycle, a class twice, an inner node without classes.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]
    num_classes: int

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise DataError(f"a hierarchy of {self.num_classes} classes: it needs at least 2")
        twice = [name for name, times in Counter(self.names[: self.num_classes]).items() if times > 1]
        if twice:
            raise DataError(f"class {twice[0]!r} is in the hierarchy more than once: every class has one place")
        inner = range(self.num_classes, len(self.names))
        upwards = all(parent > node and parent in inner for node, parent in enumerate(self.parents[:-1]))
        if (
            not upwards
            or self.parents[-1:] != (-1,)
            or len(self.names) != len(self.parents)
            or set(inner) - {*self.parents}
        ):
            raise DataError(
                "the table of parents is no tree with the classes first and each parent after its children: use "
                "Hierarchy.from_nested, from_table or from_edges"
            )

    # --- making one -----------------------------------------------------------------------------------------------------

    @classmethod
    def from_nested(cls, tree: Mapping[str, Any] | Sequence[Any]) -> Hierarchy:
        """Of nested mappings from name to what is below it, whose innermost are lists of class names.

        Beside inner nodes a class may stand as a name with None or an empty mapping or list below it; lists may hold mappings.

        Raises:
            DataError: a class twice, or something that is neither a name nor a mapping nor a list.
        """
        return cls._of_paths(_paths(tree, ()))

    @classmethod
    def from_table(cls, rows: Sequence[Sequence[str | None]]) -> Hierarchy:
        """Of one row a class: the names of its ancestors from the coarsest to the class itself; empty cells are left out.

        Raises:
            DataError: a class twice, a class that is also an inner node's whole path, no rows.
        """
        return cls._of_paths([tuple(str(cell) for cell in row if cell not in (None, "")) for row in rows])

    @classmethod
    def from_edges(cls, edges: Sequence[tuple[str, str]], classes: Sequence[str] | None = None) -> Hierarchy:
        """Of (parent, child) pairs, as in a list of is-a relations; nodes are known by their names.

        Args:
            edges: Of a tree; of a larger one where `classes` are given.
            classes: Its leaves, of which only the ancestors count; None takes the nodes without children.

        Raises:
            DataError: a node with two parents among the ancestors, a cycle, two roots, a class that is not there.
        """
        above: dict[str, list[str]] = {}
        for parent, child in edges:
            above.setdefault(child, [])
            if parent not in above[child]:
                above[child].append(parent)
        nodes = dict.fromkeys(name for edge in edges for name in edge)
        inner = {parent for parent, _ in edges}
        paths = []
        for name in classes if classes is not None else [name for name in nodes if name not in inner]:
            if name not in nodes:
                raise DataError(unknown("class of the hierarchy", name, nodes))
            path = [name]
            while parents := above.get(path[0], []):
                if len(parents) > 1:
                    raise DataError(
                        f"{path[0]!r} has two parents, {parents[0]!r} and {parents[1]!r}: in a tree it has one; leave one out"
                    )
                if parents[0] in path:
                    cycle = [parents[0], *path[: path.index(parents[0]) + 1]]
                    raise DataError(f"the hierarchy has a cycle, {ARROW.join(cycle)}: leave one of these relations out")
                path.insert(0, parents[0])
            paths.append(tuple(path))
        if classes is None and (apart := nodes.keys() - {name for path in paths for name in path}):
            raise DataError(
                f"the hierarchy has a cycle: of {', '.join(sorted(apart)[:5])}{', ...' if len(apart) > 5 else ''} each has a "
                "child, and no class lies below; leave one of these relations out"
            )
        roots = list(dict.fromkeys(path[0] for path in paths))
        if len(roots) > 1:
            raise DataError(
                f"the hierarchy has {len(roots)} roots, among them {roots[0]!r} and {roots[1]!r}: put them below one node"
            )
        return cls._of_paths([path[1:] for path in paths], root=roots[0] if roots else "root")

    @classmethod
    def flat(cls, classes: Sequence[str]) -> Hierarchy:
        """All classes below one root: any two are at distance 1."""
        return cls._of_paths([(name,) for name in classes])

    @classmethod
    def load(cls, path: str | Path) -> Hierarchy:
        """Read a file, see `divfeat.hierarchy.reading.load`."""
        from divfeat.hierarchy.reading import load

        return load(Path(path))

    @classmethod
    def _of_paths(cls, paths: Sequence[tuple[str, ...]], root: str = "root") -> Hierarchy:
        """Of the way from the root, exclusive, to each class."""
        if empty := [place for place, path in enumerate(paths) if not path]:
            raise DataError(f"row {empty[0] + 1} of the hierarchy is empty: each row ends with a class")
        inner = dict.fromkeys(path[:depth] for path in paths for depth in range(len(path)))
        for path in paths:
            if path in inner:
                raise DataError(
                    f"{ARROW.join(path)} is a class and has classes below it: labels are leaves; give it a leaf of its own"
                )
        # Deepest first, so that children come before their parents.
        order = sorted(inner, key=lambda path: -len(path))
        place = {path: len(paths) + at for at, path in enumerate(order)}
        names = [path[-1] for path in paths] + [path[-1] if path else root for path in order]
        parents = [place[path[:-1]] for path in paths] + [place[path[:-1]] if path else -1 for path in order]
        return cls(tuple(names), tuple(parents), len(paths))

    # --- aligned to labels ----------------------------------------------------------------------------------------------

    def aligned(self, class_names: Sequence[str]) -> Hierarchy:
        """The same tree with its classes in the order of `class_names`, matched by name, never by position.

        Raises:
            DataError: names that the tree does not have, or classes of the tree that are not among the names.
        """
        known = {name: place for place, name in enumerate(self.classes)}
        missing = [name for name in class_names if name not in known]
        if inner := [name for name in missing if name in self.names]:
            raise DataError(
                f"the data set's class {inner[0]!r} has classes below it in the hierarchy, and labels are its leaves: cut the "
                "tree there, or give the label a leaf of its own"
            )
        if missing:
            raise DataError(
                f"{unknown('class', missing[0], known)}. The hierarchy lacks {len(missing)} of the data set's "
                f"{len(class_names)} classes: {', '.join(missing[:5])}{', ...' if missing[5:] else ''}"
            )
        beyond = sorted(known.keys() - set(class_names))
        if beyond or len(set(class_names)) < len(class_names):
            said = (
                f"{', '.join(beyond[:5])}{', ...' if beyond[5:] else ''}"
                if beyond
                else "none more, but some names come twice"
            )
            raise DataError(
                f"the hierarchy has {self.num_classes} classes, the data set {len(class_names)}; only the hierarchy has {said}"
            )
        order = [known[name] for name in class_names]
        return Hierarchy(
            tuple(class_names) + self.names[self.num_classes :],
            tuple(self.parents[place] for place in order) + self.parents[self.num_classes :],
            self.num_classes,
        )

    def pruned(self, names: Sequence[str]) -> Hierarchy:
        """The tree above inner nodes (or classes) of these names, which become its classes in that order: coarse labels of a set
        whose tree ends in its fine ones.

        Raises:
            ConfigError: no node of that name, or several.
            DataError: one of them lies below another, or classes of the tree lie below none.
        """
        nodes = [self._node(name) for name in names]
        above = [list(self.ancestors(node)) for node in nodes]
        for node, way in zip(nodes, above, strict=True):
            if over := set(way[1:]) & set(nodes):
                raise DataError(f"{self.path(node)} lies below {self.path(min(over))}: classes do not hold each other")
        covered = self.subtrees()[nodes].any(0)
        if not covered.all():
            missing = [self.classes[label] for label in (~covered).nonzero().flatten().tolist()]
            raise DataError(
                f"{len(missing)} classes of the hierarchy lie below none of the {len(nodes)} labels, among them {missing[0]!r}"
            )
        return self._of_paths([tuple(self.names[node] for node in way[-2::-1]) for way in above], root=self.names[-1])

    def of(self, labels: Sequence[str]) -> Hierarchy:
        """The tree of a data set's labels, matched by name: its classes, or inner nodes that then are its classes.

        Raises:
            ConfigError, DataError: as `aligned`, or as `pruned` where the labels are inner nodes.
        """
        classes, inner = (
            sum(name in known for name in labels) for known in (set(self.classes), set(self.names) - set(self.classes))
        )
        return self.pruned(labels) if inner > classes else self.aligned(labels)

    # --- what follows ---------------------------------------------------------------------------------------------------

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the leaves, in label order."""
        return self.names[: self.num_classes]

    @property
    def height(self) -> int:
        """Of the root: the largest distance of two classes, d_max, unless all lie below one child of it."""
        return self.heights[-1]

    @cached_property
    def heights(self) -> tuple[int, ...]:
        """Of every node, in edges."""
        found = [0] * len(self.names)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                found[parent] = max(found[parent], found[node] + 1)
        return tuple(found)

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """Steps from the root to every node."""
        found = [0] * len(self.names)
        for node in reversed(range(len(self.names))):
            if self.parents[node] >= 0:
                found[node] = found[self.parents[node]] + 1
        return tuple(found)

    @cached_property
    def is_even(self) -> bool:
        """Whether any two classes are at one distance, as in a flat tree: it then says nothing that their number does not."""
        apart = self.distances()[~torch.eye(self.num_classes, dtype=torch.bool)]
        return bool((apart == apart[:1]).all())

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """Of every node, in the order of `names`."""
        found: list[list[int]] = [[] for _ in self.names]
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                found[parent].append(node)
        return tuple(map(tuple, found))

    @cached_property
    def depth_first(self) -> tuple[int, ...]:
        """Labels as they come from the top of a drawn tree to its bottom: the classes of every node stand together."""
        order, waiting = [], [len(self.names) - 1]
        while waiting:
            node = waiting.pop()
            order += [node] * (node < self.num_classes)
            waiting += reversed(self.children[node])
        return tuple(order)

    def ancestors(self, node: int) -> Iterator[int]:
        """A node and all above it, upwards."""
        while node >= 0:
            yield node
            node = self.parents[node]

    def subtrees(self) -> Tensor:
        """Bool [nodes, K]: whether a class lies at or below a node."""
        found = torch.zeros(len(self.names), self.num_classes, dtype=torch.bool)
        for label in range(self.num_classes):
            found[list(self.ancestors(label)), label] = True
        return found

    def subtree(self, name: str) -> Tensor:
        """Bool [K]: the classes at or below the node of that name, or of that path from the top (`animal > dog`).

        Raises:
            ConfigError: no such node, or several.
        """
        return self.subtrees()[self._node(name)]

    def _node(self, name: str) -> int:
        found = [node for node in range(len(self.names)) if name in (self.names[node], self.path(node))]
        if not found:
            raise ConfigError(unknown("node of the hierarchy", name, dict.fromkeys(self.names)))
        if len(found) > 1:
            raise ConfigError(
                f"{len(found)} nodes of the hierarchy are called {name!r}; give a path: "
                + ", ".join(repr(self.path(node)) for node in found)
            )
        return found[0]

    def path(self, node: int) -> str:
        """Names from below the root down to a node; the root's own for the root."""
        names = [self.names[one] for one in self.ancestors(node)][::-1]
        return ARROW.join(names[1:] or names)

    def distances(self) -> Tensor:
        """Int64 [K, K]: height of the lowest common ancestor, 0 on the diagonal (HAFrame, slides, d_ij)."""
        found = torch.zeros(self.num_classes, self.num_classes, dtype=torch.int64)
        below = self.subtrees()
        # From the root down: what a lower node holds in common overwrites.
        for node in reversed(range(self.num_classes, len(self.names))):
            members = below[node].nonzero().squeeze(1)
            found[members[:, None], members] = self.heights[node]
        return found.fill_diagonal_(0)

    def levels(self) -> Tensor:
        """Int64 [L, K], L the depth of the deepest class: the group of each class on levels 1 (coarsest) to L (the classes).

        Groups of a level are numbered from 0 in the order of their first class.
        """
        deepest = max(self.depths[: self.num_classes])
        rows = []
        for level in range(1, deepest + 1):
            numbers: dict[int, int] = {}
            rows.append([numbers.setdefault(node, len(numbers)) for node in self.nodes_at(level)])
        return torch.tensor(rows)

    def groups_above(self) -> list[Tensor]:
        """For each level but the coarsest, int64 [groups]: the group of the level above it that holds each of its groups, both in
        the numbering of `levels`."""
        found = []
        for above, below in pairwise(self.levels()):
            parents = torch.empty(int(below.max()) + 1, dtype=torch.int64)
            parents[below] = above
            found.append(parents)
        return found

    def nodes_at(self, level: int) -> list[int]:
        """The node of each class on a level: its ancestor that many steps below the root, itself where it lies higher."""
        ways = [list(self.ancestors(label))[::-1] for label in range(self.num_classes)]
        return [way[min(level, len(way) - 1)] for way in ways]

    @property
    def sizes(self) -> list[int]:
        """Groups on each level, from the coarsest to the classes."""
        return [int(row.max()) + 1 for row in self.levels()]

    # --- told -----------------------------------------------------------------------------------------------------------

    def to_nested(self) -> dict[str, Any]:
        """As nested mappings, a class with None below it: what `from_nested` reads."""
        made: list[dict[str, Any] | None] = [None] * self.num_classes + [{} for _ in self.names[self.num_classes :]]
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                above = made[parent]
                assert above is not None
                above[self.names[node]] = made[node]
        root = made[-1]
        assert root is not None
        return root

    def __str__(self) -> str:
        """The tree, a line a node, for people."""
        lines: list[str] = []

        def draw(node: int, lead: str, tail: str) -> None:
            lines.append(lead + self.names[node])
            below = self.children[node]
            for place, child in enumerate(below):
                last = place == len(below) - 1
                draw(child, tail + ("└── " if last else "├── "), tail + ("    " if last else "│   "))

        draw(len(self.names) - 1, "", "")
        return "\n".join(lines)

    @property
    def identity(self) -> str:
        """Digest of the tree: the same for the same classes in the same order at the same distances."""
        return digest([list(self.classes), self.distances().tolist(), self.levels().tolist()])


def _paths(tree: Any, above: tuple[str, ...]) -> list[tuple[str, ...]]:
    where = ARROW.join(above) or "the top"
    if tree is None or (isinstance(tree, Mapping | Sequence) and not isinstance(tree, str) and not tree and above):
        return [above]
    if isinstance(tree, str):
        return [(*above, tree)]
    if isinstance(tree, Mapping):
        return [path for name, below in tree.items() for path in _paths(below, (*above, str(name)))]
    if isinstance(tree, Sequence):
        return [path for one in tree for path in _paths(one, above)]
    raise DataError(f"the hierarchy has {tree!r} at {where}: it holds names of classes, lists and mappings")
