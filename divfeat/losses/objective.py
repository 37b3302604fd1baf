"""An objective: (features, logits, labels) to one loss a sample, composed of transforms and a gate.

A transform maps (features, labels, logits) to logits: the hinge is one, margins and logit adjustment are others. A gate
maps (features, labels, plain logits) to a bool mask of samples that leave the loss. Reduction belongs to the
training loop, which alone knows the global batch and its weight.
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
        class_weights: [K] what a sample of each class weighs in the mean over the batch; None weighs all alike.

    Raises:
        ConfigError: label_smoothing outside [0, 1), or weights that are not positive.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        transforms: Sequence[nn.Module] = (),
        gate: nn.Module | None = None,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise ConfigError(f"label_smoothing={label_smoothing} must lie in [0, 1)")
        if class_weights is not None and not bool((class_weights > 0).all()):
            raise ConfigError(f"class_weights={class_weights.tolist()} must be positive")
        self.transforms = nn.ModuleList(transforms)
        self.gate = gate
        self.label_smoothing = label_smoothing
        self.register_buffer("class_weights", None if class_weights is None else class_weights.detach().clone())

    def forward(self, features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """One loss a sample, before `weights`.

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

    def weights(self, labels: Tensor) -> Tensor | None:
        """What each sample weighs, [..., N] for int64 labels [..., N]; None where all weigh alike."""
        return None if self.class_weights is None else self.class_weights[labels]
