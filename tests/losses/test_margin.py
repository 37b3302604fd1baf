"""LDAM's margins against the paper's loss written out."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from divfeat.errors import ConfigError
from divfeat.frames import simplex_etf
from divfeat.losses import Hinge, LogitAdjustment, Margin, Objective, cross_entropy

COUNTS = torch.tensor([5000, 600, 40, 3])


def cosines(n: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    drawn = torch.rand(n, classes, generator=source, dtype=torch.float64) * 2 - 1
    return drawn, torch.randint(classes, (n,), generator=source)


def naive(cosine: Tensor, labels: Tensor, counts: list[int], largest: float, scale: float) -> list[float]:
    """-log softmax of scale (cos - m_y at y), m_k = C n_k^(-1/4) with max m = largest, in Python floats."""
    raw = [n**-0.25 for n in counts]
    margins = [largest / max(raw) * value for value in raw]
    losses = []
    for row, y in zip(cosine.tolist(), labels.tolist(), strict=True):
        v = [scale * (value - margins[y] * (k == y)) for k, value in enumerate(row)]
        top = max(v)
        losses.append(top + math.log(math.fsum(math.exp(value - top) for value in v)) - v[y])
    return losses


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(1, 10**6), min_size=2, max_size=7),
    largest=st.floats(0, 2),
    scale=st.floats(0.5, 60),
    seed=st.integers(0, 2**31),
)
def test_the_loss_against_a_loop(counts: list[int], largest: float, scale: float, seed: int) -> None:
    cosine, labels = cosines(6, len(counts), seed)
    logits = scale * cosine
    found = Objective([Margin(torch.tensor(counts), largest, scale)])(cosine, logits, labels)
    assert found.tolist() == pytest.approx(naive(cosine, labels, counts, largest, scale), rel=1e-9, abs=1e-9)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=9))
def test_the_rarest_class_has_the_largest_margin_and_sixteen_times_rarer_is_twice_as_much(counts: list[int]) -> None:
    margins = Margin(torch.tensor([*counts, 16 * max(counts), max(counts)]), 0.5, 1.0).margins
    assert float(margins.max()) == pytest.approx(0.5) == float(margins[counts.index(min(counts))])
    assert float(margins[-1]) == pytest.approx(2 * float(margins[-2]))


def test_without_a_margin_it_is_cross_entropy_of_the_cosines() -> None:
    cosine, labels = cosines(20, 4)
    found = Objective([Margin(COUNTS, 0.0, 30.0)])(cosine, 30 * cosine, labels)
    assert torch.equal(found, cross_entropy(30 * cosine, labels))


def test_only_the_own_logit_moves() -> None:
    cosine, labels = cosines(20, 4)
    part = Margin(COUNTS)
    moved = part(cosine, labels, 30 * cosine) - 30 * cosine
    own = torch.nn.functional.one_hot(labels, 4).bool()
    assert (moved[~own] == 0).all()
    torch.testing.assert_close(moved[own], -part.margins[labels], rtol=0, atol=1e-13)


def test_gradcheck() -> None:
    cosine, labels = cosines(6, 4)
    objective = Objective([Margin(COUNTS, 0.5, 5.0), LogitAdjustment(COUNTS)])
    assert torch.autograd.gradcheck(lambda v: objective(v, 5 * v, labels), cosine.requires_grad_())


def test_it_comes_after_the_hinge() -> None:
    """On features of length 30 and a frame: min(30 cos, 30 cos tau) - 30 m_y."""
    frame, labels = simplex_etf(4, 6), torch.arange(60) % 4
    noise = torch.randn(60, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    features = 30 * torch.nn.functional.normalize(noise + 2 * frame.T[labels], dim=1)
    margin = Margin(COUNTS)
    rows = []
    for u, y in zip(features, labels.tolist(), strict=True):
        row = u @ frame
        row[y] = min(float(row[y]), 30 * math.cos(0.7)) - 15 * (3 / float(COUNTS[y])) ** 0.25
        rows.append(row)
    found = Objective([Hinge(frame, 0.7), margin])(features, features @ frame, labels)
    torch.testing.assert_close(found, cross_entropy(torch.stack(rows), labels), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_and_autocast(dtype: torch.dtype) -> None:
    cosine, labels = cosines(30, 4)
    logits, part = (30 * cosine).to(dtype), Margin(COUNTS)
    found = part(logits, labels, logits)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    own = torch.nn.functional.one_hot(labels, 4) * part.margins
    torch.testing.assert_close(found.double(), logits.double() - own, rtol=1e-6, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(part(logits, labels, logits), found)


def test_leading_dimensions_and_a_buffer() -> None:
    logits, labels = torch.randn(3, 5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    part = Margin(COUNTS)
    stacked = part(logits, labels, logits)
    for s in range(3):
        assert torch.equal(stacked[s], part(logits[s], labels, logits[s]))
    assert list(part.state_dict()) == ["margins"] and not list(part.parameters())


def test_a_class_without_images_is_refused() -> None:
    with pytest.raises(ConfigError, match="a margin by class count needs training images of every class"):
        Margin(torch.tensor([3, 0]))
