"""The usual way images reach a training: a Dataset that makes an image at a time, torchvision's transforms, a DataLoader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from divfeat.data.images import ImageSet


class Pictures(Dataset):
    """What torchvision's `CIFAR10` does with its array: a PIL image of a row, then the transform.

    Args:
        images: Held as [N, H, W, C], as `CIFAR10` has them.
        transform: From a PIL image to a tensor.
    """

    def __init__(self, images: ImageSet, transform: Any) -> None:
        self.pixels = np.ascontiguousarray(images.images.transpose(0, 2, 3, 1))
        self.labels = images.fine.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[row])), self.labels[row]


class Cutout:
    """A square of 0 on a normalised image, its centre uniform (DeVries and Taylor 2017), as scripts have it."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, image: Tensor) -> Tensor:
        """[C, H, W], changed in place."""
        height, width = image.shape[1:]
        row, column = (int(torch.randint(size, ())) for size in (height, width))
        half = self.side // 2
        image[:, max(0, row - half) : row + half, max(0, column - half) : column + half] = 0
        return image


def recipe(mean: Sequence[float], std: Sequence[float], *, policy: bool = False, cutout: int = 0) -> Any:
    """Crop, flip, AutoAugment where asked, normalise, Cutout where asked: as `divfeat.data.augment.Augment` has them."""
    steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    if policy:
        steps.append(transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10))
    steps += [transforms.ToTensor(), transforms.Normalize(mean, std)]
    return transforms.Compose(steps + ([Cutout(cutout)] if cutout else []))


def loader(images: ImageSet, transform: Any, *, batch_size: int, workers: int) -> DataLoader:
    """Shuffled, with pinned memory on a GPU; workers stay from epoch to epoch."""
    return DataLoader(
        Pictures(images, transform),
        batch_size=batch_size,
        shuffle=True,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
    )
