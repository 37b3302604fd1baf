"""Batches: the one seam between data and the training loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from divfeat.config import Sampling
from divfeat.data.keyed import keyed_bits, stream_key
from divfeat.data.sampling import class_shares, draws
from divfeat.errors import ConfigError, DataError


class Batch(NamedTuple):
    """One rank's share of a global batch.

    Attributes:
        images: uint8 [M, C, H, W] on the training device. Without pairs M = B, this rank's share. With pairs the share comes
            first, then the partners that are in no place of it.
        labels: int64 [M], same device.
        index: int64 [M], same device: the images' row numbers in the whole array.
        global_size: images in the global batch, over all ranks. With summed losses divided by ``global_size`` (times
            ``world`` where gradients are averaged over ranks) every image weighs the same whatever the world size.
        draw: int64 [M], same device: keys the augmentation. It is the row number, or another number where an epoch visits
            the row again.
        partner: int64 [B], same device: for each image of the share the place in ``images`` of the one it may be mixed
            with, or None where the stream pairs none.
    """

    images: Tensor
    labels: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which no batch needs
    global_size: int
    draw: Tensor
    partner: Tensor | None = None


class BatchStream(Protocol):
    """What the loop needs. Its whole state is (epoch, step): nothing else is saved or restored."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch, the same on every rank."""

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from ``start_step`` on."""


class Batches:
    """Batches of images in memory.

    The order of epoch e depends on (seed, e) alone, and on the labels where classes are sampled. It is cut into
    ceil(N / batch_size) pieces whose sizes differ by at most one, so nothing is dropped and no batch is tiny; each piece is
    cut over the ranks in the same way. So every world size sees the same global batches, and a resume at (epoch, step)
    continues as if nothing had happened. The same holds of the pairs: a permutation of the global batch, keyed by (seed,
    epoch) and its draws, says who is mixed with whom, and a rank also reads the partners that fell to other ranks.

    Args:
        images: uint8 [N, C, H, W], N >= 1, which may be read-only shared memory: copied to the device where
            :func:`fits_on` it, else read in place and copied batch by batch. The batches are the same.
        labels: int64 [N].
        batch_size: largest global batch (over all ranks), in images.
        seed: of the order.
        sampling: ``natural`` visits every image once an epoch; ``balanced`` and ``square_root`` draw as many images, in other
            shares of the classes (:func:`divfeat.data.sampling.draws`).
        paired: give each image a partner out of the global batch.
        rank: this worker, in [0, world).
        world: number of workers.
        device: where the batches go.

    Raises:
        ConfigError: a batch size, rank or world size out of range, batches too small for the number of ranks, or an
            unknown sampling.
        DataError: images and labels of different lengths, or none at all.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        sampling: Sampling = "natural",
        paired: bool = False,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        if len(images) != len(labels) or not len(images):
            raise DataError(f"{len(images)} images and {len(labels)} labels: they must be as many, and at least one")
        if batch_size < 1 or world < 1 or not 0 <= rank < world:
            raise ConfigError(
                f"batch_size={batch_size}, rank={rank}, world={world}: needs batch_size >= 1 and 0 <= rank < world"
            )
        self.steps_per_epoch = -(-len(images) // batch_size)
        if len(images) // self.steps_per_epoch < world:
            raise ConfigError(
                f"batch_size={batch_size} cuts {len(images)} images into batches of "
                f"{len(images) // self.steps_per_epoch}, too few for {world} workers: raise the batch size or use fewer "
                "workers per trial"
            )
        self._labels = torch.tensor(labels)
        class_shares(torch.bincount(self._labels), sampling)  # refuses an unknown sampling now
        self._seed, self._rank, self._world = seed, rank, world
        self._sampling, self._paired = sampling, paired
        self._device = torch.device(device)
        resident = fits_on(self._device, images.nbytes)
        self._images: np.ndarray | Tensor = torch.tensor(images, device=self._device) if resident else images

    def order(self, epoch: int) -> Tensor:
        """Draws int64 [N] in the order in which epoch ``epoch`` makes them, over all ranks; a draw modulo N is its row."""
        drawn = draws(self._labels, self._sampling, seed=self._seed, epoch=epoch)
        bits = keyed_bits(stream_key(self._seed, "order", epoch), drawn)
        return drawn[torch.argsort(bits, stable=True)]

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """This rank's batches of epoch ``epoch`` (from 0), from ``start_step`` on (``steps_per_epoch`` yields none).

        Raises:
            ConfigError: a negative epoch, or a step outside [0, steps_per_epoch].
        """
        if epoch < 0 or not 0 <= start_step <= self.steps_per_epoch:
            raise ConfigError(f"epoch {epoch}, step {start_step}: this stream has steps 0 to {self.steps_per_epoch}")
        return self._run(epoch, start_step)

    def _run(self, epoch: int, start_step: int) -> Iterator[Batch]:
        order = self.order(epoch)
        pairs = stream_key(self._seed, "pairs", epoch)
        for whole in order.tensor_split(self.steps_per_epoch)[start_step:]:
            places, partner = torch.arange(len(whole)).tensor_split(self._world)[self._rank], None
            if self._paired:
                partners = torch.argsort(keyed_bits(pairs, whole), stable=True)[places]
                places, partner = _with_partners(places, partners, len(whole))
                partner = self._to_device(partner)
            draw = whole[places]
            index = draw % len(self._labels)
            labels, on_device = self._to_device(self._labels[index]), self._to_device(index)
            if isinstance(self._images, Tensor):
                images = self._images[on_device]
            else:
                images = self._to_device(torch.from_numpy(self._images[index.numpy()]))
            yield Batch(images, labels, on_device, len(whole), self._to_device(draw), partner)

    def _to_device(self, tensor: Tensor) -> Tensor:
        """Pinned, so that the copy runs beside the GPU's work instead of waiting for it."""
        if self._device.type != "cuda":
            return tensor.to(self._device)
        return tensor.pin_memory().to(self._device, non_blocking=True)


def _with_partners(share: Tensor, partners: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """A share of ``total`` places with the partners it lacks behind it, and where in that each partner stands."""
    places = torch.cat([share, partners[~torch.isin(partners, share)]])
    where = torch.empty(total, dtype=torch.int64)
    where[places] = torch.arange(len(places))
    return places, where[partners]


def fits_on(device: torch.device, size: int) -> bool:
    """Whether ``size`` bytes of images may stay on a device: a GPU of whose free memory they take less than a quarter."""
    return device.type == "cuda" and 4 * size < torch.cuda.mem_get_info(device)[0]
