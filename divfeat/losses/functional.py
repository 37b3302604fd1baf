"""What the losses share: precision, reduction, cross-entropy over any leading dimensions, checked class counts."""

from __future__ import annotations

import torch
from torch import Tensor

from divfeat.errors import ConfigError


def at_least_float32(values: Tensor) -> Tensor:
    """Half-precision values as float32, others unchanged: norms, hinges and log-sum-exp are never taken in half."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each sample.

    Args:
        logits: [..., N, K].
        labels: int64 [..., N], broadcastable to logits.shape[:-1].
        label_smoothing: alpha of t <- t (1 - alpha) + alpha / K (HingeCE, section 4.1).

    Returns:
        [..., N], float32 or wider.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = at_least_float32(logits)
        flat = labels.expand(logits.shape[:-1]).reshape(-1)
        loss = torch.nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), flat, reduction="none", label_smoothing=label_smoothing
        )
        return loss.reshape(logits.shape[:-1])


def reduce(loss: Tensor, reduction: str) -> Tensor:
    """Mean, sum or nothing over the last dimension.

    Raises:
        ConfigError: unknown reduction.
    """
    if reduction == "mean":
        return loss.mean(-1)
    if reduction == "sum":
        return loss.sum(-1)
    if reduction == "none":
        return loss
    raise ConfigError(f"unknown reduction {reduction!r}; known: mean, sum, none")


def own_class(values: Tensor, labels: Tensor) -> Tensor:
    """values [..., N, K] at each sample's own class: [..., N]."""
    index = labels.expand(values.shape[:-1]).unsqueeze(-1)
    return values.gather(-1, index).squeeze(-1)


def axis_lengths(frame: Tensor) -> Tensor:
    """Lengths [..., 1, K] of the columns of frame [..., D, K], without gradient."""
    return at_least_float32(frame.detach()).norm(dim=-2, keepdim=True)


def checked_counts(what: str, class_counts: Tensor) -> Tensor:
    """Class counts [K] as float64.

    Raises:
        ConfigError: not one count a class, or a class without training images, which `what` cannot serve.
    """
    counts = torch.as_tensor(class_counts, dtype=torch.float64)
    if counts.ndim != 1 or not counts.numel():
        raise ConfigError(f"class_counts of shape {tuple(counts.shape)}: {what} takes one count a class")
    if not bool((counts > 0).all()):
        empty = (~(counts > 0)).nonzero().flatten().tolist()
        raise ConfigError(
            f"{what} needs training images of every class, but {len(empty)} of {len(counts)} have none (class {empty[0]})"
        )
    return counts
