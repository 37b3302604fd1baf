"""What may stand between backbone and classifier in place of the projector: the layers of HAFrame's two networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from divfeat.models.initialise import build_empty, initialise_linear

#: PReLU starts with this slope for negative inputs, PyTorch's own.
_SLOPE = 0.25


class TransformationBlock(nn.Module):
    """x + PReLU(BN(W PReLU(BN(V x)))), without biases, a slope a channel (HAFrame, slides, figure 3b; released code).

    What is added is a PReLU's, and the slopes are learned, so that features of any sign can be reached.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim, dim, bias=False),
            nn.BatchNorm1d(dim),
            nn.PReLU(dim),
            nn.Linear(dim, dim, bias=False),
            nn.BatchNorm1d(dim),
            nn.PReLU(dim),
        )

    def forward(self, features: Tensor) -> Tensor:
        """[B, D] -> [B, D]."""
        return features + self.layers(features)


class Transformation(nn.Module):
    """The type II network's: a 1x1 convolution without bias to D channels, batch norm, two transformation blocks.

    The convolution stands before the average over the image there and after it here, which is the same map: both are linear.

    Args:
        width: F, of the pooled features.
        dim: D; as published the number of classes.
        generator: Of the initial weights.
    """

    def __init__(self, width: int, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.in_features, self.out_features = width, dim
        self.layers = build_empty(
            lambda: nn.Sequential(
                nn.Linear(width, dim, bias=False),
                nn.BatchNorm1d(dim),
                TransformationBlock(dim),
                TransformationBlock(dim),
            )
        )
        _fill(self.layers, generator)

    def forward(self, pooled: Tensor) -> Tensor:
        """[B, F] -> [B, D]."""
        return self.layers(pooled)


class HiddenLayer(nn.Module):
    """The type I network's on larger images: batch norm, a linear layer to D units, batch norm, ELU, after the maximum over the
    maps (a 7x7 max-pool at 224 pixels; released code of HAFrame, after Flamingo's).

    Args:
        width: F, of the pooled features.
        dim: D; 600 as published.
        generator: Of the initial weights.
    """

    def __init__(self, width: int, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.in_features, self.out_features = width, dim
        self.layers = build_empty(
            lambda: nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, dim), nn.BatchNorm1d(dim), nn.ELU())
        )
        _fill(self.layers, generator)

    def forward(self, pooled: Tensor) -> Tensor:
        """[B, F] -> [B, D]."""
        return self.layers(pooled)


def _fill(layers: nn.Module, generator: torch.Generator) -> None:
    for layer in layers.modules():
        if isinstance(layer, nn.Linear):
            initialise_linear(layer, generator)
        elif isinstance(layer, nn.BatchNorm1d):
            layer.reset_parameters()
        elif isinstance(layer, nn.PReLU):
            nn.init.constant_(layer.weight, _SLOPE)
