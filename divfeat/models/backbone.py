"""What every backbone is: normalised images in, feature maps and their average out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from divfeat.errors import ConfigError
from divfeat.models.initialise import FanMode, initialise

ImageShape = tuple[int, int, int]
"""(channels, height, width)."""


class Backbone(nn.Module):
    """Base of the backbones: normalised images [B, C, H, W] to `maps`, whose global average is what `forward` returns.

    A subclass takes `image_shape` first and its options by keyword, sets `out_dim`, and ends its maps in a ReLU, so that
    features are non-negative (which is why an ETF head needs the projector).

    Attributes:
        out_dim: Width of the pooled features.
        fan: Which fan its He initialisation counts.
        resolved: Options that were left to "auto" and what became of them, for the recorded config.
        weights_hash: Of the file that the weights began from (`divfeat.models.weights`), or None.
    """

    out_dim: int
    fan: FanMode = "fan_in"
    resolved: Mapping[str, object] = {}
    weights_hash: str | None = None

    @property
    def pretrained(self) -> nn.Module:
        """What a file of weights is the state dict of."""
        return self

    def initialise(self, generator: torch.Generator) -> None:
        """Fills every parameter and buffer, drawing from `generator` alone."""
        initialise(self, generator, self.fan)

    def maps(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, out_dim, H', W'], before pooling."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, out_dim]."""
        return global_average(self.maps(images))


def global_average(maps: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C]."""
    return maps.mean((2, 3))


def global_maximum(maps: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C]."""
    return maps.amax((2, 3))


def positive_int(name: str, value: object) -> int:
    """Returns `value` as an int.

    Raises:
        ConfigError: It is not a whole number of at least 1.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} = {value!r}: must be a whole number of at least 1")
    return value


def number_in(name: str, value: object, low: float, high: float) -> float:
    """Returns `value` as a float.

    Raises:
        ConfigError: It is no number from `low` to `high`.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigError(f"{name} = {value!r}: must be a number from {low:g} to {high:g}")
    return float(value)
