"""Trees against naive walks and networkx; what is no tree is refused with its place."""

import itertools

import networkx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from divfeat.errors import ConfigError, DataError
from divfeat.hierarchy import Hierarchy, shipped

RAGGED = {"animal": {"dog": ["pug", "husky"], "cat": None}, "thing": ["cup"]}


@st.composite
def trees(draw: st.DrawFn) -> Hierarchy:
    """Any shape: each row takes a prefix of an earlier one and goes on."""
    paths: list[tuple[str, ...]] = []
    for number in range(draw(st.integers(2, 14))):
        before = draw(st.sampled_from(paths)) if paths else ()
        kept = before[: draw(st.integers(0, max(len(before) - 1, 0)))]
        fresh = tuple(f"n{number}.{step}" for step in range(draw(st.integers(0, 2))))
        paths.append((*kept, *fresh, f"class {number}"))
    return Hierarchy.from_table(paths)


def graph(tree: Hierarchy) -> networkx.DiGraph:
    found = networkx.DiGraph()
    found.add_nodes_from(range(len(tree.names)))
    found.add_edges_from((parent, node) for node, parent in enumerate(tree.parents) if parent >= 0)
    return found


@given(trees())
def test_distances_are_the_heights_of_lowest_common_ancestors(tree: Hierarchy) -> None:
    known, found = graph(tree), tree.distances()
    assert networkx.is_arborescence(known)
    heights = {
        node: max(networkx.single_source_shortest_path_length(known, node).values(), default=0) for node in known
    }
    assert list(tree.heights) == [heights[node] for node in range(len(tree.names))]
    pairs = [(i, j) for i in range(tree.num_classes) for j in range(i)]
    for (i, j), common in networkx.all_pairs_lowest_common_ancestor(known, pairs):
        assert found[i, j] == found[j, i] == heights[common]
    assert (found.diagonal() == 0).all() and found.dtype == torch.int64


@given(trees())
def test_distances_are_an_ultrametric(tree: Hierarchy) -> None:
    found = tree.distances()
    assert (found[:, None, :] <= torch.maximum(found[:, :, None], found[None])).all()


@given(trees())
def test_levels_refine_each_other_down_to_the_classes(tree: Hierarchy) -> None:
    levels = tree.levels()
    assert levels.shape == (max(tree.depths[: tree.num_classes]), tree.num_classes)
    assert levels[-1].tolist() == list(range(tree.num_classes))
    for coarse, fine in itertools.pairwise(levels):
        for group in fine.unique():
            assert len(coarse[fine == group].unique()) == 1
    for level, row in enumerate(levels, 1):
        ways = [[*tree.ancestors(label)][::-1] for label in range(tree.num_classes)]
        for i in range(tree.num_classes):
            for j in range(tree.num_classes):
                same = ways[i][: level + 1] == ways[j][: level + 1]
                assert bool(row[i] == row[j]) == same
    assert tree.sizes == [len(row.unique()) for row in levels]


@given(trees())
def test_subtrees_are_what_lies_below(tree: Hierarchy) -> None:
    known, found = graph(tree), tree.subtrees()
    for node in range(len(tree.names)):
        below = networkx.descendants(known, node) | {node}
        assert found[node].nonzero().squeeze(1).tolist() == sorted(label for label in below if label < tree.num_classes)
        if [*map(tree.path, range(len(tree.names)))].count(tree.path(node)) == tree.names.count(tree.names[node]) == 1:
            assert torch.equal(tree.subtree(tree.path(node)), found[node])


@given(trees())
def test_depth_first_the_classes_of_every_node_stand_together(tree: Hierarchy) -> None:
    order = list(tree.depth_first)
    assert sorted(order) == list(range(tree.num_classes))
    for below in tree.subtrees():
        places = [order.index(label) for label in below.nonzero().squeeze(1).tolist()]
        assert max(places) - min(places) == len(places) - 1
    for node, children in enumerate(tree.children):
        assert list(children) == [child for child, parent in enumerate(tree.parents) if parent == node]


@given(trees(), st.randoms())
def test_alignment_is_by_name(tree: Hierarchy, random) -> None:
    names = list(tree.classes)
    random.shuffle(names)
    order = [tree.classes.index(name) for name in names]
    other = tree.aligned(names)
    assert other.classes == tuple(names)
    assert torch.equal(other.distances(), tree.distances()[order][:, order])
    assert torch.equal(other.subtrees()[tree.num_classes :], tree.subtrees()[tree.num_classes :, order])
    assert other.aligned(tree.classes) == tree
    assert (other.identity == tree.identity) == (names == list(tree.classes))


@given(trees())
def test_what_is_written_is_read_again(tree: Hierarchy) -> None:
    again = Hierarchy.from_nested(tree.to_nested())
    assert again.aligned(tree.classes).identity == tree.identity
    ways = [(tree.path(parent), tree.path(node)) for node, parent in enumerate(tree.parents) if parent >= 0]
    by_edges = Hierarchy.from_edges(ways)
    assert torch.equal(by_edges.aligned([tree.path(k) for k in range(tree.num_classes)]).distances(), tree.distances())


def test_a_ragged_tree_by_hand() -> None:
    tree = Hierarchy.from_nested(RAGGED)
    assert tree.classes == ("pug", "husky", "cat", "cup")
    # A cat beside dogs: their common ancestor has height 2, since it is the dogs that lie two steps below it.
    assert tree.distances().tolist() == [[0, 1, 2, 3], [1, 0, 2, 3], [2, 2, 0, 3], [3, 3, 3, 0]]
    assert tree.levels().tolist() == [[0, 0, 0, 1], [0, 0, 1, 2], [0, 1, 2, 3]]
    assert tree.height == 3 and tree.sizes == [2, 3, 4]
    assert tree.subtree("animal").tolist() == [True, True, True, False]
    assert tree.subtree("animal > dog").tolist() == [True, True, False, False]
    assert [tree.classes[label] for label in tree.depth_first] == ["cat", "pug", "husky", "cup"]
    assert str(tree).splitlines() == [
        "root", "├── animal", "│   ├── cat", "│   └── dog", "│       ├── pug", "│       └── husky", "└── thing", "    └── cup",
    ]  # fmt: skip


def test_a_flat_tree_has_one_distance() -> None:
    tree = Hierarchy.flat(["a", "b", "c"])
    assert torch.equal(tree.distances(), 1 - torch.eye(3, dtype=torch.int64))
    assert tree.height == 1 and tree.sizes == [3]


@given(trees())
def test_a_tree_is_even_where_no_class_is_nearer_than_another(tree: Hierarchy) -> None:
    found = tree.distances()
    apart = {int(found[i, j]) for i in range(tree.num_classes) for j in range(tree.num_classes) if i != j}
    assert tree.is_even == (len(apart) <= 1)


def test_even_trees_by_hand() -> None:
    assert Hierarchy.flat(["a", "b", "c"]).is_even
    assert Hierarchy.from_nested({"x": ["a"], "y": ["b"], "z": ["c"]}).is_even
    assert not Hierarchy.from_nested({"x": ["a", "b"], "y": ["c"]}).is_even


def test_names_of_inner_nodes_may_come_twice_and_then_need_a_path() -> None:
    tree = Hierarchy.from_nested({"Boeing": {"747": ["747-100", "747-200"]}, "model": {"747": ["toy", "kit"]}})
    with pytest.raises(ConfigError, match=r"2 nodes .* '747'; give a path: 'Boeing > 747', 'model > 747'"):
        tree.subtree("747")
    assert tree.subtree("model > 747").tolist() == [False, False, True, True]
    with pytest.raises(ConfigError, match=r"'Boing'.*Boeing"):
        tree.subtree("Boing")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Hierarchy.from_nested({"a": ["x", "y"], "b": ["y"]}), "class 'y' is in the hierarchy more than once"),
        (lambda: Hierarchy.from_nested({"a": ["x"]}), "1 classes: it needs at least 2"),
        (lambda: Hierarchy.from_nested({}), "0 classes"),
        (lambda: Hierarchy.from_nested({"a": ["x", 3]}), "has 3 at a"),
        (lambda: Hierarchy.from_table([["a"], ["a", "x"], ["b"]]), "a is a class and has classes below it"),
        (lambda: Hierarchy.from_table([["a", "x"], ["", None]]), "row 2 of the hierarchy is empty"),
        (lambda: Hierarchy.from_edges([("r", "a"), ("r", "b"), ("a", "x"), ("b", "x")]), "'x' has two parents, 'a' and 'b'"),
        (lambda: Hierarchy.from_edges([("a", "b"), ("b", "a"), ("a", "x")]), "cycle, a > b > a"),
        (lambda: Hierarchy.from_edges([("a", "b"), ("b", "a")]), "cycle"),
        (lambda: Hierarchy.from_edges([("r", "a"), ("s", "b")]), "2 roots, among them 'r' and 's'"),
        (lambda: Hierarchy.from_edges([("r", "a"), ("r", "b")], ["a", "bb"]), "'bb'"),
        (lambda: Hierarchy.from_edges([("r", "a"), ("a", "b")], ["a", "b"]), "a is a class and has classes below it"),
        (lambda: Hierarchy(("a", "b", "root"), (2, -1, -1), 2), "no tree"),
        (lambda: Hierarchy(("a", "b", "x", "root"), (3, 3, 3, -1), 2), "no tree"),
    ],
)  # fmt: skip
def test_what_is_no_tree_is_told(make, words: str) -> None:
    with pytest.raises(DataError, match=words):
        make()


def test_edges_of_a_larger_tree_are_cut_to_the_classes() -> None:
    edges = [
        ("entity", "animal"),
        ("animal", "dog"),
        ("animal", "cat"),
        ("entity", "thing"),
        ("thing", "cup"),
        ("x", "y"),
    ]
    tree = Hierarchy.from_edges(edges, ["cup", "dog"])
    assert tree.classes == ("cup", "dog") and tree.names == ("cup", "dog", "thing", "animal", "entity")


def test_classes_that_do_not_match_are_named() -> None:
    tree = Hierarchy.from_nested(RAGGED)
    with pytest.raises(DataError, match=r"'Cat'.*lacks 1 of the data set's 4 classes: Cat"):
        tree.aligned(["pug", "husky", "Cat", "cup"])
    with pytest.raises(DataError, match="has 4 classes, the data set 3; only the hierarchy has husky"):
        tree.aligned(["pug", "cat", "cup"])
    for told in (tree.aligned, tree.of):
        with pytest.raises(
            DataError, match="class 'dog' has classes below it in the hierarchy, and labels are its leaves"
        ):
            told(["dog", "cat", "cup"])
    with pytest.raises(DataError, match="some names come twice"):
        tree.aligned(["pug", "husky", "cat", "cup", "cup"])


def test_the_tree_of_cifar100_is_the_published_one() -> None:
    """methods.md 3.5: sizes of the levels, pairs at each distance, and which superclasses lie together."""
    tree = shipped("cifar100")
    assert tree.sizes == [2, 4, 8, 20, 100] and tree.height == 5
    rows, columns = torch.triu_indices(100, 100, 1)
    assert torch.bincount(tree.distances()[rows, columns]).tolist() == [0, 200, 525, 1050, 900, 2275]
    assert list(tree.classes) == sorted(tree.classes)
    coarse = [tree.names[node] for node in dict.fromkeys(tree.nodes_at(4))]
    assert sorted(coarse)[:3] == ["aquatic_mammals", "fish", "flowers"]
    order = {name: place for place, name in enumerate(sorted(coarse))}
    groups: dict[int, set[int]] = {}
    for third, fourth in zip(tree.nodes_at(3), tree.nodes_at(4), strict=True):
        groups.setdefault(third, set()).add(order[tree.names[fourth]])
    assert sorted(map(sorted, groups.values())) == [
        [0, 1], [2, 4, 17], [3, 5, 6], [7, 13, 15], [8, 11, 12, 14, 16], [9], [10], [18, 19],
    ]  # fmt: skip


def test_the_tree_of_cifar10() -> None:
    tree = shipped("cifar10")
    assert tree.sizes == [2, 10] and tree.distances().max() == 2
    assert tree.subtree("vehicle").sum() == 4
    with pytest.raises(ConfigError, match="cifar100"):
        shipped("cifar1000")


@given(trees(), st.integers(1, 4))
def test_a_level_as_classes_keeps_the_tree_above_it(tree: Hierarchy, level: int) -> None:
    nodes = list(dict.fromkeys(tree.nodes_at(min(level, len(tree.levels())))))
    if len(nodes) < 2:
        return
    cut = tree.pruned([tree.path(node) for node in nodes])
    assert cut.classes == tuple(tree.names[node] for node in nodes)
    assert cut.sizes == tree.sizes[: len(cut.sizes)]
    ways = [[*tree.ancestors(node)] for node in nodes]
    assert [[cut.names[one] for one in cut.ancestors(k)] for k in range(len(nodes))] == [
        [tree.names[one] for one in way] for way in ways
    ]


def test_labels_of_either_kind_find_their_tree() -> None:
    tree = shipped("cifar100")
    coarse = sorted({tree.names[node] for node in tree.nodes_at(4)})
    assert tree.of(coarse).sizes == [2, 4, 8, 20] and tree.of(coarse).classes == tuple(coarse)
    assert tree.of(tree.classes[::-1]).classes == tree.classes[::-1]
    with pytest.raises(ConfigError, match=r"node of the hierarchy 'Fish'. Did you mean 'fish'"):
        tree.of(["Fish" if name == "fish" else name for name in coarse])
    with pytest.raises(
        DataError, match="95 classes of the hierarchy lie below none of the 1 labels, among them 'apple'"
    ):
        tree.pruned(["fish"])
    with pytest.raises(DataError, match="living > animals > water_animals > fish lies below living > animals"):
        tree.pruned(["animals", "fish"])
