"""The extractor: taps, normalisation, rebuilding from its config, and weights that depend on the seed alone."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from divfeat.errors import ConfigError, DataError
from divfeat.models import FeatureExtractor, build_extractor

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def build(**settings: object) -> FeatureExtractor:
    return build_extractor(**{"backbone": "resnet8", "image_shape": (3, 32, 32), "mean": MEAN, "std": STD} | settings)


def pixels(batch: int = 4) -> torch.Tensor:
    return torch.randint(0, 256, (batch, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_taps_widths_and_counts() -> None:
    extractor = build(projector_dim=128)
    taps = extractor(pixels())
    assert taps.before.shape == (4, 64)
    assert taps.after.shape == (4, 128)
    assert (extractor.backbone_dim, extractor.feature_dim) == (64, 128)
    assert extractor.parameter_count == 74_640 + 64 * 128 + 128
    # One linear layer, no activation after it.
    torch.testing.assert_close(taps.after, taps.before @ extractor.projector.weight.T + extractor.projector.bias)
    assert bool((taps.after < 0).any())
    assert bool((taps.before >= 0).all())


def test_the_projector_keeps_the_width_by_default_and_may_go() -> None:
    assert build().feature_dim == 64
    plain = build(projector=False)
    taps = plain(pixels())
    assert taps.after is taps.before
    assert plain.feature_dim == plain.backbone_dim == 64
    assert plain.parameter_count == 74_640
    assert build(projector_bias=False).parameter_count == 74_640 + 64 * 64


def test_a_feature_norm_ends_the_extractor() -> None:
    extractor = build(projector_dim=10, feature_norm=True)
    assert extractor.parameter_count == build(projector_dim=10).parameter_count + 2 * 10
    taps = extractor(pixels(8))
    projected = extractor.projector(taps.before)
    spread = (projected - projected.mean(0)) / (projected.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(taps.after, spread, rtol=1e-4, atol=1e-4)
    plain = build(projector_dim=10).eval()
    started = build(projector_dim=10, feature_norm=True).eval()
    torch.testing.assert_close(started(pixels()).after, plain(pixels()).after, rtol=1e-4, atol=1e-5)
    bare = build(projector=False, feature_norm=True)
    taps = bare(pixels())
    assert taps.after is not taps.before and bare.feature_dim == 64
    assert bool((taps.after < 0).any())
    assert bare.eval()(pixels()[:0]).after.shape == (0, 64)  # a rank without images


def test_a_config_from_before_the_feature_norm_still_loads() -> None:
    config = {name: value for name, value in build().config.items() if name != "feature_norm"}
    assert FeatureExtractor.from_config(config).config == build().config


@pytest.mark.parametrize(
    "settings",
    [
        {"projector_dim": 10, "seed": 7},
        {"projector": False, "width": 2},
        {"backbone": "resnet18", "projector_bias": False},
        {"backbone": "digits_cnn", "image_shape": (1, 8, 8), "mean": None, "std": None},
        {"backbone": "wrn10_1"},
        {"projector_dim": 10, "feature_norm": True},
        {"projector": False, "feature_norm": True},
    ],
)
def test_config_and_state_dict_rebuild_it_bit_for_bit(settings: dict[str, object]) -> None:
    extractor = build(**settings)
    channels, height, width = extractor.config["image_shape"]
    images = torch.randint(0, 256, (6, channels, height, width), dtype=torch.uint8)
    extractor(images)  # moves the running statistics
    with torch.no_grad():
        for parameter in extractor.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    config = json.loads(json.dumps(extractor.config))
    rebuilt = FeatureExtractor.from_config(config)
    assert rebuilt.config == extractor.config == config
    rebuilt.load_state_dict(extractor.state_dict())
    for expected, got in zip(extractor.eval()(images), rebuilt.eval()(images), strict=True):
        assert torch.equal(got, expected)


def test_config_alone_rebuilds_the_initial_weights() -> None:
    extractor = build(seed=3)
    rebuilt = FeatureExtractor.from_config(extractor.config)
    assert all(torch.equal(a, b) for a, b in zip(extractor.parameters(), rebuilt.parameters(), strict=True))


def test_uint8_and_float_images_give_the_same_features() -> None:
    extractor = build().eval()
    images = pixels()
    for from_uint8, from_float in zip(extractor(images), extractor(images.float() / 255), strict=True):
        assert torch.equal(from_uint8, from_float)


def test_normalisation_by_hand() -> None:
    images = pixels(2)
    expected = np.empty(images.shape)
    for channel in range(3):
        expected[:, channel] = (images.numpy()[:, channel] / 255 - MEAN[channel]) / STD[channel]
    np.testing.assert_allclose(build().normalise(images).numpy(), expected, rtol=0, atol=2e-6)
    default = build(mean=None, std=None).normalise(torch.tensor([0, 255, 51], dtype=torch.uint8).expand(1, 3, 1, 3))
    torch.testing.assert_close(default[0, 0, 0], torch.tensor([-1.0, 1.0, -0.6]))


@pytest.mark.parametrize("floats", [False, True])
@pytest.mark.parametrize("size", [(1, 3, 1, 1), (2, 3, 8, 8), (5, 3, 7, 9), (4, 1, 8, 8)])
def test_normalised_images_have_the_same_bits_and_layout_when_channels_come_last(
    size: tuple[int, ...], floats: bool
) -> None:
    images = torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    images = images / 255 if floats else images
    extractor = build(image_shape=size[1:], mean=MEAN[: size[1]], std=STD[: size[1]])
    last = images.contiguous(memory_format=torch.channels_last)
    found = extractor.normalise(last)
    assert torch.equal(found, extractor.normalise(images)) and found.is_contiguous(memory_format=torch.channels_last)


def test_a_gradient_passes_normalisation_in_both_layouts() -> None:
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    for layout in (torch.contiguous_format, torch.channels_last):
        (found,) = torch.autograd.grad(build().normalise(images.contiguous(memory_format=layout)).sum(), images)
        torch.testing.assert_close(found, (1 / torch.tensor(STD)).view(3, 1, 1).expand_as(found).contiguous())


def test_statistics_are_in_the_state_dict() -> None:
    state = build().state_dict()
    torch.testing.assert_close(state["mean"].flatten(), torch.tensor(MEAN))
    torch.testing.assert_close(state["std"].flatten(), torch.tensor(STD))


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = build(seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    second = build(seed=5)
    other = build(seed=6)
    for (name, a), b, c in zip(first.named_parameters(), second.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c) == ("bn" in name)  # batch norms start as the identity


def test_the_projector_does_not_shift_the_backbones_weights() -> None:
    bare, wide = build(projector=False).backbone, build(projector_dim=100).backbone
    assert all(torch.equal(a, b) for a, b in zip(bare.parameters(), wide.parameters(), strict=True))


def test_the_projector_starts_as_torchs_linear_layer() -> None:
    weight = build(projector_dim=512).projector.weight
    assert float(weight.detach().abs().max()) == pytest.approx(1 / 8, rel=1e-3)
    assert float(weight.detach().abs().max()) <= 1 / 8
    assert float(weight.detach().std()) == pytest.approx(1 / 8 / 3**0.5, rel=0.02)


def test_bf16_autocast_and_channels_last_train() -> None:
    extractor = build().to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        taps = extractor(pixels().contiguous(memory_format=torch.channels_last))
    taps.after.float().square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in extractor.parameters())


def test_a_step_learns() -> None:
    extractor = build(backbone="compact", projector_dim=2)
    images, labels = pixels(32), torch.arange(32) % 2
    optimizer = torch.optim.SGD(extractor.parameters(), lr=0.1)
    losses = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(extractor(images).after, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_shape": (32, 32)}, "must be \\(channels, height, width\\)"),
        ({"image_shape": (3, 0, 32)}, "size in image_shape = 0"),
        ({"mean": (0.5,)}, "one finite number for each of the 3 channels"),
        ({"mean": (0.5, 0.5, float("nan"))}, "finite"),
        ({"std": (0.2, 0.0, 0.2)}, "must be positive"),
        ({"projector": False, "projector_dim": 10}, "projector_dim = 10 without a projector"),
        ({"projector_dim": 0}, "projector_dim = 0"),
        ({"nonsense": 1}, "unknown option"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**settings)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 1, 32, 32), "takes \\[B, 3, H, W\\]"),
        (torch.zeros(3, 32, 32), "takes \\[B, 3, H, W\\]"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.int64), "torch.int64: give uint8"),
    ],
)
def test_images_that_do_not_fit(images: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        build()(images)
