"""Cosines drawn to those of a frame: what makes features collapse onto a hierarchy-aware one (HAFrame, ICCV 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from divfeat.errors import ConfigError
from divfeat.losses.functional import at_least_float32, cross_entropy


class CosineToFrame(nn.Module):
    """A criterion: (1 - alpha) CE + alpha sum_i (cos(w_i, h) - cos(w_i, w_y))^2.

    The sum goes over all classes, so that it grows with their number. Cosines are of the features and the frame, whatever a
    transform made of the logits.

    Args:
        frame: [D, K], columns are class axes.
        alpha: In [0, 1]: weight of the cosines' part; at 0 it is cross-entropy.
        label_smoothing: Of the cross-entropy.

    Raises:
        ConfigError: alpha outside [0, 1].
    """

    directions: Tensor
    gram: Tensor

    def __init__(self, frame: Tensor, alpha: float, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= alpha <= 1.0:
            raise ConfigError(f"alpha={alpha} of the cosine loss must lie in [0, 1]")
        directions = nn.functional.normalize(frame.detach().double(), dim=-2)
        self.register_buffer("directions", directions)
        self.register_buffer("gram", directions.mT @ directions)
        self.alpha, self.label_smoothing = alpha, label_smoothing

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """One loss a sample [..., N], float32 or wider.

        Args:
            features: [..., N, D], those that were scored.
            labels: int64 [..., N].
            logits: [..., N, K].
        """
        loss = cross_entropy(logits, labels, self.label_smoothing)
        if not self.alpha:
            return loss
        return (1 - self.alpha) * loss + self.alpha * self.cosines(features, labels).to(loss)

    def cosines(self, features: Tensor, labels: Tensor) -> Tensor:
        """The part about cosines alone, [..., N] (HAFrame, slides, L_COS)."""
        with torch.autocast(features.device.type, enabled=False):
            features = nn.functional.normalize(at_least_float32(features), dim=-1)
            found = features @ self.directions.to(features)
            return (found - self.gram.to(features)[labels]).square().sum(-1)
