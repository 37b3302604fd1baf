"""Published parameter counts and structure of every backbone, its shapes, its initial weights, its names."""

import math

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from divfeat.errors import ConfigError
from divfeat.models import BACKBONES, Backbone, build_extractor
from divfeat.models.cifar_resnet import BasicBlock, option_a
from divfeat.models.initialise import initialise, keyed_generator

IMAGE = (3, 32, 32)


def backbone(name: str, shape: tuple[int, int, int] = IMAGE, **options: object) -> Backbone:
    return build_extractor(name, image_shape=shape, projector=False, **options).backbone


def with_classifier(net: Backbone, classes: int) -> int:
    return sum(p.numel() for p in net.parameters()) + (net.out_dim + 1) * classes


@pytest.mark.parametrize(
    ("name", "exact", "published_millions"),
    [
        ("resnet20", 269_722, 0.27),
        ("resnet32", 464_154, 0.46),
        ("resnet44", 658_586, 0.66),
        ("resnet56", 853_018, 0.85),
        # Wide ResNets, table 4 of the paper, one decimal.
        ("wrn28_10", 36_479_194, 36.5),
        ("wrn16_8", 10_961_370, 11.0),
        ("wrn40_4", 8_949_210, 8.9),
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, exact: int, published_millions: float) -> None:
    count = with_classifier(backbone(name), 10)
    assert count == exact
    assert round(count / 1e6, 2 if published_millions < 1 else 1) == published_millions


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_torchvision_nets_with_the_large_stem_have_the_imagenet_counts(depth: int) -> None:
    published = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032}
    assert with_classifier(backbone(f"resnet{depth}", stem="large"), 1000) == published[depth]


def test_summaries_state_width_and_size() -> None:
    for name, entry in BACKBONES.items():
        net = backbone(name)
        assert f"{net.out_dim}-d" in entry.summary
        if " M" in entry.summary:
            stated = entry.summary.split(" M")[0].split()[-1]
            decimals = len(stated.partition(".")[2])
            assert f"{with_classifier(net, 10) / 1e6:.{decimals}f}" == stated


@pytest.mark.parametrize("depth", [8, 14, 20, 32])
def test_cifar_resnet_structure(depth: int) -> None:
    net = backbone(f"resnet{depth}").eval()
    convolutions = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == depth - 1  # the classifier is the last layer
    assert all(conv.kernel_size == (3, 3) and conv.bias is None for conv in convolutions)  # no 1x1 projections
    blocks = [layer for layer in net.modules() if isinstance(layer, BasicBlock)]
    shapes: list[tuple[int, ...]] = []
    for block in blocks:
        block.register_forward_hook(lambda _layer, _inputs, output: shapes.append(tuple(output.shape[1:])))
    net(torch.zeros(1, *IMAGE))
    n = (depth - 2) // 6
    assert shapes == [(16, 32, 32)] * n + [(32, 16, 16)] * n + [(64, 8, 8)] * n


def test_cifar_resnet_width_multiplies_channels() -> None:
    net = backbone("resnet8", width=2)
    assert net.out_dim == 128
    assert net.conv1.out_channels == 32
    assert [stage[0].conv2.out_channels for stage in net.stages] == [32, 64, 128]


def test_cifar_resnet_passes_the_shortcuts_through_when_the_residuals_are_silent() -> None:
    net = backbone("resnet14").eval()
    for layer in net.modules():
        if isinstance(layer, BasicBlock):
            nn.init.zeros_(layer.bn2.weight)
    images = torch.randn(2, *IMAGE)
    stem = torch.relu(net.bn1(net.conv1(images)))
    expected = naive_option_a(naive_option_a(stem, 32, 2), 64, 2).mean((2, 3))
    torch.testing.assert_close(net(images), expected)


def naive_option_a(x: Tensor, out_channels: int, stride: int) -> Tensor:
    batch, channels, height, width = x.shape
    out = torch.zeros(batch, out_channels, -(-height // stride), -(-width // stride), dtype=x.dtype)
    before = (out_channels - channels) // 2
    for channel in range(channels):
        for row in range(out.shape[2]):
            for column in range(out.shape[3]):
                out[:, before + channel, row, column] = x[:, channel, row * stride, column * stride]
    return out


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 4),
    st.integers(0, 5),
    st.integers(1, 7),
    st.integers(1, 7),
    st.sampled_from([1, 2, 3]),
    st.booleans(),
)
def test_option_a_is_slicing_and_padding(
    channels: int, extra: int, height: int, width: int, stride: int, channels_last: bool
) -> None:
    x = torch.randn(2, channels, height, width)
    x = (x.contiguous(memory_format=torch.channels_last) if channels_last else x).requires_grad_()
    reference = x.detach().clone().requires_grad_()
    out, expected = option_a(x, channels + extra, stride), naive_option_a(reference, channels + extra, stride)
    assert torch.equal(out, expected)
    weights = torch.randn_like(expected)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    assert torch.equal(x.grad, reference.grad)


def test_option_a_keeps_the_gradient_in_channels_last() -> None:
    x = torch.randn(2, 4, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    layouts: list[bool] = []
    y = x * 1
    y.register_hook(lambda grad: layouts.append(grad.is_contiguous(memory_format=torch.channels_last)))
    option_a(y, 8, 2).square().sum().backward()
    assert layouts == [True]


def test_wide_resnet_structure() -> None:
    net = backbone("wrn28_2").eval()
    convolutions = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    projections = [conv for conv in convolutions if conv.kernel_size == (1, 1)]
    assert len(convolutions) - len(projections) == 25  # 28 counts the three projections and not the classifier
    assert [(conv.out_channels, conv.stride[0]) for conv in projections] == [(32, 1), (64, 2), (128, 2)]
    assert [len(stage) for stage in net.stages] == [4, 4, 4]
    # Pre-activation: with silent residuals the stream crosses a block without projection unchanged, negatives included.
    block = net.stages[0][1]
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(1, 32, 4, 4)
    assert torch.equal(block(x), x)


def test_wide_resnet_projects_the_activated_input() -> None:
    block = backbone("wrn10_2").eval().stages[0][0]
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(1, 16, 4, 4)
    expected = torch.einsum("oc,bchw->bohw", block.shortcut.weight[:, :, 0, 0], torch.relu(block.bn1(x)))
    torch.testing.assert_close(block(x), expected)


def test_wide_resnet_with_the_slope_and_the_momentum_of_haframe() -> None:
    extractor = build_extractor("wrn10_1", image_shape=IMAGE, projector=False, negative_slope=0.1, bn_momentum=0.001)
    assert (extractor.config["negative_slope"], extractor.config["bn_momentum"]) == (0.1, 0.001)
    net, plain = extractor.backbone, backbone("wrn10_1")
    assert {layer.momentum for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)} == {0.001}
    assert {layer.momentum for layer in plain.modules() if isinstance(layer, nn.BatchNorm2d)} == {0.1}
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), plain.parameters(), strict=True))  # the same start

    def leaky(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.1 * x)

    images = torch.randn(2, *IMAGE)
    x = net.eval().conv1(images)
    for block in (stage[0] for stage in net.stages):
        active = leaky(block.bn1(x))
        way = x if block.shortcut is None else block.shortcut(active)
        x = block.conv2(leaky(block.bn2(block.conv1(active)))) + way
    expected = leaky(net.bn(x))
    torch.testing.assert_close(net.maps(images), expected)
    assert bool((expected < 0).any()) and bool((plain.eval().maps(images) >= 0).all())


@pytest.mark.parametrize("depth", [18, 50])
def test_large_stem_is_torchvisions_net(depth: int) -> None:
    net = backbone(f"resnet{depth}", stem="large").eval()
    reference = getattr(torchvision.models, f"resnet{depth}")(weights=None).eval()
    reference.fc = nn.Identity()
    reference.load_state_dict(net.net.state_dict())
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(net(images), reference(images))


@pytest.mark.parametrize(("side", "stem"), [(32, "small"), (64, "small"), (65, "large"), (224, "large")])
def test_resnet18_picks_its_stem_by_size_and_says_so(side: int, stem: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="divfeat.models.torchvision_resnet"):
        extractor = build_extractor("resnet18", image_shape=(3, side, side))
    assert extractor.config["stem"] == stem
    assert f"{stem} stem" in caplog.text
    net = extractor.backbone.net
    assert net.conv1.kernel_size == ((3, 3) if stem == "small" else (7, 7))
    assert net.conv1.stride == ((1, 1) if stem == "small" else (2, 2))
    assert isinstance(net.maxpool, nn.Identity if stem == "small" else nn.MaxPool2d)


def test_an_explicit_stem_wins_over_the_size() -> None:
    assert backbone("resnet18", stem="large").net.conv1.kernel_size == (7, 7)
    assert backbone("resnet18", (3, 224, 224), stem="small").net.conv1.kernel_size == (3, 3)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["digits_cnn", "compact", "resnet8", "resnet18", "resnet50", "wrn10_1"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 64, 64), (3, 224, 224)])
def test_shapes(name: str, shape: tuple[int, int, int]) -> None:
    net = backbone(name, shape)
    features = net(torch.rand(2, *shape))
    assert features.shape == (2, net.out_dim)
    assert bool((features >= 0).all())
    assert float(features.max()) > 0


@torch.inference_mode()
@pytest.mark.parametrize("name", ["digits_cnn", "compact", "resnet8", "resnet18", "wrn10_1"])
def test_features_are_the_average_of_the_maps(name: str) -> None:
    net = backbone(name).eval()
    images = torch.rand(2, *IMAGE)
    maps = net.maps(images)
    assert maps.shape[:2] == (2, net.out_dim) and maps.shape[2] > 1
    assert torch.equal(net(images), maps.mean((2, 3)))


def test_shapes_of_the_wide_resnet_of_haframe() -> None:
    with torch.inference_mode():
        assert backbone("wrn28_8").eval()(torch.rand(1, *IMAGE)).shape == (1, 512)


@pytest.mark.parametrize("name", ["digits_cnn", "compact", "resnet8", "wrn10_1"])
def test_channels_last_changes_nothing_but_rounding(name: str) -> None:
    images = torch.rand(4, *IMAGE, dtype=torch.float64)

    def gradients(memory_format: torch.memory_format) -> list[Tensor]:
        net = backbone(name).double().to(memory_format=memory_format)
        features = net(images.contiguous(memory_format=memory_format))
        features.square().sum().backward()
        return [features.detach(), *(p.grad for p in net.parameters())]

    for plain, last in zip(gradients(torch.contiguous_format), gradients(torch.channels_last), strict=True):
        torch.testing.assert_close(last, plain, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["digits_cnn", "compact", "resnet8", "wrn10_1", "resnet18"])
def test_bf16_autocast_is_finite_and_keeps_statistics_in_float32(name: str) -> None:
    net = backbone(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = net(torch.rand(8, *IMAGE))
    features.float().square().mean().backward()
    assert bool(features.isfinite().all())
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters())
    assert {b.dtype for n, b in net.named_buffers() if "running" in n} == {torch.float32}


@pytest.mark.parametrize(
    ("name", "fan"), [("resnet20", "in"), ("compact", "in"), ("wrn10_4", "out"), ("resnet18", "out")]
)
def test_convolutions_start_he_normal(name: str, fan: str) -> None:
    for layer in backbone(name).modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 4000:
            fans = layer.in_channels if fan == "in" else layer.out_channels
            std = math.sqrt(2 / (fans * layer.kernel_size[0] ** 2))
            assert float(layer.weight.detach().std()) == pytest.approx(std, rel=0.05)
            assert abs(float(layer.weight.detach().mean())) < 5 * std / math.sqrt(layer.weight.numel())
        elif isinstance(layer, nn.BatchNorm2d):
            assert bool((layer.weight == 1).all())
            assert bool((layer.bias == 0).all())
            assert bool((layer.running_mean == 0).all())
            assert bool((layer.running_var == 1).all())
            assert int(layer.num_batches_tracked) == 0


def test_a_layer_without_a_rule_is_refused_rather_than_left_uninitialised() -> None:
    with pytest.raises(TypeError, match="'1' \\(PReLU\\) of Sequential"):
        initialise(nn.Sequential(nn.Conv2d(1, 1, 1), nn.PReLU()), keyed_generator(0, "x"), "fan_in")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet_32", {}, "unknown backbone 'resnet_32'. Did you mean 'resnet32'.*compact.*wrn<depth>_<k>"),
        ("wrn28-8", {}, "Did you mean 'wrn28_8'"),
        ("wrn28_8_1", {}, "unknown backbone"),
        ("wrn27_8", {}, "6n \\+ 4"),
        ("wrn28_0", {}, "k of wrn28_0 = 0"),
        ("wrn10_1", {"negative_slope": -0.1}, "negative_slope = -0.1: must be a number from 0 to 1"),
        ("wrn10_1", {"bn_momentum": True}, "bn_momentum = True: must be a number from 0 to 1"),
        ("wrn10_1", {"bn_momentun": 0.1}, "Did you mean 'bn_momentum'"),
        ("resnet32", {"widht": 2}, "unknown option of backbone 'resnet32' 'widht'. Did you mean 'width'"),
        ("resnet32", {"depth": 20}, "unknown option of backbone 'resnet32' 'depth'"),
        ("resnet32", {"width": 1.5}, "width = 1.5: must be a whole number"),
        ("resnet32", {"width": 0}, "width = 0"),
        ("resnet18", {"stem": "tiny"}, "stem = 'tiny' of resnet18: choose \"auto\""),
        ("compact", {"width": 2}, "'compact' takes no options, but got width"),
    ],
)
def test_errors_name_value_and_remedy(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_extractor(name, image_shape=IMAGE, **options)
