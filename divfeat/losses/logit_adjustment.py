"""Logit adjustment in the loss: cross-entropy of v + tau log pi (Menon et al. 2021, arXiv:2007.07314, equation 10).

Scored on the raw v, the classifier then aims at balanced accuracy. With tau = 1 this is balanced softmax (Ren et al. 2020,
arXiv:2007.10740), which adds log n_k: log pi_k = log n_k - log N, and the softmax does not see a constant.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from divfeat.losses.functional import at_least_float32, checked_counts


class LogitAdjustment(nn.Module):
    """A transform of logits that adds tau log pi_k, pi_k the share of class k among the training images.

    Args:
        class_counts: [K] training images of each class.
        tau: 1 for a loss that is consistent with balanced accuracy, 0 for plain cross-entropy.

    Raises:
        ConfigError: a class without training images.
    """

    offset: Tensor

    def __init__(self, class_counts: Tensor, tau: float = 1.0) -> None:
        super().__init__()
        counts = checked_counts("logit adjustment", class_counts)
        self.register_buffer("offset", tau * torch.log(counts / counts.sum()))

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """Adjusted logits [..., N, K], float32 or wider; `features` and `labels` have no say."""
        logits = at_least_float32(logits)
        return logits + self.offset.to(logits)
