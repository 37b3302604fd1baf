"""Angles by group and by depth of a tree, against a walk through it; what trees do not have is told."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divfeat.config import MethodConfig, ThresholdSpec
from divfeat.errors import ConfigError
from divfeat.hierarchy import Hierarchy, shipped
from divfeat.losses import Hinge
from divfeat.methods import build_method
from divfeat.thresholds import ThresholdContext, family_named, lift, resolve
from tests.hierarchy.test_tree import trees

TREE = Hierarchy.from_nested({"a": {"b": ["x", "y"], "c": ["z"]}, "d": ["u", "v"]})


def context(tree: Hierarchy | None, classes: int = 5) -> ThresholdContext:
    return ThresholdContext(torch.arange(classes) + 7, hierarchy=tree)


@settings(max_examples=50, deadline=None)
@given(tree=trees(), pick=st.data())
def test_each_group_has_one_angle(tree: Hierarchy, pick: st.DataObject) -> None:
    level = pick.draw(st.integers(1, len(tree.sizes)))
    groups = tree.sizes[level - 1]
    if groups < 2:
        return
    level = tree.sizes.index(groups) + 1  # of several levels of as many groups they are the same groups
    spec = {f"tau_{group}": 0.01 * (group + 1) for group in range(groups)}
    found = resolve({"family": f"subtrees_{groups}", **spec}, context(tree, tree.num_classes))
    seen: list[int] = []
    for label, angle in enumerate(found.tolist()):
        way = list(tree.ancestors(label))[::-1]
        node = way[min(level, len(way) - 1)]
        seen += [node] if node not in seen else []
        assert angle == pytest.approx(0.01 * (seen.index(node) + 1))


def test_each_depth_has_one_angle() -> None:
    found = resolve({"family": "depths_2", "tau_0": 0.1, "tau_1": 0.2}, context(TREE))
    assert found.tolist() == [0.2, 0.2, 0.2, 0.1, 0.1]


def test_one_angle_is_lifted() -> None:
    for name in ("subtrees_2", "subtrees_4", "depths_2"):
        lifted = lift({"tau": 0.3}, "global", name, context(TREE))
        assert resolve({"family": name, **lifted}, context(TREE)).tolist() == [0.3] * 5
        assert {side.low for side in family_named(name).space(0.1, 0.9)} == {0.1}
        assert family_named(name).varies and not family_named(name).by_count
        for setting in family_named(name).tried_first:
            resolve({"family": name, **setting}, context(TREE))


def test_cones_by_subtree_meet_every_pair_of_a_hierarchy_aware_frame() -> None:
    """By the theorem each pair of classes has a tau- of its own: the angle between their axes less the sample's cone."""
    angles = {"tau_0": 0.2, "tau_1": 0.5}
    method = MethodConfig(
        name="hinge_haf", release="theorem", thresholds=ThresholdSpec(family="subtrees_2", angles=angles)
    )
    built = build_method(method, 8, context(TREE), seed=0)
    (hinge,) = [part for part in built.objective.transforms if isinstance(part, Hinge)]
    axes = built.head.axes
    for y in range(5):
        for k in range(5):
            if k != y:
                angle = math.acos(float(axes[:, y] @ axes[:, k]))
                assert float(hinge.tau_minus[y, k]) == pytest.approx(angle - (0.2 if y < 3 else 0.5))
    assert len({round(float(value), 6) for value in hinge.tau_minus.flatten()}) > 4


@pytest.mark.parametrize(
    ("name", "tree", "message"),
    [
        ("subtrees_3", TREE, r"no level of the tree has 3 groups; its levels have those of subtrees_2, subtrees_4, subtrees_5"),
        ("subtrees_2", None, r"there is no tree of the classes; set data.hierarchy"),
        ("depths_3", TREE, r"classes lie at 2 depths of the tree, not at 3; use depths_2"),
        ("depths_2", Hierarchy.flat(list("abcde")), r"at 1 depth of the tree, not at 2; use global, or subtrees_G"),
    ],
)  # fmt: skip
def test_what_the_tree_does_not_have_is_told(name: str, tree: Hierarchy | None, message: str) -> None:
    spec = dict.fromkeys(family_named(name).parameters, 0.1)
    with pytest.raises(ConfigError, match=message):
        resolve({"family": name, **spec}, context(tree))


def test_names_that_are_none() -> None:
    with pytest.raises(ConfigError, match=r"'subtrees_1': there are at least two groups"):
        family_named("subtrees_1")
    with pytest.raises(ConfigError, match="unknown threshold family 'subtrees_x'"):
        family_named("subtrees_x")
    with pytest.raises(ConfigError, match=r"'subtrees_20' cannot be searched: 20 angles.*at most 12.*coarser level"):
        family_named("subtrees_20").space()
    assert shipped("cifar100").sizes == [2, 4, 8, 20, 100]  # of which 2, 4 and 8 can be searched
