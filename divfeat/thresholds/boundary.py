"""The family whose boundary between major and minor classes is searched too.

Which class is minor is a convention (50 images in the paper), and on CIFAR10-LT it leaves one class of ten on the minor side.
Here the boundary is a number of its own, the share of the classes that are minor: the smallest tenth, half, and so on. So the
same range serves any counts, and as many classes change sides in each part of it, which a number of images or its logarithm
would not give. Classes of one count stay together, and both sides always hold a class.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from divfeat.thresholds.counts import needs_a_tail
from divfeat.thresholds.family import Family, Number, Parameters, ThresholdContext
from divfeat.thresholds.plain import MAJOR_MINOR


def smallest_share(counts: Tensor, share: float) -> Tensor:
    """bool [K]: the classes of fewest images, as near to this share of all classes as classes of one count allow.

    A class is among them where the middle of those of its count, by rising count, lies below `share`: for K different counts
    m / K gives the m smallest. The smallest count always is, the largest never.

    Args:
        counts: int64 [K], not all equal.
        share: In [0, 1].
    """
    counts = counts.cpu().contiguous()
    rising = counts.sort().values
    smaller, upto = (torch.searchsorted(rising, counts, right=right) for right in (False, True))
    middle = (smaller + upto) / (2 * len(counts))
    return ((middle < share) | (counts == rising[0])) & (counts < rising[-1])


def _free_boundary(parameters: Parameters, context: ThresholdContext) -> Tensor:
    major, minor = (torch.tensor(float(parameters[name]), dtype=torch.float64) for name in ("tau_major", "tau_minor"))
    return torch.where(smallest_share(context.class_counts, parameters["minor_share"]), minor, major)


_PI = math.pi

FREE_BOUNDARY = Family(
    "free_boundary",
    (*MAJOR_MINOR.parameters, "minor_share"),
    _free_boundary,
    # Section 4.2 at the shares that the paper's boundary gives on CIFAR100-LT (half) and CIFAR10-LT (one in ten), then at
    # the other end of figure 5's range; cones on the larger half alone; last no cone at all.
    (
        {"tau_major": 0.0, "tau_minor": 2 / 9 * _PI, "minor_share": 0.5},
        {"tau_major": 0.0, "tau_minor": 2 / 9 * _PI, "minor_share": 0.1},
        {"tau_major": 0.0, "tau_minor": 5 / 18 * _PI, "minor_share": 0.3},
        {"tau_major": 1 / 4 * _PI, "tau_minor": 0.0, "minor_share": 0.5},
        {"tau_major": 0.0, "tau_minor": 0.0, "minor_share": 0.5},
    ),
    "one angle for major and one for minor classes, and what share of the classes, from the smallest, is minor",
    needs_a_tail,
    others=(Number("minor_share", 0.0, 1.0),),
    lifts={
        "global": lambda p, context: {"tau_major": p["tau"], "tau_minor": p["tau"], "minor_share": 0.5},
        "major_minor": lambda p, context: {**p, "minor_share": float(context.minor.double().mean())},
    },
    coneless=lambda p: p["tau_major"] == 0 and p["tau_minor"] == 0,
)
