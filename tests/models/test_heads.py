"""Heads: logits by a naive loop, axes, a frame that nothing trains."""

import pytest
import torch
from torch import Tensor, nn

from divfeat.errors import ConfigError
from divfeat.frames import simplex_etf
from divfeat.models import FrameHead, Head, LinearHead, Taps, build_extractor


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


@pytest.mark.parametrize("head", [LinearHead(6, 4), FrameHead(simplex_etf(4, 6))])
def test_another_width_names_the_remedy(head: Head) -> None:
    with pytest.raises(ConfigError, match="features of 5 dimensions meet a head of 6: set projector_dim=6"):
        head(taps(2, 5))


@pytest.mark.parametrize("frame", [torch.ones(3), torch.ones(3, 3, dtype=torch.int64)])
def test_a_frame_is_a_real_matrix(frame: Tensor) -> None:
    with pytest.raises(ConfigError, match="give real numbers"):
        FrameHead(frame)
