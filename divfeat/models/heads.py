"""Heads: from taps to features and logits. They read `Taps.after`, and sit in optimizer and checkpoint with the net."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from divfeat.errors import ConfigError
from divfeat.losses.functional import at_least_float32
from divfeat.models.extractor import Taps
from divfeat.models.initialise import build_empty, initialise_linear, keyed_generator


class Outputs(NamedTuple):
    """What an objective sees of a batch.

    Attributes:
        features: [..., N, D], after the projector; at the head's own length where it fixes one.
        logits: [..., N, K] of these features, raw: no hinge, no margin, no prior.
        coarse: Scores [..., N, groups] of the levels of a tree above the classes, the coarsest first; of heads that have them.
        penalty: Scalar that is added to every sample's loss, or None.
    """

    features: Tensor
    logits: Tensor
    coarse: tuple[Tensor, ...] = ()
    penalty: Tensor | None = None


class Head(nn.Module):
    """Base of the heads: `forward(taps) -> Outputs`, and `logits(outputs)` to evaluate with.

    Attributes:
        length: What every feature is rescaled to before it is scored, or None, which leaves features as they are. On axes
            of length 1 the logits are then length * cos(axis, feature).
    """

    length: float | None = None

    @property
    def axes(self) -> Tensor:
        """The class axes [..., D, K], one a column, for the collapse metrics."""
        raise NotImplementedError

    @property
    def bias(self) -> Tensor | None:
        """What is added to <axis, feature>, [K]; None where nothing is."""
        return None

    def score(self, features: Tensor) -> Tensor:
        """Features [..., N, D] as `forward` returns them to logits [..., N, K]."""
        raise NotImplementedError

    def forward(self, taps: Taps) -> Outputs:
        """Scores the features after the projector.

        Raises:
            ConfigError: The features are not as wide as the axes.
        """
        features = taps.after
        dim = self.axes.shape[-2]
        if features.shape[-1] != dim:
            raise ConfigError(
                f"features of {features.shape[-1]} dimensions meet a head of {dim}: set projector_dim={dim}, "
                "or build the head for extractor.feature_dim"
            )
        if self.length is not None:
            features = self.length * nn.functional.normalize(at_least_float32(features), dim=-1)
        return Outputs(features, self.score(features))

    def logits(self, outputs: Outputs) -> Tensor:
        """The scores [..., N, K] whose argmax is the prediction."""
        return outputs.logits


class LinearHead(Head):
    """A learned classifier: logits = W h + b, initialised as `torch.nn.Linear` from a generator of its own."""

    def __init__(self, dim: int, num_classes: int, seed: int = 0) -> None:
        super().__init__()
        self.linear = build_empty(lambda: nn.Linear(dim, num_classes))
        initialise_linear(self.linear, keyed_generator(seed, "head"))

    @property
    def axes(self) -> Tensor:
        """The weight, transposed: [D, K]."""
        return self.linear.weight.T

    @property
    def bias(self) -> Tensor | None:
        """[K]."""
        return self.linear.bias

    def score(self, features: Tensor) -> Tensor:
        """Features [..., N, D] to logits [..., N, K]."""
        return self.linear(features)


class CosineHead(Head):
    """A learned classifier on the sphere: logits = scale cos(w_k, h), without bias, as LDAM needs it.

    The weights start as the published ones (kaidic/LDAM-DRW, NormedLinear): uniform in +-1, then of length 1. What training
    makes of their lengths changes no logit.
    """

    def __init__(self, dim: int, num_classes: int, scale: float, seed: int = 0) -> None:
        """Draws the weights from a generator of its own.

        Raises:
            ConfigError: scale is not positive.
        """
        super().__init__()
        self.length = _checked_length(scale)
        drawn = torch.rand(dim, num_classes, generator=keyed_generator(seed, "head")) * 2 - 1
        self.weight = nn.Parameter(nn.functional.normalize(drawn, dim=0))

    @property
    def axes(self) -> Tensor:
        """The weights at length 1: [D, K]."""
        return nn.functional.normalize(self.weight, dim=0)

    def score(self, features: Tensor) -> Tensor:
        """Features [..., N, D] as `forward` returns them to logits [..., N, K]."""
        return features @ self.axes


class FrameHead(Head):
    """A frozen classifier: logits <w_k, h> on the columns of a frame, without bias (HingeCE, section 2.1).

    The frame is a buffer at the precision it was given: in the checkpoint, never in the optimizer.
    """

    frame: Tensor

    def __init__(self, frame: Tensor, length: float | None = None) -> None:
        """Copies `frame` [..., D, K].

        Raises:
            ConfigError: It has fewer than two dimensions or is not of floating point, or length is not positive.
        """
        super().__init__()
        self.length = None if length is None else _checked_length(length)
        if frame.ndim < 2 or not frame.is_floating_point():
            raise ConfigError(f"frame of shape {tuple(frame.shape)} and {frame.dtype}: give real numbers [..., D, K]")
        self.register_buffer("frame", frame.detach().clone())

    @property
    def axes(self) -> Tensor:
        """The frame [..., D, K]."""
        return self.frame

    def score(self, features: Tensor) -> Tensor:
        """Features [..., N, D] to logits [..., N, K]."""
        return features @ self.frame.to(features.dtype)


def _checked_length(value: float) -> float:
    if not value > 0:
        raise ConfigError(f"features cannot be scaled to length {value}: give a positive number")
    return value
