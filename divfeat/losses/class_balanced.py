"""Class-balanced weights: one over the effective number of images of a class (Cui et al. 2019, arXiv:1901.05555).

LDAM-DRW starts them late, at 160 of 200 epochs (Cao et al. 2019, arXiv:1906.07413): `Objective(class_weights, deferred=0.8)`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from divfeat.errors import ConfigError
from divfeat.losses.functional import checked_counts


def class_balanced_weights(class_counts: Tensor, beta: float) -> Tensor:
    """w_k proportional to (1 - beta) / (1 - beta^n_k), with sum K.

    Args:
        class_counts: [K] training images of each class.
        beta: 0 weighs all classes alike; towards 1 a class weighs 1 / n_k.

    Returns:
        float64 Tensor [K].

    Raises:
        ConfigError: beta outside [0, 1), or a class without training images.
    """
    if not 0.0 <= beta < 1.0:
        raise ConfigError(f"beta={beta} of the class-balanced weights must lie in [0, 1)")
    counts = checked_counts("class-balanced weights", class_counts)
    if beta == 0.0:
        return torch.ones_like(counts)
    weights = 1 / -torch.expm1(counts * math.log(beta))
    return weights * (len(weights) / weights.sum())
