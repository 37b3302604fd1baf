"""Images made for benchmarks: as many and as large as asked for, with classes that can be learned, and nothing to load."""

from __future__ import annotations

import numpy as np

from divfeat.config import DataConfig
from divfeat.data.images import ImageSet
from divfeat.data.prepare import PreparedData

CLASSES = 10
_NOISE = 60.0


def images(count: int, shape: tuple[int, int, int] = (3, 32, 32), *, seed: int = 0) -> ImageSet:
    """A pattern a class, the same for every seed, under noise; classes are alike in size.

    Args:
        count: N.
        shape: Channels, height and width.
        seed: Of the noise.
    """
    patterns = np.random.default_rng(0).integers(0, 256, (CLASSES, *shape))
    noise = np.random.default_rng([1, seed])
    found = np.empty((count, *shape), dtype=np.uint8)
    labels = np.arange(count, dtype=np.int64) % CLASSES
    for row, label in enumerate(labels):  # one at a time: no second copy in floats
        found[row] = (patterns[label] + _NOISE * noise.standard_normal(shape, dtype=np.float32)).clip(0, 255)
    return ImageSet(found, labels, None, tuple(f"class {k}" for k in range(CLASSES)), None)


def prepared(train: int, evaluation: int) -> PreparedData:
    """What an experiment of the role `search` takes, CIFAR-shaped."""
    config = DataConfig(source="made", val_per_class=evaluation // CLASSES)
    parts = images(train), images(evaluation, seed=1)
    counts = np.bincount(parts[0].fine, minlength=CLASSES)
    return PreparedData(config, "search", *parts, counts, f"made-{train}-{evaluation}")
