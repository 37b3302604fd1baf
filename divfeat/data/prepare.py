"""From a `DataConfig` to what one experiment may see: training images and the images it is scored on.

The role decides: `search` gets a training and a validation part of the training file and never loads the test file;
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

from divfeat.config import DataConfig
from divfeat.data.images import ImageSet, Level
from divfeat.data.sources import SplitName, load_source
from divfeat.data.splits import holdout, index_hash, long_tail_split, stratified_subset
from divfeat.data.trees import tree_of
from divfeat.errors import ConfigError, DataError
from divfeat.hierarchy import Hierarchy
from divfeat.seeding import stream_seed
from divfeat.validation import digest

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
        published_hash: 16 hexadecimal digits over the rows of the published training set and their trained labels, the
            same in both roles and whatever the validation rule; `DataConfig.expected_split` is compared with it.
        hierarchy: Of the trained classes, in label order, or None.
    """

    config: DataConfig
    role: Role
    train: ImageSet
    evaluation: ImageSet
    class_counts: np.ndarray
    split_hash: str
    note: str = ""
    published_hash: str = ""
    hierarchy: Hierarchy | None = None

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
        return self.train.class_names(self.config.train_level)


@dataclass(frozen=True)
class _Parts:
    """Rows of the training file; `val` is None where validation is a file of its own."""

    published: np.ndarray
    train: np.ndarray
    val: np.ndarray | None
    note: str


#: Times the smallest class that the largest of listed or natural classes has for these to make a tail.
_UNEVEN = 1.5


def prepare(config: DataConfig, role: Role, *, root: Path | None = None) -> PreparedData:
    """Load and split.

    Args:
        config: Source, levels, subset or tail, validation rule.
        role: `search` never loads the test file.
        root: Folder of local data sets; default the environment variable DIVFEAT_DATA.

    Raises:
        ConfigError: a validation rule, subset or tail out of range, a boundary on one side of all classes of a tail, or no such
            hierarchy.
        DataError: missing or unreadable data, labels that do not exist, a class without a sample in a part, a test set
            of other classes or another image shape than the training set, another training set than expected, or a hierarchy of
            other classes.
    """
    full = _load(config, "train", root)
    for name, level in (("train_level", config.train_level), ("probe_level", config.probe_level)):
        with _naming(f"data.source={config.source}, data.{name}={level}"):
            full.labels(level)
    hierarchy = None if config.hierarchy is None else tree_of(config.hierarchy, full, config.train_level, root)
    with _naming(f"data.source={config.source}, split by {_split_settings(config)}"):
        parts = _parts(full, config)
    published = full.labels(config.train_level)[parts.published]
    published_hash = index_hash(parts.published, published)[:16]
    if config.expected_split not in (None, published_hash):
        raise DataError(
            f"data.source={config.source}, split by {_split_settings(config)}: the training set has the hash "
            f"{published_hash} (its rows and labels), but data.expected_split={config.expected_split}: other images, or the "
            "same in another order; use the data it was written for, or set data.expected_split to null to go on"
        )
    counts = np.bincount(published, minlength=full.num_classes(config.train_level))
    train = full.subset(parts.train if role == "search" else parts.published)
    _check_classes(config, "training", train)
    note = _boundary_note(config, counts)
    if role == "search" and parts.val is not None:
        evaluation = full.subset(parts.val)
        _check_classes(config, "validation", evaluation)
        content = [full.content_hash, index_hash(parts.train), index_hash(parts.val)]
    elif role == "search":
        evaluation = _load(config, "val", root)
        _check_alike(config, "val", full, evaluation)
        _check_classes(config, "validation", evaluation)
        content = [full.content_hash, index_hash(parts.train), evaluation.content_hash]
    else:
        evaluation = _load(config, "test", root)
        _check_alike(config, "test", full, evaluation)
        _check_classes(config, "test", evaluation)
        content = [full.content_hash, index_hash(parts.published), evaluation.content_hash]
    if hierarchy is not None:  # its file may change as images may
        content.append(hierarchy.identity)
    notes = "; ".join(filter(None, (parts.note, note)))
    return PreparedData(config, role, train, evaluation, counts, digest(content), notes, published_hash, hierarchy)


def _load(config: DataConfig, split: SplitName, root: Path | None) -> ImageSet:
    return load_source(
        config.source,
        split=split,
        root=root,
        download=config.download,
        image_size=config.image_size,
        crop_bottom=config.crop_bottom,
        **config.columns,
        **config.lists,
    )


def _levels(config: DataConfig) -> tuple[Level, ...]:
    """The levels that are used, each once."""
    return tuple(dict.fromkeys((config.train_level, config.probe_level)))


def _boundary_note(config: DataConfig, counts: np.ndarray) -> str:
    """What follows from a boundary that leaves no class on one of its sides, or "": nothing can be said of minor classes.

    Raises:
        ConfigError: such a boundary under a tail that was asked for. Listed and natural classes may mean none.
    """
    low, high = int(counts.min()), int(counts.max())
    if low <= config.boundary < high or low == high:
        return ""
    which = "every class" if config.boundary >= high else "no class"
    if config.imbalance is not None:
        raise ConfigError(
            f"data.boundary={config.boundary} makes {which} of this long tail minor (classes have {low} to {high} training "
            f"images): set data.boundary from {low} to {high - 1}"
        )
    if high < _UNEVEN * low:
        return ""
    return (
        f"data.boundary={config.boundary} makes {which} minor (classes have {low} to {high} training images), so there are no "
        f"accuracies of major and minor classes; set data.boundary from {low} to {high - 1} for them"
    )


def _check_alike(config: DataConfig, split: SplitName, train: ImageSet, test: ImageSet) -> None:
    """Refuse a test (or validation) file whose label numbers mean something else, or whose images have another shape."""
    if test.image_shape != train.image_shape:
        raise DataError(
            f"{config.source}: images [C, H, W] are {list(test.image_shape)} in {split} but "
            f"{list(train.image_shape)} in train; set data.image_size, or rebuild the data set with one kind of image"
        )
    levels = _levels(config)
    for level in levels:
        with _naming(f"the {split} split of {config.source}"):
            names = test.class_names(level)
        if names != train.class_names(level):
            raise DataError(
                f"{config.source}: train and {split} name their {level} classes differently or in another order; rebuild "
                "the data set"
            )
    if "coarse" in levels and test.fine_names == train.fine_names:
        here, there = train.fine_to_coarse, test.fine_to_coarse
        moved = np.flatnonzero((here != there) & (here >= 0) & (there >= 0))
        if moved.size:
            k, names = moved[0], train.class_names("coarse")
            raise DataError(
                f"{config.source}: fine class {train.fine_names[k]!r} lies under {names[here[k]]!r} in train but under "
                f"{names[there[k]]!r} in {split}; mend the coarse labels"
            )


def _check_classes(config: DataConfig, part: str, images: ImageSet) -> None:
    """Refuse a part without an image of some class: a tail of coarse classes may lose fine ones that the probe needs."""
    if part == "test":
        remedy = "add some, or drop the class from both splits"
    elif part == "validation" and config.val_list is not None:
        remedy = f"add some to data.val_list={config.val_list}, or drop the class from all lists"
    else:
        remedy = "raise train_size, n_max or val_per_class, or lower the imbalance"
    for level in _levels(config):
        counts = np.bincount(images.labels(level), minlength=images.num_classes(level))
        if (counts == 0).any():
            name = images.class_names(level)[int(np.argmin(counts))]
            raise DataError(f"{level} class {name!r} of {config.source} has no {part} image; {remedy}")


@contextmanager
def _naming(place: str) -> Iterator[None]:
    """Put the settings in front of an error that only knows labels."""
    try:
        yield
    except (DataError, ConfigError) as error:
        raise type(error)(f"{place}: {error}") from error


def _split_settings(config: DataConfig) -> str:
    names = ("train_size", "imbalance", "tail", "n_max", "val_per_class", "val_fraction", "val_list")
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    if config.imbalance is None:
        del given["tail"]
    return ", ".join(
        f"data.{name}={value}" if isinstance(value, str) else f"data.{name}={value:g}" for name, value in given.items()
    )


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
            tail=config.tail,
        )
        borrowed = int(split.borrowed.sum())
        note = _BORROWED.format(borrowed, len(split.published)) if borrowed else _OUTSIDE
        return _Parts(split.published, split.train, split.val, note)
    if config.val_list is not None:
        published = everything
        if config.train_size is not None:
            published = stratified_subset(fine, config.train_size, seed=config.seed)
        return _Parts(published, published, None, "")
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
_BORROWED = (
    "validation comes from images that the long tail left out, and where a class left too few, from its own training images: the "
    "search trains without {} of the {} published ones, the confirmation with all"
)
_FEWER = "validation is cut from the training set: the search trains on fewer images than the confirmation"
