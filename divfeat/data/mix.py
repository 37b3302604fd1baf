"""mixup and CutMix: two images into one, with two labels and a weight, keyed by (seed, epoch, draw)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from divfeat.data.augment import in_window
from divfeat.data.batches import Batch
from divfeat.data.keyed import keyed_bits, stream_key
from divfeat.errors import ConfigError

#: Weights are drawn alike from this many quantiles of their distribution.
_QUANTILES = 4096


class Targets(NamedTuple):
    """What a batch is trained on.

    Attributes:
        labels: int64 [B].
        others: int64 [B], the labels of what was mixed in; None where nothing is mixed.
        share: float32 [B] in [0, 1], what ``labels`` weighs; ``others`` weighs the rest. None with ``others``.
    """

    labels: Tensor
    others: Tensor | None = None
    share: Tensor | None = None

    @property
    def main(self) -> Tensor:
        """int64 [B]: the label that weighs most."""
        if self.others is None or self.share is None:
            return self.labels
        return torch.where(self.share >= 0.5, self.labels, self.others)


class Mix:
    """mixup (Zhang et al. 2018, arXiv:1710.09412) and CutMix (Yun et al. 2019, arXiv:1905.04899), image by image.

    Whom an image is mixed with is the stream's affair (`Batch.partner`: a permutation of the global batch). Weight, box and
    which of the two it is are pure functions of (seed, epoch, draw); the published code draws them once a batch. With
    `Batches`, worker count and resume therefore change nothing. The batch size does, as it says who can be a partner.

    Args:
        mixup: alpha of the weights' Beta(alpha, alpha), 0 for no mixup. The image is share x own + (1 - share) x partner,
            rounded to whole grey levels.
        cutmix: the same for CutMix: a box of the image's proportions and (1 - weight) of its area, whose centre is uniform,
            is taken from the partner; over the border it is cut off, and the share is that of the area which stays.
        seed: of the augmentation.
        device: of the batches.

    With both, each image gets one or the other with probability 1/2.

    Raises:
        ConfigError: a negative alpha.
    """

    def __init__(self, mixup: float, cutmix: float, *, seed: int, device: torch.device | str = "cpu") -> None:
        if mixup < 0 or cutmix < 0:
            raise ConfigError(f"mixup={mixup}, cutmix={cutmix}: an alpha must be positive, or 0 for off")
        self.seed = seed
        self._mixup = _beta_quantiles(mixup).to(device) if mixup else None
        self._cutmix = _beta_quantiles(cutmix).to(device) if cutmix else None

    def __call__(self, images: Tensor, batch: Batch, epoch: int) -> tuple[Tensor, Targets]:
        """Mix a batch.

        Args:
            images: uint8 [M, C, H, W], those of ``batch`` after augmentation.
            batch: for its labels, draws and partners.
            epoch: from 0.

        Returns:
            uint8 [B, C, H, W], and their targets; the images as they are where both alphas are 0.

        Raises:
            ConfigError: there is something to mix, but the stream pairs no images.
        """
        size = len(images) if batch.partner is None else len(batch.partner)
        if self._mixup is None and self._cutmix is None:
            return images[:size], Targets(batch.labels[:size])
        if batch.partner is None:
            raise ConfigError("train.mixup and train.cutmix need a stream that pairs images: Batches(..., paired=True)")
        own, partner = images[:size], images[batch.partner]
        draw = batch.draw[:size]
        if self._mixup is not None:
            mixed, share = self._blend(own, partner, self._weights(self._mixup, epoch, draw))
        if self._cutmix is not None:
            pasted, rest = self._paste(own, partner, self._weights(self._cutmix, epoch, draw), epoch, draw)
            if self._mixup is None:
                mixed, share = pasted, rest
            else:
                cut = self._draw("kind", epoch, draw, 2).bool()
                mixed = torch.where(cut[:, None, None, None], pasted, mixed)
                share = torch.where(cut, rest, share)
        return mixed, Targets(batch.labels[:size], batch.labels[batch.partner], share)

    def _blend(self, own: Tensor, partner: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        share = weight[:, None, None, None]
        return (share * own + (1 - share) * partner).round().to(torch.uint8), weight.float()

    def _paste(self, own: Tensor, partner: Tensor, weight: Tensor, epoch: int, draw: Tensor) -> tuple[Tensor, Tensor]:
        height, width = own.shape[-2:]
        side = 0.5 * (1 - weight).sqrt()
        rows = in_window(self._draw("row", epoch, draw, height), (side * height).long(), height)
        columns = in_window(self._draw("column", epoch, draw, width), (side * width).long(), width)
        share = 1 - (rows.sum(1) * columns.sum(1)).float() / (height * width)
        return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], partner, own), share

    def _weights(self, quantiles: Tensor, epoch: int, draw: Tensor) -> Tensor:
        """float64 [B]."""
        return quantiles[self._draw("weight", epoch, draw, _QUANTILES)]

    def _draw(self, stream: str, epoch: int, draw: Tensor, high: int) -> Tensor:
        """Integers in [0, high), int64 [B]."""
        return keyed_bits(stream_key(self.seed, f"mix/{stream}", epoch), draw) % high


def _beta_quantiles(alpha: float) -> Tensor:
    """Midpoint quantiles of Beta(alpha, alpha), float64 [_QUANTILES]: a table is the same on every device."""
    from scipy.stats import beta

    return torch.from_numpy(beta(alpha, alpha).ppf((np.arange(_QUANTILES) + 0.5) / _QUANTILES))
