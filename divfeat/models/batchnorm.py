"""Batch norm over all ranks of a process group, on any device (torch's SyncBatchNorm refuses the CPU).

Each rank's statistics are computed about its own mean in float32 (float64 for float64 images) and packed into one
float64 message of 2C + 1 numbers: count, sum, sum of squares. In float64 the variance of the union, E[x^2] - E[x]^2,
loses nothing that float32 could show (until the mean is 10,000 standard deviations), so the merge is exact for ranks of
unequal size, an empty one included. Backward sends one message of 2C numbers.

Source: Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 1 and the gradients below it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


def convert_batchnorm(module: nn.Module) -> nn.Module:
    """Makes every BatchNorm1d and BatchNorm2d in `module` reduce its training statistics over torch.distributed.

    In place, `module` itself included: parameters, buffers, hooks and state-dict keys stay what they are. With no
    process group, with one rank, and in evaluation mode the layers remain exactly torch's. The input's gradient is that
    of the sum of all ranks' losses; parameters get each rank's own share, which DistributedDataParallel averages, as
    with SyncBatchNorm. All ranks must call forward, and backward, equally often.

    Args:
        module: Layers of other kinds, and subclasses of the two, are left alone.

    Returns:
        `module`.
    """
    for layer in module.modules():
        # The class alone differs: a new layer would be a stranger to hooks and tied references.
        if type(layer) in _SYNCED:
            layer.__class__ = _SYNCED[type(layer)]
    return module


class _Synced(_BatchNorm):
    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        self._check_input_dim(input)
        output, mean, var, count = _SyncedNorm.apply(input, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            self._track(mean, var, count)
        return output

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        unbiased = var * (count / (count - 1).clamp(min=1))
        for running, now in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.add_((now.to(running.dtype) - running) * share)


class SyncedBatchNorm1d(_Synced, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` whose training statistics span the ranks; see `convert_batchnorm`."""


class SyncedBatchNorm2d(_Synced, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` whose training statistics span the ranks; see `convert_batchnorm`."""


_SYNCED: dict[type[nn.Module], type[_Synced]] = {
    nn.BatchNorm1d: SyncedBatchNorm1d,
    nn.BatchNorm2d: SyncedBatchNorm2d,
}


class _SyncedNorm(torch.autograd.Function):
    """(x, weight, bias) -> (y, mean, biased variance, count), the last three over all ranks and without gradient.

    Written by hand rather than composed around a differentiable all-reduce: for backward it keeps the input
    alone, where the composition keeps three tensors of that size.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, ...]:
        wide = _wide(x)
        dims = _reduced(x)
        channels = x.shape[1]
        count = x.numel() // channels
        message = torch.zeros(2 * channels + 1, dtype=torch.float64, device=x.device)
        if count:
            local = wide.mean(dims)
            spread = (wide - _column(local, x)).square_().sum(dims)
            local = local.double()
            message[0] = count
            message[1 : channels + 1] = count * local
            message[channels + 1 :] = spread.double() + count * local.square()
        dist.all_reduce(message)
        total = message[0]
        mean, second = (message[1:] / total).view(2, channels).unbind()
        var = (second - mean.square()).clamp_(min=0)
        scale = (var + eps).rsqrt()
        mean, var, scale = (statistic.to(wide.dtype) for statistic in (mean, var, scale))
        ctx.save_for_backward(x, weight, mean, scale, total)
        ctx.mark_non_differentiable(mean, var, total)
        # F.batch_norm in evaluation mode is the fused affine map, in one pass for every memory format and mixed dtype.
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps), mean, var, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, total = ctx.saved_tensors
        dims = _reduced(x)
        dy = _wide(grad)
        normal = (_wide(x) - _column(mean, x)) * _column(scale, x)
        grad_bias = dy.sum(dims)
        grad_weight = (dy * normal).sum(dims)
        grad_x = None
        if ctx.needs_input_grad[0]:
            message = torch.cat([grad_bias, grad_weight]).double()
            dist.all_reduce(message)
            mean_dy, mean_dyn = (message / total).to(dy.dtype).view(2, -1).unbind()
            inner = dy - _column(mean_dy, x) - normal.mul_(_column(mean_dyn, x))
            grad_x = inner.mul_(_column(scale if weight is None else scale * weight, x)).to(x.dtype)
        if weight is None:
            return grad_x, None, None, None
        return grad_x, grad_weight.to(weight.dtype), grad_bias.to(weight.dtype), None


def _wide(x: Tensor) -> Tensor:
    """`x` in at least float32: half-precision sums would lose the statistics under autocast."""
    return x if x.dtype == torch.float64 else x.float()


def _reduced(x: Tensor) -> list[int]:
    """Every dimension but the channel's."""
    return [dim for dim in range(x.ndim) if dim != 1]


def _column(statistic: Tensor, x: Tensor) -> Tensor:
    """[C] shaped to broadcast along the channels of `x`."""
    return statistic.view(1, -1, *[1] * (x.ndim - 2))
