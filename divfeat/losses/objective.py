"""An objective: (features, logits, labels) to one loss a sample, composed of transforms and a gate.

A transform maps (features, labels, logits) to logits: the hinge is one, margins and logit adjustment are others. A gate
maps (features, labels) to a bool mask of samples that leave the loss. Reduction and sample weights belong to the
training loop, which alone knows the global batch.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from divfeat.losses.functional import cross_entropy
from divfeat.losses.hinge import _hinge, inside_cone


class Hinge(nn.Module):
    """The hinge of equation (8) as a transform of <w_k, u>; thresholds in radians, as `hinge_logits` takes them."""

    frame: Tensor
    tau_plus: Tensor
    tau_minus: Tensor

    def __init__(self, frame: Tensor, tau_plus: Tensor, tau_minus: Tensor) -> None:
        super().__init__()
        self.register_buffer("frame", frame.detach().clone())
        self.register_buffer("tau_plus", tau_plus.clone())
        self.register_buffer("tau_minus", tau_minus.clone())

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """Hinged logits [..., N, K]; `logits` must be the plain <w_k, u> and is recomputed at full precision."""
        return _hinge(features, labels, self.frame, self.tau_plus, self.tau_minus)


class ConeGate(nn.Module):
    """Samples inside the cone of their class leave the loss (release 'gate')."""

    frame: Tensor
    tau_plus: Tensor

    def __init__(self, frame: Tensor, tau_plus: Tensor) -> None:
        super().__init__()
        self.register_buffer("frame", frame.detach().clone())
        self.register_buffer("tau_plus", tau_plus.clone())

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """bool [..., N], True where the sample leaves."""
        return inside_cone(features, labels, self.frame, self.tau_plus)


class Objective(nn.Module):
    """Cross-entropy after transforms, without the gated samples.

    Args:
        transforms: Applied in order to the logits.
        gate: Drops samples, or None.
        label_smoothing: alpha of t <- t (1 - alpha) + alpha / K.
    """

    def __init__(
        self, transforms: Sequence[nn.Module] = (), gate: nn.Module | None = None, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(transforms)
        self.gate = gate
        self.label_smoothing = label_smoothing

    def forward(self, features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """One loss a sample, [..., N], in float32 or wider."""
        for transform in self.transforms:
            logits = transform(features, labels, logits)
        loss = cross_entropy(logits, labels, self.label_smoothing)
        if self.gate is not None:
            loss = loss.masked_fill(self.gate(features, labels), 0.0)
        return loss
