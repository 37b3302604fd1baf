"""FeatureExtractor: images in, features before and after the projector out; rebuilt from a JSON-able config."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from divfeat.config import Neck
from divfeat.errors import ConfigError, DataError
from divfeat.models.backbone import Backbone, ImageShape, global_maximum, positive_int
from divfeat.models.initialise import build_empty, initialise_linear, keyed_generator
from divfeat.models.necks import HiddenLayer, Transformation
from divfeat.models.registry import create_backbone


class Taps(NamedTuple):
    """Where features can be read.

    Attributes:
        before: [B, F], the backbone's pooled output.
        after: [B, D], after projector (or what stands for it) and feature norm; the same tensor where there is neither.
    """

    before: Tensor
    after: Tensor


class FeatureExtractor(nn.Module):
    """Normalisation, backbone and, unless left out, a projector: one linear layer without activation.

    The projector lets non-negative pooled features reach a simplex ETF (HingeCE, section 2.1). A batch norm may follow it:
    dot regression asks for one before features are normalised (Yang et al. 2022, released code). Build one with
    `build_extractor`; `FeatureExtractor.from_config(extractor.config)` gives the same net for a state dict.

    Attributes:
        backbone: Normalised images to pooled features.
        projector: Linear F -> D, or a transformation layer, or a hidden layer (which takes the maximum over the maps where the
            others take the average), or None.
        feature_norm: Batch norm of the D features, or None.
        mean, std: Buffers [C, 1, 1], for images in [0, 1].
        config: JSON-able arguments of `build_extractor`, every option filled in.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        projector: nn.Linear | Transformation | HiddenLayer | None,
        mean: Sequence[float],
        std: Sequence[float],
        config: Mapping[str, Any],
        feature_norm: nn.BatchNorm1d | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))
        self.backbone = backbone
        self.projector = projector
        self.max_pooled = isinstance(projector, HiddenLayer)
        self.feature_norm = feature_norm
        self.config = dict(config)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> FeatureExtractor:
        """Rebuilds an extractor, with its initial weights, from its `config` or that after a trip through JSON.

        Weights that came from a file are not read again: load the state dict.

        Raises:
            ConfigError: As `build_extractor`.
        """
        return build_extractor(**config)

    @property
    def backbone_dim(self) -> int:
        """F, the width of `Taps.before`."""
        return self.backbone.out_dim

    @property
    def feature_dim(self) -> int:
        """D, the width of `Taps.after`."""
        return self.backbone_dim if self.projector is None else self.projector.out_features

    @property
    def parameter_count(self) -> int:
        """Numbers in backbone, projector and feature norm that training may change."""
        return sum(parameter.numel() for parameter in self.parameters())

    def normalise(self, images: Tensor) -> Tensor:
        """Scales uint8 to [0, 1], then subtracts the mean and divides by the standard deviation, per channel.

        Args:
            images: [B, C, H, W], uint8 in 0..255 or floating point in [0, 1].

        Returns:
            [B, C, H, W] in the extractor's dtype.

        Raises:
            DataError: Another dtype, or another number of dimensions or channels.
        """
        channels = self.mean.shape[0]
        if images.ndim != 4 or images.shape[1] != channels:
            raise DataError(f"images of shape {tuple(images.shape)}: the extractor takes [B, {channels}, H, W]")
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise DataError(f"images of {images.dtype}: give uint8 in 0..255 or floating point in [0, 1]")
        # One new tensor, in which the rest is done: memory fresh from the system costs several times the arithmetic.
        scaled = images.to(self.mean.dtype, copy=True)
        if images.dtype == torch.uint8:
            scaled.div_(255)
        if channels == 1 or not scaled.is_contiguous(memory_format=torch.channels_last):
            return scaled.sub_(self.mean).div_(self.std)
        # Channels lie side by side here: with a mean for each number of a row of pixels the loops are as long as the row and
        # not three numbers short, which takes a tenth of the time and gives the same bits.
        width = scaled.shape[3]
        rows = scaled.permute(0, 2, 3, 1).flatten(2)
        rows.sub_(self.mean.flatten().repeat(width)).div_(self.std.flatten().repeat(width))
        return scaled

    def forward(self, images: Tensor) -> Taps:
        """Extracts features.

        Args:
            images: [B, C, H, W], uint8 in 0..255 or floating point in [0, 1].

        Returns:
            Taps(before [B, F], after [B, D]).

        Raises:
            DataError: As `normalise`.
        """
        return self.project(self.pooled(images))

    def pooled(self, images: Tensor) -> Tensor:
        """Features before the projector.

        Args:
            images: As `forward` takes them.

        Returns:
            [B, F].

        Raises:
            DataError: As `normalise`.
        """
        normal = self.normalise(images)
        return global_maximum(self.backbone.maps(normal)) if self.max_pooled else self.backbone(normal)

    def project(self, before: Tensor) -> Taps:
        """What follows the backbone: [B, F] to both taps."""
        after = before if self.projector is None else self.projector(before)
        return Taps(before, after if self.feature_norm is None else self.feature_norm(after))


def build_extractor(
    backbone: str,
    *,
    image_shape: ImageShape,
    projector: bool = True,
    projector_dim: int | None = None,
    projector_bias: bool = True,
    neck: Neck | Literal["elu"] = "linear",
    feature_norm: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    **options: Any,
) -> FeatureExtractor:
    """Builds an extractor on the CPU in float32.

    Backbone and projector are drawn from generators keyed by (seed, component): the same seed gives the same backbone
    with and without a projector, and the global random state neither matters nor changes.

    Args:
        backbone: A name in `BACKBONES`, or wrn<depth>_<k>.
        image_shape: (channels, height, width).
        projector: Whether a linear layer follows the backbone.
        projector_dim: D; by default F, the backbone's width.
        projector_bias: The paper does not say; True is what `torch.nn.Linear` does, and lets the projector move the
            mean of the non-negative features to the origin, from which the cones' angles are measured.
        neck: What the projector is: `linear`, the `transformation` of HAFrame's type II network, or `elu`, the max-pool and
            hidden layer of its type I network.
        feature_norm: Whether a batch norm ends the extractor; it starts as the identity.
        mean: Per channel, for images in [0, 1]; by default 0.5.
        std: Per channel; by default 0.5, which with that mean maps images to [-1, 1].
        seed: Of the initial weights.
        **options: Options of the backbone, such as width=2 or stem="small".

    Raises:
        ConfigError: Unknown backbone or option, or a value that does not fit.
    """
    shape = _checked_shape(image_shape)
    mean = _per_channel("mean", mean, shape[0])
    std = _per_channel("std", std, shape[0])
    if min(std) <= 0:
        raise ConfigError(f"std = {std}: must be positive in every channel (is a channel constant in the data?)")
    if projector_dim is not None:
        if not projector:
            raise ConfigError(f"projector_dim = {projector_dim} without a projector: set projector=True or drop it")
        positive_int("projector_dim", projector_dim)
    net, options = create_backbone(backbone, shape, options)
    net.initialise(keyed_generator(seed, "backbone"))
    width = net.out_dim
    linear: nn.Linear | Transformation | HiddenLayer | None = None
    if projector and neck != "linear":
        layer = Transformation if neck == "transformation" else HiddenLayer
        linear = layer(width, projector_dim or width, keyed_generator(seed, "projector"))
    elif projector:
        linear = build_empty(lambda: nn.Linear(width, projector_dim or width, bias=projector_bias))
        initialise_linear(linear, keyed_generator(seed, "projector"))
    norm = nn.BatchNorm1d(width if linear is None else linear.out_features) if feature_norm else None
    config = {
        "backbone": backbone,
        "image_shape": list(shape),
        "projector": projector,
        "projector_dim": projector_dim,
        "projector_bias": projector_bias,
        "neck": neck,
        "feature_norm": feature_norm,
        "mean": mean,
        "std": std,
        "seed": seed,
        **options,
    }
    return FeatureExtractor(net, linear, mean, std, config, norm)


def _checked_shape(image_shape: Sequence[int]) -> ImageShape:
    if len(image_shape) != 3:
        raise ConfigError(f"image_shape = {image_shape}: must be (channels, height, width)")
    channels, height, width = (positive_int("a size in image_shape", size) for size in image_shape)
    return channels, height, width


def _per_channel(name: str, values: Sequence[float] | None, channels: int) -> list[float]:
    numbers = [0.5] * channels if values is None else [float(value) for value in values]
    if len(numbers) != channels or not all(map(math.isfinite, numbers)):
        raise ConfigError(f"{name} = {numbers}: give one finite number for each of the {channels} channels")
    return numbers
