"""Simplex frames: the identities of equations 3 and 4, for every pair of sizes that fits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divfeat.errors import ConfigError
from divfeat.frames import pairwise_angles, random_orthonormal, simplex_angle, simplex_etf

EXACT = {"rtol": 0, "atol": 1e-12}


@settings(max_examples=40, deadline=None)
@given(num_classes=st.integers(2, 60), spare=st.integers(0, 40), seed=st.integers(0, 2**62))
def test_columns_form_a_simplex_whatever_the_sizes(num_classes: int, spare: int, seed: int) -> None:
    dim = num_classes - 1 + spare
    frame = simplex_etf(num_classes, dim, generator=torch.Generator().manual_seed(seed))
    assert frame.shape == (dim, num_classes)
    expected = torch.full((num_classes, num_classes), -1 / (num_classes - 1), dtype=torch.float64).fill_diagonal_(1)
    torch.testing.assert_close(frame.T @ frame, expected, **EXACT)
    torch.testing.assert_close(frame.sum(1), torch.zeros(dim, dtype=torch.float64), **EXACT)
    assert torch.linalg.matrix_rank(frame) == num_classes - 1


@pytest.mark.parametrize("num_classes", [10, 100, 1000])
def test_the_papers_sizes_are_exact(num_classes: int) -> None:
    frame = simplex_etf(num_classes, num_classes)
    gram = frame.T @ frame
    assert (gram.diagonal() - 1).abs().max() < 1e-12
    off = gram[~torch.eye(num_classes, dtype=torch.bool)]
    assert (off + 1 / (num_classes - 1)).abs().max() < 1e-12


def test_the_columns_are_the_papers_projected_rotation() -> None:
    """Equation 3's sqrt(K/(K-1)) (I - 11^T/K) has the same Gram matrix, so the two differ by a rotation."""
    num_classes = 7
    centring = torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes
    published = math.sqrt(num_classes / (num_classes - 1)) * centring
    ours = simplex_etf(num_classes, 12)
    torch.testing.assert_close(ours.T @ ours, published.T @ published, **EXACT)


@pytest.mark.parametrize("num_classes", [3, 10, 100])
def test_one_dimension_too_few_is_refused_with_the_remedy(num_classes: int) -> None:
    simplex_etf(num_classes, num_classes - 1)
    with pytest.raises(ValueError, match=rf"dim={num_classes - 2}.*at least {num_classes - 1}.*projector_dim"):
        simplex_etf(num_classes, num_classes - 2)


@pytest.mark.parametrize("num_classes", [1, 0, -3])
def test_fewer_than_two_classes_are_refused(num_classes: int) -> None:
    with pytest.raises(ConfigError, match=f"num_classes={num_classes}"):
        simplex_etf(num_classes, 8)


def test_without_a_generator_every_call_gives_the_same_frame() -> None:
    torch.manual_seed(1)
    first = simplex_etf(5, 8)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(first, simplex_etf(5, 8))
    assert torch.equal(state, torch.get_rng_state())  # and the global stream is left alone


def test_the_generator_decides_the_rotation() -> None:
    def frame(seed: int) -> torch.Tensor:
        return simplex_etf(5, 8, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(frame(3), frame(3))
    assert (frame(3) - frame(4)).abs().max() > 0.1
    shared = torch.Generator().manual_seed(3)
    assert torch.equal(simplex_etf(5, 8, generator=shared), frame(3))
    assert not torch.equal(simplex_etf(5, 8, generator=shared), frame(3))  # it moves on


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_dtype_is_a_cast_of_the_float64_frame(dtype: torch.dtype) -> None:
    frame = simplex_etf(6, 9, dtype=dtype)
    assert frame.dtype == dtype
    assert torch.equal(frame, simplex_etf(6, 9).to(dtype))


def test_rotations_favour_no_direction() -> None:
    """Over seeds each coordinate of an axis has mean 0 and variance 1/dim, as on the uniform sphere."""
    dim, draws = 8, 600
    axes = torch.stack([simplex_etf(3, dim, generator=torch.Generator().manual_seed(i))[:, 0] for i in range(draws)])
    standard_error = 1 / math.sqrt(draws * dim)
    assert axes.mean(0).abs().max() < 4.5 * standard_error
    assert (axes.square().mean(0) * dim - 1).abs().max() < 4.5 * math.sqrt(2 / draws)


@given(rows=st.integers(1, 20), missing=st.integers(0, 19))
@settings(max_examples=25, deadline=None)
def test_orthonormal_columns(rows: int, missing: int) -> None:
    columns = max(1, rows - missing)
    q = random_orthonormal(rows, columns, generator=torch.Generator().manual_seed(rows))
    torch.testing.assert_close(q.T @ q, torch.eye(columns, dtype=torch.float64), **EXACT)


@pytest.mark.parametrize(("num_classes", "degrees"), [(2, 180.0), (10, 96.38), (100, 90.58), (1000, 90.06)])
def test_simplex_angle_in_degrees(num_classes: int, degrees: float) -> None:
    assert math.degrees(simplex_angle(num_classes)) == pytest.approx(degrees, abs=0.005)


def test_pairwise_angles_against_a_loop() -> None:
    frame = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    angles = pairwise_angles(frame)
    assert angles.shape == (2, 4, 4)
    for batch in range(2):
        for i in range(4):
            for j in range(4):
                a, b = frame[batch, :, i].tolist(), frame[batch, :, j].tolist()
                dot = sum(x * y for x, y in zip(a, b, strict=True))
                cosine = dot / math.hypot(*a) / math.hypot(*b)
                expected = 0.0 if i == j else math.acos(cosine)
                assert angles[batch, i, j].item() == pytest.approx(expected, abs=1e-12)


def test_pairwise_angles_of_a_simplex_and_of_parallel_axes() -> None:
    angles = pairwise_angles(simplex_etf(10, 16, dtype=torch.float32))
    off = angles[~torch.eye(10, dtype=torch.bool)]
    torch.testing.assert_close(off, torch.full_like(off, simplex_angle(10)), rtol=0, atol=1e-6)
    assert angles.diagonal().abs().max() == 0
    parallel = pairwise_angles(torch.tensor([[0.1, 0.3], [0.2, 0.6], [0.3, 0.9]]))  # rounding must not give NaN
    assert torch.isfinite(parallel).all() and parallel.max() < 1e-3
