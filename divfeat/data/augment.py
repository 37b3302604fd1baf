"""Augmentation of single images: batched tensor work on their device, keyed by (seed, epoch, draw)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
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
        pad = 0 if self.policy == "flip" else self.pad
        top = self._draw("crop_rows", epoch, draw, 2 * pad + 1)
        left = self._draw("crop_columns", epoch, draw, 2 * pad + 1)
        flip = self._draw("flip", epoch, draw, 2).bool()
        cut = windows_by_slices if images.device.type == "cpu" else windows_by_gather
        return cut(F.pad(images, (pad, pad, pad, pad)), top, left, flip, images.shape[-2:])

    def _cut_out(self, images: Tensor, epoch: int, draw: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        rows = in_window(self._draw("cutout_row", epoch, draw, height), self.cutout // 2, height)
        columns = in_window(self._draw("cutout_column", epoch, draw, width), self.cutout // 2, width)
        square = (rows[:, :, None] & columns[:, None, :])[:, None]
        return torch.where(square, self.fill.to(images.device), images)

    def _draw(self, stream: str, epoch: int, draw: Tensor, high: int) -> Tensor:
        """Integers in [0, high), int64 [B]; the bias of the remainder is below high / 2^63."""
        return keyed_bits(stream_key(self.seed, f"augment/{stream}", epoch), draw) % high


def windows_by_gather(padded: Tensor, top: Tensor, left: Tensor, flip: Tensor, size: Sequence[int]) -> Tensor:
    """A window out of each image, some turned left to right, in one operation on any device.

    Args:
        padded: uint8 [B, C, H', W'].
        top: int64 [B], the window's first row.
        left: int64 [B], its first column.
        flip: bool [B], whether it is turned.
        size: Height and width of the windows.

    Returns:
        uint8 [B, C, height, width].
    """
    height, width = size
    columns = torch.arange(width, device=padded.device)
    columns = left[:, None] + torch.where(flip[:, None], width - 1 - columns, columns)
    rows = top[:, None] + torch.arange(height, device=padded.device)
    pixels = (rows[:, :, None] * padded.shape[3] + columns[:, None, :]).flatten(1)
    found = padded.flatten(2).gather(2, pixels[:, None].expand(-1, padded.shape[1], -1))
    return found.unflatten(2, (height, width))


def windows_by_slices(padded: Tensor, top: Tensor, left: Tensor, flip: Tensor, size: Sequence[int]) -> Tensor:
    """As :func:`windows_by_gather`, image by image, for images on a CPU.

    A slice copies rows where a gather looks up each pixel: a third of its time on images of 32 x 32 pixels.
    """
    height, width = size
    images = padded.numpy()
    found = np.empty((len(images), images.shape[1], height, width), dtype=images.dtype)
    for place, (row, column, turned) in enumerate(zip(top.tolist(), left.tolist(), flip.tolist(), strict=True)):
        window = images[place, :, row : row + height, column : column + width]
        found[place] = window[..., ::-1] if turned else window
    return torch.from_numpy(found)


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
