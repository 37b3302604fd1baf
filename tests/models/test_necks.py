"""The layers of HAFrame's two networks against their parts written out, where the convolution stands, and what is pooled how."""

import torch
from torch import nn

from divfeat.models import FeatureExtractor, HiddenLayer, Transformation, build_extractor


def made(seed: int = 0) -> FeatureExtractor:
    return build_extractor("digits_cnn", image_shape=(1, 8, 8), projector_dim=7, neck="transformation", seed=seed)


def test_it_is_what_the_slides_draw() -> None:
    neck = Transformation(12, 7, torch.Generator().manual_seed(1)).train()
    x = torch.randn(9, 12, generator=torch.Generator().manual_seed(2))

    def norm(rows: torch.Tensor) -> torch.Tensor:
        return (rows - rows.mean(0)) / (rows.var(0, unbiased=False) + 1e-5).sqrt()

    def prelu(rows: torch.Tensor) -> torch.Tensor:
        return torch.where(rows >= 0, rows, 0.25 * rows)

    weights = [layer.weight for layer in neck.modules() if isinstance(layer, nn.Linear)]
    assert [tuple(weight.shape) for weight in weights] == [(7, 12)] + [(7, 7)] * 4
    h = norm(x @ weights[0].T)
    for first, second in ((weights[1], weights[2]), (weights[3], weights[4])):
        h = h + prelu(norm(prelu(norm(h @ first.T)) @ second.T))
    torch.testing.assert_close(neck(x), h)
    assert not any(
        "bias" in name for name, _ in neck.named_parameters() if "1.bias" not in name and ".4.bias" not in name
    )


def test_a_convolution_before_the_average_is_a_linear_layer_after_it() -> None:
    extractor = made().eval()
    images = torch.rand(5, 1, 8, 8)
    maps = extractor.backbone.layers(extractor.normalise(images))
    linear = extractor.projector.layers[0]
    convolved = nn.functional.conv2d(maps, linear.weight[:, :, None, None]).mean((2, 3))
    torch.testing.assert_close(extractor.projector.layers[1:](convolved), extractor(images).after)


def test_any_sign_can_be_reached_and_the_extractor_comes_back() -> None:
    extractor = made(3)
    after = extractor(torch.rand(50, 1, 8, 8)).after
    assert after.shape == (50, 7) and bool((after < 0).any(0).all()) and bool((after > 0).any(0).all())
    again = FeatureExtractor.from_config(extractor.config)
    assert all(torch.equal(a, b) for a, b in zip(made(3).parameters(), again.parameters(), strict=True))
    assert extractor.feature_dim == 7 and extractor.backbone_dim == 64
    assert not torch.equal(made(3).projector.layers[0].weight, made(4).projector.layers[0].weight)
    config = {
        name: value
        for name, value in build_extractor("digits_cnn", image_shape=(1, 8, 8)).config.items()
        if name != "neck"
    }
    assert isinstance(FeatureExtractor.from_config(config).projector, nn.Linear)  # of before there were necks


# --- the type I network -------------------------------------------------------------------------------------------------


def hidden(
    backbone: str = "digits_cnn", shape: tuple[int, int, int] = (1, 8, 8), **options: object
) -> FeatureExtractor:
    return build_extractor(backbone, image_shape=shape, projector_dim=7, neck="elu", **options)


def test_the_hidden_layer_by_hand() -> None:
    layer = HiddenLayer(5, 7, torch.Generator().manual_seed(1)).train()
    x = torch.randn(9, 5, generator=torch.Generator().manual_seed(2))

    def norm(rows: torch.Tensor) -> torch.Tensor:
        return (rows - rows.mean(0)) / (rows.var(0, unbiased=False) + 1e-5).sqrt()

    linear = layer.layers[1]
    h = norm(norm(x) @ linear.weight.T + linear.bias)
    torch.testing.assert_close(layer(x), torch.where(h > 0, h, h.exp() - 1))
    assert [tuple(value.shape) for value in layer.parameters()] == [(5,), (5,), (7, 5), (7,), (7,), (7,)]


def test_a_hidden_layer_takes_the_maximum_over_the_maps_and_all_else_the_average() -> None:
    images = torch.rand(5, 1, 8, 8)
    for extractor, pool in ((hidden().eval(), "amax"), (made().eval(), "mean")):
        maps = extractor.backbone.maps(extractor.normalise(images))
        assert maps.shape == (5, 64, 2, 2)
        before = getattr(maps, pool)((2, 3))
        torch.testing.assert_close(extractor.pooled(images), before)
        torch.testing.assert_close(extractor(images).before, before)
        torch.testing.assert_close(extractor(images).after, extractor.projector(before))


def test_at_224_pixels_the_maximum_is_the_published_pool() -> None:
    extractor = hidden("resnet18", (3, 224, 224)).eval()
    with torch.no_grad():
        images = torch.rand(1, 3, 224, 224)
        maps = extractor.backbone.maps(extractor.normalise(images))
        assert torch.equal(extractor.pooled(images), nn.functional.max_pool2d(maps, 7, 7).flatten(1))


def test_a_hidden_layer_comes_back_and_leaves_the_backbone_as_it_was() -> None:
    extractor = hidden(seed=3)
    again = FeatureExtractor.from_config(extractor.config)
    assert again.max_pooled and extractor.feature_dim == 7 and extractor.backbone_dim == 64
    assert all(torch.equal(a, b) for a, b in zip(extractor.parameters(), again.parameters(), strict=True))
    plain = build_extractor("digits_cnn", image_shape=(1, 8, 8), projector=False, seed=3)
    state = extractor.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())
