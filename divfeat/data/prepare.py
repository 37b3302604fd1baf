"""From a `DataConfig` to what one experiment may see: training images and the images it is scored on.

The role decides: `search` gets a training and a validation part of the training file and never opens the test file;
`confirm` gets the whole published training set and the test set.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from divfeat.config import DataConfig, digest
from divfeat.data.images import ImageSet
from divfeat.data.sources import load_source
from divfeat.data.splits import holdout, index_hash, long_tail_split, stratified_subset
from divfeat.errors import ConfigError, DataError
from divfeat.seeding import stream_seed

Role = Literal["search", "confirm"]


@dataclass(frozen=True)
class PreparedData:
    """The images of one role.

    Attributes:
        config: What was asked for.
        role: `search` or `confirm`.
        train: Training images.
        evaluation: Validation images (`search`) or test images (`confirm`).
        class_counts: int64 [K], images of each trained class in the published training set; groups and thresholds follow
            it in both roles.
        split_hash: Over the content of both files and the indices taken from them.
        note: What a reader of the results must know about the split, or "".
    """

    config: DataConfig
    role: Role
    train: ImageSet
    evaluation: ImageSet
    class_counts: np.ndarray
    split_hash: str
    note: str = ""

    @property
    def evaluation_name(self) -> str:
        """`val` or `test`, the prefix of metric names."""
        return "val" if self.role == "search" else "test"

    @cached_property
    def train_labels(self) -> np.ndarray:
        """int64 [N] labels the network is trained on."""
        return self.train.labels(self.config.train_level)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the trained classes."""
        names = self.train.coarse_names if self.config.train_level == "coarse" else self.train.fine_names
        assert names is not None
        return names


@dataclass(frozen=True)
class _Parts:
    published: np.ndarray
    train: np.ndarray
    val: np.ndarray
    note: str


def prepare(config: DataConfig, role: Role, *, root: Path | None = None) -> PreparedData:
    """Load and split.

    Args:
        config: Source, levels, subset or tail, validation rule.
        role: `search` never opens the test file.
        root: Folder of local data sets; default the environment variable DIVFEAT_DATA.

    Raises:
        DataError: missing or unreadable data, labels that do not exist, a class without a sample in a part.
    """
    full = load_source(config.source, split="train", root=root, download=config.download, image_size=config.image_size)
    for name, level in (("train_level", config.train_level), ("probe_level", config.probe_level)):
        with _naming(f"data.source={config.source}, data.{name}={level}"):
            full.labels(level)
    with _naming(f"data.source={config.source}, split by {_split_settings(config)}"):
        parts = _parts(full, config)
    published = full.labels(config.train_level)[parts.published]
    counts = np.bincount(published, minlength=full.num_classes(config.train_level))
    if (counts == 0).any():
        raise DataError(
            f"class {int(np.argmin(counts))} of {config.source} has no training image; raise train_size or n_max"
        )
    if role == "search":
        train, evaluation = full.subset(parts.train), full.subset(parts.val)
        _check_classes(config, "validation", evaluation)
        content = [full.content_hash, index_hash(parts.train), index_hash(parts.val)]
    else:
        train = full.subset(parts.published)
        evaluation = load_source(
            config.source, split="test", root=root, download=config.download, image_size=config.image_size
        )
        if evaluation.fine_names != full.fine_names:
            raise DataError(f"{config.source}: train and test name their classes differently; rebuild the data set")
        content = [full.content_hash, index_hash(parts.published), evaluation.content_hash]
    _check_classes(config, "training", train)
    return PreparedData(config, role, train, evaluation, counts, digest(content), parts.note)


def _check_classes(config: DataConfig, part: str, images: ImageSet) -> None:
    """Refuse a part without an image of some class: a tail of coarse classes may lose fine ones that the probe needs."""
    for level in dict.fromkeys((config.train_level, config.probe_level)):
        counts = np.bincount(images.labels(level), minlength=images.num_classes(level))
        if (counts == 0).any():
            raise DataError(
                f"{level} class {images.class_names(level)[int(np.argmin(counts))]!r} of {config.source} has no "
                f"{part} image; raise train_size, n_max or val_per_class, or lower the imbalance"
            )


@contextmanager
def _naming(place: str) -> Iterator[None]:
    """Put the settings in front of an error that only knows labels."""
    try:
        yield
    except (DataError, ConfigError) as error:
        raise type(error)(f"{place}: {error}") from error


def _split_settings(config: DataConfig) -> str:
    names = ("train_size", "imbalance", "n_max", "val_per_class", "val_fraction")
    return ", ".join(f"data.{name}={value:g}" for name in names if (value := getattr(config, name)) is not None)


def _parts(full: ImageSet, config: DataConfig) -> _Parts:
    """Indices into the training file: the published training set, and the search's training and validation parts."""
    everything = np.arange(len(full))
    fine = full.fine
    if config.imbalance is not None:
        if config.val_per_class is None:
            raise DataError("a long tail needs data.val_per_class (images a class), not data.val_fraction")
        split = long_tail_split(
            full.labels(config.train_level),
            config.imbalance,
            config.val_per_class,
            seed=config.seed,
            val_seed=stream_seed(config.seed, "validation"),
            n_max=config.n_max,
        )
        borrowed = int(split.borrowed.sum())
        note = f"{_FEWER} ({borrowed} of {len(split.published)})" if borrowed else _OUTSIDE
        return _Parts(split.published, split.train, split.val, note)
    if config.train_size is not None:
        published = stratified_subset(fine, config.train_size, seed=config.seed)
        left = np.setdiff1d(everything, published)
        if config.val_per_class is not None:
            # More than asked for, since `holdout` leaves every class an image.
            enough = np.bincount(fine[left], minlength=full.num_classes("fine")).min() > config.val_per_class
            if enough:
                rest = holdout(fine[left], per_class=config.val_per_class, seed=config.seed)
                return _Parts(published, published, left[rest.val], _OUTSIDE)
        inner = holdout(fine[published], per_class=config.val_per_class, fraction=config.val_fraction, seed=config.seed)
        return _Parts(published, published[inner.train], published[inner.val], _FEWER)
    inner = holdout(fine, per_class=config.val_per_class, fraction=config.val_fraction, seed=config.seed)
    return _Parts(everything, inner.train, inner.val, _FEWER)


_OUTSIDE = "validation comes from images that the training set left out"
_FEWER = "validation is cut from the training set: the search trains on fewer images than the confirmation"
