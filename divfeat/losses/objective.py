"""An objective: (features, logits, labels) to one loss a sample, composed of transforms, a criterion, a gate and weights.

A transform maps (features, labels, logits) to logits: the hinge is one, margins and logit adjustment are others. A
criterion maps (features, labels, transformed logits) to one loss a sample: cross-entropy, focal loss, dot regression. A
gate maps (features, labels, plain logits) to a bool mask of samples that leave the loss. A criterion whose `reads_step` is
True also takes what it may want to know beside these, a `Step`. Reduction belongs to the training loop, which alone knows the
global batch and its weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from divfeat.errors import ConfigError
from divfeat.losses.functional import cross_entropy


@dataclass(frozen=True)
class Step:
    """What a criterion may read beside features, labels and logits.

    Attributes:
        progress: Share of the epochs that were finished when this one began, in [0, 1); None outside a training.
        cones_open: Whether cones act in this epoch.
        coarse: Scores [..., N, groups] of the levels above the classes, the coarsest first; of heads that have them.
        penalty: Scalar that a head adds to every sample's loss, or None.
    """

    progress: float | None = None
    cones_open: bool = True
    coarse: Sequence[Tensor] = ()
    penalty: Tensor | None = None


class CrossEntropy(nn.Module):
    """The criterion of an objective that names no other.

    Args:
        label_smoothing: alpha of t <- t (1 - alpha) + alpha / K.

    Raises:
        ConfigError: label_smoothing outside [0, 1).
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise ConfigError(f"label_smoothing={label_smoothing} must lie in [0, 1)")
        self.label_smoothing = label_smoothing

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """[..., N], float32 or wider, from labels int64 [..., N] and logits [..., N, K]."""
        return cross_entropy(logits, labels, self.label_smoothing)


class Objective(nn.Module):
    """A criterion after transforms, without the gated samples.

    Args:
        transforms: Applied in order to the logits.
        gate: Drops samples, or None.
        criterion: What gives the losses; None is plain cross-entropy.
        class_weights: [K] what a sample of each class weighs in the mean over the batch; None weighs all alike.
        deferred: Share of the epochs before the class weights start.
        closed: Shares of the epochs, first and last, in which the cones are closed: a transform or gate whose `is_cone` is
            True is then left out.

    Raises:
        ConfigError: weights that are not positive, a share outside [0, 1), or cones that never open.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        transforms: Sequence[nn.Module] = (),
        gate: nn.Module | None = None,
        criterion: nn.Module | None = None,
        class_weights: Tensor | None = None,
        deferred: float = 0.0,
        closed: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        super().__init__()
        if class_weights is not None and not bool((class_weights > 0).all()):
            raise ConfigError(f"class_weights={class_weights.tolist()} must be positive")
        if not 0.0 <= deferred < 1.0:
            raise ConfigError(f"deferred={deferred} is a share of the epochs in [0, 1)")
        if min(closed) < 0.0 or sum(closed) >= 1.0:
            raise ConfigError(f"closed={closed} are shares of the epochs, 0 or more, whose sum must be less than 1")
        self.transforms = nn.ModuleList(transforms)
        self.gate = gate
        self.criterion = CrossEntropy() if criterion is None else criterion
        self.register_buffer("class_weights", None if class_weights is None else class_weights.detach().clone())
        self.deferred = deferred
        self.closed = closed

    def forward(
        self,
        features: Tensor,
        logits: Tensor,
        labels: Tensor,
        progress: float | None = None,
        coarse: Sequence[Tensor] = (),
        penalty: Tensor | None = None,
    ) -> Tensor:
        """One loss a sample, before `weights`.

        Args:
            features: [..., N, D], as the head scored them.
            logits: [..., N, K], as the head gives them.
            labels: int64 [..., N].
            progress: Share of the epochs that were finished when this one began, in [0, 1); None for open cones.
            coarse: As the head gives them: scores of the levels above the classes.
            penalty: As the head gives it.

        Returns:
            [..., N], float32 or wider; 0 for a sample that the gate drops.
        """
        open_ = self.cones_are_open(progress)
        transformed = logits
        for transform in self.transforms:
            if open_ or not _is_cone(transform):
                transformed = transform(features, labels, transformed)
        if getattr(self.criterion, "reads_step", False):
            loss = self.criterion(features, labels, transformed, Step(progress, open_, coarse, penalty))
        else:
            loss = self.criterion(features, labels, transformed)
        if self.gate is not None and (open_ or not _is_cone(self.gate)):
            loss = loss.masked_fill(self.gate(features, labels, logits), 0.0)
        return loss

    def cones_are_open(self, progress: float | None) -> bool:
        """Whether cones act in the epoch that begins at `progress`; shares that name an epoch mean that one, to rounding."""
        first, last = self.closed
        return progress is None or (first <= progress and round(progress + last, 9) < 1.0)

    def weights(self, labels: Tensor, progress: float) -> Tensor | None:
        """What each sample weighs, or None where all weigh alike.

        Args:
            labels: int64 [..., N].
            progress: Share of the epochs that were finished when this one began, in [0, 1).

        Returns:
            [..., N], or None.
        """
        if self.class_weights is None or progress < self.deferred:
            return None
        return self.class_weights[labels]


def _is_cone(part: nn.Module) -> bool:
    return bool(getattr(part, "is_cone", False))
