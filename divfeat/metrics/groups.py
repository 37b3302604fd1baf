"""Groups of classes by their number of training images, as bool masks [K] by name."""

from __future__ import annotations

from torch import Tensor

from divfeat.thresholds import shot_groups


def by_boundary(counts: Tensor, boundary: int) -> dict[str, Tensor]:
    """`minor`: classes with at most `boundary` training images (HingeCE, appendix B); `major`: the others.

    Args:
        counts: int64 [K].
        boundary: In images.
    """
    minor = counts <= boundary
    return {"minor": minor, "major": ~minor}


def by_shots(counts: Tensor) -> dict[str, Tensor]:
    """`many` (above 100 training images), `medium` (20 to 100) and `few` (below 20), as the family `groups` parts them.

    Args:
        counts: int64 [K].
    """
    return shot_groups(counts)
