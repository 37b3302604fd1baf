"""Dot regression: the own class's logit is drawn to its largest value, the others are not looked at (Yang et al. 2022).

Inducing Neural Collapse in Imbalanced Learning, arXiv:2203.09081. Without a softmax there is no push from
other classes, so the axes must be fixed: with learned ones, all classes on one axis would do.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from divfeat.losses.functional import at_least_float32, axis_lengths, own_class


class DotRegression(nn.Module):
    """A criterion: (<w_y, h> - ||w_y|| H)^2 / (2 H), H = stop_gradient(||h||).

    Its gradient in h is -(1 - cos) w_y for axes of length 1. The authors fix H by normalising features (on CIFAR to 1, after a
    batch norm); where a head leaves them free, H follows them without gradient, as their ImageNet code has it.

    Args:
        frame: [..., D, K], columns are class axes.
    """

    lengths: Tensor

    def __init__(self, frame: Tensor) -> None:
        super().__init__()
        self.register_buffer("lengths", axis_lengths(frame))

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """One loss a sample [..., N], float32 or wider.

        Args:
            features: [..., N, D], those that were scored.
            labels: int64 [..., N].
            logits: [..., N, K], <w_k, h> or what a transform made of it.
        """
        with torch.autocast(logits.device.type, enabled=False):
            logits = at_least_float32(logits)
            norms = at_least_float32(features.detach()).norm(dim=-1).to(logits)
            target = norms * own_class(self.lengths.to(logits).expand_as(logits), labels)
            return (own_class(logits, labels) - target).square() / (2 * norms.clamp(min=1e-8))
