"""Cosines drawn to those of a frame: what makes features collapse onto a hierarchy-aware one (HAFrame, ICCV 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from divfeat.errors import ConfigError, unknown
from divfeat.losses.functional import at_least_float32, cross_entropy, own_class
from divfeat.losses.objective import Step

#: Outside a training: alpha at its largest, cones open.
NO_STEP = Step()
SCHEDULES = ("constant", "rising", "falling")


class CosineToFrame(nn.Module):
    """A criterion: (1 - alpha) CE + alpha sum_i (cos(w_i, h) - cos(w_i, w_y))^2.

    The sum goes over all classes, so that it grows with their number. Cosines are of the features and the frame, whatever a
    transform made of the logits.

    A sample inside its cone has no such part while cones are open: it would pull at what the cone lets go of.

    Args:
        frame: [D, K], columns are class axes.
        alpha: In [0, 1]: weight of the cosines' part; at 0 it is cross-entropy.
        label_smoothing: Of the cross-entropy.
        schedule: Of alpha: `constant`; `rising` from 0 or `falling` to 0, linear in the finished epochs (in the published code
            `linear-increase` and `linear-decrease`, there with alpha 1; all reported runs are constant).
        cone: What holds the thresholds in force as `tau_plus` [K] radians (`ConeGate` or `Hinge`), or None for no cones.

    Raises:
        ConfigError: alpha outside [0, 1], or an unknown schedule.
    """

    directions: Tensor
    gram: Tensor
    reads_step = True

    def __init__(
        self,
        frame: Tensor,
        alpha: float,
        label_smoothing: float = 0.0,
        *,
        schedule: str = "constant",
        cone: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 <= alpha <= 1.0:
            raise ConfigError(f"alpha={alpha} of the cosine loss must lie in [0, 1]")
        if schedule not in SCHEDULES:
            raise ConfigError(unknown("schedule of the cosine loss", schedule, SCHEDULES))
        directions = nn.functional.normalize(frame.detach().double(), dim=-2)
        self.register_buffer("directions", directions)
        self.register_buffer("gram", directions.mT @ directions)
        self.alpha, self.label_smoothing, self.schedule, self.cone = alpha, label_smoothing, schedule, cone

    def weight(self, progress: float | None) -> float:
        """Alpha in the epoch that begins at this share of the epochs; None for the largest."""
        if progress is None or self.schedule == "constant":
            return self.alpha
        return self.alpha * (progress if self.schedule == "rising" else 1 - progress)

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor, step: Step = NO_STEP) -> Tensor:
        """One loss a sample [..., N], float32 or wider.

        Args:
            features: [..., N, D], those that were scored.
            labels: int64 [..., N].
            logits: [..., N, K].
            step: How far the training is.
        """
        loss = cross_entropy(logits, labels, self.label_smoothing)
        alpha = self.weight(step.progress)
        if not alpha:
            return loss
        tau: Tensor | None = None
        if self.cone is not None and step.cones_open:
            tau = self.cone.get_buffer("tau_plus")
        return (1 - alpha) * loss + alpha * self.cosines(features, labels, tau).to(loss)

    def cosines(self, features: Tensor, labels: Tensor, tau_plus: Tensor | None = None) -> Tensor:
        """The part about cosines alone, [..., N] (HAFrame, slides, L_COS); 0 inside cones of [K] radians."""
        with torch.autocast(features.device.type, enabled=False):
            features = nn.functional.normalize(at_least_float32(features), dim=-1)
            found = features @ self.directions.to(features)
            loss = (found - self.gram.to(features)[labels]).square().sum(-1)
            if tau_plus is None:
                return loss
            tau = tau_plus.to(loss)[labels]
            return loss.masked_fill((tau > 0) & (own_class(found.detach(), labels) > torch.cos(tau)), 0.0)
