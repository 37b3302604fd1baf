"""M2m's translation: images of larger classes pushed into smaller ones (Kim et al. 2020, arXiv:2004.00431, algorithm 1).

Who is replaced, by whom and from which start is keyed by (seed, epoch, draw): worker count and resume change nothing.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from divfeat.data.augment import Augment
from divfeat.data.batches import Batch
from divfeat.data.keyed import keyed_bits, stream_key

#: Steps of the translation, the length of each and of the random start: Euclidean, for images in [0, 1] (released code).
STEPS, STEP, START = 10, 0.1, 0.5


class Translation:
    """Replaces images of small classes in a batch, in the epochs from `start` on.

    An image of class k is a target with probability 1 - n_k / max n. Its seed's class is drawn from
    q(j | k) ~ 1 - beta^(n_j - n_k)+ and its seed from that class's images, as in the paper; the released code draws it from
    the batch instead, which would hang on the number of workers. The seed goes down the loss CE(g, k) + lambda f_j by steps
    of a fixed length. It replaces the image if g gives k at least gamma and a coin of probability q-before-normalisation
    agrees; else the image stays. Labels stay in any case.

    Args:
        first: g, trained, in evaluation mode.
        second: f, in training; looked at in evaluation mode.
        images: uint8 [N, C, H, W] of the training set.
        labels: int64 [N].
        counts: int64 [K] images of each class that probabilities follow.
        beta: see above.
        gamma: see above.
        weight: lambda.
        start: first epoch.
        augment: What the seeds get, from a stream of their own.
        seed: of all that is drawn here.
    """

    def __init__(
        self,
        first: nn.Module,
        second: nn.Module,
        images: np.ndarray,
        labels: np.ndarray,
        counts: Tensor,
        *,
        beta: float,
        gamma: float,
        weight: float,
        start: int,
        augment: Augment,
        seed: int,
    ) -> None:
        self.first, self.second, self.images = first, second, images
        self.gamma, self.weight, self.start, self.augment, self.seed = gamma, weight, start, augment, seed
        trained = torch.as_tensor(labels)
        self.rows = torch.argsort(trained, stable=True)
        self.sizes = torch.bincount(trained, minlength=len(counts))
        self.starts = torch.cumsum(self.sizes, 0) - self.sizes
        self.targeted = 1 - counts.double() / counts.max()
        self.accepted = acceptance(counts, beta)

    def __call__(self, images: Tensor, batch: Batch, epoch: int) -> Tensor:
        """Replace images of a batch.

        Args:
            images: uint8 [B, C, H, W], augmented.
            batch: Theirs; its first B labels and draws are looked at.
            epoch: from 0.

        Returns:
            Before `start` the images themselves; from then on float32 in [0, 1], what is not replaced unchanged.
        """
        if epoch < self.start:
            return images
        result = images.float() / 255
        labels, draws = batch.labels[: len(images)].cpu(), batch.draw[: len(images)].cpu()
        chosen, classes, rows = self.seeds(labels, draws, epoch)
        if not len(chosen):
            return result
        device, places = images.device, chosen.to(images.device)
        on_device = draws[chosen].to(device)
        seeds = self.augment(torch.tensor(self.images[rows.numpy()]).to(device), epoch, on_device).float() / 255
        moved = self.translate(self.jolted(seeds, on_device, epoch), classes.to(device), labels[chosen].to(device))
        coin = self._uniform("coin", epoch, draws[chosen]) < self.accepted[labels[chosen], classes]
        kept = self._convincing(moved, labels[chosen].to(device)) & coin.to(device)
        result[places[kept]] = moved[kept]
        return result

    def seeds(self, labels: Tensor, draws: Tensor, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Which of a batch are targets, and their seeds: all on the CPU.

        Args:
            labels: int64 [B].
            draws: int64 [B].
            epoch: from 0.

        Returns:
            Places int64 [M] in the batch; classes int64 [M] and rows int64 [M] of their seeds.
        """
        odds = self.accepted[labels] * (self.sizes > 0)
        chosen = self._uniform("target", epoch, draws) < self.targeted[labels]
        places = torch.nonzero(chosen & (odds.sum(1) > 0)).squeeze(1)
        ends = torch.cumsum(odds[places], 1)
        drawn = self._uniform("class", epoch, draws[places]) * ends[:, -1]
        classes = (drawn.unsqueeze(1) >= ends).sum(1)
        nth = keyed_bits(stream_key(self.seed, "m2m/row", epoch), draws[places]) % self.sizes[classes]
        return places, classes, self.rows[self.starts[classes] + nth]

    def jolted(self, images: Tensor, draws: Tensor, epoch: int) -> Tensor:
        """Images [M, C, H, W] in [0, 1] after a random move of length `START`, clipped."""
        pixels = images[0].numel()
        index = draws.unsqueeze(1) * pixels + torch.arange(pixels, device=draws.device)
        bits = keyed_bits(stream_key(self.seed, "m2m/start", epoch), index)
        noise = ((bits >> 10).double() / 2**53 - 0.5).float()
        return (images + START * F.normalize(noise, dim=1).view_as(images)).clamp(0, 1)

    @torch.enable_grad()
    def translate(self, images: Tensor, classes: Tensor, targets: Tensor) -> Tensor:
        """Go down the loss of each image by itself.

        Args:
            images: float32 [M, C, H, W] in [0, 1].
            classes: int64 [M], theirs.
            targets: int64 [M].

        Returns:
            [M, C, H, W] in [0, 1], detached.
        """
        training = self.second.training
        self.second.eval()
        for _ in range(STEPS):
            images = images.detach().requires_grad_(True)
            logits = self.first(images)[1]
            own = self.second(images)[1].gather(1, classes.unsqueeze(1))
            loss = F.cross_entropy(logits, targets, reduction="sum") + self.weight * own.sum()
            (gradient,) = torch.autograd.grad(loss, images)
            length = gradient.flatten(1).norm(dim=1).clamp(min=1e-10).view(-1, 1, 1, 1)
            images = (images - STEP * gradient / length).clamp(0, 1)
        self.second.train(training)
        return images.detach()

    @torch.no_grad()
    def _convincing(self, images: Tensor, targets: Tensor) -> Tensor:
        chances = self.first(images)[1].softmax(1).gather(1, targets.unsqueeze(1)).squeeze(1)
        return chances >= self.gamma

    def _uniform(self, stream: str, epoch: int, draws: Tensor) -> Tensor:
        """float64 in [0, 1), one a draw."""
        return (keyed_bits(stream_key(self.seed, f"m2m/{stream}", epoch), draws) >> 10).double() / 2**53


def acceptance(counts: Tensor, beta: float) -> Tensor:
    """1 - beta^(n_j - n_k)+ for target k (row) and seed j (column): float64 [K, K].

    Args:
        counts: int64 [K].
        beta: in [0, 1).
    """
    counts = counts.double()
    surplus = (counts.unsqueeze(0) - counts.unsqueeze(1)).clamp(min=0)
    return 1 - torch.as_tensor(beta, dtype=torch.float64) ** surplus
