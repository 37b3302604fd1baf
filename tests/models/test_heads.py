"""Heads: logits by a naive loop, axes, a frame that nothing trains."""

import pytest
import torch
from torch import Tensor, nn

from divfeat.errors import ConfigError
from divfeat.frames import simplex_etf
from divfeat.models import CosineHead, FrameHead, Head, LinearHead, Taps, build_extractor


def taps(*shape: int, dtype: torch.dtype = torch.float32) -> Taps:
    return Taps(torch.full(shape, torch.nan), torch.randn(*shape, dtype=dtype))  # heads never read `before`


def naive_logits(features: Tensor, axes: Tensor, bias: Tensor) -> Tensor:
    rows = []
    for feature in features:
        rows.append([sum(feature[d] * axes[d, k] for d in range(len(feature))) + bias[k] for k in range(axes.shape[1])])
    return torch.stack([torch.stack(row) for row in rows])


@pytest.mark.parametrize("head", [LinearHead(6, 4, seed=1), FrameHead(simplex_etf(4, 6))])
def test_logits_are_inner_products_with_the_axes(head: Head) -> None:
    batch = taps(5, 6)
    outputs = head(batch)
    bias = head.linear.bias if isinstance(head, LinearHead) else torch.zeros(4)
    assert head.axes.shape == (6, 4)
    assert outputs.features is batch.after
    torch.testing.assert_close(outputs.logits, naive_logits(batch.after, head.axes.float(), bias))
    assert head.logits(outputs) is outputs.logits


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("head", [CosineHead(6, 4, 30.0, seed=1), FrameHead(simplex_etf(4, 6), length=30.0)])
def test_a_fixed_length_makes_logits_cosines(head: Head, dtype: torch.dtype) -> None:
    batch = taps(5, 6, dtype=dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    outputs = head.to(wide)(batch)
    assert outputs.features.dtype == outputs.logits.dtype == wide
    axes, features = head.axes.detach().double(), batch.after.double()
    for i in range(5):
        for k in range(4):
            cosine = float(features[i] @ axes[:, k] / features[i].norm() / axes[:, k].norm())
            assert float(outputs.logits[i, k].detach()) == pytest.approx(30 * cosine, rel=1e-5, abs=1e-4)
    torch.testing.assert_close(outputs.features.norm(dim=1), torch.full((5,), 30, dtype=wide))
    louder = head(Taps(batch.before, 7 * batch.after.to(wide)))
    torch.testing.assert_close(louder.logits, outputs.logits, rtol=1e-4, atol=1e-3)
    assert head.bias is None


def test_a_half_precision_feature_is_normalised_in_float32() -> None:
    large = torch.full((1, 4), 40_000.0, dtype=torch.float16)
    assert torch.isinf(large.norm())
    outputs = FrameHead(simplex_etf(3, 4), length=2.0)(Taps(large, large))
    torch.testing.assert_close(outputs.features, torch.ones(1, 4))


def test_the_cosine_head_starts_on_the_sphere_and_its_lengths_change_nothing() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    head = CosineHead(16, 5, 30.0, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(head.weight.detach().norm(dim=0), torch.ones(5))
    assert torch.equal(CosineHead(16, 5, 30.0, seed=2).weight, head.weight)
    assert not torch.equal(CosineHead(16, 5, 30.0, seed=3).weight, head.weight)
    assert [name for name, _ in head.named_parameters()] == ["weight"]
    batch = taps(7, 16)
    before = head(batch).logits.detach()
    with torch.no_grad():
        head.weight.mul_(torch.tensor([0.1, 1.0, 2.0, 5.0, 30.0]))
    torch.testing.assert_close(head(batch).logits, before, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(head.axes.norm(dim=0), torch.ones(5))


def test_gradients_of_cosines() -> None:
    """Both through the features' and the weights' lengths, along neither."""
    head = CosineHead(6, 4, 5.0).double()
    features = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u, w: _scored(head, u, w), (features, head.weight))
    head(Taps(features, features)).logits.square().sum().backward()
    along_features = (features.grad * features).sum(1)
    along_weights = (head.weight.grad * head.weight).sum(0)
    torch.testing.assert_close(along_features, torch.zeros(3).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(along_weights, torch.zeros(4).double(), rtol=0, atol=1e-12)


def _scored(head: CosineHead, features: Tensor, weight: Tensor) -> Tensor:
    return torch.func.functional_call(head, {"weight": weight}, (Taps(features, features),)).logits


def test_a_zero_feature_scores_zero() -> None:
    features = torch.zeros(2, 6, requires_grad=True)
    logits = CosineHead(6, 4, 30.0)(Taps(features, features)).logits
    assert torch.equal(logits, torch.zeros(2, 4))


@pytest.mark.parametrize("length", [0.0, -1.0, float("nan")])
def test_a_length_is_positive(length: float) -> None:
    for make in (lambda: CosineHead(6, 4, length), lambda: FrameHead(simplex_etf(4, 6), length)):
        with pytest.raises(ConfigError, match="cannot be scaled to length"):
            make()


def test_the_frame_is_in_the_checkpoint_and_no_step_moves_it() -> None:
    frame = simplex_etf(4, 64)
    extractor = build_extractor("digits_cnn", image_shape=(1, 8, 8))
    model = nn.ModuleDict({"extractor": extractor, "head": FrameHead(frame)})
    assert list(model["head"].state_dict()) == ["frame"]
    assert not list(model["head"].parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=0.5)
    before = extractor.projector.weight.detach().clone()
    for _ in range(3):
        logits = model["head"](extractor(torch.rand(8, 1, 8, 8))).logits
        nn.functional.cross_entropy(logits, torch.arange(8) % 4).backward()
        optimizer.step()
    assert not torch.equal(extractor.projector.weight, before)
    assert torch.equal(model["head"].frame, frame)
    assert not model["head"].frame.requires_grad


def test_the_frame_is_a_copy() -> None:
    frame = torch.eye(3)
    head = FrameHead(frame)
    frame.zero_()
    assert torch.equal(head.frame, torch.eye(3))


def test_frames_stack_along_leading_dimensions() -> None:
    frames = torch.stack([simplex_etf(3, 5, generator=torch.Generator().manual_seed(s)) for s in range(2)])
    batch = taps(2, 7, 5)
    logits = FrameHead(frames)(batch).logits
    for index in range(2):
        torch.testing.assert_close(logits[index], FrameHead(frames[index])(Taps(*(t[index] for t in batch))).logits)


def test_a_float64_net_gets_float64_logits_from_the_frame() -> None:
    frame, batch = simplex_etf(4, 6), taps(2, 6, dtype=torch.float64)
    assert torch.equal(FrameHead(frame)(batch).logits, batch.after @ frame)  # rounded nowhere on the way


def test_the_classifier_depends_on_its_seed_alone() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = LinearHead(16, 4, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(LinearHead(16, 4, seed=2).axes, first.axes)
    assert not torch.equal(LinearHead(16, 4, seed=3).axes, first.axes)
    assert float(first.axes.detach().abs().max()) <= 0.25  # 1 / sqrt(16)
    assert {name for name, _ in first.named_parameters()} == {"linear.weight", "linear.bias"}


@pytest.mark.parametrize("head", [LinearHead(6, 4), CosineHead(6, 4, 30.0), FrameHead(simplex_etf(4, 6))])
def test_another_width_names_the_remedy(head: Head) -> None:
    with pytest.raises(ConfigError, match="features of 5 dimensions meet a head of 6: set projector_dim=6"):
        head(taps(2, 5))


@pytest.mark.parametrize("frame", [torch.ones(3), torch.ones(3, 3, dtype=torch.int64)])
def test_a_frame_is_a_real_matrix(frame: Tensor) -> None:
    with pytest.raises(ConfigError, match="give real numbers"):
        FrameHead(frame)
