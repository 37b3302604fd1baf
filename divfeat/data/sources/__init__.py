"""Where images come from. A source is one file here and one line in :data:`SOURCES`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, get_args

from divfeat.data.images import ImageSet
from divfeat.data.sources import digits, folder, parquet, torchvision_sets
from divfeat.data.sources.request import Request, SplitName
from divfeat.errors import DataError, unknown

__all__ = ["SOURCES", "Request", "Source", "SplitName", "find_source", "load_source"]


class Source(NamedTuple):
    """How one kind of source is read.

    Attributes:
        load: gives the images of a split.
        find: raises :class:`DataError` where a split is not there, or where its files and names alone show that it does
            not go with the training split; opens no image, uses no label.
    """

    load: Callable[[Request], ImageSet]
    find: Callable[[Request], object]


SOURCES: dict[str, Source] = {
    "digits": Source(digits.load, digits.find),
    "torchvision": Source(torchvision_sets.load, torchvision_sets.find),
    "parquet": Source(parquet.load, parquet.find),
    "folder": Source(folder.load, folder.find),
}


def load_source(
    spec: str,
    *,
    split: SplitName,
    root: Path | None = None,
    download: bool = False,
    image_size: int | None = None,
    image_column: str | None = None,
    fine_column: str | None = None,
    coarse_column: str | None = None,
) -> ImageSet:
    """Load one split of a data set. Loading ``train`` never decodes a test image or uses a test label.

    Args:
        spec: ``digits``, ``torchvision:NAME``, ``parquet:PATH`` or ``folder:PATH``; see docs/add-a-dataset.md.
        split: ``train`` or ``test``.
        root: folder of local data sets; None takes the environment variable DIVFEAT_DATA.
        download: let torchvision fetch what is missing (the other sources are local).
        image_size: side in pixels to bring the images to; None keeps them, if they share one size.
        image_column, fine_column, coarse_column: Parquet columns, where the usual names do not fit.

    Raises:
        DataError: an unknown source, missing or unreadable data; the message names the place and the remedy.
    """
    source, request = _understand(
        spec,
        split,
        root,
        download,
        image_size,
        image_column=image_column,
        fine_column=fine_column,
        coarse_column=coarse_column,
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
) -> None:
    """Make sure that a split is there and goes with the training split, without opening an image or using a label.

    Args:
        spec: as :func:`load_source` takes it.
        split: ``train`` or ``test``.
        root: folder of local data sets; None takes the environment variable DIVFEAT_DATA.
        download: let torchvision fetch what is missing.
        image_column, fine_column, coarse_column: as :func:`load_source` takes them.

    Raises:
        DataError: an unknown source, no such split, or one that differs from the training split in its columns or
            classes; the message names the place and the remedy.
    """
    source, request = _understand(
        spec, split, root, download, image_column=image_column, fine_column=fine_column, coarse_column=coarse_column
    )
    source.find(request)


def _understand(
    spec: str, split: SplitName, root: Path | None, download: bool, image_size: int | None = None, **columns: str | None
) -> tuple[Source, Request]:
    name, _, argument = spec.partition(":")
    if name not in SOURCES:
        examples = "'digits', 'torchvision:CIFAR100', 'parquet:cifar10', 'folder:birds'"
        raise DataError(f"{spec!r}: {unknown('data source', name, SOURCES)} (as in {examples})")
    if split not in get_args(SplitName):
        raise DataError(f"unknown split {split!r} of {spec!r}: use one of {', '.join(get_args(SplitName))}")
    given = [f"data.{key}={value!r}" for key, value in columns.items() if value is not None]
    if given and name != "parquet":
        raise DataError(
            f"{', '.join(given)} has no meaning for {spec!r}: only parquet sources have columns; leave it out"
        )
    if root is None and os.environ.get("DIVFEAT_DATA"):
        root = Path(os.environ["DIVFEAT_DATA"])
    return SOURCES[name], Request(spec, argument, split, root, download, image_size, **columns)
