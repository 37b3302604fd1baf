from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divfeat.data import Augment, Policy
from divfeat.data.keyed import keyed_bits, stream_key
from divfeat.errors import ConfigError


def batch(size: int, shape: tuple[int, int, int] = (3, 7, 5), seed: int = 0) -> torch.Tensor:
    # Values from 1: a black pixel can only come from the padding.
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 256, (size, *shape), dtype=torch.uint8, generator=generator)


def naive(policy: str, pad: int, seed: int, images: np.ndarray, epoch: int, index: list[int]) -> np.ndarray:
    """One image at a time: pad with numpy, cut the window, mirror it."""

    def draw(stream: str, i: int, high: int) -> int:
        return int(keyed_bits(stream_key(seed, f"augment/{stream}", epoch), torch.tensor([i]))[0]) % high

    out = []
    for image, i in zip(images, index, strict=True):
        _, height, width = image.shape
        if policy == "crop_flip":
            top, left = draw("crop_rows", i, 2 * pad + 1), draw("crop_columns", i, 2 * pad + 1)
            image = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))[:, top : top + height, left : left + width]
        if draw("flip", i, 2):
            image = image[:, :, ::-1]
        out.append(image)
    return np.stack(out)


@settings(max_examples=30)
@given(
    st.sampled_from(["flip", "crop_flip"]),
    st.integers(1, 4),
    st.integers(0, 2**40),
    st.integers(0, 300),
    st.lists(st.integers(0, 10**9), min_size=1, max_size=6),
)
def test_equals_a_loop_over_images(policy: Policy, pad: int, seed: int, epoch: int, index: list[int]) -> None:
    images = batch(len(index))
    before = images.clone()
    out = Augment(policy, pad, seed=seed)(images, epoch, torch.tensor(index))
    assert out.dtype == torch.uint8
    np.testing.assert_array_equal(out.numpy(), naive(policy, pad, seed, images.numpy(), epoch, index))
    assert torch.equal(images, before)


def test_none_is_the_identity() -> None:
    images = batch(4)
    assert torch.equal(Augment("none", seed=0)(images, 3, torch.arange(4)), images)


@pytest.mark.parametrize("policy", ["flip", "crop_flip"])
def test_does_not_depend_on_batch_composition(policy: Policy) -> None:
    images, index, augment = batch(32), torch.arange(100, 132), Augment(policy, seed=5)
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


def test_read_only_and_channels_last_images() -> None:
    images = batch(8, (3, 6, 6))
    expected = Augment("crop_flip", seed=0)(images, 0, torch.arange(8))
    last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(Augment("crop_flip", seed=0)(last, 0, torch.arange(8)), expected)


def test_refuses() -> None:
    with pytest.raises(ConfigError, match="unknown augmentation 'mixup'"):
        Augment("mixup", seed=0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="padding 0"):
        Augment("crop_flip", pad=0, seed=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("policy", ["flip", "crop_flip"])
def test_gpu_gives_the_same_images(policy: Policy) -> None:
    images, index, augment = batch(64), torch.arange(64), Augment(policy, seed=7)
    assert torch.equal(augment(images.cuda(), 4, index.cuda()).cpu(), augment(images, 4, index))
