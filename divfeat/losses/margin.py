"""LDAM's margins: the own class's cosine loses m_k, the more the rarer the class (Cao et al. 2019, arXiv:1906.07413)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from divfeat.losses.functional import at_least_float32, checked_counts


class Margin(nn.Module):
    """A transform of logits v = scale cos(w, u): v_y <- v_y - scale m_y with m_k = C n_k^(-1/4).

    Args:
        class_counts: [K] training images of each class.
        largest: Margin of the rarest class, in cosines; fixes C. The paper's is 0.5.
        scale: What the head multiplies cosines with. The paper's is 30.

    Raises:
        ConfigError: a class without training images.
    """

    margins: Tensor

    def __init__(self, class_counts: Tensor, largest: float = 0.5, scale: float = 30.0) -> None:
        super().__init__()
        counts = checked_counts("a margin by class count", class_counts)
        self.register_buffer("margins", scale * largest * (counts.min() / counts) ** 0.25)

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """Logits [..., N, K] with the own class's lowered, float32 or wider; `features` have no say.

        Args:
            features: [..., N, D].
            labels: int64 [..., N], broadcastable to logits.shape[:-1].
            logits: [..., N, K].
        """
        logits = at_least_float32(logits)
        own = nn.functional.one_hot(labels, logits.shape[-1]).bool()
        return torch.where(own, logits - self.margins.to(logits), logits)
