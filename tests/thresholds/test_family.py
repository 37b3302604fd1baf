"""Threshold families against plain loops, their search spaces, and what they refuse."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divfeat.errors import ConfigError
from divfeat.thresholds import (
    DEFAULT_HIGH,
    FAMILIES,
    PAPER_ANGLE,
    Family,
    ThresholdContext,
    check_angle,
    family_named,
    lift,
    resolve,
)
from divfeat.thresholds import counts as counts_module

#: Busy cores make timings unreliable.
QUICK = settings(max_examples=40, deadline=None)
#: Every family, made for the four classes of TAIL where it is made for a number of classes.
EVERY = [*FAMILIES, "each_4"]
TAIL = [1000, 100, 40, 10]

angles = st.floats(0, math.pi)
counts = st.lists(st.integers(1, 500), min_size=2, max_size=12)


def context(values: list[int], boundary: int = 50) -> ThresholdContext:
    return ThresholdContext(torch.tensor(values), boundary=boundary)


def naive(spec: dict[str, Any], values: list[int], boundary: int) -> list[float]:
    """What each family means, class by class."""
    result = []
    for count in values:
        if spec["family"] == "none":
            result.append(0.0)
        elif spec["family"] == "global":
            result.append(spec["tau"])
        else:
            result.append(spec["tau_minor"] if count <= boundary else spec["tau_major"])
    return result


def test_every_family_is_covered_here() -> None:
    """All but the first three have files of their own beside this one."""
    assert set(FAMILIES) == {
        "none", "global", "major_minor", "free_boundary", "count_curve", "bent_curve", "groups", "per_class", "quantile",
    }  # fmt: skip


@QUICK
@given(values=counts, tau=angles)
def test_none_and_global_against_a_loop(values: list[int], tau: float) -> None:
    for spec in ({"family": "none"}, {"family": "global", "tau": tau}):
        found = resolve(spec, context(values))
        assert found.dtype == torch.float64
        assert found.tolist() == naive(spec, values, 50)


@QUICK
@given(values=counts, pick=st.data(), major=angles, minor=angles)
def test_major_minor_against_a_loop(values: list[int], pick: st.DataObject, major: float, minor: float) -> None:
    values = [*values, max(values) + 1]
    boundary = pick.draw(st.integers(min(values), max(values) - 1))
    spec = {"family": "major_minor", "tau_major": major, "tau_minor": minor}
    found = resolve(spec, context(values, boundary))
    assert found.dtype == torch.float64
    assert found.tolist() == naive(spec, values, boundary)


@QUICK
@given(values=counts, tau=angles)
def test_major_minor_with_equal_angles_is_global(values: list[int], tau: float) -> None:
    values = [*values, max(values) + 1]
    where = context(values, boundary=max(values) - 1)
    both = resolve({"family": "major_minor", "tau_major": tau, "tau_minor": tau}, where)
    assert torch.equal(both, resolve({"family": "global", "tau": tau}, where))


def test_the_boundary_itself_is_minor() -> None:
    """The appendix's "<= 50 are minor": CIFAR10-LT at imbalance 100 has exactly one minor class, of 50 images."""
    tail = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    where = context(tail)
    assert where.minor.tolist() == [False] * 9 + [True]
    assert where.num_classes == 10
    found = resolve({"family": "major_minor", "tau_major": 0.25, "tau_minor": 0.5}, where)
    assert found.tolist() == [0.25] * 9 + [0.5]
    assert context([51, 50, 49]).minor.tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("values", "boundary", "message"),
    [
        ([60, 80], 50, r"no class is minor at data.boundary=50.*60 to 80"),
        ([20, 50], 50, r"every class is minor at data.boundary=50.*20 to 50"),
    ],
)
def test_major_minor_without_two_groups_is_refused(values: list[int], boundary: int, message: str) -> None:
    spec = {"family": "major_minor", "tau_major": 0.1, "tau_minor": 0.2}
    with pytest.raises(ConfigError, match=message + ".*'global'"):
        resolve(spec, context(values, boundary))


@pytest.mark.parametrize("name", EVERY)
def test_settings_tried_first_lie_in_the_default_box(name: str) -> None:
    family = family_named(name)
    box = {dimension.name: dimension for dimension in family.space()}
    assert tuple(box) == family.parameters
    for side in box.values():
        assert family.other(side.name) or (side.low, side.high) == (0.0, DEFAULT_HIGH)
    assert family.tried_first
    where = replace(context(TAIL), own_angles=torch.ones(4, 90))
    for setting in family.tried_first:
        assert set(setting) == set(family.parameters)
        assert all(box[key].low <= value <= box[key].high for key, value in setting.items())
        found = resolve({"family": name, **setting}, where)
        assert bool(found.any()) != family.coneless(setting)
    assert any(family.coneless(setting) for setting in family.tried_first)
    assert len({tuple(sorted(setting.items())) for setting in family.tried_first}) == len(family.tried_first)


def test_the_papers_settings_are_tried_first() -> None:
    assert FAMILIES["global"].tried_first[0] == {"tau": PAPER_ANGLE}
    assert math.degrees(PAPER_ANGLE) == pytest.approx(65)
    assert {"tau": 0.0} in FAMILIES["global"].tried_first
    first = FAMILIES["major_minor"].tried_first[0]
    assert first["tau_major"] == 0 and math.degrees(first["tau_minor"]) == pytest.approx(40)
    assert math.degrees(DEFAULT_HIGH) == pytest.approx(85)


def test_a_box_of_ones_own() -> None:
    (side,) = family_named("global").space(0.2, 0.9)
    assert (side.name, side.low, side.high) == ("tau", 0.2, 0.9)
    assert family_named("none").space() == ()
    sides = {side.name: (side.low, side.high) for side in family_named("bent_curve").space(0.2, 0.9)}
    assert sides == {"tau_head": (0.2, 0.9), "tau_tail": (0.2, 0.9), "bend": (-2.0, 2.0)}


@st.composite
def inside_box(draw: st.DrawFn, name: str, low: float = 0.0, high: float = DEFAULT_HIGH) -> dict[str, float]:
    """Parameters of a family somewhere in its box."""
    return {side.name: draw(st.floats(side.low, side.high)) for side in family_named(name).space(low, high)}


@pytest.mark.parametrize("name", EVERY)
@QUICK
@given(pick=st.data())
def test_everywhere_in_the_box_there_are_angles(name: str, pick: st.DataObject) -> None:
    """Whatever is proposed can be trained, under the release 'theorem' too: no cone is wider than the box allows."""
    parameters = pick.draw(inside_box(name))
    found = resolve({"family": name, **parameters}, context(TAIL))
    assert found.shape == (4,) and found.dtype == torch.float64
    assert found.min() >= 0 and found.max() <= DEFAULT_HIGH
    assert not found.any() or not family_named(name).coneless(parameters)
    assert family_named(name).varies or len(set(found.tolist())) == 1


@pytest.mark.parametrize(("source", "target"), [(a, b) for b in EVERY for a in family_named(b).lifts])
@QUICK
@given(pick=st.data())
def test_a_family_contains_the_simpler_ones(source: str, target: str, pick: st.DataObject) -> None:
    """By its lifts, inside its own box, to the last bit."""
    parameters = pick.draw(inside_box(source))
    lifted = lift(parameters, source, target, context(TAIL))
    before, after = (resolve({"family": f, **p}, context(TAIL)) for f, p in ((source, parameters), (target, lifted)))
    assert torch.equal(after, before)
    for side in family_named(target).space():
        assert side.low <= lifted[side.name] <= side.high


def test_what_contains_what() -> None:
    assert set(family_named("each_4").lifts) == set(FAMILIES) - {"none", "quantile"}
    assert set(FAMILIES["per_class"].lifts) == {"global", "count_curve", "major_minor"}
    assert all("global" in family.lifts for family in FAMILIES.values() if family.varies and not family.moves)
    assert lift({"tau": 0.3}, "global", "global", context(TAIL)) == {"tau": 0.3}
    with pytest.raises(ConfigError, match=r"'count_curve' does not contain 'major_minor'; it contains global"):
        lift({"tau_major": 0.1, "tau_minor": 0.2}, "major_minor", "count_curve", context(TAIL))
    with pytest.raises(ConfigError, match=r"'global' does not contain 'count_curve'; it contains no other"):
        lift({"tau_head": 0.1, "tau_tail": 0.2}, "count_curve", "global", context(TAIL))


@pytest.mark.parametrize("name", EVERY)
def test_corners_of_the_box(name: str) -> None:
    family = family_named(name)
    low, high = family.corners(0.1, 0.9)
    assert set(low) == set(high) == set(family.parameters)
    assert all(low[key] < high[key] for key in low)
    for corner in (low, high):
        resolve({"family": name, **corner}, context(TAIL))


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (0.5, 0.5, r"search.low=0.5 must lie below search.high=0.5"),
        (0.9, 0.2, "below"),
        (-0.1, 1.0, r"search.low=-0.1"),
        (0.0, 65.0, r"search.high=65 .*65 degrees would be 1.1345"),
        (0.0, math.nan, "search.high=nan"),
    ],
)
def test_boxes_that_are_none(low: float, high: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        family_named("global").space(low, high)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"family": "gloabl", "tau": 0.1}, r"unknown threshold family 'gloabl'; known: none, global, major_minor"),
        ({}, "unknown threshold family ''; known: none, .*each_K"),
        ({"family": "each_ten"}, "unknown threshold family 'each_ten'"),
        ({"family": "each_007"}, "unknown threshold family 'each_007'"),
        ({"family": "each_1", "tau_0": 0.1}, "'each_1': there are at least two classes"),
        ({"family": "global"}, r"lacks tau; it takes tau"),
        ({"family": "major_minor", "tau_major": 0.1}, r"lacks tau_minor; it takes tau_major, tau_minor"),
        ({"family": "global", "tau": 0.1, "tua": 0.2}, r"does not know tua"),
        ({"family": "none", "tau": 0.1}, r"does not know tau; it takes no parameters"),
        ({"family": "global", "tau": -0.01}, r"global.tau=-0.01 is not an angle"),
        ({"family": "global", "tau": 40}, r"global.tau=40 .*radians; angles are radians: 40 degrees would be 0.6981"),
        ({"family": "global", "tau": math.inf}, "global.tau=inf"),
        ({"family": "global", "tau": math.nan}, "global.tau=nan"),
        ({"family": "global", "tau": "wide"}, "global.tau='wide' is not an angle"),
        ({"family": "global", "tau": None}, "global.tau=None is not an angle"),
    ],
)
def test_specs_that_are_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(spec, context([10, 100]))


def test_pi_is_an_angle_in_every_float() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        check_angle("tau", torch.full((3,), math.pi, dtype=dtype))
    with pytest.raises(ConfigError):
        check_angle("tau", math.pi + 1e-6)


def test_one_bad_angle_among_many_is_named() -> None:
    with pytest.raises(ConfigError, match=r"tau=3.5 "):
        check_angle("tau", torch.tensor([0.1, 3.5, 0.2]))


def test_zero_is_refused_only_where_asked() -> None:
    check_angle("tau", 0.0)
    with pytest.raises(ConfigError, match="log K"):
        check_angle("tau", torch.tensor([0.3, 0.0]), allow_zero=False)


# --- the page on how to add one -----------------------------------------------------------------------------------------

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "add-a-threshold-family.md").read_text(encoding="utf-8")


def test_the_page_lists_every_family_and_what_it_contains() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| `")
    ]
    contained = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[3])) for row in rows}
    assert contained.pop("each_K") == set() and "all of the above" in rows[-4][3]
    assert contained.pop("subtrees_G") == {"global"} == contained.pop("depths_D")
    assert contained == {name: set(family.lifts) for name, family in FAMILIES.items()}


def test_the_family_that_the_page_adds_works() -> None:
    (shown,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    names: dict[str, Any] = {"math": math, "Family": Family} | vars(counts_module)
    exec(shown, names)
    ends = names["ENDS"]
    angles = ends.angles({"tau_middle": 0.1, "tau_ends": 0.5}, context([1000, 100, 10]))
    assert angles.tolist() == pytest.approx([0.5, 0.1, 0.5])
    assert ends.angles(ends.lifts["global"]({"tau": 0.3}, context(TAIL)), context(TAIL)).tolist() == [0.3] * 4
    assert ends.requires(context([9, 9])) and not ends.requires(context(TAIL))
