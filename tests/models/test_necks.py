"""The transformation layer of HAFrame's type II network against its parts written out, and where its convolution stands."""

import torch
from torch import nn

from divfeat.models import FeatureExtractor, Transformation, build_extractor


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
