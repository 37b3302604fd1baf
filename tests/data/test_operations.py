"""Every operation against torchvision's on single images, over all amounts that the policies have."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.autoaugment import AutoAugment, AutoAugmentPolicy, RandAugment, _apply_op

from divfeat.data import policies
from divfeat.data.operations import OPERATIONS

SHAPES = [(3, 32, 32), (3, 13, 20), (1, 8, 8)]


def pictures(shape: tuple[int, int, int], seed: int) -> torch.Tensor:
    """Noise, little contrast, one value, two values, a ramp, and an image with one odd pixel."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (6, *shape), dtype=torch.uint8, generator=generator)
    images[1] = images[1] // 8 + 100
    images[2] = 7
    images[3] = (images[3] > 128) * 200
    images[4] = torch.linspace(0, 255, shape[1] * shape[2]).reshape(shape[1:]).to(torch.uint8)
    images[5] = 30
    images[5, :, 3, 4] = 250
    return images


def theirs(images: torch.Tensor, name: str, amount: float) -> torch.Tensor:
    return torch.stack([_apply_op(image, name, amount, InterpolationMode.NEAREST, None) for image in images])


def midway(name: str, amount: float, height: int, width: int) -> torch.Tensor:
    """Places [H, W] whose source lies midway between two pixels, where float32 decides."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    along = amount * (y if name == "ShearX" else x).double()
    return ((along - along.floor()) - 0.5).abs() < 1e-5


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_equals_torchvision(name: str, shape: tuple[int, int, int]) -> None:
    _, height, width = shape
    for seed, bins in enumerate((10, 31)):
        for amount in policies.magnitudes(name, bins, height, width).unique().tolist():
            for sign in (1, -1) if policies._signed(torch.device("cpu"))[policies.NAMES.index(name)] else (1,):
                images = pictures(shape, seed)
                before = images.clone()
                ours = OPERATIONS[name](images, torch.full((len(images),), sign * amount, dtype=torch.float64))
                differ = (ours != theirs(images, name, sign * amount)).any(1)
                if name.startswith("Shear"):
                    differ &= ~midway(name, sign * amount, height, width)
                assert not differ.any(), f"{name} by {sign * amount}"
                assert torch.equal(images, before)


def test_each_image_has_its_own_amount() -> None:
    images = pictures((3, 16, 16), 0)
    for name, operation in OPERATIONS.items():
        amounts = policies.magnitudes(name, 31, 16, 16)[torch.tensor([0, 5, 11, 17, 23, 30])]
        whole = operation(images, amounts)
        single = torch.cat([operation(images[i : i + 1], amounts[i : i + 1]) for i in range(6)])
        assert torch.equal(whole, single), name


@pytest.mark.parametrize("bins", [10, 31])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_amounts_are_torchvisions(shape: tuple[int, int, int], bins: int) -> None:
    size = shape[1:]
    spaces = RandAugment()._augmentation_space(bins, size) | AutoAugment()._augmentation_space(bins, size)
    assert set(spaces) == set(OPERATIONS) == set(policies.NAMES)
    for place, name in enumerate(policies.NAMES):
        expected, signed = spaces[name]
        assert bool(policies._signed(torch.device("cpu"))[place]) == signed
        assert policies.magnitudes(name, bins, *size).tolist() == expected.expand(bins).tolist(), name


def test_the_policies_are_torchvisions() -> None:
    assert list(policies.NAMES[: policies._RAND_OPERATIONS]) == list(RandAugment()._augmentation_space(31, (32, 32)))
    ours = [tuple((name, tenths / 10, place) for name, tenths, place in pair) for pair in policies._CIFAR10]
    assert ours == AutoAugment(AutoAugmentPolicy.CIFAR10).policies


def test_probabilities_and_signs_come_out_as_written() -> None:
    """Sub-policy 1: rotate with probability 0.7, then move with 0.3, each to either side alike."""
    generator = torch.Generator().manual_seed(0)

    def draw(stream: str, high: int) -> torch.Tensor:
        if stream == "autoaugment/policy":
            return torch.ones(20_000, dtype=torch.int64)
        return torch.randint(0, high, (20_000,), generator=generator)

    first, second = policies.auto_augment(draw, 32, 32)
    for (operations, amounts), name, share in ((first, "Rotate", 0.7), (second, "TranslateX", 0.3)):
        done = operations == policies.NAMES.index(name)
        assert (done | (operations == 0)).all()
        assert float(done.double().mean()) == pytest.approx(share, abs=0.015)  # sd 0.003
        assert float((amounts > 0).double().mean()) == pytest.approx(0.5, abs=0.015)
