"""Groups of classes by their number of training images, as bool masks [K] by name."""

from __future__ import annotations

from torch import Tensor

#: A class with more training images than the first is `many`, with fewer than the second `few` (Liu et al. 2019,
#: "Large-Scale Long-Tailed Recognition in an Open World", section 5).
MANY_ABOVE, FEW_BELOW = 100, 20


def by_boundary(counts: Tensor, boundary: int) -> dict[str, Tensor]:
    """`minor`: classes with at most `boundary` training images (HingeCE, appendix B); `major`: the others.

    Args:
        counts: int64 [K].
        boundary: In images.
    """
    minor = counts <= boundary
    return {"minor": minor, "major": ~minor}


def by_shots(counts: Tensor) -> dict[str, Tensor]:
    """`many` (above 100 training images), `medium` (20 to 100) and `few` (below 20).

    Args:
        counts: int64 [K].
    """
    many, few = counts > MANY_ABOVE, counts < FEW_BELOW
    return {"many": many, "medium": ~many & ~few, "few": few}
