from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from divfeat.data import (
    holdout,
    index_hash,
    long_tail_counts,
    long_tail_indices,
    long_tail_split,
    stratified_subset,
)
from divfeat.errors import ConfigError, DataError


def labels_of(counts: list[int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


def balanced(classes: int, each: int) -> np.ndarray:
    return labels_of([each] * classes)


def naive_long_tail(labels: np.ndarray, imbalance: float, seed: int = 0, tail: str = "exponential") -> list[int]:
    """The published procedure, image by image; a RandomState draws what numpy.random.seed and shuffle would."""
    classes = sorted(set(labels.tolist()))
    largest, factor = len(labels) / len(classes), 1 / imbalance
    if tail == "exponential":
        wanted = [int(largest * factor ** (k / (len(classes) - 1.0))) for k in classes]
    else:
        half = len(classes) // 2
        wanted = [int(largest)] * half + [int(largest * factor)] * (len(classes) - half)
    legacy = np.random.RandomState(seed)
    chosen: list[int] = []
    for k, count in zip(classes, wanted, strict=True):
        rows = [i for i, label in enumerate(labels.tolist()) if label == k]
        legacy.shuffle(rows)
        chosen += rows[:count]
    return chosen


@given(
    st.lists(st.integers(2, 30), min_size=1, max_size=6),
    st.one_of(st.integers(1, 1), st.floats(0.01, 0.99)),
    st.integers(0, 99),
)
def test_holdout_is_a_stratified_partition(counts: list[int], amount: float, seed: int) -> None:
    labels = labels_of(counts)
    split = (
        holdout(labels, per_class=amount, seed=seed)
        if isinstance(amount, int)
        else holdout(labels, fraction=amount, seed=seed)
    )
    assert np.array_equal(np.sort(np.concatenate([split.train, split.val])), np.arange(len(labels)))
    for part in (split.train, split.val):
        assert part.dtype == np.int64
        assert np.array_equal(part, np.sort(part))
        assert set(labels[part]) == set(range(len(counts)))
    held = np.bincount(labels[split.val], minlength=len(counts))
    wanted = [1 if isinstance(amount, int) else min(max(1, round(amount * n)), n - 1) for n in counts]
    assert held.tolist() == wanted


def test_holdout_follows_its_seed() -> None:
    labels = balanced(4, 50)
    a, b, c = (index_hash(holdout(labels, per_class=5, seed=seed).val) for seed in (0, 0, 1))
    assert a == b != c


def test_holdout_refuses() -> None:
    with pytest.raises(DataError, match="class 1 has 3 images: 3 for validation leave none"):
        holdout(labels_of([5, 3, 9]), per_class=3, seed=0)
    with pytest.raises(DataError, match="class 1 has 1 images"):
        holdout(labels_of([5, 1]), fraction=0.5, seed=0)
    with pytest.raises(DataError, match="class 1 has 0 images"):
        holdout(labels_of([5, 0, 5]), fraction=0.5, seed=0)
    for arguments in ({}, {"per_class": 1, "fraction": 0.1}, {"per_class": 0}, {"fraction": 1.0}, {"fraction": 0.0}):
        with pytest.raises(ConfigError):
            holdout(balanced(2, 5), seed=0, **arguments)
    for bad in (np.array([]), np.array([[0, 1]]), np.array([0.0, 1.0]), np.array([-1, 0])):
        with pytest.raises(DataError, match="labels must be"):
            holdout(bad, per_class=1, seed=0)


def test_index_hash_is_a_known_digest_and_sees_order_and_grouping() -> None:
    expected = hashlib.sha256((2).to_bytes(8, "little") + b"\x05" + bytes(7) + b"\x00\x01" + bytes(6)).hexdigest()
    assert index_hash(np.array([5, 256])) == expected
    assert index_hash(np.array([5, 256], dtype=np.int32)) == expected
    a, b = np.array([1, 2]), np.array([3])
    assert len({index_hash(a, b), index_hash(b, a), index_hash(np.array([1, 2, 3])), index_hash(np.array([2, 1]))}) == 4


@pytest.mark.parametrize(
    ("classes", "each", "imbalance", "total"),
    [(10, 5000, 100, 12_406), (100, 500, 100, 10_847), (100, 500, 50, 12_608), (100, 500, 10, 19_573)],
)
def test_long_tail_has_the_published_size(classes: int, each: int, imbalance: float, total: int) -> None:
    labels = balanced(classes, each)
    rows = long_tail_indices(labels, imbalance)
    assert len(rows) == len(set(rows.tolist())) == total
    counts = np.bincount(labels[rows])
    assert np.array_equal(counts, long_tail_counts(classes, imbalance, each))
    assert counts[0] == each
    assert (np.diff(counts) <= 0).all()


def test_cifar10_lt_counts() -> None:
    assert long_tail_counts(10, 100, 5000).tolist() == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert long_tail_counts(10, 100, 5000, "step").tolist() == [5000] * 5 + [50] * 5
    assert long_tail_counts(5, 3, 100, "step").tolist() == [100, 100, 33, 33, 33]


@settings(max_examples=20, deadline=None)
@given(
    st.integers(2, 8),
    st.integers(5, 40),
    st.floats(1, 5),
    st.integers(0, 50),
    st.sampled_from(["exponential", "step"]),
)
def test_long_tail_follows_the_published_procedure(
    classes: int, each: int, imbalance: float, seed: int, tail: Any
) -> None:
    labels = balanced(classes, each)
    found = long_tail_indices(labels, imbalance, seed, tail=tail).tolist()
    assert found == naive_long_tail(labels, imbalance, seed, tail)


@pytest.mark.parametrize(
    ("classes", "imbalance", "tail", "digest"),
    [
        (10, 100, "exponential", "6f9aeb03150e21fe8640a727c32b42181d650b42e1aedf3d99562613eaa93045"),
        (100, 100, "exponential", "2491bad3245c15d027b15294c32e86ca603766e13337a3cb67e1abfb39187317"),
        (100, 50, "exponential", "9938b1f3a67679e393c3535c23be0eaa8b5a73d0f09ce5418e3370f1cda869eb"),
        (100, 10, "exponential", "f4716ff15d44ad2a6ca1730d608e85a1f412ce2401e818d699f3e4008815d4d1"),
        (10, 100, "step", "88a7a4ec4bed74113816d82454612251d9a1b82b7fa447104c4addee46bd2984"),
        (100, 100, "step", "11b763728b89bbeae21cde27f5fd6071b9808adb195cd7683abef79ad9b0992a"),
    ],
)
def test_long_tail_digests(classes: int, imbalance: float, tail: Any, digest: str) -> None:
    """Labels of CIFAR's size in blocks: the very rows must never change."""
    labels = np.repeat(np.arange(classes), 50_000 // classes)
    assert index_hash(long_tail_indices(labels, imbalance, tail=tail)) == digest


def test_the_rows_of_cifar10_size_are_those_of_the_published_procedure() -> None:
    labels = np.repeat(np.arange(10), 5000)
    assert np.array_equal(long_tail_indices(labels, 100), naive_long_tail(labels, 100))


def test_long_tail_leaves_the_global_generator_alone() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    long_tail_indices(balanced(3, 10), 2)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_long_tail_refuses() -> None:
    with pytest.raises(DataError, match=r"class 0 has 5 images where imbalance 2 asks for 10: lower n_max"):
        long_tail_indices(labels_of([5, 15]), 2)
    with pytest.raises(DataError, match=r"imbalance 100 with 10 images of class 0 leaves class 2 no .*below 10, or"):
        long_tail_indices(balanced(3, 10), 100)
    assert len(long_tail_indices(labels_of([5, 15]), 2, n_max=5)) == 7
    with pytest.raises(ConfigError, match=r"imbalance=0\.5"):
        long_tail_indices(balanced(3, 10), 0.5)
    with pytest.raises(ConfigError, match="imbalance=nan"):
        long_tail_indices(balanced(3, 10), float("nan"))
    with pytest.raises(ConfigError, match="at least 2 classes"):
        long_tail_indices(balanced(1, 10), 2)
    with pytest.raises(DataError, match=r"imbalance 11 with 10 images of class 0 leaves class 1 no .*n_max above 11"):
        long_tail_indices(balanced(3, 10), 11, tail="step")
    with pytest.raises(ConfigError, match=r"unknown tail 'steps'\. Did you mean 'step'"):
        long_tail_indices(balanced(3, 10), 2, tail="steps")  # type: ignore[arg-type]


def test_long_tail_split_takes_validation_from_what_is_left() -> None:
    labels = balanced(10, 500)
    split = long_tail_split(labels, 100, 25)
    counts = np.bincount(labels[split.published])
    assert np.array_equal(split.published, np.sort(long_tail_indices(labels, 100)))
    assert np.bincount(labels[split.val]).tolist() == [25] * 10
    assert split.borrowed.tolist() == [25] + [0] * 9  # the head leaves nothing, every other class enough
    assert not set(split.val) & set(split.train)
    assert set(split.train) <= set(split.published)
    assert np.array_equal(np.bincount(labels[split.train]), counts - split.borrowed)
    assert len(set(split.val) & set(split.published)) == 25


def test_long_tail_split_borrows_only_what_is_missing() -> None:
    labels = balanced(3, 100)
    split = long_tail_split(labels, 1.21, 15)  # 100, 90, 82 images: classes leave 0, 10 (9.09 cut), 18
    assert np.bincount(labels[split.published]).tolist() == [100, 90, 82]
    assert split.borrowed.tolist() == [15, 5, 0]


def test_long_tail_split_seeds_are_apart() -> None:
    labels = balanced(4, 60)
    base = long_tail_split(labels, 10, 5)
    other = long_tail_split(labels, 10, 5, val_seed=1)
    assert np.array_equal(base.published, other.published)
    assert not np.array_equal(base.val, other.val)
    assert not np.array_equal(base.published, long_tail_split(labels, 10, 5, seed=1).published)


def test_long_tail_split_refuses() -> None:
    with pytest.raises(DataError, match="class 0 has 0 images outside the tail and 20 in it: 20 for validation"):
        long_tail_split(balanced(3, 20), 4, 20)
    with pytest.raises(ConfigError, match="val_per_class=0"):
        long_tail_split(balanced(3, 20), 4, 0)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=7), st.data())
def test_stratified_subset_keeps_shares(counts: list[int], data: st.DataObject) -> None:
    labels = labels_of(counts)
    size = data.draw(st.integers(len(counts), len(labels)))
    rows = stratified_subset(labels, size, seed=0)
    assert rows.dtype == np.int64
    assert np.array_equal(rows, np.unique(rows))
    assert len(rows) == size
    taken = np.bincount(labels[rows], minlength=len(counts))
    assert taken.min() >= 1
    share = np.array(counts) * size / len(labels)
    if share.min() >= 1:
        assert (np.abs(taken - share) < 1).all()


def test_stratified_subset_seed_and_range() -> None:
    labels = balanced(5, 20)
    assert np.bincount(labels[stratified_subset(labels, 50, seed=0)]).tolist() == [10] * 5
    assert not np.array_equal(stratified_subset(labels, 50, seed=0), stratified_subset(labels, 50, seed=1))
    assert np.array_equal(stratified_subset(labels, 100, seed=0), np.arange(100))
    for size in (4, 101):
        with pytest.raises(ConfigError, match=f"a subset of {size} images"):
            stratified_subset(labels, size, seed=0)
    with pytest.raises(DataError, match="class 1 has no image"):
        stratified_subset(labels_of([3, 0, 3]), 4, seed=0)
