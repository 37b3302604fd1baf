"""Focal loss over a softmax: (1 - p)^gamma times the cross-entropy, p the true class's probability (arXiv:1708.02002)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from divfeat.losses.functional import cross_entropy


class Focal(nn.Module):
    """A criterion that turns away from samples which are already right.

    Lin et al. give it for one sigmoid; long-tail code takes the softmax, gamma = 1. Class weights multiply
    the result and are no part of p, unlike in LDAM's code, where exp(- weighted cross-entropy) is not a probability.

    Args:
        gamma: 0 is cross-entropy.
        label_smoothing: alpha of the cross-entropy's target; p stays the true class's.
    """

    def __init__(self, gamma: float, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.gamma = gamma
        self.label_smoothing = label_smoothing

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """One loss a sample [..., N], float32 or wider, from labels int64 [..., N] and logits [..., N, K]."""
        plain = cross_entropy(logits, labels)
        loss = cross_entropy(logits, labels, self.label_smoothing) if self.label_smoothing else plain
        # 1 - p without cancellation. Below gamma = 1 the power has no derivative at 0, where p has been rounded to 1.
        wrong = -torch.expm1(-plain)
        return wrong.clamp(min=torch.finfo(wrong.dtype).tiny) ** self.gamma * loss
