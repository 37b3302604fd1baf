"""An objective: (features, logits, labels) to one loss a sample, composed of transforms and a gate.

A transform maps (features, labels, logits) to logits: the hinge is one, margins and logit adjustment are others. A gate
maps (features, labels, plain logits) to a bool mask of samples that leave the loss. Reduction and sample weights belong to
the training loop, which alone knows the global batch.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from divfeat.errors import ConfigError
from divfeat.losses.functional import cross_entropy


class Objective(nn.Module):
    """Cross-entropy after transforms, without the gated samples.

    Args:
        transforms: Applied in order to the logits.
        gate: Drops samples, or None.
        label_smoothing: alpha of t <- t (1 - alpha) + alpha / K.

    Raises:
        ConfigError: label_smoothing outside [0, 1).
    """

    def __init__(
        self, transforms: Sequence[nn.Module] = (), gate: nn.Module | None = None, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise ConfigError(f"label_smoothing={label_smoothing} must lie in [0, 1)")
        self.transforms = nn.ModuleList(transforms)
        self.gate = gate
        self.label_smoothing = label_smoothing

    def forward(self, features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """One loss a sample.

        Args:
            features: [..., N, D].
            logits: [..., N, K], as the head gives them.
            labels: int64 [..., N].

        Returns:
            [..., N], float32 or wider; 0 for a sample that the gate drops.
        """
        transformed = logits
        for transform in self.transforms:
            transformed = transform(features, labels, transformed)
        loss = cross_entropy(transformed, labels, self.label_smoothing)
        if self.gate is not None:
            loss = loss.masked_fill(self.gate(features, labels, logits), 0.0)
        return loss
