"""Targets spread over near classes of a tree (Bertinetto et al., Making Better Mistakes, CVPR 2020, section 3.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from divfeat.errors import ConfigError
from divfeat.hierarchy import Hierarchy
from divfeat.losses.functional import at_least_float32


class SoftLabels(nn.Module):
    """A criterion: cross-entropy against t_k = exp(-beta d(k, y) / d_max) / sum_j exp(-beta d(j, y) / d_max).

    Args:
        hierarchy: Of the classes, in label order; d its distances.
        beta: Above 0; the larger the nearer to one-hot targets. The authors' runs have 4 to 30.

    Raises:
        ConfigError: beta is not above 0.
    """

    targets: Tensor

    def __init__(self, hierarchy: Hierarchy, beta: float) -> None:
        super().__init__()
        if not (math.isfinite(beta) and beta > 0):
            raise ConfigError(f"beta={beta} of soft labels must be a number above 0")
        distances = hierarchy.distances().double()
        self.register_buffer("targets", torch.softmax(-beta * distances / distances.max(), dim=1))

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """One loss a sample [..., N], float32 or wider, from labels int64 [..., N] and logits [..., N, K]."""
        with torch.autocast(logits.device.type, enabled=False):
            logits = at_least_float32(logits)
            return -(self.targets.to(logits)[labels] * torch.log_softmax(logits, -1)).sum(-1)
