"""The paper's other recipe for the probe (HingeCE, appendix B): SGD, batch 128, 100 epochs, constant rate, plain CE."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from divfeat.errors import NonFiniteError


def sgd(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    strengths: Sequence[float],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Train one linear classifier a strength, all side by side on the same batches, from zero, without momentum.

    A step descends the mean cross-entropy of the batch and then shrinks W by 1 / (1 + learning_rate strength / N): the
    proximal form of (strength / 2N) ||W||^2, stable at any strength, so that the whole heads for the L-BFGS objective.

    Args:
        features: float Tensor[N, D].
        labels: int64 Tensor[N].
        strengths: S numbers, 0 = plain cross-entropy.
        seed: of the order of the samples (drawn on the CPU: the same on any device).

    Returns:
        weights Tensor[S, D, K] and biases Tensor[S, K].

    Raises:
        NonFiniteError: the run diverged.
    """
    size, dim = features.shape
    weight = features.new_zeros(len(strengths), dim, num_classes)
    bias = features.new_zeros(len(strengths), 1, num_classes)
    shrink = 1 / (1 + learning_rate / size * features.new_tensor(strengths))[:, None, None]
    targets = torch.nn.functional.one_hot(labels, num_classes).to(features)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(size, generator=generator).to(features.device)
        for batch in order.split(batch_size):
            inputs = features[batch]
            residual = torch.softmax(inputs @ weight + bias, -1) - targets[batch]
            rate = learning_rate / len(batch)
            weight.sub_(inputs.T @ residual, alpha=rate).mul_(shrink)
            bias.sub_(residual.sum(-2, keepdim=True), alpha=rate)
    if not bool(torch.isfinite(weight).all() & torch.isfinite(bias).all()):
        raise NonFiniteError(
            f"the SGD probe diverged at learning rate {learning_rate:g}; lower it, or pass standardize=True"
        )
    return weight, bias.squeeze(-2)
