"""HingeCE: cross-entropy over hinged logits of a fixed frame (Do We Need Neural Collapse?, section 3, equations 7, 8).

With u the feature, w_k the axes, s = stop_gradient(||u||):

    v_y = min(<w_y, u>, s ||w_y|| cos tau+)        the own class stops pulling inside its cone
    v_k = max(<w_k, u>, s ||w_k|| cos tau-)        k != y, other classes stop pushing beyond tau-

The printed equation lost its "k != y"; tau- = pi is a no-op and the setting of every experiment in the paper. Three
ways to let go of a sample inside its cone are offered (`RELEASES`): see `releases`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from divfeat.errors import ConfigError
from divfeat.frames import pairwise_angles
from divfeat.losses.functional import at_least_float32, axis_lengths, own_class, reduce
from divfeat.losses.objective import CrossEntropy, Objective
from divfeat.thresholds import check_angle

#: `paper`: tau- = pi, negatives still pull. `theorem`: tau- = angle(w_y, w_k) - tau+_y, zero gradient inside the cone
#: (Theorem 1). `gate`: a sample inside its cone leaves the loss altogether.
RELEASES = ("paper", "theorem", "gate")


def hinge_logits(
    features: Tensor, labels: Tensor, frame: Tensor, tau_plus: float | Tensor, tau_minus: float | Tensor = math.pi
) -> Tensor:
    """Hinged logits, equation (8). The hinge's norm carries no gradient.

    Args:
        features: [..., N, D].
        labels: int64 [..., N], broadcastable to the features' leading dimensions.
        frame: [..., D, K], columns are class axes (any length; simplex ETF columns have length 1).
        tau_plus: Radians: a float, or a tensor [..., K] read at the sample's own class.
        tau_minus: Radians: a float, a tensor [K] read at the other class, or a tensor [..., K, K] whose row is the
            sample's own class and whose column is the other class.

    Returns:
        [..., N, K] in the features' dtype, float32 for half precision; autocast is off inside.

    Raises:
        ConfigError: an angle outside [0, pi], tau_minus = 0, or shapes that do not fit the frame.
    """
    return Hinge(frame, tau_plus, tau_minus)(features, labels, _scores(features, frame))


def inside_cone(features: Tensor, labels: Tensor, frame: Tensor, tau_plus: float | Tensor) -> Tensor:
    """Whether each feature lies strictly within tau+ of its class axis (the cone of HingeCE, section 3).

    Args:
        features: [..., N, D].
        labels: int64 [..., N].
        frame: [..., D, K].
        tau_plus: Radians: a float, or a tensor [..., K] read at the sample's own class.

    Returns:
        bool [..., N]; False where tau+ = 0, on the axis too.

    Raises:
        ConfigError: an angle outside [0, pi], or a shape that does not fit the frame.
    """
    return ConeGate(frame, tau_plus)(features, labels, _scores(features, frame))


class Hinge(nn.Module):
    """The hinge of equation (8) as a transform of the logits <w_k, u>.

    It clamps the logits that it is given: what shifts logits (a prior, a margin) comes after it. Thresholds and the axes'
    lengths are buffers, never trained.

    Args:
        frame: [..., D, K].
        tau_plus: Radians, as `hinge_logits` takes them.
        tau_minus: Radians, likewise.

    Raises:
        ConfigError: angle outside [0, pi], tau_minus = 0, shapes that do not fit the frame.
    """

    is_cone = True
    lengths: Tensor
    tau_plus: Tensor
    tau_minus: Tensor

    def __init__(self, frame: Tensor, tau_plus: float | Tensor, tau_minus: float | Tensor = math.pi) -> None:
        super().__init__()
        self.register_buffer("lengths", axis_lengths(frame))
        self.register_buffer("tau_plus", _thresholds("tau_plus", tau_plus, frame))
        self.register_buffer("tau_minus", _thresholds("tau_minus", tau_minus, frame))

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """Hinged logits [..., N, K], float32 or wider.

        Args:
            features: [..., N, D].
            labels: int64 [..., N].
            logits: [..., N, K], the plain <w_k, u>.
        """
        with torch.autocast(features.device.type, enabled=False):
            logits = at_least_float32(logits)
            scale = at_least_float32(features.detach()).norm(dim=-1, keepdim=True) * self.lengths.to(features.device)
            scale = scale.to(logits.dtype)
            own = nn.functional.one_hot(labels, logits.shape[-1]).bool()
            plus, minus = _row(self.tau_plus, logits), _pairs(self.tau_minus, labels, logits)
            off = minus >= _pi_in(self.tau_minus.dtype, logits.dtype)
            # By mask, not torch.minimum: that splits the gradient at ties, and rounding would clamp collapsed samples
            # where tau+ = 0 or tau- = pi, which must change nothing.
            upper = scale * torch.cos(plus)
            lower = scale * torch.cos(minus)
            clamp_own = own & (plus > 0) & (logits > upper)
            clamp_other = ~own & ~off & (logits < lower)
            return torch.where(clamp_own, upper, torch.where(clamp_other, lower, logits))


class ConeGate(nn.Module):
    """Samples inside the cone of their class leave the loss (release 'gate').

    Args:
        frame: [..., D, K].
        tau_plus: Radians: a float, or a tensor [..., K].

    Raises:
        ConfigError: angle outside [0, pi], or a shape that does not fit the frame.
    """

    is_cone = True
    lengths: Tensor
    tau_plus: Tensor

    def __init__(self, frame: Tensor, tau_plus: float | Tensor) -> None:
        super().__init__()
        self.register_buffer("lengths", axis_lengths(frame))
        self.register_buffer("tau_plus", _thresholds("tau_plus", tau_plus, frame))

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """bool [..., N], True where the sample leaves.

        Args:
            features: [..., N, D].
            labels: int64 [..., N].
            logits: [..., N, K], the plain <w_k, u>.
        """
        with torch.autocast(features.device.type, enabled=False):
            logits = at_least_float32(logits.detach())
            norms = at_least_float32(features.detach()).norm(dim=-1)
            tau = own_class(_row(self.tau_plus, logits).expand_as(logits), labels)
            length = own_class(self.lengths.to(logits).expand_as(logits), labels)
            return (tau > 0) & (own_class(logits, labels) > norms * length * torch.cos(tau))


def theorem_tau_minus(frame: Tensor, tau_plus: Tensor) -> Tensor:
    """The tau- of Theorem 1 for any frame and per-class cones: angle(w_y, w_k) - tau+_y, row y, column k.

    By the spherical triangle inequality a feature within tau+_y of w_y is at least that far from every w_k, so all its
    logits are clamped and its gradient is zero. For a simplex ETF this is theta_K - tau+.

    A class with tau+ = 0 has no cone to be inside of, and its samples keep tau- = pi: plain cross-entropy. Where tau+ is
    above half the angle between axes, tau- is below tau+, so that every negative logit is above the own one and the loss
    cannot fall below log K (65 degrees for K >= 3; the paper's experiments do not meet this, their tau- is pi).

    Args:
        frame: [D, K].
        tau_plus: [K], radians.

    Returns:
        float64 Tensor [K, K]; the unused diagonal is pi.

    Raises:
        ConfigError: some cone reaches another axis (tau+_y >= angle(w_y, w_k)), where no tau- > 0 exists.
    """
    angles = pairwise_angles(frame)
    diagonal = torch.eye(frame.shape[-1], dtype=torch.bool, device=frame.device)
    tau_plus = tau_plus.to(angles)
    tau_minus = (angles - tau_plus.unsqueeze(-1)).masked_fill(diagonal | (tau_plus == 0).unsqueeze(-1), math.pi)
    if (tau_minus <= 0).any():
        widest = math.degrees(float(tau_plus.max()))
        closest = math.degrees(float(angles.masked_fill(diagonal, math.pi).min()))
        raise ConfigError(
            f"release 'theorem' needs cones narrower than the angle between axes: tau+ = {widest:.1f} deg, "
            f"closest axes {closest:.1f} deg; use a smaller tau+, or the release 'paper' or 'gate'"
        )
    return tau_minus


class HingeCE(nn.Module):
    """Cross-entropy over hinged logits with a frozen frame (HingeCE, equation 7), for use without a head.

    Frame and thresholds are buffers: in the state dict, never trained.

    Args:
        frame: [D, K].
        tau_plus: Radians, float or [K].
        tau_minus: Radians, float, [K] or [K, K] (row = the sample's class).
        label_smoothing: alpha of t <- t (1 - alpha) + alpha / K.
        gate: Drop a sample from the loss while it is inside its cone (release 'gate'); its loss counts as 0.

    Raises:
        ConfigError: angle outside [0, pi], tau_minus = 0, shapes that do not fit the frame.
    """

    frame: Tensor

    def __init__(
        self,
        frame: Tensor,
        tau_plus: float | Tensor,
        tau_minus: float | Tensor = math.pi,
        label_smoothing: float = 0.0,
        *,
        gate: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("frame", frame.detach().clone())
        hinge = Hinge(frame, tau_plus, tau_minus)
        self.objective = Objective([hinge], ConeGate(frame, tau_plus) if gate else None, CrossEntropy(label_smoothing))

    def logits(self, features: Tensor) -> Tensor:
        """Raw logits <w_k, u> [..., N, K] for evaluation: independent of the thresholds."""
        return _scores(features, self.frame)

    def forward(self, features: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        """The loss.

        Args:
            features: [..., N, D].
            labels: int64 [..., N].
            reduction: `mean` or `sum` over N, or `none`.

        Returns:
            [...], or [..., N] for `none`; float32 or wider.

        Raises:
            ConfigError: unknown reduction.
        """
        return reduce(self.objective(features, self.logits(features), labels), reduction)


def _scores(features: Tensor, frame: Tensor) -> Tensor:
    with torch.autocast(features.device.type, enabled=False):
        features = at_least_float32(features)
        return features @ frame.to(features)


def _thresholds(name: str, tau: float | Tensor, frame: Tensor) -> Tensor:
    """A checked copy in float64."""
    value = torch.as_tensor(tau, dtype=torch.float64).detach().clone()
    sides = value.shape[-1:] if name == "tau_plus" else value.shape[-2:]
    check_angle(name, value, allow_zero=name == "tau_plus")
    if any(size not in (1, frame.shape[-1]) for size in sides):
        raise ConfigError(
            f"{name} has shape {tuple(value.shape)}, which does not fit a frame of {frame.shape[-1]} classes"
        )
    return value


def _row(tau: Tensor, like: Tensor) -> Tensor:
    """Thresholds as [..., 1, K] (or [1, 1])."""
    value = tau.to(like)
    return value.unsqueeze(-2) if value.ndim else value.reshape(1, 1)


def _pairs(tau: Tensor, labels: Tensor, like: Tensor) -> Tensor:
    """tau- as [..., N, K] or broadcastable to it."""
    value = tau.to(like)
    if value.ndim < 2:
        return value.reshape(1, -1)
    if value.shape[-2] == 1:
        return value
    if value.ndim == 2:
        return value[labels]
    index = labels.unsqueeze(-1)
    return torch.take_along_dim(value, index.reshape((1,) * (value.ndim - index.ndim) + index.shape), dim=-2)


def _pi_in(*dtypes: torch.dtype) -> float:
    """pi as it comes out of these dtypes one after the other, so that a threshold given as math.pi compares equal."""
    value = torch.tensor(math.pi, dtype=torch.float64)
    for dtype in dtypes:
        value = value.to(dtype)
    return float(value)
