"""Thresholds that move during training: each class's angle follows its own features from epoch to epoch.

`quantile` lets go of a share of every class, whatever the angles are: tau+ of a class is the angle within which that share
of its training features lay in the epoch before, seen from its axis. In the first epoch no class has a cone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from divfeat.thresholds.family import DEFAULT_HIGH, Family, Number, Parameters, ThresholdContext

#: Bins of equal width that own angles are counted in, from 0 to pi: half a degree each.
BINS = 360


def quantile_angles(counts: Tensor, share: float) -> Tensor:
    """The angle within which `share` of the samples of each class lie, linear inside a bin.

    Args:
        counts: [K, BINS] samples of each class by their angle to its axis.
        share: In [0, 1].

    Returns:
        float64 [K] radians; 0 for a class without samples.
    """
    counts = counts.double().cpu()
    below = counts.cumsum(1)
    wanted = share * below[:, -1:]
    place = (below < wanted).sum(1, keepdim=True).clamp(max=counts.shape[1] - 1)
    inside = counts.gather(1, place)
    part = (wanted - (below.gather(1, place) - inside)) / inside.clamp(min=1)
    return ((place + part) * (math.pi / counts.shape[1])).squeeze(1)


def _quantile(parameters: Parameters, context: ThresholdContext) -> Tensor:
    if context.own_angles is None:
        return torch.zeros(context.num_classes, dtype=torch.float64)
    return quantile_angles(context.own_angles, parameters["share"]).clamp(0.0, DEFAULT_HIGH)


QUANTILE = Family(
    "quantile",
    ("share",),
    _quantile,
    ({"share": 0.5}, {"share": 0.0}, {"share": 0.25}, {"share": 0.8}),
    "each class's angle moves: the share of its training features that lies inside its cone is searched",
    others=(Number("share", 0.0, 0.95),),
    by_count=False,
    moves=True,
)


class MovingThresholds:
    """Counts own angles over an epoch, over all ranks, and moves the thresholds by them.

    Args:
        family: One that moves.
        parameters: Of the family.
        context: Class counts and the like.
        place: Puts angles [K] into the objective's buffers.

    Attributes:
        tau_plus: float64 [K] radians in force, on the CPU; the same tensor for good.
    """

    def __init__(
        self, family: Family, parameters: Parameters, context: ThresholdContext, place: Callable[[Tensor], None]
    ) -> None:
        self.family, self.parameters, self.context, self.place = family, dict(parameters), context, place
        self.tau_plus = family.angles(self.parameters, context).clone()
        self.counts = torch.zeros(context.num_classes, BINS)

    def to(self, device: torch.device) -> None:
        """Count on this device: a step reads no value back."""
        self.counts = self.counts.to(device)

    @torch.no_grad()
    def observe(self, features: Tensor, labels: Tensor, axes: Tensor) -> None:
        """Count a batch of this rank.

        Args:
            features: [N, D].
            labels: int64 [N].
            axes: [D, K].
        """
        own = torch.nn.functional.normalize(axes.float(), dim=0).T[labels]
        cosines = (torch.nn.functional.normalize(features.float(), dim=-1) * own).sum(-1)
        place = (torch.acos(cosines.clamp(-1, 1)) * (BINS / math.pi)).long().clamp(max=BINS - 1)
        self.counts.view(-1).index_add_(0, labels * BINS + place, torch.ones_like(cosines, dtype=self.counts.dtype))

    def follow(self, world: int) -> None:
        """Move to what the epoch's counts over all ranks say, and begin to count anew; collective.

        A class without a sample keeps its angle.
        """
        counts = self._over_ranks(world)
        found = self.family.angles(self.parameters, replace(self.context, own_angles=counts))
        self._move(torch.where(counts.cpu().sum(1) > 0, found, self.tau_plus))
        self.counts.zero_()

    def metrics(self) -> dict[str, float]:
        """Mean, smallest and largest angle in force, radians."""
        tau = self.tau_plus
        return {
            "train/tau_plus_mean": float(tau.mean()),
            "train/tau_plus_low": float(tau.min()),
            "train/tau_plus_high": float(tau.max()),
        }

    def state(self, world: int) -> dict[str, Any]:
        """For a checkpoint: angles, and the counts of all ranks so far in this epoch; collective."""
        return {"tau_plus": self.tau_plus.clone(), "counts": self._over_ranks(world)}

    def load(self, state: dict[str, Any], rank: int) -> None:
        """Go on from a checkpoint; rank 0 takes over the counts of all ranks."""
        self._move(state["tau_plus"].cpu())
        self.counts = state["counts"].to(self.counts) * (rank == 0)

    def _move(self, tau_plus: Tensor) -> None:
        self.tau_plus.copy_(tau_plus)
        self.place(self.tau_plus)

    def _over_ranks(self, world: int) -> Tensor:
        counts = self.counts.clone()
        if world > 1:
            dist.all_reduce(counts)
        return counts
