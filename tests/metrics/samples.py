"""Features, frames and hypothesis strategies shared by the tests of the metrics."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from hypothesis import strategies as st
from torch import Tensor

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def simplex(num_classes: int, dim: int, seed: int = 0) -> Tensor:
    """A randomly rotated simplex [dim, num_classes] of unit columns, from the eigenvectors of its Gram matrix."""
    k = num_classes
    gram = (torch.eye(k, dtype=torch.float64) * k - 1) / (k - 1)
    values, vectors = torch.linalg.eigh(gram)
    flat = (vectors * values.clamp_min(0).sqrt())[:, 1:].T  # the first eigenvalue is the zero one
    return rotation(dim, seed)[:, : k - 1] @ flat


def rotation(dim: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(normal((dim, dim), seed)).Q


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def clustered(counts: list[int], dim: int, seed: int = 0, noise: float = 0.5) -> tuple[Tensor, Tensor]:
    """Shuffled features about Gaussian class means; class k has counts[k] samples and its own covariance."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    means = normal((len(counts), dim), seed) + 1.5
    shapes = normal((len(counts), dim, dim), seed + 1) / math.sqrt(dim)
    features = means[labels] + noise * torch.einsum("nij,nj->ni", shapes[labels], normal((len(labels), dim), seed + 2))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed + 3))
    return features[order], labels[order]


@st.composite
def cluster_sets(draw: st.DrawFn, smallest: int = 2) -> tuple[Tensor, Tensor, int]:
    """(features, labels, K) with 3 to 6 classes of `smallest` to 9 samples in 2 to 8 dimensions."""
    counts = draw(st.lists(st.integers(smallest, 9), min_size=3, max_size=6))
    dim = draw(st.integers(2, 8))
    return (*clustered(counts, dim, draw(st.integers(0, 10_000))), len(counts))


def cuts(labels: Tensor, pieces: int) -> list[int]:
    """Sizes of uneven batches that cover the samples, an empty one among them."""
    n = len(labels)
    inner = sorted((i * i * n) // (pieces * pieces) for i in range(1, pieces))
    edges = [0, *inner, n]
    return [0, *(b - a for a, b in pairwise(edges))]


def split(features: Tensor, labels: Tensor, pieces: int) -> list[tuple[Tensor, Tensor]]:
    sizes = cuts(labels, pieces)
    return list(zip(features.split(sizes, dim=-2), labels.split(sizes), strict=True))


def close(actual: Tensor | float, expected: Tensor | float, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(
        torch.as_tensor(actual, dtype=torch.float64),
        torch.as_tensor(expected, dtype=torch.float64),
        rtol=tolerance,
        atol=tolerance,
        equal_nan=True,
    )
