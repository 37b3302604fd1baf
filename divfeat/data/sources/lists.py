"""``lists:PATH``: images below the folder ``PATH``, drawn and labelled by list files (ImageNet-LT, Places-LT, iNaturalist).

A list holds one image a line: its path below the folder, then white space, then its label as a whole number from 0.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from divfeat.data.decode import decode_images
from divfeat.data.images import ImageSet
from divfeat.data.sources.request import Request
from divfeat.errors import DataError

_LABEL = re.compile(r"[0-9]{1,9}")


class _List(NamedTuple):
    """A list file: paths as written but normalised, labels, and the number of each line."""

    file: Path
    paths: list[str]
    labels: np.ndarray
    lines: list[int]


def load(request: Request) -> ImageSet:
    """Load the images of a list, in its order. A class is named by its number; the training list says how many there are.

    Raises:
        DataError: no folder or list, a line that is no path and label, an image listed twice or in another list too,
            a label that training does not know, images that are missing, or what
            :func:`divfeat.data.decode.decode_images` raises.
    """
    from PIL import Image

    folder, train, wanted = _both(request)
    classes = int(train.labels.max()) + 1
    images = decode_images(
        len(wanted.paths),
        lambda i: Image.open(folder / wanted.paths[i]),
        lambda i: f"file {folder / wanted.paths[i]} (line {wanted.lines[i]} of {wanted.file})",
        **request.framing,
    )
    return ImageSet(images, wanted.labels, None, tuple(map(str, range(classes))), None)


def find(request: Request) -> None:
    """Make sure that the list of the split and all its images are there, and that it goes with the training list.

    Raises:
        DataError: what :func:`load` refuses without opening an image, or a class without test images.
    """
    _, train, wanted = _both(request)
    lacking = np.setdiff1d(train.labels, wanted.labels)
    if lacking.size:
        raise DataError(
            f"{wanted.file} lists no image of {len(lacking)} classes that {train.file} has (class {lacking[0]}): add some, "
            "or drop the classes from both lists"
        )


def _both(request: Request) -> tuple[Path, _List, _List]:
    """The folder, the training list, and the list of the split; the split's images are looked for, not opened."""
    folder = next((path for path in request.candidates() if path.is_dir()), None)
    if folder is None:
        raise request.missing("folder")
    train = _read(request, "train", folder)
    present = np.unique(train.labels)
    gaps = np.flatnonzero(present != np.arange(len(present)))
    if gaps.size:
        raise DataError(
            f"{train.file} has labels up to {present[-1]} but no image of class {gaps[0]}: labels run from 0 without a gap"
        )
    wanted = train if request.split == "train" else _read(request, request.split, folder)
    if wanted is not train:
        _check_against(train, wanted)
        _check_apart(train, wanted)
        if request.split == "test" and request.val_list is not None:
            _check_apart(_read(request, "val", folder), wanted)
    missing = [i for i, path in enumerate(wanted.paths) if not (folder / path).is_file()]
    if missing:
        shown = ", ".join(f"{wanted.paths[i]} (line {wanted.lines[i]})" for i in missing[:3])
        raise DataError(
            f"{wanted.file} names {len(missing)} images of {len(wanted.paths)} that are not below {folder}: {shown}"
            f"{', ...' if len(missing) > 3 else ''}; put them there, or correct the list or the folder in data.source"
        )
    return folder, train, wanted


def _read(request: Request, split: str, folder: Path) -> _List:
    name = getattr(request, f"{split}_list")
    if name is None:
        raise DataError(f"{request.spec!r} has no {split} list: name the file with data.{split}_list")
    given = Path(name).expanduser()
    places = (
        [given] if given.is_absolute() else [given, folder / given, *([request.root / given] if request.root else [])]
    )
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise DataError(f"data.{split}_list={name!r}: there is no such file at {' nor '.join(map(str, places))}")
    paths, labels, lines = [], [], []
    try:
        text = file.read_text(encoding="utf-8-sig")  # a byte order mark is no part of the first path
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as a list of images ({error})") from error
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        parts = line.rsplit(maxsplit=1)
        if len(parts) < 2 or not _LABEL.fullmatch(parts[1]):
            raise DataError(
                f"line {number} of {file} is {line[:80]!r}: write an image's path, a space and its label, a whole number "
                "from 0"
            )
        paths.append(os.path.normpath(parts[0].strip()))
        labels.append(int(parts[1]))
        lines.append(number)
    if not paths:
        raise DataError(f"{file} lists no image")
    listed = _List(file, paths, np.array(labels, dtype=np.int64), lines)
    _check_repeats(listed)
    return listed


def _check_repeats(listed: _List) -> None:
    first: dict[str, int] = {}
    for path, line in zip(listed.paths, listed.lines, strict=True):
        if first.setdefault(path, line) != line:
            raise DataError(f"{listed.file} lists {path} twice, in lines {first[path]} and {line}: remove one")


def _check_against(train: _List, other: _List) -> None:
    """Refuse a label that training does not know."""
    unknown = np.flatnonzero(other.labels > train.labels.max())
    if unknown.size:
        i = int(unknown[0])
        raise DataError(
            f"line {other.lines[i]} of {other.file} has the label {other.labels[i]}, but {train.file} has the classes 0 to "
            f"{train.labels.max()} ({unknown.size} such lines): use lists of one data set"
        )


def _check_apart(one: _List, other: _List) -> None:
    """Refuse an image that two lists share."""
    line_of = dict(zip(one.paths, one.lines, strict=True))
    shared = [(path, line) for path, line in zip(other.paths, other.lines, strict=True) if path in line_of]
    if shared:
        path, line = shared[0]
        raise DataError(
            f"{path} is in line {line} of {other.file} and in line {line_of[path]} of {one.file} ({len(shared)} such "
            "images): lists must not share images, or something is learned or chosen on what is scored"
        )
