"""Augmentation of single images: batched tensor work on their device, keyed by (seed, epoch, draw)."""

from __future__ import annotations

from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from divfeat.config import Policy
from divfeat.data import policies
from divfeat.data.keyed import keyed_bits, stream_key
from divfeat.errors import ConfigError

_STEPS: dict[str, policies.Steps] = {
    "autoaugment": policies.auto_augment,
    "randaugment": policies.rand_augment,
}


class Augment:
    """The usual CIFAR recipe (crop after zero padding and flip; He et al. 2016, section 4.2), a policy and Cutout.

    What an image gets is a pure function of (seed, epoch, its draw): batch composition, worker count, device and
    resume do not matter, and trials with one seed see the same images.

    Args:
        policy: ``none``; ``flip``, left to right with probability 1/2; ``crop_flip``, which first crops a window of the
            image's own size out of the image padded with black, uniform over the (2 pad + 1)^2 places; ``autoaugment`` and
            ``randaugment``, which then apply AutoAugment's CIFAR-10 policy or RandAugment (N = 2, M = 9 of 30).
        pad: pixels a side, used where the policy crops.
        cutout: side in pixels of a square of one colour that is laid on at last, 0 for none; its centre is uniform over the
            image, over whose border it may reach (DeVries and Taylor 2017, arXiv:1708.04552).
        fill: uint8 [C, 1, 1], the square's colour; None is black. The authors' square is 0 after normalisation, which is
            the mean of the training images: it then leaves the mean of a batch about where it was.
        seed: of the augmentation's own stream.

    Raises:
        ConfigError: an unknown policy, a padding below 1, or a side that is negative or odd.
    """

    def __init__(self, policy: Policy, pad: int = 4, cutout: int = 0, *, fill: Tensor | None = None, seed: int) -> None:
        if policy not in get_args(Policy):
            raise ConfigError(f"unknown augmentation {policy!r}: use one of {', '.join(get_args(Policy))}")
        if pad < 1:
            raise ConfigError(f"augmentation padding {pad} must be at least 1 pixel (use policy 'flip' for no crop)")
        if cutout < 0 or cutout % 2:
            raise ConfigError(f"cutout={cutout} must be an even side in pixels, or 0 for none")
        self.policy, self.pad, self.cutout, self.seed = policy, pad, cutout, seed
        self.fill = torch.zeros(1, dtype=torch.uint8) if fill is None else fill

    def __call__(self, images: Tensor, epoch: int, draw: Tensor) -> Tensor:
        """Augment a batch.

        Args:
            images: uint8 [B, C, H, W].
            epoch: from 0.
            draw: int64 [B] on the images' device: `Batch.draw`, each image's row in its data set unless an epoch visits a
                row more than once.

        Returns:
            uint8 [B, C, H, W] on the same device; ``images`` is left as it was.
        """
        if self.policy != "none":
            images = self._crop_flip(images, epoch, draw)
        if self.policy in _STEPS:
            height, width = images.shape[-2:]
            for operations, amounts in _STEPS[self.policy](
                lambda stream, high: self._draw(stream, epoch, draw, high), height, width
            ):
                images = policies.apply(images, operations, amounts)
        return self._cut_out(images, epoch, draw) if self.cutout else images

    def _crop_flip(self, images: Tensor, epoch: int, draw: Tensor) -> Tensor:
        _, _, height, width = images.shape
        flip = self._draw("flip", epoch, draw, 2).bool()[:, None]
        columns = torch.arange(width, device=images.device).expand(len(images), width)
        columns = torch.where(flip, width - 1 - columns, columns)
        if self.policy == "flip":
            return images.gather(3, columns[:, None, None].expand_as(images))
        # One gather crops and flips: in the padded image, flattened, (row, column) sits at row * stride + column.
        pad, stride = self.pad, width + 2 * self.pad
        rows = torch.arange(height, device=images.device) + self._draw("crop_rows", epoch, draw, 2 * pad + 1)[:, None]
        columns = columns + self._draw("crop_columns", epoch, draw, 2 * pad + 1)[:, None]
        pixels = (rows[:, :, None] * stride + columns[:, None, :]).flatten(1)
        padded = F.pad(images, (pad, pad, pad, pad)).flatten(2)
        return padded.gather(2, pixels[:, None].expand(-1, images.shape[1], -1)).view_as(images)

    def _cut_out(self, images: Tensor, epoch: int, draw: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        rows = in_window(self._draw("cutout_row", epoch, draw, height), self.cutout // 2, height)
        columns = in_window(self._draw("cutout_column", epoch, draw, width), self.cutout // 2, width)
        square = (rows[:, :, None] & columns[:, None, :])[:, None]
        return torch.where(square, self.fill.to(images.device), images)

    def _draw(self, stream: str, epoch: int, draw: Tensor, high: int) -> Tensor:
        """Integers in [0, high), int64 [B]; the bias of the remainder is below high / 2^63."""
        return keyed_bits(stream_key(self.seed, f"augment/{stream}", epoch), draw) % high


def in_window(centre: Tensor, half: int | Tensor, size: int) -> Tensor:
    """bool [B, size]: places from centre - half (included) to centre + half (not included).

    Args:
        centre: int64 [B].
        half: Places, for all or int64 [B].
        size: Places of the axis.
    """
    place = torch.arange(size, device=centre.device)
    low, high = (centre - half)[:, None], (centre + half)[:, None]
    return (place >= low) & (place < high)
