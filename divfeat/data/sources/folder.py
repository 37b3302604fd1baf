"""``folder:PATH``: ``PATH/train/<class>/*.png``, or ``PATH/train/<coarse>/<fine>/*.png``; the same under ``test``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from divfeat.data.decode import decode_images
from divfeat.data.images import ImageSet
from divfeat.data.sources.request import Request
from divfeat.errors import DataError

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
_TEST_NAMES = ("test", "validation", "val")


def load(request: Request) -> ImageSet:
    """Load a folder of images. Class names are the folders', labels their sorted order; ``train`` names both splits.

    Fine folders of one name under two coarse ones are told apart as ``coarse/fine``.

    Raises:
        DataError: a missing folder, no class or a class without images, images beside class folders, mixed depths, a
            test class that training does not know, or what :func:`divfeat.data.decode.decode_images` raises.
    """
    from PIL import Image

    known, folders = _both(request)
    keys = sorted(known)
    fine_only = [key[-1] for key in keys]
    fine_names = tuple(fine_only if len(set(fine_only)) == len(keys) else ("/".join(key) for key in keys))
    files: list[Path] = []
    fine: list[int] = []
    for label, key in enumerate(keys):
        found = sorted(_images(folders[key])) if key in folders else []
        files += found
        fine += [label] * len(found)
    images = decode_images(len(files), lambda i: Image.open(files[i]), lambda i: f"file {files[i]}", **request.framing)
    labels = np.array(fine, dtype=np.int64)
    if len(keys[0]) == 1:
        return ImageSet(images, labels, None, fine_names, None)
    coarse_names = tuple(sorted({key[0] for key in keys}))
    parents = np.array([coarse_names.index(key[0]) for key in keys], dtype=np.int64)
    return ImageSet(images, labels, parents[labels], fine_names, coarse_names)


Classes = dict[tuple[str, ...], Path]


def find(request: Request) -> None:
    """Make sure that the split's class folders are there, hold images and are those of the training split.

    Raises:
        DataError: what :func:`load` refuses without opening an image, or a class without test images.
    """
    known, folders = _both(request)
    lacking = sorted("/".join(key) for key in known.keys() - folders.keys())
    if lacking:
        raise DataError(
            f"{request.spec!r}: no test images of {', '.join(lacking[:5])} ({len(lacking)} of {len(known)} classes): add "
            "some, or drop the class from both splits"
        )


def _both(request: Request) -> tuple[Classes, Classes]:
    """Class folders of ``train`` and of the requested split, by (class,) or (coarse, fine)."""
    base = next((path for path in request.candidates() if path.is_dir()), None)
    if base is None:
        raise request.missing("folder")
    train = base / "train"
    if not train.is_dir():
        raise DataError(f"{request.spec!r}: {base} has no folder 'train': arrange it as train/<class>/<image>")
    known = _classes(train)
    if request.split == "train":
        return known, known
    test = next((base / name for name in _TEST_NAMES if (base / name).is_dir()), None)
    if test is None:
        raise DataError(f"{request.spec!r}: {base} has none of the folders {', '.join(_TEST_NAMES)} to test on")
    folders = _classes(test)
    unknown = sorted("/".join(key) for key in folders.keys() - known.keys())
    if unknown:
        raise DataError(f"{test} has classes that {train} lacks: {', '.join(unknown[:5])}: rename or remove them")
    return known, folders


def _classes(split: Path) -> Classes:
    """Folders that hold images, by (class,) or (coarse, fine)."""
    found: Classes = {}
    for folder in _folders(split):
        inner = _folders(folder)
        for leaf in inner or [folder]:
            if inner and _folders(leaf):
                raise DataError(f"{leaf} holds folders of its own: arrange it as <coarse>/<fine>/<image>")
            if not any(_images(leaf)):
                raise DataError(f"class folder {leaf} holds no image: fill it or remove it")
            found[(folder.name, leaf.name) if inner else (folder.name,)] = leaf
    if not found:
        raise DataError(f"{split} holds no class folder: arrange it as <class>/<image>")
    if len({len(key) for key in found}) > 1:
        raise DataError(f"{split} mixes <class>/<image> with <coarse>/<fine>/<image>: use one depth for all")
    return found


def _folders(path: Path) -> list[Path]:
    """Sorted folders inside; images beside them are refused: they belong to no class, and would be left out unsaid."""
    found = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if found and (loose := _images(path)):
        raise DataError(
            f"{min(loose)} lies beside the folders of {path} ({len(loose)} such images): move it into one of them, or "
            "remove it"
        )
    return found


def _images(path: Path) -> list[Path]:
    return [entry for entry in path.iterdir() if entry.suffix.lower() in _SUFFIXES and not entry.name.startswith(".")]
