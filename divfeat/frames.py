"""Fixed classifier frames: unit columns that serve as class axes. Pure functions, float64 inside."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from divfeat.errors import ConfigError

#: Seed of the rotation when no generator is given, so that every caller on every machine gets the same frame.
DEFAULT_SEED = 20_230_213


def simplex_etf(
    num_classes: int, dim: int, *, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float64
) -> Tensor:
    """A randomly rotated simplex equiangular tight frame.

    ``W = sqrt(K / (K - 1)) U V^T`` with ``V`` [K, K-1] an orthonormal basis of the complement of the all-ones vector and
    ``U`` [dim, K-1] Haar-distributed orthonormal columns. This is the paper's ``U E`` (HingeCE, equation 3) without its
    redundant direction, hence ``dim >= K - 1`` suffices where the paper takes ``dim >= K``.

    Args:
        num_classes: K, at least 2.
        dim: Feature dimension, at least ``num_classes - 1``.
        generator: Source of the rotation, on CPU; None draws from a fixed seed.
        dtype: Of the result; the computation is float64.

    Returns:
        Tensor [dim, num_classes]: unit columns, cosine -1/(K-1) between any two, zero sum.

    Raises:
        ConfigError: (a ValueError) fewer than two classes, or more classes than ``dim + 1``.
    """
    if num_classes < 2:
        raise ConfigError(f"simplex_etf needs at least 2 classes, got num_classes={num_classes}")
    if dim < num_classes - 1:
        raise ConfigError(
            f"{num_classes} classes do not fit a simplex ETF in dim={dim}: it has rank {num_classes - 1}. "
            f"Use a feature dimension of at least {num_classes - 1} (model.projector_dim)"
        )
    basis = _helmert(num_classes)
    rotation = random_orthonormal(dim, num_classes - 1, generator=generator)
    return (math.sqrt(num_classes / (num_classes - 1)) * rotation @ basis.T).to(dtype)


def simplex_angle(num_classes: int) -> float:
    """theta_K = arccos(-1 / (K - 1)), the angle between two axes of a simplex ETF, in radians (HingeCE, equation 4)."""
    return math.acos(-1.0 / (num_classes - 1))


def random_orthonormal(rows: int, columns: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Haar-distributed orthonormal columns [rows, columns] in float64: QR of a Gaussian matrix, signs fixed by R."""
    if generator is None:
        generator = torch.Generator().manual_seed(DEFAULT_SEED)
    gaussian = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    return q * torch.sign(torch.diagonal(r))


def pairwise_angles(frame: Tensor) -> Tensor:
    """Angles between the columns of ``frame`` [..., D, K] in radians: [..., K, K], zero on the diagonal."""
    columns = frame.double()
    columns = columns / columns.norm(dim=-2, keepdim=True)
    angles = torch.arccos((columns.mT @ columns).clamp(-1.0, 1.0))
    return angles.masked_fill(torch.eye(frame.shape[-1], dtype=torch.bool, device=frame.device), 0.0)


def _helmert(size: int) -> Tensor:
    """Orthonormal basis [size, size - 1] of the vectors that sum to zero."""
    k = torch.arange(1, size, dtype=torch.float64)
    basis = torch.ones(size, size - 1, dtype=torch.float64).triu()
    basis[torch.arange(1, size), torch.arange(size - 1)] = -k
    return basis / torch.sqrt(k * (k + 1))
