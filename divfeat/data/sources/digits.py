"""``digits``: scikit-learn's 1,797 handwritten digits of 8x8 pixels, which come with the package."""

from __future__ import annotations

import numpy as np

from divfeat.data.decode import resize_images
from divfeat.data.images import ImageSet
from divfeat.data.sources.request import Request
from divfeat.data.splits import holdout
from divfeat.errors import DataError

# The set has no test split of its own: this draw IS the test split, so it never changes.
_TEST_FRACTION, _TEST_SEED = 0.2, 20230501


def load(request: Request) -> ImageSet:
    """Load the digits: uint8 [N, 1, 8, 8], ten fine classes, five coarse ones (digit // 2).

    A fixed, stratified 20 % of the rows is the test split; it is dropped at once when ``train`` is asked for.

    Raises:
        DataError: something stands behind the colon.
    """
    from sklearn.datasets import load_digits

    find(request)
    pixels, fine = load_digits(return_X_y=True)
    fine = fine.astype(np.int64)
    split = holdout(fine, fraction=_TEST_FRACTION, seed=_TEST_SEED)
    rows = split.train if request.split == "train" else split.val
    images = np.rint(pixels[rows] * (255.0 / 16.0)).astype(np.uint8).reshape(-1, 1, 8, 8)
    fine = fine[rows]
    return ImageSet(
        resize_images(images, **request.framing),
        fine,
        fine // 2,
        tuple(str(digit) for digit in range(10)),
        tuple(f"{digit}-{digit + 1}" for digit in range(0, 10, 2)),
    )


def find(request: Request) -> None:
    """Both splits come with scikit-learn.

    Raises:
        DataError: something stands behind the colon.
    """
    if request.argument:
        raise DataError(f"unknown data source {request.spec!r}: 'digits' takes nothing after its name")
