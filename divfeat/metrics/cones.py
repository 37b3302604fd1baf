"""Cones about the class axes: cosines, occupancy, the share that the hinge clamps, and feature norms.

Features [..., N, D], frames [..., D, K] and angles [..., K] may carry leading dimensions for configurations measured
together; labels [N] are shared. Angles are radians, except where a name says degrees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from divfeat.errors import ConfigError, DataError
from divfeat.metrics._inputs import check_features, check_range, class_counts, class_sums, exact, exact_device
from divfeat.metrics.statistics import check_frame

FIXED_DEGREES = (15, 30, 45, 60, 75)
"""Angles at which occupancy is reported whatever the thresholds are, so that runs can be compared."""

_SMALLEST_NORM = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class _Geometry:
    """Float64 cosines and norms of one batch, each [..., N]. A zero feature has cosine 0 and lies in no cone."""

    positive: Tensor
    negative: Tensor
    norm: Tensor

    def inside(self, angle: Tensor) -> Tensor:
        """Within the closed cone of an angle [..., N]; 1e-12 lets a feature on its axis lie in a cone of width 0."""
        return (self.positive >= angle.cos() - 1e-12) & (self.norm > 0)

    def clamped(self, angle: Tensor) -> Tensor:
        """The hinge's mask: cos > cos tau strictly, and nothing where tau = 0 (rounding would decide there)."""
        return (self.positive > angle.cos()) & (angle > 0) & (self.norm > 0)


def _geometry(features: Tensor, labels: Tensor, frame: Tensor) -> _Geometry:
    features = exact(features)
    axes = torch.nn.functional.normalize(exact(frame).to(features.device), dim=-2, eps=_SMALLEST_NORM)
    norm = features.norm(dim=-1)
    unit = features / norm.clamp_min(_SMALLEST_NORM)[..., None]
    own = axes.mT[..., labels, :]
    positive = (unit * own).sum(dim=-1).clamp(-1, 1)
    # The other K - 1 cosines sum to <u, sum of all axes> less the own one: no N x K matrix.
    others = (unit @ axes.sum(dim=-1, keepdim=True)).squeeze(-1) - positive
    rest = axes.shape[-1] - 1
    return _Geometry(positive, others / rest if rest else torch.full_like(others, math.nan), norm)


def _angles(tau: float | Tensor, num_classes: int, device: torch.device) -> Tensor:
    """Thresholds as float64 [..., K]."""
    angles = exact(torch.as_tensor(tau, dtype=None if isinstance(tau, Tensor) else torch.float64)).to(device)
    if angles.ndim and angles.shape[-1] != num_classes:
        raise ConfigError(f"tau has shape {tuple(angles.shape)}: pass a number or [K] with K = {num_classes}")
    # A float32 pi is 9e-8 above pi.
    if not bool(((angles >= 0) & (angles <= math.pi + 1e-6)).all()):
        raise ConfigError(
            f"tau spans {float(angles.min()):.4g}..{float(angles.max()):.4g}: pass angles from 0 to pi, in radians"
        )
    return angles.expand(num_classes) if angles.ndim == 0 else angles


def _prepare(features: Tensor, labels: Tensor, frame: Tensor, *, wait: bool = True) -> Tensor:
    """Check the inputs of a one-shot function; the labels on the features' device."""
    check_features(features, labels, stacked=True)
    check_frame(frame, features.shape[-1])
    check_range(labels, frame.shape[-1], wait=wait)
    if labels.numel() == 0:
        raise DataError("there are no samples: pass at least one")
    return labels.to(exact_device(features))


def axis_cosines(features: Tensor, labels: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
    """Each sample's cosine to its class axis, and its mean cosine to the K - 1 other axes.

    Costs O(N D) and never waits for an accelerator, so it fits a training step. Carries no gradient.

    Args:
        features: [..., N, D]. A zero feature has cosine 0.
        labels: int64 [N] in [0, K).
        frame: [..., D, K], columns of any length.

    Returns:
        Two float64 tensors [..., N]; the second is NaN for K = 1.

    Raises:
        DataError: wrong shapes or labels, no samples.
    """
    geometry = _geometry(features, _prepare(features, labels, frame, wait=False), frame)
    return geometry.positive, geometry.negative


def cone_occupancy(features: Tensor, labels: Tensor, frame: Tensor, tau: float | Tensor) -> Tensor:
    """Share of samples within angle tau of their class axis (the HingeCE paper's maximal-separating-cone condition).

    Args:
        features: [..., N, D]. A zero feature lies in no cone.
        labels: int64 [N] in [0, K).
        frame: [..., D, K], columns of any length.
        tau: radians in [0, pi], a float or [..., K]. At 0 only samples on their axis count.

    Returns:
        float64 [...] in [0, 1].

    Raises:
        DataError: wrong shapes or labels, no samples.
        ConfigError: tau of the wrong shape or range.
    """
    labels = _prepare(features, labels, frame)
    angles = _angles(tau, frame.shape[-1], labels.device)
    return _geometry(features, labels, frame).inside(angles[..., labels]).double().mean(dim=-1)


def cone_occupancy_at(
    features: Tensor, labels: Tensor, frame: Tensor, degrees: Sequence[float] = FIXED_DEGREES
) -> dict[float, Tensor]:
    """`cone_occupancy` at several fixed angles in degrees: angle -> float64 [...]. Raises like `cone_occupancy`."""
    labels = _prepare(features, labels, frame)
    geometry = _geometry(features, labels, frame)
    shares = {}
    for angle in degrees:
        angles = _angles(math.radians(angle), frame.shape[-1], labels.device)
        shares[angle] = geometry.inside(angles[labels]).double().mean(dim=-1)
    return shares


def clamped_share(features: Tensor, labels: Tensor, frame: Tensor, tau: float | Tensor) -> Tensor:
    """Share of samples whose positive logit HingeCE clamps: cos > cos tau strictly, none where tau = 0.

    Arguments, result and errors are those of `cone_occupancy`.
    """
    labels = _prepare(features, labels, frame)
    angles = _angles(tau, frame.shape[-1], labels.device)
    return _geometry(features, labels, frame).clamped(angles[..., labels]).double().mean(dim=-1)


def feature_norms(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mean norm of all samples, and each class's mean log norm.

    Args:
        features: [..., N, D].
        labels: int64 [N] in [0, num_classes).
        num_classes: K.

    Returns:
        float64 [...], and float64 [..., K] with NaN for absent classes. Norms below 1.2e-38 count as that in the log.

    Raises:
        DataError: wrong shapes or labels.
    """
    check_features(features, labels, stacked=True)
    check_range(labels, num_classes)
    norm = exact(features).norm(dim=-1)
    labels = labels.to(norm.device)
    logs = class_sums(norm.clamp_min(_SMALLEST_NORM).log(), labels, num_classes)
    return norm.mean(dim=-1), logs / class_counts(labels, num_classes)


@dataclass(frozen=True)
class ConeStatistics:
    """Means over samples, with the leading dimensions of the features, and by class.

    Attributes:
        positive_cosine: mean cosine to the own axis.
        negative_cosine: mean cosine to the other axes; NaN for K = 1.
        occupancy: share within tau of the own axis; None without tau.
        clamped: share clamped by the hinge at tau; None without tau.
        occupancy_at: share within fixed angles, by degrees.
        norm: mean feature norm.
        log_norm: mean over present classes of the classes' mean log norm (natural).
        by_class: each of the above by name ("occupancy_15deg" and so on), [..., K], NaN for absent classes.
        counts: samples of each class, int64 [K].
        absent: classes without a sample.
    """

    positive_cosine: Tensor
    negative_cosine: Tensor
    occupancy: Tensor | None
    clamped: Tensor | None
    occupancy_at: dict[int, Tensor]
    norm: Tensor
    log_norm: Tensor
    by_class: dict[str, Tensor]
    counts: Tensor
    absent: int


class ConeAccumulator:
    """Streams `ConeStatistics`. An update costs O(N D) and never waits for an accelerator, so it fits a training step.

    Args:
        frame: [..., D, K], columns of any length.
        tau: thresholds in radians, a float or [..., K]; None leaves out occupancy and clamped share.

    Raises:
        ConfigError: tau of the wrong shape or range.
        DataError: from `update` for wrong shapes or labels; from `compute` when no sample came.
    """

    def __init__(self, frame: Tensor, tau: float | Tensor | None = None) -> None:
        check_frame(frame, frame.shape[-2] if frame.ndim >= 2 else 0)
        self._frame = exact(frame)
        self._num_classes = frame.shape[-1]
        self._tau = None if tau is None else _angles(tau, self._num_classes, self._frame.device)
        self._sums: dict[str, Tensor] = {}
        self._counts = torch.zeros(self._num_classes, dtype=torch.int64, device=self._frame.device)

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch: features [..., N, D] of any floating dtype, labels int64 [N]."""
        check_features(features, labels, stacked=True)
        check_frame(self._frame, features.shape[-1])
        check_range(labels, self._num_classes, wait=False)
        device = self._frame.device
        labels = labels.to(device)
        geometry = _geometry(features.to(device), labels, self._frame)
        values = {
            "positive_cosine": geometry.positive,
            "negative_cosine": geometry.negative,
            "norm": geometry.norm,
            "log_norm": geometry.norm.clamp_min(_SMALLEST_NORM).log(),
        }
        if self._tau is not None:
            angles = self._tau[..., labels]
            values["occupancy"] = geometry.inside(angles).double()
            values["clamped"] = geometry.clamped(angles).double()
        for degrees in FIXED_DEGREES:
            angles = torch.full_like(geometry.positive, math.radians(degrees))
            values[f"occupancy_{degrees}deg"] = geometry.inside(angles).double()
        self._add({name: class_sums(value, labels, self._num_classes) for name, value in values.items()})
        self._counts += class_counts(labels, self._num_classes)

    def merge(self, other: ConeAccumulator) -> ConeAccumulator:
        """Add all that another accumulator with the same frame and thresholds has seen; returns self."""
        pairs = [(self._frame, other._frame), (self._tau, other._tau)]
        if not all(a is b or (a is not None and b is not None and torch.equal(a, b.to(a.device))) for a, b in pairs):
            raise DataError("cannot merge cone statistics of different frames or thresholds")
        self._add({name: value.to(self._frame.device) for name, value in other._sums.items()})
        self._counts += other._counts.to(self._counts.device)
        return self

    def _add(self, sums: dict[str, Tensor]) -> None:
        for name, value in sums.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def compute(self) -> ConeStatistics:
        """The statistics of all batches so far."""
        samples = self._counts.sum()
        if samples == 0:
            raise DataError("no sample was added: call update before compute")
        by_class = {name: value / self._counts for name, value in self._sums.items()}
        mean = {name: value.sum(dim=-1) / samples for name, value in self._sums.items()}
        return ConeStatistics(
            positive_cosine=mean["positive_cosine"],
            negative_cosine=mean["negative_cosine"],
            occupancy=mean.get("occupancy"),
            clamped=mean.get("clamped"),
            occupancy_at={degrees: mean[f"occupancy_{degrees}deg"] for degrees in FIXED_DEGREES},
            norm=mean["norm"],
            log_norm=by_class["log_norm"][..., self._counts > 0].mean(dim=-1),
            by_class=by_class,
            counts=self._counts.clone(),
            absent=int((self._counts == 0).sum()),
        )
