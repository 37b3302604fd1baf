"""Augmentation: batched tensor work on the images' device, keyed by (seed, epoch, index)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from divfeat.data.keyed import keyed_bits, stream_key
from divfeat.errors import ConfigError

Policy = Literal["none", "flip", "crop_flip"]


class Augment:
    """Random flip, or random crop after zero padding and flip (the usual CIFAR recipe, He et al. 2016, section 4.2).

    What an image gets is a pure function of (seed, epoch, its index): batch composition, worker count, device and
    resume do not matter, and trials with one seed see the same images.

    Args:
        policy: ``none``; ``flip``, left to right with probability 1/2; ``crop_flip``, which first crops a window of the
            image's own size out of the image padded with black, uniform over the (2 pad + 1)^2 places.
        pad: pixels a side, used by ``crop_flip``.
        seed: of the augmentation's own stream.

    Raises:
        ConfigError: an unknown policy or a padding below 1.
    """

    def __init__(self, policy: Policy, pad: int = 4, *, seed: int) -> None:
        if policy not in get_args(Policy):
            raise ConfigError(f"unknown augmentation {policy!r}: use one of {', '.join(get_args(Policy))}")
        if pad < 1:
            raise ConfigError(f"augmentation padding {pad} must be at least 1 pixel (use policy 'flip' for no crop)")
        self.policy, self.pad, self.seed = policy, pad, seed

    def __call__(self, images: Tensor, epoch: int, index: Tensor) -> Tensor:
        """Augment a batch.

        Args:
            images: uint8 [B, C, H, W].
            epoch: from 0.
            index: int64 [B] on the images' device: each image's row in its data set.

        Returns:
            uint8 [B, C, H, W] on the same device; ``images`` is left as it was.
        """
        if self.policy == "none":
            return images
        _, _, height, width = images.shape
        flip = self._draw("flip", epoch, index, 2).bool()[:, None]
        columns = torch.arange(width, device=images.device).expand(len(images), width)
        columns = torch.where(flip, width - 1 - columns, columns)
        if self.policy == "flip":
            return images.gather(3, columns[:, None, None].expand_as(images))
        # One gather crops and flips: in the padded image, flattened, (row, column) sits at row * stride + column.
        pad, stride = self.pad, width + 2 * self.pad
        rows = torch.arange(height, device=images.device) + self._draw("crop_rows", epoch, index, 2 * pad + 1)[:, None]
        columns = columns + self._draw("crop_columns", epoch, index, 2 * pad + 1)[:, None]
        pixels = (rows[:, :, None] * stride + columns[:, None, :]).flatten(1)
        padded = F.pad(images, (pad, pad, pad, pad)).flatten(2)
        return padded.gather(2, pixels[:, None].expand(-1, images.shape[1], -1)).view_as(images)

    def _draw(self, stream: str, epoch: int, index: Tensor, high: int) -> Tensor:
        """Integers in [0, high), int64 [B]; the bias of the remainder is below high / 2^63."""
        return keyed_bits(stream_key(self.seed, f"augment/{stream}", epoch), index) % high
