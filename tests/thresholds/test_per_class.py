"""An angle for each class against plain loops: directions, ties, bounds, and what is refused."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divfeat.data.splits import long_tail_counts
from divfeat.errors import ConfigError
from divfeat.thresholds import DEFAULT_HIGH, MOST_FREE, ThresholdContext, family_named, resolve

#: Busy cores make timings unreliable.
QUICK = settings(max_examples=40, deadline=None)
angles = st.floats(0, math.pi)
offsets = st.floats(-1.5, 1.5)
tails = st.lists(st.integers(1, 500), min_size=2, max_size=12).filter(lambda values: max(values) >= 1.5 * min(values))


def context(values: Any, boundary: int = 50) -> ThresholdContext:
    return ThresholdContext(torch.as_tensor(np.asarray(values)), boundary=boundary)


def naive(
    values: list[int], boundary: int, head: float, tail: float, jump: float, waves: dict[int, float]
) -> list[float]:
    largest, smallest = math.log(max(values)), math.log(min(values))
    falling = sorted(values, reverse=True)
    found = []
    for count in values:
        places = [place for place, other in enumerate(falling) if other == count]
        rank = sum(places) / len(places) / (len(values) - 1)
        share = (1 - jump) * (largest - math.log(count)) / (largest - smallest) + jump * (count <= boundary)
        angle = head + share * (tail - head)
        angle += sum(size * math.sin(math.pi * order * rank) for order, size in waves.items())
        found.append(min(max(angle, 0.0), max(DEFAULT_HIGH, head, tail)))
    return found


@QUICK
@given(values=tails, pick=st.data(), head=angles, tail=angles, jump=st.floats(0, 1), first=offsets, second=offsets)
def test_directions_against_a_loop(
    values: list[int], pick: st.DataObject, head: float, tail: float, jump: float, first: float, second: float
) -> None:
    boundary = pick.draw(st.integers(min(values), max(values) - 1))
    spec = {"tau_head": head, "tau_tail": tail, "jump": jump, "wave_1": first, "wave_2": second}
    found = resolve({"family": "per_class", **spec}, context(values, boundary))
    assert found.dtype == torch.float64
    assert found.min() >= 0 and found.max() <= math.pi
    assert found.tolist() == pytest.approx(naive(values, boundary, head, tail, jump, {1: first, 2: second}), abs=1e-9)


def test_classes_of_one_count_share_their_angle_and_a_hundred_have_a_hundred() -> None:
    spec = {"family": "per_class", "tau_head": 0.2, "tau_tail": 0.9, "jump": 0.1, "wave_1": 0.05, "wave_2": -0.04}
    tied = resolve(spec, context([90, 40, 40, 5]))
    assert tied[1] == tied[2]
    counts = np.arange(1000, 0, -10)
    assert len(set(resolve(spec, context(counts, boundary=500)).tolist())) == 100


def test_the_order_of_the_classes_does_not_matter() -> None:
    counts = torch.as_tensor(long_tail_counts(100, 100, 500))
    spec = {"family": "per_class", "tau_head": 0.2, "tau_tail": 0.9, "jump": 0.1, "wave_1": 0.3, "wave_2": -0.2}
    shuffled = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resolve(spec, context(counts[shuffled])), resolve(spec, context(counts))[shuffled])


def test_waves_are_shrunk_towards_the_curve() -> None:
    box = {side.name: side for side in family_named("per_class").space(0.0, 1.2)}
    assert tuple(box) == ("tau_head", "tau_tail", "jump", "wave_1", "wave_2")
    assert (box["jump"].low, box["jump"].high) == (0.0, 1.0)
    assert box["wave_1"].high == pytest.approx(1.2 / 4) == -box["wave_1"].low
    assert box["wave_2"].high == pytest.approx(1.2 / 8) == -box["wave_2"].low


@QUICK
@given(
    values=tails,
    pick=st.data(),
    head=st.floats(0.4, 1),
    tail=st.floats(0.4, 1),
    jump=st.floats(0, 1),
    wave=st.floats(-0.2, 0.2),
)
def test_waves_leave_both_ends_where_they_are(
    values: list[int], pick: st.DataObject, head: float, tail: float, jump: float, wave: float
) -> None:
    values = sorted(set(values), reverse=True)
    boundary = pick.draw(st.integers(values[-1], values[0] - 1))
    spec = {"tau_head": head, "tau_tail": tail, "jump": jump, "wave_1": wave, "wave_2": -wave}
    found = resolve({"family": "per_class", **spec}, context(values, boundary))
    assert found[0].item() == pytest.approx(head) and found[-1].item() == pytest.approx(tail)


def test_no_wider_than_the_release_theorem_can_take() -> None:
    with pytest.raises(ConfigError, match=r"search.high=2.*'per_class' adds offsets.*85 degrees.*lower search.high"):
        family_named("per_class").space(0.0, 2.0)


@pytest.mark.parametrize(
    ("boundary", "message"),
    [(4, "no class is minor at data.boundary=4"), (90, "every class is minor at data.boundary=90")],
)
def test_a_jump_needs_both_groups(boundary: int, message: str) -> None:
    spec = {"family": "per_class", "tau_head": 0.2, "tau_tail": 0.9, "jump": 0.1, "wave_1": 0.0, "wave_2": 0.0}
    with pytest.raises(ConfigError, match=f"'per_class': {message}"):
        resolve(spec, context([90, 40, 5], boundary))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wave_1": 40}, r"per_class.wave_1=40 is not an offset of at most pi radians"),
        ({"jump": 1.1}, r"per_class.jump=1.1 is not a number from 0 to 1"),
    ],
)
def test_what_is_no_offset_and_no_jump(change: dict[str, float], message: str) -> None:
    spec = {"tau_head": 0.2, "tau_tail": 0.9, "jump": 0.5, "wave_1": 0.0, "wave_2": 0.0} | change
    with pytest.raises(ConfigError, match=message):
        resolve({"family": "per_class", **spec}, context([90, 5]))


# --- one free angle each ------------------------------------------------------------------------------------------------


@QUICK
@given(values=st.lists(angles, min_size=2, max_size=30))
def test_each_class_has_the_angle_of_its_label(values: list[float]) -> None:
    spec = {f"tau_{k}": value for k, value in enumerate(values)}
    found = resolve({"family": f"each_{len(values)}", **spec}, context([7] * len(values)))
    assert found.tolist() == values


def test_the_wrong_number_of_classes_is_told() -> None:
    spec = {"family": "each_3", "tau_0": 0.1, "tau_1": 0.2, "tau_2": 0.3}
    with pytest.raises(ConfigError, match=r"'each_3': it has 3 angles, but 5 classes are trained; use 'each_5'"):
        resolve(spec, context([9] * 5))
    with pytest.raises(ConfigError, match=r"'each_3' lacks tau_2"):
        resolve({"family": "each_3", "tau_0": 0.1, "tau_1": 0.2}, context([9] * 3))


def test_free_angles_are_searched_for_few_classes_only() -> None:
    assert len(family_named(f"each_{MOST_FREE}").space()) == MOST_FREE == 12
    with pytest.raises(ConfigError, match=r"'each_100' cannot be searched: 100 free angles.*at most 12.*'per_class'"):
        family_named("each_100").space()
    assert resolve({"family": "each_100"} | {f"tau_{k}": 0.01 * k for k in range(100)}, context([5] * 100))[99] == 0.99
