"""Focal loss over a softmax: (1 - p)^gamma times the cross-entropy, p the true class's probability (arXiv:1708.02002)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from divfeat.losses.functional import at_least_float32, cross_entropy


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
        loss = cross_entropy(logits, labels, self.label_smoothing)
        with torch.autocast(logits.device.type, enabled=False):
            logits = at_least_float32(logits)
            index = labels.expand(logits.shape[:-1]).unsqueeze(-1)
            # log(1 - p) as the log of the others' sum: no cancellation where p is close to 1, and a derivative of
            # the power at any gamma, which a difference rounded to 0 would not have.
            others = logits.scatter(-1, index, -torch.inf).logsumexp(-1)
            return torch.exp(self.gamma * (others - logits.logsumexp(-1))) * loss
