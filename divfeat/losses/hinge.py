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
from divfeat.losses.functional import at_least_float32, cross_entropy, reduce
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
        ConfigError: an angle outside [0, pi], or tau_minus = 0.
    """
    check_angle("tau_plus", tau_plus)
    check_angle("tau_minus", tau_minus, allow_zero=False)
    return _hinge(features, labels, frame, tau_plus, tau_minus)


def inside_cone(features: Tensor, labels: Tensor, frame: Tensor, tau_plus: float | Tensor) -> Tensor:
    """Whether each feature lies strictly within tau+ of its class axis: bool [..., N]; always False where tau+ = 0."""
    with torch.autocast(features.device.type, enabled=False):
        features = at_least_float32(features.detach())
        frame = frame.to(features)
        cosine_times_norm = _own(features @ frame, labels)
        tau = _own(_row(tau_plus, features).expand(*features.shape[:-1], frame.shape[-1]), labels)
        length = _own(frame.norm(dim=-2, keepdim=True).expand(*features.shape[:-1], frame.shape[-1]), labels)
        return (tau > 0) & (cosine_times_norm > features.norm(dim=-1) * length * torch.cos(tau))


def theorem_tau_minus(frame: Tensor, tau_plus: Tensor) -> Tensor:
    """The tau- of Theorem 1 for any frame and per-class cones: angle(w_y, w_k) - tau+_y, row y, column k.

    By the spherical triangle inequality a feature within tau+_y of w_y is at least that far from every w_k, so all its
    logits are clamped and its gradient is zero. For a simplex ETF this is theta_K - tau+.

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
    tau_minus = (angles - tau_plus.to(angles).unsqueeze(-1)).masked_fill(diagonal, math.pi)
    if (tau_minus <= 0).any():
        widest = math.degrees(float(tau_plus.max()))
        closest = math.degrees(float(angles.masked_fill(diagonal, math.pi).min()))
        raise ConfigError(
            f"release 'theorem' needs cones narrower than the angle between axes: tau+ = {widest:.1f} deg, "
            f"closest axes {closest:.1f} deg; use a smaller tau+, or the release 'paper' or 'gate'"
        )
    return tau_minus


class HingeCE(nn.Module):
    """Cross-entropy over hinged logits with a frozen frame (HingeCE, equation 7).

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
    tau_plus: Tensor
    tau_minus: Tensor

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
        classes = frame.shape[-1]
        plus = torch.as_tensor(tau_plus, dtype=torch.float64)
        minus = torch.as_tensor(tau_minus, dtype=torch.float64)
        check_angle("tau_plus", plus)
        check_angle("tau_minus", minus, allow_zero=False)
        for name, value, extra in (("tau_plus", plus, 0), ("tau_minus", minus, 1)):
            if any(size not in (1, classes) for size in value.shape[value.ndim - 1 - extra :]):
                raise ConfigError(
                    f"{name} has shape {tuple(value.shape)}, which does not fit a frame of {classes} classes"
                )
        if not 0.0 <= label_smoothing < 1.0:
            raise ConfigError(f"label_smoothing={label_smoothing} must lie in [0, 1)")
        self.register_buffer("frame", frame.detach().clone())
        self.register_buffer("tau_plus", plus.clone())
        self.register_buffer("tau_minus", minus.clone())
        self.label_smoothing = label_smoothing
        self.gate = gate

    def logits(self, features: Tensor) -> Tensor:
        """Raw logits <w_k, u> [..., N, K] for evaluation: independent of the thresholds."""
        with torch.autocast(features.device.type, enabled=False):
            features = at_least_float32(features)
            return features @ self.frame.to(features)

    def forward(self, features: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        """The loss: [..., N] for reduction 'none', else its mean or sum over N ([...])."""
        logits = _hinge(features, labels, self.frame, self.tau_plus, self.tau_minus)
        loss = cross_entropy(logits, labels, self.label_smoothing)
        if self.gate:
            loss = loss.masked_fill(inside_cone(features, labels, self.frame, self.tau_plus), 0.0)
        return reduce(loss, reduction)


def _hinge(
    features: Tensor, labels: Tensor, frame: Tensor, tau_plus: float | Tensor, tau_minus: float | Tensor
) -> Tensor:
    """`hinge_logits` without the validation, which would wait for the device in every step."""
    with torch.autocast(features.device.type, enabled=False):
        features = at_least_float32(features)
        frame = frame.to(features)
        logits = features @ frame
        scale = features.detach().norm(dim=-1, keepdim=True) * frame.norm(dim=-2, keepdim=True)
        own = nn.functional.one_hot(labels, frame.shape[-1]).bool()
        plus = _row(tau_plus, features)
        minus = _pairs(tau_minus, labels, features)
        # By mask, not torch.minimum: that splits the gradient at ties, and rounding would clamp collapsed samples
        # where tau+ = 0 or tau- = pi, which must change nothing.
        upper = scale * torch.cos(plus)
        lower = scale * torch.cos(minus)
        clamp_own = own & (plus > 0) & (logits > upper)
        clamp_other = ~own & (minus < _pi_in(features.dtype)) & (logits < lower)
        return torch.where(clamp_own, upper, torch.where(clamp_other, lower, logits))


def _row(tau: float | Tensor, features: Tensor) -> Tensor:
    """Thresholds as [..., 1, K] (or [1, 1])."""
    value = torch.as_tensor(tau, dtype=features.dtype, device=features.device)
    return value.unsqueeze(-2) if value.ndim else value.reshape(1, 1)


def _pairs(tau: float | Tensor, labels: Tensor, features: Tensor) -> Tensor:
    """tau- as [..., N, K] or broadcastable to it."""
    value = torch.as_tensor(tau, dtype=features.dtype, device=features.device)
    if value.ndim < 2:
        return value.reshape(1, -1)
    if value.shape[-2] == 1:
        return value
    if value.ndim == 2:
        return value[labels]
    index = labels.unsqueeze(-1)
    return torch.take_along_dim(value, index.reshape((1,) * (value.ndim - index.ndim) + index.shape), dim=-2)


def _own(values: Tensor, labels: Tensor) -> Tensor:
    """values [..., N, K] at each sample's own class: [..., N]."""
    index = labels.expand(values.shape[:-1]).unsqueeze(-1)
    return values.gather(-1, index).squeeze(-1)


def _pi_in(dtype: torch.dtype) -> float:
    """pi as `dtype` holds it, so that a threshold given as math.pi compares equal to it."""
    return float(torch.tensor(math.pi, dtype=dtype))
