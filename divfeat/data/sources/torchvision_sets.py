"""``torchvision:NAME``: data sets that torchvision knows, from a local folder; fetched only where that is allowed."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from divfeat.data.decode import decode_images, resize_images
from divfeat.data.images import ImageSet
from divfeat.data.sources.cifar100 import CIFAR100_SUPERCLASSES
from divfeat.data.sources.request import Request
from divfeat.errors import DataError, unknown

Coarse = tuple[np.ndarray, tuple[str, ...]]  # labels int64 [N], names


@dataclass(frozen=True)
class _Set:
    """How torchvision's class is asked for each split (parts are joined), and where its coarse labels are."""

    train: tuple[dict[str, Any], ...]
    test: tuple[dict[str, Any], ...]
    coarse: Callable[[Any, list[str], Callable[..., Any]], Coarse] | None = None


def _superclasses(dataset: Any, names: list[str], build: Callable[..., Any]) -> Coarse:
    parent = {fine: i for i, group in enumerate(CIFAR100_SUPERCLASSES.values()) for fine in group}
    table = np.array([parent[name] for name in names], dtype=np.int64)
    return table[_fine_labels(dataset)], tuple(CIFAR100_SUPERCLASSES)


def _families(dataset: Any, names: list[str], build: Callable[..., Any]) -> Coarse:
    families = build(annotation_level="family")
    label = dict(zip(map(str, families._image_files), families._labels, strict=True))
    coarse = [label[str(file)] for file in dataset._image_files]  # by file: the two lists may be ordered differently
    return np.array(coarse, dtype=np.int64), tuple(families.classes)


def _orders(dataset: Any, names: list[str], build: Callable[..., Any]) -> Coarse:
    index = dataset.categories_index["order"]
    coarse = [dataset.categories_map[category]["order"] for category, _ in dataset.index]
    return np.array(coarse, dtype=np.int64), tuple(sorted(index, key=index.__getitem__))


_BOOLEAN = _Set(({"train": True},), ({"train": False},))
_THREE = _Set(({"split": "train"}, {"split": "val"}), ({"split": "test"},))
_TRAINVAL = _Set(({"split": "trainval"},), ({"split": "test"},))

TORCHVISION_SETS: dict[str, _Set] = {
    "CIFAR10": _BOOLEAN,
    "CIFAR100": _Set(_BOOLEAN.train, _BOOLEAN.test, _superclasses),
    "DTD": _THREE,
    "FGVCAircraft": _Set(_TRAINVAL.train, _TRAINVAL.test, _families),
    "FashionMNIST": _BOOLEAN,
    "Flowers102": _THREE,
    "Food101": _Set(({"split": "train"},), ({"split": "test"},)),
    "GTSRB": _Set(({"split": "train"},), ({"split": "test"},)),
    # The test labels of the next two are hidden: as everybody does, we take the public validation set for the test.
    "INaturalist": _Set(({"version": "2021_train_mini"},), ({"version": "2021_valid"},), _orders),
    "ImageNet": _Set(({"split": "train"},), ({"split": "val"},)),
    "MNIST": _BOOLEAN,
    "OxfordIIITPet": _TRAINVAL,
}


def load(request: Request) -> ImageSet:
    """Load a torchvision data set; for those with train and val parts, ``train`` joins both.

    Raises:
        DataError: an unknown name, no folder, data that is not there or damaged, or images of different sizes without
            ``image_size``.
    """
    entry = _entry(request)
    parts = [_part(request, entry, arguments) for arguments in getattr(entry, request.split)]
    names = parts[0].fine_names
    if len(parts) == 1:
        return parts[0]
    images = np.concatenate([part.images for part in parts])
    return ImageSet(images, np.concatenate([part.fine for part in parts]), None, names, None)


def find(request: Request) -> None:
    """Make sure that the files of the split are there; those of one archive were seen whole with the training split.

    Raises:
        DataError: an unknown name, no folder, or data that is not there.
    """
    entry = _entry(request)
    if entry.train == _BOOLEAN.train:  # its constructor reads every image, and checks both splits when it reads one
        return
    for arguments in getattr(entry, request.split):
        with _told_missing(request):
            _dataset(request, arguments)


def _entry(request: Request) -> _Set:
    name = request.argument
    if name not in TORCHVISION_SETS:
        raise DataError(
            f"{request.spec!r}: {unknown('torchvision set', name, TORCHVISION_SETS)}; export others to Parquet or folders "
            "(docs/add-a-dataset.md)"
        )
    if request.root is None:
        raise DataError(f"{request.spec!r} needs a folder of local data sets: set DIVFEAT_DATA, or pass root")
    if not request.root.is_dir() and not request.download:
        raise DataError(
            f"{request.spec!r}: the folder {request.root} does not exist: correct DIVFEAT_DATA or root, or set "
            "data.download=true"
        )
    return TORCHVISION_SETS[name]


def _dataset(request: Request, arguments: dict[str, Any], **extra: Any) -> Any:
    from torchvision import datasets

    cls = getattr(datasets, request.argument)
    # Some classes (ImageNet) cannot download and know no such argument.
    allowed = {"download": request.download} if "download" in inspect.signature(cls).parameters else {}
    return cls(root=str(request.root), **arguments, **allowed, **extra)


# What torchvision raises for files that are missing (the first two) or damaged: json, pickles, lists, idx arrays.
_UNREADABLE = (RuntimeError, OSError, ValueError, LookupError, EOFError, AssertionError, pickle.UnpicklingError)


@contextmanager
def _told_missing(request: Request) -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        remedy = "put it there" if request.download else "put it there, or set data.download=true"
        raise DataError(
            f"{request.spec!r} was not found whole in {request.root} ({type(error).__name__}: {error}): {remedy}"
        ) from error


def _part(request: Request, entry: _Set, arguments: dict[str, Any]) -> ImageSet:
    def build(**extra: Any) -> Any:
        return _dataset(request, arguments, **extra)

    with _told_missing(request):
        dataset = build()
        names = _names(dataset)
        coarse, coarse_names = entry.coarse(dataset, names, build) if entry.coarse else (None, None)
    images = getattr(dataset, "data", None)
    if images is None:

        def where(i: int) -> str:
            return f"image {i} of {request.spec} ({request.split}) in {request.root}"

        images = decode_images(len(dataset), lambda i: dataset[i][0], where, **request.framing)
    else:
        images = np.asarray(images)
        images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
        images = resize_images(images, **request.framing)
    return ImageSet(images, _fine_labels(dataset), coarse, tuple(names), coarse_names)


def _fine_labels(dataset: Any) -> np.ndarray:
    """torchvision has four places for labels, and asking image by image would decode every image."""
    for attribute in ("targets", "_labels"):
        if hasattr(dataset, attribute):
            return np.asarray(getattr(dataset, attribute), dtype=np.int64)
    samples = getattr(dataset, "_samples", None)  # GTSRB: (file, label)
    if samples is not None:
        return np.array([label for _, label in samples], dtype=np.int64)
    return np.array([label for label, _ in dataset.index], dtype=np.int64)  # iNaturalist: (label, file)


def _names(dataset: Any) -> list[str]:
    """Unique class names: ImageNet's are tuples of synonyms, whose first words repeat (two kinds of 'crane')."""
    classes = getattr(dataset, "classes", None) or getattr(dataset, "all_categories", None)
    if classes is None:
        return [str(k) for k in range(int(_fine_labels(dataset).max()) + 1)]
    names = [name if isinstance(name, str) else name[0] for name in classes]
    keys = getattr(dataset, "wnids", range(len(names)))
    return [name if names.count(name) == 1 else f"{name} ({key})" for name, key in zip(names, keys, strict=True)]
