"""Families over the class count against plain loops: both directions, monotone, and which sets they are refused for."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divfeat.data.splits import long_tail_counts
from divfeat.errors import ConfigError
from divfeat.thresholds import FEW, MANY, ThresholdContext, resolve, shot_groups

#: Busy cores make timings unreliable.
QUICK = settings(max_examples=40, deadline=None)
angles = st.floats(0, math.pi)
tails = st.lists(st.integers(1, 5000), min_size=2, max_size=12).filter(lambda values: max(values) >= 1.5 * min(values))


def context(values: Any, boundary: int = 50) -> ThresholdContext:
    return ThresholdContext(torch.as_tensor(np.asarray(values)), boundary=boundary)


def naive_curve(values: list[int], head: float, tail: float, bend: float = 0.0) -> list[float]:
    largest, smallest = math.log(max(values)), math.log(min(values))
    found = []
    for count in values:
        share = (largest - math.log(count)) / (largest - smallest)
        found.append(head + share ** (2**bend) * (tail - head))
    return found


@QUICK
@given(values=tails, head=angles, tail=angles, bend=st.floats(-2, 2))
def test_curves_against_a_loop(values: list[int], head: float, tail: float, bend: float) -> None:
    straight = resolve({"family": "count_curve", "tau_head": head, "tau_tail": tail}, context(values))
    assert straight.tolist() == pytest.approx(naive_curve(values, head, tail), abs=1e-9)
    bent = resolve({"family": "bent_curve", "tau_head": head, "tau_tail": tail, "bend": bend}, context(values))
    assert bent.tolist() == pytest.approx(naive_curve(values, head, tail, bend), abs=1e-9)


@QUICK
@given(values=tails, head=angles, tail=angles, bend=st.floats(-2, 2))
def test_curves_run_one_way_from_end_to_end(values: list[int], head: float, tail: float, bend: float) -> None:
    found = resolve({"family": "bent_curve", "tau_head": head, "tau_tail": tail, "bend": bend}, context(values))
    order = sorted(range(len(values)), key=lambda k: -values[k])
    steps = [(found[b] - found[a]).item() * (tail - head) for a, b in pairwise(order)]
    assert all(step >= -1e-14 for step in steps)
    assert {found[k].item() for k in order if values[k] == max(values)} == {head}
    assert {found[k].item() for k in order if values[k] == min(values)} == {tail}


def test_a_bend_keeps_to_one_end() -> None:
    """On CIFAR10-LT's counts, 0 to 40 degrees: bent to the tail the larger classes keep nearly nothing."""
    counts = long_tail_counts(10, 100, 5000)
    by_bend = {
        bend: resolve({"family": "bent_curve", "tau_head": 0.0, "tau_tail": 40.0 / 57, "bend": bend}, context(counts))
        for bend in (-2.0, 0.0, 2.0)
    }
    assert by_bend[2.0][4] < 0.05 * by_bend[2.0][9] and by_bend[-2.0][4] > 0.8 * by_bend[-2.0][9]
    assert by_bend[2.0][4] < by_bend[0.0][4] < by_bend[-2.0][4]


@QUICK
@given(values=tails, many=angles, medium=angles, few=angles)
def test_groups_against_a_loop(values: list[int], many: float, medium: float, few: float) -> None:
    values = [*values, 101, 100, 20, 19]
    found = resolve({"family": "groups", "tau_many": many, "tau_medium": medium, "tau_few": few}, context(values))
    assert found.dtype == torch.float64
    assert found.tolist() == [many if n > 100 else few if n < 20 else medium for n in values]
    masks = shot_groups(torch.tensor(values))
    assert torch.stack(list(masks.values())).sum(0).tolist() == [1] * len(values)


def test_the_published_groups_of_cifar100_lt() -> None:
    """35 many, 35 medium, 30 few at imbalance 100 (methods memo 2.1)."""
    assert (MANY, FEW) == (100, 20)
    sizes = {
        name: int(mask.sum()) for name, mask in shot_groups(torch.as_tensor(long_tail_counts(100, 100, 500))).items()
    }
    assert sizes == {"many": 35, "medium": 35, "few": 30}


@pytest.mark.parametrize("family", ["count_curve", "bent_curve", "per_class"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([36] * 5, r"classes have 36 to 36 training images, too much alike.*'global'.*data.imbalance"),
        ([291, 283, 288], r"classes have 283 to 291 training images, too much alike"),
        ([90, 0, 5], r"class 1 has no training image"),
    ],
)
def test_curves_need_counts_to_follow(family: str, values: list[int], message: str) -> None:
    parameters = {"tau_head": 0.1, "tau_tail": 0.2}
    parameters |= {"bent_curve": {"bend": 0.0}, "per_class": {"jump": 0.0, "wave_1": 0.0, "wave_2": 0.0}}.get(
        family, {}
    )
    with pytest.raises(ConfigError, match=f"'{family}': {message}"):
        resolve({"family": family, **parameters}, context(values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            [5000, 500, 50],
            r"no class is few: 2 classes have more than 100 .*1 have 20 to 100, 0 have fewer than 20.*50 to 5000",
        ),
        ([60, 10], r"no class is many: 0 classes have more than 100"),
        ([600, 10], r"no class is medium"),
        ([36] * 5, r"no class is many or few: .*5 have 20 to 100.*'count_curve', 'major_minor' or 'global'"),
    ],
)
def test_an_empty_group_is_refused_with_the_counts(values: list[int], message: str) -> None:
    spec = {"family": "groups", "tau_many": 0.1, "tau_medium": 0.2, "tau_few": 0.3}
    with pytest.raises(ConfigError, match=message):
        resolve(spec, context(values))


@pytest.mark.parametrize(
    ("bend", "message"),
    [
        (2.5, r"bent_curve.bend=2.5 is not a number from -2 to 2"),
        (math.nan, r"bend=nan is not a number"),
        ("much", r"bend='much' is not a number"),
    ],
)
def test_a_bend_that_is_refused(bend: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve({"family": "bent_curve", "tau_head": 0.1, "tau_tail": 0.2, "bend": bend}, context([9, 3]))
