"""Splits and long tails: seeded, stratified by the fine labels, hashed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from divfeat.config import Tail
from divfeat.errors import ConfigError, DataError, unknown


@dataclass(frozen=True, eq=False)
class Split:
    """Rows to train on and rows to validate on: int64, sorted, disjoint."""

    train: np.ndarray
    val: np.ndarray


@dataclass(frozen=True, eq=False)
class LongTailSplit(Split):
    """A long-tailed training set with its validation set.

    Attributes:
        published: int64, sorted: the whole published set, on which the confirmation retrains (``train`` lies in it).
        borrowed: int64 [K], images a class that validation had to take out of the published set.
    """

    published: np.ndarray
    borrowed: np.ndarray


def index_hash(*parts: np.ndarray) -> str:
    """SHA-256 (hex) of one or more vectors of row numbers, in their order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(part, dtype="<i8").data)
    return digest.hexdigest()


def holdout(labels: np.ndarray, *, per_class: int | None = None, fraction: float | None = None, seed: int) -> Split:
    """Hold out a validation set, drawn class by class.

    Args:
        labels: int64 [N], the FINE labels, so that a coarse-to-fine study keeps every fine class in both parts.
        per_class: images a class to hold out; or
        fraction: share of each class to hold out, in (0, 1), rounded, at least one image and never all.
        seed: of the draw.

    Raises:
        ConfigError: not exactly one of ``per_class`` and ``fraction``, or one out of range.
        DataError: a class that has no image for one of the parts, with its counts.
    """
    if (per_class is None) == (fraction is None):
        raise ConfigError(f"per_class={per_class}, fraction={fraction}: give exactly one of them")
    if per_class is not None and per_class < 1:
        raise ConfigError(f"per_class={per_class} must be at least 1 image")
    if fraction is not None and not 0.0 < fraction < 1.0:
        raise ConfigError(f"fraction={fraction} must lie between 0 and 1")
    rng = np.random.default_rng(seed)
    val = []
    for k, rows in enumerate(_rows_by_class(labels)):
        take = per_class if per_class is not None else max(1, round(float(fraction or 0.0) * len(rows)))
        if fraction is not None:
            take = min(take, max(1, len(rows) - 1))
        if len(rows) <= take:
            raise DataError(
                f"class {k} has {len(rows)} images: {take} for validation leave none to train on; hold out fewer a "
                "class or drop the class"
            )
        val.append(rng.permutation(rows)[:take])
    held = np.sort(np.concatenate(val))
    return Split(np.setdiff1d(np.arange(len(labels)), held), held)


def long_tail_counts(num_classes: int, imbalance: float, n_max: float, tail: Tail = "exponential") -> np.ndarray:
    """Images a class, int64 [K], of the published CIFAR-LT rules.

    ``exponential``: int(n_max * (1/imbalance)^(k / (K-1))). ``step``: int(n_max) for the first K // 2 classes, then
    int(n_max / imbalance); where K is odd the middle class is a small one (the published code drops a class there).

    Source: Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss" (2019) and its code.

    Args:
        num_classes: K, at least 2.
        imbalance: largest class over smallest, at least 1.
        n_max: images of class 0, the largest.
        tail: ``exponential`` or ``step``.

    Raises:
        ConfigError: fewer than 2 classes, an imbalance below 1, or an unknown tail.
    """
    if tail not in _SHARES:
        raise ConfigError(unknown("tail", tail, _SHARES))
    if num_classes < 2:
        raise ConfigError(f"a long tail needs at least 2 classes, got {num_classes}")
    if not imbalance >= 1:
        raise ConfigError(f"imbalance={imbalance} must be at least 1: it is the largest class over the smallest")
    share = _SHARES[tail]
    return np.array([int(n_max * share(1.0 / imbalance, k, num_classes)) for k in range(num_classes)], dtype=np.int64)


#: (smallest over largest class, k, K) -> class k's share of the largest class.
_SHARES: dict[str, Callable[[float, int, int], float]] = {
    "exponential": lambda ratio, k, classes: ratio ** (k / (classes - 1.0)),
    "step": lambda ratio, k, classes: 1.0 if k < classes // 2 else ratio,
}


def long_tail_indices(
    labels: np.ndarray, imbalance: float, seed: int = 0, n_max: float | None = None, tail: Tail = "exponential"
) -> np.ndarray:
    """Rows of a long-tailed set by a published CIFAR-LT rule; class 0 is the head.

    One legacy generator, seeded once, shuffles the rows of each class in class order, and the first n_k are taken: with
    seed 0 and rows in the original file order these are the published images.

    Args:
        labels: int64 [N].
        imbalance: largest class over smallest, at least 1.
        seed: of the shuffle; the published sets use 0.
        n_max: images of class 0; None takes N / K, as published.
        tail: as in :func:`long_tail_counts`.

    Returns:
        int64, class after class in drawn order.

    Raises:
        ConfigError: an imbalance below 1, fewer than 2 classes, or an unknown tail.
        DataError: the first class that has fewer images than the rule asks for, or would get none.
    """
    by_class = _rows_by_class(labels)
    largest = len(labels) / len(by_class) if n_max is None else n_max
    wanted = long_tail_counts(len(by_class), imbalance, largest, tail)
    rng = np.random.RandomState(seed)  # the published sets are defined by the legacy generator
    taken = []
    for k, (rows, count) in enumerate(zip(by_class, wanted, strict=True)):
        if count < 1:
            raise DataError(
                f"imbalance {imbalance:g} with {largest:g} images of class 0 leaves class {k} no image: lower the imbalance "
                f"below {math.floor(largest)}, or set data.n_max above {math.ceil(imbalance)} where class 0 has as many"
            )
        if count > len(rows):
            raise DataError(
                f"class {k} has {len(rows)} images where imbalance {imbalance:g} asks for {count}: lower n_max (class 0 gets "
                "n_max images)"
            )
        shuffled = rows.copy()
        rng.shuffle(shuffled)
        taken.append(shuffled[:count])
    return np.concatenate(taken)


def long_tail_split(
    labels: np.ndarray,
    imbalance: float,
    val_per_class: int,
    *,
    seed: int = 0,
    val_seed: int = 0,
    n_max: float | None = None,
    tail: Tail = "exponential",
) -> LongTailSplit:
    """A long-tailed training set and a balanced validation set that is not the test set.

    Validation takes ``val_per_class`` images of each class from those that the tail left out. Where a class leaves too
    few (the head), the rest comes from its own training images, which ``borrowed`` counts.

    Args:
        labels: int64 [N], of the trained classes.
        imbalance: largest class over smallest, at least 1.
        val_per_class: images a class, at least 1 (250 for 10 classes and 20 for 100 are the usual choice).
        seed: of the published draw.
        val_seed: of the validation draw.
        n_max: as in :func:`long_tail_indices`.
        tail: as in :func:`long_tail_counts`.

    Raises:
        ConfigError: a value out of range.
        DataError: a class that lacks images for the tail, or would keep none to train on.
    """
    if val_per_class < 1:
        raise ConfigError(f"val_per_class={val_per_class} must be at least 1 image")
    published = np.sort(long_tail_indices(labels, imbalance, seed, n_max, tail))
    chosen = np.zeros(len(labels), dtype=bool)
    chosen[published] = True
    by_class = _rows_by_class(labels)
    borrowed = np.zeros(len(by_class), dtype=np.int64)
    rng = np.random.default_rng(val_seed)
    val = []
    for k, rows in enumerate(by_class):
        inside, outside = rng.permutation(rows[chosen[rows]]), rng.permutation(rows[~chosen[rows]])
        borrowed[k] = max(0, val_per_class - len(outside))
        if borrowed[k] >= len(inside):
            raise DataError(
                f"class {k} has {len(outside)} images outside the tail and {len(inside)} in it: {val_per_class} for "
                "validation leave none to train on; lower the validation images a class"
            )
        val.append(np.concatenate([outside[:val_per_class], inside[: borrowed[k]]]))
    held = np.sort(np.concatenate(val))
    return LongTailSplit(np.setdiff1d(published, held), held, published, borrowed)


def stratified_subset(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """A random subset that keeps the class shares: int64, sorted.

    Every class gets its share of ``size`` rounded down, at least one image, and the largest remainders get the rest.

    Args:
        labels: int64 [N].
        size: images to keep, from the number of classes up to N.
        seed: of the draw.

    Raises:
        ConfigError: a size out of that range.
        DataError: a class without images.
    """
    by_class = _rows_by_class(labels)
    if not len(by_class) <= size <= len(labels):
        raise ConfigError(
            f"a subset of {size} images: choose from {len(by_class)} (one a class) to {len(labels)} (all)"
        )
    counts = np.array([len(rows) for rows in by_class])
    if not counts.all():
        raise DataError(f"class {int(np.argmin(counts))} has no image to choose from")
    share = counts * size / len(labels)
    take = np.maximum(1, np.floor(share).astype(np.int64))
    while take.sum() != size:
        # Tiny classes raised to one may overdraw: then the class furthest above its share gives one back.
        step = 1 if take.sum() < size else -1
        open_to = take < counts if step > 0 else take > 1
        take[np.argmax(np.where(open_to, step * (share - take), -np.inf))] += step
    rng = np.random.default_rng(seed)
    return np.sort(np.concatenate([rng.permutation(rows)[:n] for rows, n in zip(by_class, take, strict=True)]))


def _rows_by_class(labels: np.ndarray) -> list[np.ndarray]:
    """Ascending rows of each class 0..max; an absent class has none."""
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not labels.size or labels.min() < 0:
        raise DataError(
            f"labels must be a non-empty vector of integers from 0, not {labels.dtype} {list(labels.shape)}"
        )
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.cumsum(np.bincount(labels))[:-1])
