"""The probe's objective in coordinates where it is well conditioned; the objective itself is untouched.

    F(W, b) = sum_i [logsumexp(z_i) - z_i[y_i]] + (strength / 2) ||W||^2,    z_i = x_i W + b,    bias unpenalised

Two exact changes of variables. Centring, x -> x - mean with b -> b + mean W, uncouples bias and weight in the Hessian.
Rotating onto the eigenvectors of X^T X makes its Gram matrix diagonal, so that the curvature bound
(1/2) (I - 11^T/K) (x) X^T X + strength I (Boehning 1992) is diagonal but for its class part: one eigendecomposition
serves all strengths. With more features than samples, the rotation keeps the span of the centred samples, in which the
optimum lies.

Logits are kept class by class, [K, N]: a softmax down long rows and products with a wide right-hand side take half the
time or less of the same with K columns, where K is tens.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Problem:
    """Value, gradient and preconditioner of F at a packed point: Tensor[R + 1, K], the last row the (centred) bias.

    Args:
        features: Tensor[N, D], float32 or float64, finite.
        labels: int64 Tensor[N], every class in 0..K-1 present.
        num_classes: K, at least 2.
    """

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int) -> None:
        size, dim = features.shape
        self.num_classes = num_classes
        self.mean = features.mean(0)
        centred = features - self.mean
        span = None
        if dim > size:
            span, triangle = torch.linalg.qr(centred.T)  # centred = triangle^T span^T, exactly
            centred = triangle.T
        spectrum, rotation = torch.linalg.eigh(centred.T @ centred)
        self.basis = rotation if span is None else span @ rotation  # [D, R], orthonormal columns
        self.spectrum = torch.cat([spectrum.clamp_min(0), spectrum.new_tensor([size])])  # of X^T X, then of the bias
        self.columns = torch.cat([rotation.T @ centred.T, features.new_ones(1, size)])  # [R + 1, N]
        self.flat = labels * size + torch.arange(size, device=labels.device)
        self.counts = torch.bincount(labels, minlength=num_classes).to(features)
        self._shift = self.basis.T @ self.mean
        self._shift_square = self.mean.square().sum()
        # Sums over samples run in float64 so that float32 features still give a usable line search.
        self.sum_dtype = torch.float32 if features.device.type == "mps" else torch.float64
        # What rounding makes of a gradient (all of it, where features are constant), for a residual of norm one.
        self._rounding = (
            4 * torch.finfo(features.dtype).eps * torch.stack([features.norm(), features.new_tensor(size**0.5)])
        )
        ratio = self._evaluate(self.null(), 0.0)[2]
        self._unit = torch.where(ratio > 0, ratio, torch.ones_like(ratio))

    def null(self) -> Tensor:
        """The minimiser among all models with W = 0: the bias is the log prior."""
        packed = self.columns.new_zeros(self.columns.shape[0], self.num_classes)
        log_prior = (self.counts / self.counts.sum()).log()
        packed[-1] = log_prior - log_prior.mean()
        return packed

    def evaluate(self, packed: Tensor, strength: float) -> tuple[Tensor, Tensor, Tensor]:
        """Objective, its gradient [R + 1, K], and the relative gradient of the ORIGINAL problem: 0-d tensors.

        Relative: ||dF/d(W, b)|| over ||P - Y||_F, in units of the same ratio at the null model. Dividing by the
        residual P - Y keeps the criterion meaningful on separable data, where F, residual and gradient vanish together.
        """
        objective, gradient, ratio = self._evaluate(packed, strength)
        return objective, gradient, ratio / self._unit

    def _evaluate(self, packed: Tensor, strength: float) -> tuple[Tensor, Tensor, Tensor]:
        logits = packed.T @ self.columns
        top, own = logits.amax(0), logits.take(self.flat)
        residual = torch.softmax(logits, 0)
        log_top = residual.amax(0).log()
        # 1 - p_y as the sum of the others: exact where p_y rounds to 1, the usual case at weak regularisation.
        residual.view(-1)[self.flat] = 0
        rest = residual.sum(0)
        residual.view(-1)[self.flat] = -rest
        losses = torch.where(rest < 0.5, -torch.log1p(-rest.clamp_max(0.5)), top - own - log_top)
        gradient = (residual @ self.columns.T).T.contiguous()
        gradient[:-1].add_(packed[:-1], alpha=strength)
        penalty = 0.5 * strength * packed[:-1].square().sum(dtype=self.sum_dtype)
        weight, bias = gradient[:-1], gradient[-1]
        # dF/dW at fixed original bias is weight + mean (x) bias: expand its norm in the rotated basis.
        by_bias = bias.square().sum()
        by_weight = weight.square().sum() + 2 * (self._shift @ weight) @ bias + self._shift_square * by_bias
        per_residual = torch.stack([by_weight, by_bias]) / residual.square().sum().clamp_min(
            torch.finfo(bias.dtype).tiny
        )
        ratio = (per_residual - self._rounding.square()).clamp_min(0).sum().sqrt()
        return losses.sum(dtype=self.sum_dtype) + penalty, gradient, ratio

    def diagonal(self, packed: Tensor, strength: float) -> Tensor:
        """Approximate inverse Hessian [R + 1, K], diagonal, for the price of half an evaluation.

        The bound's constant 1/2 is replaced by the class's mean curvature p_k (1 - p_k) at `packed`, which it exceeds:
        measured to need a third fewer evaluations. Only speed depends on it.
        """
        hessian = self._curvature(packed).mean(1) * self.spectrum[:, None]
        hessian[:-1] += strength
        return hessian.reciprocal()

    def blocks(self, packed: Tensor, strength: float) -> Tensor:
        """The inverses [K, R + 1, R + 1] of the Hessian's diagonal blocks, one a class, for about R / 2 evaluations."""
        curvature = self._curvature(packed)
        hessian = torch.stack([(self.columns * weights) @ self.columns.T for weights in curvature])
        ridge = torch.full_like(self.spectrum, strength)
        ridge[-1] = 0
        diagonal = hessian.diagonal(dim1=1, dim2=2)
        diagonal.add_(ridge + 8 * torch.finfo(packed.dtype).eps * diagonal.sum(1, keepdim=True))
        return torch.cholesky_inverse(torch.linalg.cholesky(hessian))

    def _curvature(self, packed: Tensor) -> Tensor:
        """The second derivative p (1 - p) [K, N] of each sample's loss in each of its logits."""
        probabilities = torch.softmax(packed.T @ self.columns, 0)
        return (probabilities - probabilities.square()).clamp_min(torch.finfo(packed.dtype).eps)

    def unpack(self, packed: Tensor) -> tuple[Tensor, Tensor]:
        """Weight [D, K] and bias [K] in the coordinates of the features given."""
        weight = self.basis @ packed[:-1]
        return weight, packed[-1] - self.mean @ weight

    def pack(self, weight: Tensor, bias: Tensor) -> Tensor:
        """The inverse of `unpack`.

        A component of the weight outside the span of the centred samples acts on all of them alike: it goes to the
        bias, without its penalty.
        """
        return torch.cat([self.basis.T @ weight, (bias + self.mean @ weight)[None]])
