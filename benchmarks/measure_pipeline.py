"""The input pipeline alone, 50,000 CIFAR-shaped images an epoch, beside torchvision's transforms in a DataLoader.

Ours is what the training loop does before the network sees a batch: order, gathering, augmentation keyed by (seed, epoch,
image), layout, normalisation. The peer has the better of no workers and two, which run beside the process that takes the batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch.utils.data import DataLoader

from benchmarks.loader import loader, recipe
from benchmarks.made import images as made
from benchmarks.rows import Row, paired, seconds
from divfeat.config import Policy
from divfeat.data.augment import Augment
from divfeat.data.batches import Batches
from divfeat.data.images import ImageSet
from divfeat.models import FeatureExtractor, build_extractor, with_channels_last

REPEATS = 3
GOAL = 10.0
_BATCH = 128
_WORKERS = (0, 2)


def epoch_of(images: ImageSet, policy: Policy, cutout: int) -> Callable[[], None]:
    """A function that makes all batches of one epoch, another epoch every time."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    mean, std = (values.tolist() for values in images.channel_stats())
    extractor: FeatureExtractor = build_extractor("resnet8", image_shape=images.image_shape, mean=mean, std=std)
    extractor.to(device)
    batches = Batches(images.images, images.fine, batch_size=_BATCH, seed=0, device=device)
    augment = Augment(policy, cutout=cutout, seed=0)
    epochs = iter(range(10_000))

    def run() -> None:
        epoch = next(epochs)
        for batch in batches.epoch(epoch):
            extractor.normalise(with_channels_last(augment(batch.images, epoch, batch.draw)))

    return run


def emptied(batches: DataLoader) -> float:
    """Seconds to take every batch, on the device."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def take() -> None:
        for images, labels in batches:
            images.to(device, non_blocking=True), labels.to(device, non_blocking=True)

    return seconds(take)


def measure(repeats: int, small: bool) -> Iterator[Row]:
    """A row with the usual augmentation, and one with AutoAugment and Cutout, of which no ratio was promised."""
    images = made(64 if small else 50_000)
    mean, std = (values.tolist() for values in images.channel_stats())
    cases: tuple[tuple[str, Policy, int, float | None], ...] = (
        ("crop, flip, normalise", "crop_flip", 0, GOAL),
        ("AutoAugment and Cutout too", "autoaugment", 16, None),
    )
    for name, policy, cutout, goal in cases:
        transform = recipe(mean, std, policy=policy == "autoaugment", cutout=cutout)
        tried = {}
        for workers in _WORKERS:
            batches = loader(images, transform, batch_size=_BATCH, workers=workers)
            emptied(batches)  # starts the workers
            tried[workers] = emptied(batches)
        best = min(tried, key=lambda workers: tried[workers])
        ours = epoch_of(images, policy, cutout)
        batches = loader(images, transform, batch_size=_BATCH, workers=best)
        pairs = paired(
            lambda ours=ours: seconds(ours),  # type: ignore[misc]
            lambda batches=batches: emptied(batches),  # type: ignore[misc]
            repeats,
        )
        setting = {
            "images": len(images),
            "batch_size": _BATCH,
            "threads": torch.get_num_threads(),
            "peer_workers": best,
            "peer_seconds_by_workers": {str(workers): round(found, 2) for workers, found in tried.items()},
        }
        yield Row(
            "input pipeline", name, f"torchvision, {best} workers", "s", pairs, "times", goal=goal, setting=setting
        )
