from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.autoaugment import AutoAugment, AutoAugmentPolicy, RandAugment

from divfeat.data import Augment, Policy, policies
from divfeat.data.augment import windows_by_gather, windows_by_slices
from divfeat.data.keyed import keyed_bits, stream_key
from divfeat.data.operations import OPERATIONS
from divfeat.errors import ConfigError

POLICIES = get_args(Policy)


def batch(size: int, shape: tuple[int, int, int] = (3, 7, 5), seed: int = 0) -> torch.Tensor:
    # Values from 1: a black pixel can only come from the padding.
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 256, (size, *shape), dtype=torch.uint8, generator=generator)


def naive(
    policy: str, pad: int, seed: int, images: np.ndarray, epoch: int, index: list[int], cutout: int = 0, fill: Any = 0
) -> np.ndarray:
    """One image at a time: pad with numpy, cut the window, mirror it, do one operation after the other, fill a square."""

    def draw(stream: str, i: int, high: int) -> int:
        return int(keyed_bits(stream_key(seed, f"augment/{stream}", epoch), torch.tensor([i]))[0]) % high

    out = []
    for image, i in zip(images, index, strict=True):
        _, height, width = image.shape
        if policy not in ("none", "flip"):
            top, left = draw("crop_rows", i, 2 * pad + 1), draw("crop_columns", i, 2 * pad + 1)
            image = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))[:, top : top + height, left : left + width]
        if policy != "none" and draw("flip", i, 2):
            image = image[:, :, ::-1]
        image = image.copy()
        for name, amount in steps(policy, lambda stream, high, i=i: draw(stream, i, high), height, width):
            whole = torch.from_numpy(image)[None]
            image = OPERATIONS[name](whole, torch.tensor([amount], dtype=torch.float64))[0].numpy().copy()
        if cutout:
            row, column = draw("cutout_row", i, height), draw("cutout_column", i, width)
            top, left = max(0, row - cutout // 2), max(0, column - cutout // 2)
            image[:, top : row + cutout // 2, left : column + cutout // 2] = fill
        out.append(image)
    return np.stack(out)


def steps(policy: str, draw: Any, height: int, width: int) -> list[tuple[str, float]]:
    """torchvision's own tables, read with our draws of one image."""
    size = (height, width)
    done = []
    if policy == "autoaugment":
        torchvision = AutoAugment(AutoAugmentPolicy.CIFAR10)
        space = torchvision._augmentation_space(10, size)
        for i, (name, probability, place) in enumerate(torchvision.policies[draw("autoaugment/policy", 25)]):
            amounts, signed = space[name]
            amount = 0.0 if place is None else float(amounts[place])
            if signed and draw(f"autoaugment/{i}/sign", 2) == 0:
                amount *= -1
            if draw(f"autoaugment/{i}/probability", 10) / 10 < probability:
                done.append((name, amount))
    if policy == "randaugment":
        torchvision = RandAugment()
        space = torchvision._augmentation_space(torchvision.num_magnitude_bins, size)
        for i in range(torchvision.num_ops):
            name = list(space)[draw(f"randaugment/{i}/operation", len(space))]
            amounts, signed = space[name]
            amount = float(amounts[torchvision.magnitude]) if amounts.ndim else 0.0
            if signed and draw(f"randaugment/{i}/sign", 2) == 0:
                amount *= -1
            done.append((name, amount))
    return done


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(POLICIES),
    st.integers(1, 4),
    st.sampled_from([0, 2, 6]),
    st.integers(0, 2**40),
    st.integers(0, 300),
    st.lists(st.integers(0, 10**9), min_size=1, max_size=12),
)
def test_equals_a_loop_over_images(
    policy: Policy, pad: int, cutout: int, seed: int, epoch: int, index: list[int]
) -> None:
    images = batch(len(index))
    before = images.clone()
    fill = torch.tensor([7, 120, 250], dtype=torch.uint8)[:, None, None]
    out = Augment(policy, pad, cutout, fill=fill, seed=seed)(images, epoch, torch.tensor(index))
    assert out.dtype == torch.uint8
    expected = naive(policy, pad, seed, images.numpy(), epoch, index, cutout, fill.numpy())
    np.testing.assert_array_equal(out.numpy(), expected)
    assert torch.equal(images, before)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 5), st.sampled_from([(1, 8, 8), (3, 8, 8), (3, 5, 9)]), st.integers(0, 2**40), st.integers(0, 9))
def test_slices_on_a_cpu_cut_the_same_windows_as_the_gather(
    pad: int, shape: tuple[int, int, int], seed: int, count: int
) -> None:
    drawn = torch.Generator().manual_seed(seed)
    padded = F.pad(batch(count, shape), (pad, pad, pad, pad)) if count else torch.zeros(0, *shape, dtype=torch.uint8)
    places = [torch.randint(0, 2 * pad + 1, (count,), generator=drawn) for _ in range(2)]
    flip = torch.randint(0, 2, (count,), generator=drawn).bool()
    here, there = (cut(padded, *places, flip, shape[1:]) for cut in (windows_by_slices, windows_by_gather))
    assert torch.equal(here, there) and here.dtype == torch.uint8 and here.shape == (count, *shape)


def test_none_is_the_identity() -> None:
    images = batch(4)
    assert torch.equal(Augment("none", seed=0)(images, 3, torch.arange(4)), images)


@pytest.mark.parametrize("policy", POLICIES)
def test_does_not_depend_on_batch_composition(policy: Policy) -> None:
    images, index, augment = batch(32), torch.arange(100, 132), Augment(policy, cutout=4, seed=5)
    whole = augment(images, 2, index)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(augment(images[order], 2, index[order]), whole[order])
    parts = [augment(images[i::3], 2, index[i::3]) for i in range(3)]
    for i, part in enumerate(parts):
        assert torch.equal(part, whole[i::3])


def test_epoch_seed_and_index_each_change_the_draw() -> None:
    images = batch(1).expand(256, -1, -1, -1)
    index = torch.arange(256)
    base = Augment("crop_flip", seed=0)(images, 0, index)
    assert len({bytes(image.numpy()) for image in base}) > 50  # 162 places and mirrors are possible
    for other in (Augment("crop_flip", seed=1)(images, 0, index), Augment("crop_flip", seed=0)(images, 1, index)):
        assert int((other != base).flatten(1).any(1).sum()) > 200


def test_flips_half_and_crops_uniformly() -> None:
    image = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    image[0, 0, 4, 4] = 255  # the window's place can be read off where the dot lands
    out = Augment("crop_flip", pad=2, seed=0)(image.expand(25_000, -1, -1, -1), 0, torch.arange(25_000))
    counts = out[:, 0, 2:7, 2:7].bool().sum(0)
    assert int(counts.sum()) == 25_000
    assert 850 < int(counts.min()) <= int(counts.max()) < 1150  # 1000 each, sd 31
    mirrored = Augment("flip", seed=0)(batch(1).expand(10_000, -1, -1, -1), 0, torch.arange(10_000))
    assert 4700 < int((mirrored != batch(1)).flatten(1).any(1).sum()) < 5300


@pytest.mark.parametrize("policy", POLICIES)
def test_read_only_and_channels_last_images(policy: Policy) -> None:
    images = batch(64, (3, 6, 6))
    augment = Augment(policy, cutout=2, seed=0)
    expected = augment(images, 0, torch.arange(64))
    last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(augment(last, 0, torch.arange(64)), expected)


def test_cutout_is_a_square_about_a_uniform_centre() -> None:
    out = Augment("none", cutout=4, seed=0)(batch(1, (1, 8, 8)).expand(32_000, -1, -1, -1), 0, torch.arange(32_000))
    black = (out == 0)[:, 0]
    assert set(black.flatten(1).sum(1).tolist()) == {2 * 2, 2 * 3, 2 * 4, 3 * 3, 3 * 4, 4 * 4}
    share = black.double().mean(0)
    # Row r lies in the square for the centres r - 1 to r + 2, as far as they are rows.
    rows = torch.tensor([sum(0 <= c < 8 for c in range(r - 1, r + 3)) for r in range(8)]).double() / 8
    torch.testing.assert_close(share, rows[:, None] * rows, rtol=0, atol=0.012)  # sd 0.003


@pytest.mark.parametrize("policy", ["autoaugment", "randaugment"])
def test_one_channel_is_enough(policy: Policy) -> None:
    images = batch(256, (1, 8, 8))
    out = Augment(policy, seed=0)(images, 0, torch.arange(256))
    assert out.shape == images.shape and out.dtype == torch.uint8


@pytest.mark.parametrize("policy", ["autoaugment", "randaugment"])
def test_both_ways_to_choose_images_agree(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """On an accelerator every operation is done to all images, and the chosen ones are kept."""
    images, index = batch(96, (3, 8, 8)), torch.arange(96)
    chosen = Augment(policy, seed=0)(images, 1, index)
    monkeypatch.setattr(policies, "_waits", lambda device: True)
    assert torch.equal(Augment(policy, seed=0)(images, 1, index), chosen)


def test_refuses() -> None:
    with pytest.raises(ConfigError, match="unknown augmentation 'mixup'"):
        Augment("mixup", seed=0)  # type: ignore[arg-type]
    for cutout in (-2, 5):
        with pytest.raises(ConfigError, match=f"cutout={cutout} must be an even side"):
            Augment("none", cutout=cutout, seed=0)
    with pytest.raises(ConfigError, match="padding 0"):
        Augment("crop_flip", pad=0, seed=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("policy", POLICIES)
def test_gpu_gives_the_same_images(policy: Policy) -> None:
    images, index, augment = batch(512, (3, 32, 32)), torch.arange(512), Augment(policy, cutout=8, seed=7)
    assert torch.equal(augment(images.cuda(), 4, index.cuda()).cpu(), augment(images, 4, index))
