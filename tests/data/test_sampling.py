"""Draws of an epoch: shares of the classes, rounding, copies, keys."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divfeat.data import class_shares, draws
from divfeat.errors import ConfigError


def labels_of(counts: list[int]) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts)))


counts_of_classes = st.lists(st.integers(0, 60), min_size=1, max_size=7).filter(lambda counts: counts[-1] > 0)


@given(counts_of_classes)
def test_shares_against_their_definition(counts: list[int]) -> None:
    for sampling, power in (("natural", 1.0), ("square_root", 0.5), ("balanced", 0.0)):
        weights = [count**power if count else 0.0 for count in counts]
        found = class_shares(torch.tensor(counts), sampling)  # type: ignore[arg-type]
        assert found.tolist() == pytest.approx([weight / sum(weights) for weight in weights])


@settings(max_examples=60, deadline=None)
@given(counts_of_classes, st.sampled_from(["balanced", "square_root"]), st.integers(0, 2**40), st.integers(0, 500))
def test_an_epoch_gives_each_class_its_share_and_each_image_its_turn(
    counts: list[int], sampling: Any, seed: int, epoch: int
) -> None:
    labels = labels_of(counts)
    total = len(labels)
    found = draws(labels, sampling, seed=seed, epoch=epoch)
    assert len(found) == len(set(found.tolist())) == total
    rows, copies = (found % total).tolist(), (found // total).tolist()
    for k, share in enumerate(class_shares(torch.tensor(counts), sampling).tolist()):
        mine = [(row, copy) for row, copy in zip(rows, copies, strict=True) if labels[row] == k]
        assert math.floor(share * total - 1e-9) <= len(mine) <= math.ceil(share * total + 1e-9)
        times = [sum(row == i for row, _ in mine) for i in range(total) if labels[i] == k]
        assert not times or max(times) - min(times) <= 1
        for i in {row for row, _ in mine}:
            assert sorted(copy for row, copy in mine if row == i) == list(range(sum(row == i for row, _ in mine)))


def test_shares_that_are_whole_numbers_are_exact() -> None:
    labels = labels_of([900, 90, 9, 1])
    for epoch in range(20):
        found = labels[draws(labels, "balanced", seed=0, epoch=epoch) % 1000]
        assert torch.bincount(found).tolist() == [250] * 4
    labels = labels_of([16, 4, 1])  # roots 4, 2, 1 of 7, times 21 images
    assert torch.bincount(labels[draws(labels, "square_root", seed=0, epoch=0) % 21]).tolist() == [12, 6, 3]


def test_rounding_is_right_on_average() -> None:
    """Ten images over three classes: 3 or 4 draws each, 10/3 over the epochs."""
    labels, epochs = labels_of([7, 2, 1]), 3000
    found = torch.stack(
        [torch.bincount(labels[draws(labels, "balanced", seed=1, epoch=e) % 10]) for e in range(epochs)]
    )
    assert set(found.flatten().tolist()) == {3, 4}
    assert found.double().mean(0).tolist() == pytest.approx([10 / 3] * 3, abs=0.04)  # sd 0.009


def test_every_image_of_a_head_gets_its_turn_over_the_epochs() -> None:
    labels = labels_of([80, 20])
    seen = torch.stack(
        [torch.bincount(draws(labels, "balanced", seed=0, epoch=e) % 100, minlength=100) for e in range(800)]
    )
    head = seen[:, labels == 0].double().mean(0)
    assert head.sum().item() == pytest.approx(50)
    assert 0.5 < head.min() <= head.max() < 0.75  # 0.625, sd 0.017
    assert seen[:, labels == 1].double().mean(0).tolist() == pytest.approx([2.5] * 20, abs=0.1)


def test_draws_follow_seed_and_epoch_and_natural_ones_neither() -> None:
    labels = labels_of([50, 10, 5])
    sets = {
        tuple(draws(labels, "balanced", seed=s, epoch=e).sort().values.tolist()) for s in range(4) for e in range(4)
    }
    assert len(sets) == 16
    again = [draws(labels, "square_root", seed=3, epoch=7) for _ in range(2)]
    assert torch.equal(*again)
    assert torch.equal(draws(labels, "natural", seed=1, epoch=2), torch.arange(65))


def test_refuses() -> None:
    with pytest.raises(ConfigError, match=r"unknown sampling 'balance'\. Did you mean 'balanced'"):
        draws(labels_of([2, 1]), "balance", seed=0, epoch=0)  # type: ignore[arg-type]
