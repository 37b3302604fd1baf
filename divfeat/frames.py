"""Fixed classifier frames: unit columns that serve as class axes. Pure functions, float64 inside."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from divfeat.errors import ConfigError
from divfeat.hierarchy import Hierarchy

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


def hierarchy_aware_frame(
    hierarchy: Hierarchy,
    dim: int,
    *,
    gamma: float,
    s_min: float | Literal["exact", "grid"] = "exact",
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """A frame whose cosines fall with the distance of the classes in a tree (HAFrame, ICCV 2023, ``S = W^T W``).

    Eigenvalues of S that rounding left below zero are taken as zero. With the smallest ``s_min`` S has rank K - 1; on a flat
    tree it is then the simplex ETF's, whatever ``gamma``, and as ``gamma`` grows it becomes that on any tree.

    Args:
        hierarchy: Of K classes, in label order.
        dim: Feature dimension, at least the rank of S.
        gamma: How fast similarity falls with distance, above 0.
        s_min: See `hierarchy_similarity`.
        generator: Source of the rotation, on CPU; None draws from a fixed seed.
        dtype: Of the result; the computation is float64.

    Returns:
        Tensor [dim, K]: unit columns with the Gram matrix ``hierarchy_similarity(hierarchy, gamma, s_min)``; in general their sum
        is not zero.

    Raises:
        ConfigError: (a ValueError) gamma or s_min out of range, or dim below the rank.
    """
    similarity = hierarchy_similarity(hierarchy, gamma, s_min)
    values, vectors = torch.linalg.eigh(similarity)
    rounding = max(_AT_THE_BOUND, 4 * len(values) * torch.finfo(values.dtype).eps * float(values.max()))
    values = values.where(values > rounding, 0.0)
    rank = int((values > 0).sum())
    if dim < rank:
        raise ConfigError(
            f"{hierarchy.num_classes} classes of this hierarchy do not fit in dim={dim}: at gamma={gamma:g} their frame has rank "
            f"{rank}. Use a feature dimension of at least {rank} (model.projector_dim)"
        )
    # A tree's S has equal eigenvalues, whose eigenvectors are anybody's choice: the root of S is not, and gives every machine the
    # same frame from the same generator.
    root = vectors * values.sqrt() @ vectors.T
    basis = (
        torch.eye(len(values), dtype=torch.float64) if rank == len(values) else _range_beside(vectors[:, values == 0])
    )
    frame = random_orthonormal(dim, rank, generator=generator) @ (basis.T @ root)
    return (frame / frame.norm(dim=0)).to(dtype)


def _range_beside(null: Tensor) -> Tensor:
    """Orthonormal basis [K, K - n] of the complement of the columns of ``null`` [K, n]: the first columns of the projection onto
    it, made orthonormal. It hangs on what they span alone."""
    size, missing = null.shape
    projector = torch.eye(size, dtype=torch.float64) - null @ null.T
    q, r = torch.linalg.qr(projector[:, : size - missing])
    return q * torch.sign(torch.diagonal(r))


def hierarchy_similarity(
    hierarchy: Hierarchy, gamma: float, s_min: float | Literal["exact", "grid"] = "exact"
) -> Tensor:
    """The cosines that a hierarchy-aware frame has (HAFrame, ICCV 2023).

    ``S_ij = (1 - s_min) exp(-gamma d_ij / d_max) + s_min`` with the distances d of the tree; ``S_ii = 1``.

    Args:
        hierarchy: Of K classes.
        gamma: Above 0.
        s_min: ``exact`` for the smallest value that leaves S positive semidefinite, in closed form; ``grid`` for the published
            search over 100 values from -1/(K-1) to -1; or the value itself, below 1, where one at most 1e-5 below the bound, as
            it is printed with five digits, is the bound.

    Returns:
        Float64 [K, K].

    Raises:
        ConfigError: (a ValueError) gamma is not above 0, or s_min is below the bound or not below 1: says the bound.
    """
    if not (math.isfinite(gamma) and gamma > 0):
        raise ConfigError(f"gamma={gamma} of a hierarchy-aware frame: it must be a number above 0")
    distances = hierarchy.distances().double()
    decay = torch.exp(-gamma * distances / distances.max())
    bound = _exact_s_min(decay)
    if s_min == "exact":
        chosen = bound
    elif s_min == "grid":
        chosen = _grid_s_min(decay)
    elif isinstance(s_min, str):
        raise ConfigError(f"s_min={s_min!r} of a hierarchy-aware frame: known are exact, grid, or a number")
    else:
        chosen = float(s_min)
        if not bound - _SLACK <= chosen < 1:
            raise ConfigError(
                f"s_min={chosen:g} of a hierarchy-aware frame: with gamma={gamma:g} on these {len(decay)} classes it must lie in "
                f"[{math.ceil(bound * 1e6) / 1e6:.6f}, 1), else no vectors have such cosines"
            )
        chosen = max(chosen, bound)
    return ((1 - chosen) * decay + chosen).fill_diagonal_(1.0)


#: Eigenvalues up to here are rounding.
_NO_EIGENVALUE = 1e-12
#: The same at the bound of s_min, which is computed itself; of large matrices, larger ones too. Gram matrices stay true to 1e-9.
_AT_THE_BOUND = 1e-10
#: A bound that was copied with five digits is the bound.
_SLACK = 1e-5
#: The published search: so many values, eigenvalues within this of zero taken as zero.
_GRID, _GRID_ZERO = 100, 1e-6


def _exact_s_min(decay: Tensor) -> float:
    """-1 / (q - 1) with q = 1^T E^-1 1: E is positive definite, being exp(-gamma d) of an ultrametric d, so that adding s 11^T to
    (1 - s) E leaves it semidefinite down to s = -(1 - s) / q."""
    ones = torch.ones(len(decay), dtype=decay.dtype)
    q = float(ones @ torch.linalg.solve(decay, ones))
    return -1.0 / (q - 1.0)


def _grid_s_min(decay: Tensor) -> float:
    """The smallest value of the published grid for which no eigenvalue is negative; its first one always passes."""
    found = -1.0 / (len(decay) - 1)
    for value in torch.linspace(found, -1.0, _GRID, dtype=torch.float64).tolist():
        eigenvalues = torch.linalg.eigvalsh((1 - value) * decay + value)
        if (eigenvalues.where(eigenvalues.abs() >= _GRID_ZERO, 0.0) >= 0).all():
            found = min(found, value)
    return found


def orthonormal_frame(
    num_classes: int, dim: int, *, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Random axes at right angles to each other: the first K columns of a rotation.

    Args:
        num_classes: K, at least 2.
        dim: Feature dimension, at least K.
        generator: Source of the rotation, on CPU; None draws from a fixed seed.
        dtype: Of the result; the computation is float64.

    Returns:
        Tensor [dim, K]: unit columns, cosine 0 between any two.

    Raises:
        ConfigError: (a ValueError) fewer than two classes, or more than ``dim``.
    """
    if num_classes < 2 or dim < num_classes:
        raise ConfigError(
            f"{num_classes} classes do not get axes at right angles in dim={dim}: use at least 2 classes, and a feature "
            f"dimension of at least {num_classes} (model.projector_dim)"
        )
    return random_orthonormal(dim, num_classes, generator=generator).to(dtype)


def class_mean_frame(
    means: Tensor, dim: int, *, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Axes at the angles that class means have from each other, seen from the mean of them all.

    Args:
        means: [K, M] of the classes in any space.
        dim: Feature dimension, at least the rank of the centred means (K - 1 where M is large).
        generator: Source of the rotation, on CPU; None draws from a fixed seed.
        dtype: Of the result; the computation is float64.

    Returns:
        Tensor [dim, K]: unit columns with the cosines of the centred means.

    Raises:
        ConfigError: (a ValueError) a class without images, two classes of one direction, a class whose mean is the mean of
            all, or dim below the rank.
    """
    means = means.detach().double().cpu()
    if not means.isfinite().all():
        absent = int((~means.isfinite().all(1)).nonzero()[0])
        raise ConfigError(f"class {absent} has no training images, so that its mean gives no axis")
    centred = means - means.mean(0)
    lengths = centred.norm(dim=1)
    if float(lengths.min()) <= _NO_DIRECTION * float(means.norm(dim=1).max()):
        raise ConfigError(f"the mean of class {int(lengths.argmin())} is that of all classes, which gives no axis")
    unit = centred / lengths[:, None]
    closest = (unit @ unit.T).fill_diagonal_(-1.0)
    if float(closest.max()) >= 1 - _NO_DIRECTION:
        first, second = divmod(int(closest.argmax()), len(unit))
        raise ConfigError(f"the means of classes {first} and {second} lie in one direction, which gives them one axis")
    _, values, vectors = torch.linalg.svd(unit.T, full_matrices=False)
    kept = values.square() > _NO_EIGENVALUE
    rank = int(kept.sum())
    if dim < rank:
        raise ConfigError(
            f"the means of {len(unit)} classes span {rank} dimensions and do not fit in dim={dim}: use a feature dimension of at "
            f"least {rank} (model.projector_dim)"
        )
    frame = random_orthonormal(dim, rank, generator=generator) * values[kept] @ vectors[kept]
    return (frame / frame.norm(dim=0)).to(dtype)


#: Class means nearer to each other than this share of their length have no direction of their own.
_NO_DIRECTION = 1e-9


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
