"""Cross-entropy along the way from a class to the root (Bertinetto et al., Making Better Mistakes, CVPR 2020, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from divfeat.errors import ConfigError
from divfeat.hierarchy import Hierarchy
from divfeat.losses.functional import at_least_float32


class HierarchicalCrossEntropy(nn.Module):
    """A criterion: - sum_C exp(-alpha (depth(C) - 1)) log p(C | parent of C), over the class and its ancestors below the root.

    A node's probability is that of the classes at or below it. At alpha = 0 it is cross-entropy; the larger alpha, the less a
    choice within a group counts beside one between groups. The paper calls the number of steps from the root a height. The
    authors' code divides the weights by their sum over the tree, which their Adam does not notice; here the choice on the
    coarsest level weighs 1 whatever the tree.

    Args:
        hierarchy: Of the classes, in label order; of any depth, also ragged.
        alpha: At least 0. The authors' runs have 0.1 to 0.6.

    Raises:
        ConfigError: alpha is negative.
    """

    levels: Tensor
    weights: Tensor

    def __init__(self, hierarchy: Hierarchy, alpha: float) -> None:
        super().__init__()
        if not alpha >= 0:
            raise ConfigError(f"alpha={alpha} of hierarchical cross-entropy must be at least 0")
        levels = hierarchy.levels()
        self.register_buffer("levels", levels)
        self.register_buffer("weights", torch.exp(-alpha * torch.arange(len(levels), dtype=torch.float64)))

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """One loss a sample [..., N], float32 or wider, from labels int64 [..., N] and logits [..., N, K]."""
        with torch.autocast(logits.device.type, enabled=False):
            logits = at_least_float32(logits)
            above = torch.logsumexp(logits, -1)
            loss = torch.zeros_like(above)
            # A class that lies higher stands for itself on deeper levels, where it follows from itself: log 1.
            for groups, weight in zip(self.levels, self.weights.to(logits), strict=True):
                mine = groups == groups[labels].unsqueeze(-1)
                own = torch.logsumexp(logits.masked_fill(~mine, -torch.inf), -1)
                loss = loss + weight * (above - own)
                above = own
            return loss
