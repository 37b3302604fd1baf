"""The family with a searched boundary against a plain loop: what its share means for any counts, and what it contains."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divfeat.data.splits import long_tail_counts
from divfeat.errors import ConfigError
from divfeat.thresholds import ThresholdContext, lift, resolve
from divfeat.thresholds.boundary import smallest_share

#: Busy cores make timings unreliable.
QUICK = settings(max_examples=60, deadline=None)
angles = st.floats(0, math.pi)
shares = st.floats(0, 1)
#: Few different counts, so that some are equal.
tails = st.lists(st.integers(1, 12), min_size=2, max_size=12).filter(lambda values: max(values) >= 1.5 * min(values))


def context(values: list[int], boundary: int = 50) -> ThresholdContext:
    return ThresholdContext(torch.tensor(values), boundary=boundary)


def minor(values: list[int], share: float) -> list[bool]:
    return smallest_share(torch.tensor(values), share).tolist()


def naive(values: list[int], share: float) -> list[bool]:
    found = []
    for count in values:
        smaller = sum(other < count for other in values)
        equal = sum(other == count for other in values)
        inside = (smaller + equal / 2) / len(values) < share
        found.append((inside or count == min(values)) and count != max(values))
    return found


@QUICK
@given(values=tails, major=angles, small=angles, share=shares)
def test_against_a_loop(values: list[int], major: float, small: float, share: float) -> None:
    spec = {"family": "free_boundary", "tau_major": major, "tau_minor": small, "minor_share": share}
    found = resolve(spec, context(values))
    assert found.dtype == torch.float64
    assert found.tolist() == [small if inside else major for inside in naive(values, share)]


@QUICK
@given(values=tails, share=shares, more=shares)
def test_both_sides_hold_a_class_and_equal_counts_stay_together(values: list[int], share: float, more: float) -> None:
    found, wider = minor(values, min(share, more)), minor(values, max(share, more))
    assert 0 < sum(found) < len(values)
    assert all(b for a, b in zip(found, wider, strict=True) if a)
    largest_minor = max(n for n, inside in zip(values, found, strict=True) if inside)
    assert found == [n <= largest_minor for n in values]


def test_a_share_is_the_share_of_the_classes() -> None:
    """Of CIFAR10-LT's ten counts, m tenths are the m smallest; a step has one boundary whatever the share."""
    cifar = long_tail_counts(10, 100, 5000).tolist()
    assert [sum(minor(cifar, m / 10)) for m in range(11)] == [1, *range(1, 10), 9]
    assert minor(cifar, 0.3) == [False] * 7 + [True] * 3
    step = long_tail_counts(10, 100, 5000, "step").tolist()
    assert all(minor(step, m / 10) == [False] * 5 + [True] * 5 for m in range(11))
    assert sum(minor(long_tail_counts(100, 100, 500).tolist(), 0.5)) == 50  # the paper's 50 images


@QUICK
@given(values=tails, pick=st.data(), major=angles, small=angles)
def test_it_contains_major_minor_at_every_boundary(
    values: list[int], pick: st.DataObject, major: float, small: float
) -> None:
    where = context(values, pick.draw(st.integers(min(values), max(values) - 1)))
    plain = {"tau_major": major, "tau_minor": small}
    lifted = lift(plain, "major_minor", "free_boundary", where)
    found = resolve({"family": "free_boundary", **lifted}, where)
    assert torch.equal(found, resolve({"family": "major_minor", **plain}, where))


@pytest.mark.parametrize("values", [[36] * 5, [291, 283, 288]])
def test_counts_that_are_alike_are_refused(values: list[int]) -> None:
    spec = {"family": "free_boundary", "tau_major": 0.1, "tau_minor": 0.2, "minor_share": 0.5}
    with pytest.raises(ConfigError, match=r"'free_boundary': classes have \d+ to \d+ training images, too much alike"):
        resolve(spec, context(values))


@pytest.mark.parametrize("share", [-0.01, 1.01, math.nan])
def test_a_share_outside_its_range_is_refused(share: float) -> None:
    spec = {"family": "free_boundary", "tau_major": 0.1, "tau_minor": 0.2, "minor_share": share}
    with pytest.raises(ConfigError, match=r"free_boundary.minor_share=.* is not a number from 0 to 1"):
        resolve(spec, context([9, 3]))
