"""Heads: from taps to features and logits. They read `Taps.after`, and sit in optimizer and checkpoint with the net."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from divfeat.errors import ConfigError
from divfeat.models.extractor import Taps
from divfeat.models.initialise import build_empty, initialise_linear, keyed_generator


class Outputs(NamedTuple):
    """What an objective sees of a batch.

    Attributes:
        features: [..., N, D], after the projector.
        logits: [..., N, K], raw: no hinge, no margin, no temperature.
    """

    features: Tensor
    logits: Tensor


class Head(nn.Module):
    """Base of the heads: `forward(taps) -> Outputs`, and `logits(outputs)` to evaluate with."""

    @property
    def axes(self) -> Tensor:
        """The class axes [..., D, K], one a column, for the collapse metrics."""
        raise NotImplementedError

    @property
    def bias(self) -> Tensor | None:
        """What is added to <axis, feature>, [K]; None where nothing is."""
        return None

    def score(self, features: Tensor) -> Tensor:
        """Features [..., N, D] to logits [..., N, K]."""
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


class FrameHead(Head):
    """A frozen classifier: logits <w_k, h> on the columns of a frame, without bias (HingeCE, section 2.1).

    The frame is a buffer at the precision it was given: in the checkpoint, never in the optimizer.
    """

    frame: Tensor

    def __init__(self, frame: Tensor) -> None:
        """Copies `frame` [..., D, K].

        Raises:
            ConfigError: It has fewer than two dimensions or is not of floating point.
        """
        super().__init__()
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
