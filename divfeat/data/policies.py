"""AutoAugment's CIFAR policy and RandAugment: which operations an image gets, and by how much.

Spaces of amounts and sub-policies are torchvision's (`torchvision.transforms.autoaugment`), which are the papers'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
from torch import Tensor

from divfeat.data.operations import OPERATIONS

#: (stream, high) -> an integer in [0, high) for each image, int64 [B].
Draw = Callable[[str, int], Tensor]
#: (draw, height, width) -> operations one after the other: their numbers int64 [B] and amounts float64 [B].
Steps = Callable[[Draw, int, int], Iterator[tuple[Tensor, Tensor]]]

NAMES = tuple(OPERATIONS)
#: Operations whose amount may be turned round.
_SIGNED = frozenset(NAMES[1:10])

#: Sub-policies: two times (operation, tenths of probability, one of ten magnitudes or None). Cubuk et al. 2019,
#: "AutoAugment: Learning Augmentation Strategies from Data", table 7.
_CIFAR10 = (
    (("Invert", 1, None), ("Contrast", 2, 6)),
    (("Rotate", 7, 2), ("TranslateX", 3, 9)),
    (("Sharpness", 8, 1), ("Sharpness", 9, 3)),
    (("ShearY", 5, 8), ("TranslateY", 7, 9)),
    (("AutoContrast", 5, None), ("Equalize", 9, None)),
    (("ShearY", 2, 7), ("Posterize", 3, 7)),
    (("Color", 4, 3), ("Brightness", 6, 7)),
    (("Sharpness", 3, 9), ("Brightness", 7, 9)),
    (("Equalize", 6, None), ("Equalize", 5, None)),
    (("Contrast", 6, 7), ("Sharpness", 6, 5)),
    (("Color", 7, 7), ("TranslateX", 5, 8)),
    (("Equalize", 3, None), ("AutoContrast", 4, None)),
    (("TranslateY", 4, 3), ("Sharpness", 2, 6)),
    (("Brightness", 9, 6), ("Color", 2, 8)),
    (("Solarize", 5, 2), ("Invert", 0, None)),
    (("Equalize", 2, None), ("AutoContrast", 6, None)),
    (("Equalize", 2, None), ("Equalize", 6, None)),
    (("Color", 9, 9), ("Equalize", 6, None)),
    (("AutoContrast", 8, None), ("Solarize", 2, 8)),
    (("Brightness", 1, 3), ("Color", 7, 0)),
    (("Solarize", 4, 5), ("AutoContrast", 9, None)),
    (("TranslateY", 9, 9), ("TranslateY", 7, 9)),
    (("AutoContrast", 9, None), ("Solarize", 8, 3)),
    (("Equalize", 8, None), ("Invert", 1, None)),
    (("TranslateY", 7, 9), ("AutoContrast", 9, None)),
)
#: RandAugment draws from all operations but the last, `Invert`: N = 2 of them, at magnitude M = 9 of 0 to 30 (Cubuk et al.
#: 2020, "RandAugment", section 4, and torchvision's defaults).
_RAND_OPERATIONS, _RAND_STEPS, _RAND_MAGNITUDE, _RAND_BINS = len(NAMES) - 1, 2, 9, 31


def auto_augment(draw: Draw, height: int, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One of 25 sub-policies of two operations, each with its probability and either sign alike."""
    chosen = draw("autoaugment/policy", len(_CIFAR10))
    for step in range(2):
        operations, tenths, amounts = (
            table[:, step][chosen] for table in _cifar10_tables(height, width, chosen.device)
        )
        done = draw(f"autoaugment/{step}/probability", 10) < tenths
        sign = 2 * draw(f"autoaugment/{step}/sign", 2) - 1
        yield torch.where(done, operations, 0), torch.where(_signed(chosen.device)[operations], sign * amounts, amounts)


def rand_augment(draw: Draw, height: int, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Two operations, each any of 14 at one magnitude and with either sign alike."""
    for step in range(_RAND_STEPS):
        operations = draw(f"randaugment/{step}/operation", _RAND_OPERATIONS)
        amounts = _rand_table(height, width, operations.device)[operations]
        sign = 2 * draw(f"randaugment/{step}/sign", 2) - 1
        yield operations, torch.where(_signed(operations.device)[operations], sign * amounts, amounts)


def apply(images: Tensor, operations: Tensor, amounts: Tensor) -> Tensor:
    """Give each image its operation.

    Args:
        images: uint8 [B, C, H, W].
        operations: int64 [B], places in `NAMES`.
        amounts: float64 [B].

    Returns:
        uint8 [B, C, H, W]; ``images`` is left as it was.
    """
    out = images.clone()
    for number, operation in enumerate(OPERATIONS.values()):
        if number == 0:
            continue
        chosen = operations == number
        if _waits(images.device):
            out = torch.where(chosen[:, None, None, None], operation(images, amounts), out)
        elif len(rows := chosen.nonzero()[:, 0]):
            out[rows] = operation(images[rows], amounts[rows])
    return out


def _waits(device: torch.device) -> bool:
    """Whether to look which images are chosen would wait for the device: then an operation is done to all of them."""
    return device.type != "cpu"


def magnitudes(name: str, bins: int, height: int, width: int) -> Tensor:
    """Amounts of an operation from weakest to strongest, float64 [bins]; zeros for one that takes no amount."""
    ends = {
        "ShearX": (0.0, 0.3),
        "ShearY": (0.0, 0.3),
        "TranslateX": (0.0, 150.0 / 331.0 * width),
        "TranslateY": (0.0, 150.0 / 331.0 * height),
        "Rotate": (0.0, 30.0),
        "Brightness": (0.0, 0.9),
        "Color": (0.0, 0.9),
        "Contrast": (0.0, 0.9),
        "Sharpness": (0.0, 0.9),
        "Solarize": (255.0, 0.0),
    }
    if name == "Posterize":
        return 8.0 - (torch.arange(bins) / ((bins - 1) / 4)).round().double()
    # float32 first, as torchvision has it: 1 + amount then is the same number.
    return torch.linspace(*ends.get(name, (0.0, 0.0)), bins).double()


@lru_cache
def _signed(device: torch.device) -> Tensor:
    return torch.tensor([name in _SIGNED for name in NAMES], device=device)


@lru_cache
def _rand_table(height: int, width: int, device: torch.device) -> Tensor:
    return torch.stack([magnitudes(name, _RAND_BINS, height, width)[_RAND_MAGNITUDE] for name in NAMES]).to(device)


@lru_cache
def _cifar10_tables(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Operations int64, tenths of probability int64 and amounts float64, each [25, 2]."""
    numbers = [[NAMES.index(name) for name, _, _ in pair] for pair in _CIFAR10]
    tenths = [[probability for _, probability, _ in pair] for pair in _CIFAR10]
    amounts = [
        [0.0 if place is None else float(magnitudes(name, 10, height, width)[place]) for name, _, place in pair]
        for pair in _CIFAR10
    ]
    return (
        torch.tensor(numbers, device=device),
        torch.tensor(tenths, device=device),
        torch.tensor(amounts, dtype=torch.float64, device=device),
    )
