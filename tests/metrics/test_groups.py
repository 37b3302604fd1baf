"""Groups of classes by count, at their edges and on the published tails."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from divfeat.data import long_tail_counts
from divfeat.metrics import by_boundary, by_shots
from divfeat.thresholds import shot_groups


@given(st.lists(st.integers(0, 300), min_size=1, max_size=20), st.integers(0, 300))
def test_every_class_is_in_one_group_of_each_kind(counts: list[int], boundary: int) -> None:
    for groups in (by_boundary(torch.tensor(counts), boundary), by_shots(torch.tensor(counts))):
        assert torch.equal(torch.stack(list(groups.values())).sum(0), torch.ones(len(counts), dtype=torch.int64))


def test_edges() -> None:
    counts = torch.tensor([0, 19, 20, 50, 51, 100, 101])
    assert by_shots(counts).keys() == shot_groups(counts).keys()
    assert all(torch.equal(mask, shot_groups(counts)[name]) for name, mask in by_shots(counts).items())
    assert by_boundary(counts, 50)["minor"].tolist() == [True] * 4 + [False] * 3
    shots = by_shots(counts)
    assert shots["few"].tolist() == [True] * 2 + [False] * 5
    assert shots["medium"].tolist() == [False, False, True, True, True, True, False]
    assert shots["many"].tolist() == [False] * 6 + [True]


def test_the_published_groups_of_cifar100_lt() -> None:
    """Imbalance 100: 35 classes are many, 35 medium and 30 few."""
    shots = by_shots(torch.from_numpy(long_tail_counts(100, 100, 500)))
    assert [int(mask.sum()) for mask in shots.values()] == [35, 35, 30]
    ten = torch.from_numpy(long_tail_counts(10, 100, 5000))
    assert int(by_boundary(ten, 50)["minor"].sum()) == 1
    assert int(by_boundary(ten, 500)["minor"].sum()) == 5
