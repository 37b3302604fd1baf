"""What a source is asked for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from divfeat.errors import ConfigError, DataError

SplitName = Literal["train", "val", "test"]


def data_root(root: Path | None = None) -> Path | None:
    """The folder of local data sets: `root`, or what the environment variable DIVFEAT_DATA names, or None."""
    return Path(os.environ["DIVFEAT_DATA"]) if root is None and os.environ.get("DIVFEAT_DATA") else root


def places(path: str, root: Path | None) -> list[Path]:
    """Where a path may lie: as it is (from the working directory), then under the root."""
    found = Path(path).expanduser()
    return [found] if found.is_absolute() or root is None else [found, root / found]


def found_file(path: str, root: Path | None) -> Path:
    """The first of `places` where there is a file.

    Raises:
        ConfigError: there is none: names the places.
    """
    tried = places(path, root)
    for place in tried:
        if place.is_file():
            return place
    raise ConfigError(f"there is no file at {' nor '.join(str(place.absolute()) for place in tried)}")


@dataclass(frozen=True)
class Request:
    """The arguments of :func:`divfeat.data.load_source`, with the spec taken apart.

    Attributes:
        spec: as given, for messages.
        argument: what follows the colon: a name or a path.
        split: ``train`` or ``test``; ``val`` where the source has one.
        root: folder of local data sets, if one is known.
        download: whether missing data may be fetched.
        image_size: side in pixels, or None.
        crop_bottom: rows of pixels to be cut off at the bottom.
        image_column: Parquet column of the images, or None for the usual names.
        fine_column: Parquet column of the fine labels, likewise.
        coarse_column: Parquet column of the coarse labels, likewise.
        train_list: file that lists the training images and their labels.
        val_list: the same for validation, or None.
        test_list: the same for the test set.
    """

    spec: str
    argument: str
    split: SplitName
    root: Path | None = None
    download: bool = False
    image_size: int | None = None
    crop_bottom: int = 0
    image_column: str | None = None
    fine_column: str | None = None
    coarse_column: str | None = None
    train_list: str | None = None
    val_list: str | None = None
    test_list: str | None = None

    @property
    def framing(self) -> dict[str, Any]:
        """What `divfeat.data.decode` takes of how an image is cut and resized."""
        return {"image_size": self.image_size, "crop_bottom": self.crop_bottom}

    def candidates(self) -> list[Path]:
        """Places where the path of the spec may lie: as it is (from the working directory), then under the root.

        Raises:
            DataError: the spec holds no path.
        """
        if not self.argument:
            raise DataError(f"{self.spec!r} names no path: write it after a colon, as in 'parquet:cifar10'")
        return places(self.argument, self.root)

    def missing(self, what: str) -> DataError:
        """The error for a path that is in none of the candidate places."""
        places = " nor ".join(str(path.absolute()) for path in self.candidates())
        hint = "" if self.root is not None else ", or set DIVFEAT_DATA to the folder that holds your data sets"
        return DataError(f"{self.spec!r}: there is no {what} at {places}: correct the path{hint}")
