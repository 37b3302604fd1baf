"""ImageSet: a labelled set of small images held as one array."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from divfeat.errors import DataError

Level = Literal["fine", "coarse"]

#: Images counted at a time. Counting makes an int64 of every pixel: of 4096 images of 32x32 that is 32 MiB, which the allocator
#: then keeps in every trial, and it takes three times as long as in the processor's cache.
_CHUNK = 256


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with fine labels and, where there are any, coarse labels.

    The arrays are taken as they are: never copied, never written to. So a set whose arrays live in shared, read-only
    memory (an object store) stays there, and pickling moves plain numpy arrays out of band.

    Attributes:
        images: uint8 [N, C, H, W], C-contiguous, C = 1 or 3.
        fine: int64 [N], values in [0, K_fine).
        coarse: int64 [N], values in [0, K_coarse), or None.
        fine_names: the K_fine class names, in label order.
        coarse_names: the K_coarse class names, in label order, or None with ``coarse``.

    Raises:
        DataError: a wrong dtype or shape, no image, a label out of range, repeated names, or one fine class under two
            coarse ones.
    """

    images: np.ndarray
    fine: np.ndarray
    coarse: np.ndarray | None
    fine_names: tuple[str, ...]
    coarse_names: tuple[str, ...] | None

    def __post_init__(self) -> None:
        images = self.images
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
            found = f"{images.dtype} {list(images.shape)}" if isinstance(images, np.ndarray) else type(images).__name__
            raise DataError(f"images must be a uint8 numpy array [N, C, H, W], not {found}")
        if images.size == 0:
            raise DataError(f"images {list(images.shape)} are empty: a set needs at least one image")
        if images.shape[1] not in (1, 3):
            raise DataError(
                f"images have {images.shape[1]} channels (shape {list(images.shape)}): use [N, C, H, W], C=1|3"
            )
        if not images.flags.c_contiguous:
            raise DataError("images are not C-contiguous: pass numpy.ascontiguousarray(images)")
        if (self.coarse is None) != (self.coarse_names is None):
            raise DataError("coarse labels and coarse names come together: give both or neither")
        _check_labels("fine", self.fine, self.fine_names, len(images))
        if self.coarse is not None and self.coarse_names is not None:
            _check_labels("coarse", self.coarse, self.coarse_names, len(images))
            _ = self.fine_to_coarse

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width in pixels."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def labels(self, level: Level) -> np.ndarray:
        """Labels int64 [N] of a level.

        Raises:
            DataError: coarse labels are asked for and there are none.
        """
        if level == "fine":
            return self.fine
        if self.coarse is None:
            raise self._no_coarse(level)
        return self.coarse

    def class_names(self, level: Level) -> tuple[str, ...]:
        """Class names of a level, in label order.

        Raises:
            DataError: coarse names are asked for and there are none.
        """
        if level == "fine":
            return self.fine_names
        if self.coarse_names is None:
            raise self._no_coarse(level)
        return self.coarse_names

    def num_classes(self, level: Level) -> int:
        """Number of classes of a level, absent ones included.

        Raises:
            DataError: the coarse number is asked for and there are no coarse labels.
        """
        return len(self.class_names(level))

    @cached_property
    def fine_to_coarse(self) -> np.ndarray:
        """Coarse label int64 [K_fine] of each fine class; -1 where the set holds no image of the class.

        Raises:
            DataError: there are no coarse labels, or a fine class lies under two coarse ones.
        """
        coarse = self.labels("coarse")
        parents = np.full(len(self.fine_names), -1, dtype=np.int64)
        parents[self.fine] = coarse
        bad = np.flatnonzero(parents[self.fine] != coarse)
        if bad.size:
            k, names = self.fine[bad[0]], self.class_names("coarse")
            raise DataError(
                f"fine class {self.fine_names[k]!r} lies under two coarse classes, {names[coarse[bad[0]]]!r} "
                f"(row {bad[0]}) and {names[parents[k]]!r}: mend the coarse labels, or load the set without them"
            )
        return parents

    def subset(self, indices: np.ndarray) -> ImageSet:
        """A new set with the rows ``indices`` (int64 [M], copied, in this order); names and label numbers stay.

        Raises:
            DataError: ``indices`` is no vector of integers, is empty, or leaves [0, N).
        """
        rows = np.asarray(indices)
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise DataError(f"a subset takes a vector of row numbers, not {rows.dtype} {list(rows.shape)}")
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise DataError(f"a subset row lies outside [0, {len(self)}): found {rows.min()} to {rows.max()}")
        coarse = None if self.coarse is None else self.coarse[rows]
        return ImageSet(self.images[rows], self.fine[rows], coarse, self.fine_names, self.coarse_names)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 (hex) over shape, images, labels and names: equal sets have equal hashes on every machine."""
        header = {"shape": self.images.shape, "fine": self.fine_names, "coarse": self.coarse_names}
        digest = hashlib.sha256(json.dumps(header, ensure_ascii=True).encode())
        digest.update(self.images.data.cast("B"))
        for labels in (self.fine, self.coarse):
            if labels is not None:
                digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
        return digest.hexdigest()

    def channel_stats(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (population) of each channel: two float64 arrays [C], in [0, 1] units.

        Exact: taken from the counts of the 256 values.
        """
        counts = np.zeros((self.images.shape[1], 256), dtype=np.int64)
        for start in range(0, len(self), _CHUNK):
            chunk = self.images[start : start + _CHUNK]
            for channel in range(len(counts)):
                counts[channel] += np.bincount(chunk[:, channel].ravel(), minlength=256)
        values = np.arange(256) / 255.0
        mean = counts @ values / counts.sum(axis=1)
        variance = (counts * (values - mean[:, None]) ** 2).sum(axis=1) / counts.sum(axis=1)
        return mean, np.sqrt(variance)

    def _no_coarse(self, level: Level) -> DataError:
        if level != "coarse":
            return DataError(f"unknown label level {level!r}: use 'fine' or 'coarse'")
        return DataError(
            f"this set of {len(self.fine_names)} classes has no coarse labels: use level 'fine', or a source that has "
            "them (a coarse_label column in Parquet or data.coarse_column, folders of folders, digits, torchvision:CIFAR100)"
        )


def _check_labels(level: Level, labels: np.ndarray, names: tuple[str, ...], count: int) -> None:
    if not isinstance(labels, np.ndarray) or labels.dtype != np.int64 or labels.shape != (count,):
        found = f"{labels.dtype} {list(labels.shape)}" if isinstance(labels, np.ndarray) else type(labels).__name__
        raise DataError(f"{level} labels must be an int64 numpy array [{count}], not {found}")
    repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        raise DataError(f"{level} class names are repeated: {', '.join(map(repr, repeated[:5]))}: make them unique")
    bad = np.flatnonzero((labels < 0) | (labels >= len(names)))
    if bad.size:
        raise DataError(
            f"{level} label {labels[bad[0]]} in row {bad[0]} lies outside [0, {len(names)}), the range of its class "
            f"names ({bad.size} such rows): hidden labels cannot be used, wrong ones must be mended"
        )
