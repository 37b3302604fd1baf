"""Where images come from. A source is one file here and one line in :data:`SOURCES`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from divfeat.data.images import ImageSet
from divfeat.data.sources import digits, folder, lists, parquet, torchvision_sets
from divfeat.data.sources.request import Request, SplitName, data_root
from divfeat.errors import DataError, unknown

__all__ = ["SOURCES", "Request", "Source", "SplitName", "find_source", "load_source"]


class Source(NamedTuple):
    """How one kind of source is read.

    Attributes:
        load: gives the images of a split.
        find: raises :class:`DataError` where a split is not there, or where its files and names alone show that it does
            not go with the training split; opens no image, uses no label.
        splits: the splits it has.
        takes: the arguments of :func:`load_source` that are its own.
    """

    load: Callable[[Request], ImageSet]
    find: Callable[[Request], object]
    splits: tuple[str, ...] = ("train", "test")
    takes: tuple[str, ...] = ()


SOURCES: dict[str, Source] = {
    "digits": Source(digits.load, digits.find),
    "torchvision": Source(torchvision_sets.load, torchvision_sets.find),
    "parquet": Source(parquet.load, parquet.find, takes=("image_column", "fine_column", "coarse_column")),
    "folder": Source(folder.load, folder.find),
    "lists": Source(
        lists.load, lists.find, splits=("train", "val", "test"), takes=("train_list", "val_list", "test_list")
    ),
}


def load_source(
    spec: str,
    *,
    split: SplitName,
    root: Path | None = None,
    download: bool = False,
    image_size: int | None = None,
    crop_bottom: int = 0,
    image_column: str | None = None,
    fine_column: str | None = None,
    coarse_column: str | None = None,
    train_list: str | None = None,
    val_list: str | None = None,
    test_list: str | None = None,
) -> ImageSet:
    """Load one split of a data set. Loading ``train`` never decodes a test image or uses a test label.

    Args:
        spec: ``digits``, ``torchvision:NAME``, ``parquet:PATH``, ``folder:PATH`` or ``lists:PATH``; see
            docs/add-a-dataset.md.
        split: ``train`` or ``test``; ``val`` where there is a ``val_list``.
        root: folder of local data sets; None takes the environment variable DIVFEAT_DATA.
        download: let torchvision fetch what is missing (the other sources are local).
        image_size: side in pixels to bring the images to; None keeps them, if they share one size.
        crop_bottom: rows of pixels to cut off at the bottom before that: a banner.
        image_column, fine_column, coarse_column: Parquet columns, where the usual names do not fit.
        train_list, val_list, test_list: files of the source ``lists``.

    Raises:
        DataError: an unknown source, missing or unreadable data; the message names the place and the remedy.
    """
    source, request = _understand(
        spec,
        split,
        root,
        download,
        image_size,
        crop_bottom,
        image_column=image_column,
        fine_column=fine_column,
        coarse_column=coarse_column,
        train_list=train_list,
        val_list=val_list,
        test_list=test_list,
    )
    return source.load(request)


def find_source(
    spec: str,
    *,
    split: SplitName,
    root: Path | None = None,
    download: bool = False,
    image_column: str | None = None,
    fine_column: str | None = None,
    coarse_column: str | None = None,
    train_list: str | None = None,
    val_list: str | None = None,
    test_list: str | None = None,
) -> None:
    """Make sure that a split is there and goes with the training split, without opening an image or using a label.

    Args:
        spec: as :func:`load_source` takes it.
        split: ``train`` or ``test``.
        root: folder of local data sets; None takes the environment variable DIVFEAT_DATA.
        download: let torchvision fetch what is missing.
        image_column, fine_column, coarse_column: as :func:`load_source` takes them.
        train_list, val_list, test_list: as :func:`load_source` takes them.

    Raises:
        DataError: an unknown source, no such split, or one that differs from the training split in its columns or
            classes; the message names the place and the remedy.
    """
    source, request = _understand(
        spec,
        split,
        root,
        download,
        image_column=image_column,
        fine_column=fine_column,
        coarse_column=coarse_column,
        train_list=train_list,
        val_list=val_list,
        test_list=test_list,
    )
    source.find(request)


def _understand(
    spec: str,
    split: SplitName,
    root: Path | None,
    download: bool,
    image_size: int | None = None,
    crop_bottom: int = 0,
    **own: str | None,
) -> tuple[Source, Request]:
    name, _, argument = spec.partition(":")
    if name not in SOURCES:
        examples = "'digits', 'torchvision:CIFAR100', 'parquet:cifar10', 'folder:birds'"
        raise DataError(f"{spec!r}: {unknown('data source', name, SOURCES)} (as in {examples})")
    source = SOURCES[name]
    if split not in source.splits:
        raise DataError(f"unknown split {split!r} of {spec!r}: use one of {', '.join(source.splits)}")
    foreign = [key for key, value in own.items() if value is not None and key not in source.takes]
    if foreign:
        given = ", ".join(f"data.{key}={own[key]!r}" for key in foreign)
        owner = next(other for other in SOURCES if foreign[0] in SOURCES[other].takes)
        kind = "columns" if owner == "parquet" else "list files"
        raise DataError(f"{given} has no meaning for {spec!r}: only {owner} sources have {kind}; leave it out")
    return source, Request(spec, argument, split, data_root(root), download, image_size, crop_bottom, **own)
