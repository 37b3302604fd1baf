"""Losses over the scores of every level of a tree, as the heads of `divfeat.models.level_heads` give them."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from divfeat.errors import ConfigError
from divfeat.hierarchy import Hierarchy
from divfeat.losses.functional import at_least_float32, cross_entropy
from divfeat.losses.objective import Step

#: Smallest probability that a logarithm is taken of; the published code has it for means.
_FLOOR = 1e-7


class LevelCrossEntropy(nn.Module):
    """A criterion: the cross-entropies of all levels, added up (Flamingo; Chang et al., CVPR 2021).

    Args:
        hierarchy: Of the classes, in label order.
    """

    levels: Tensor
    reads_step = True

    def __init__(self, hierarchy: Hierarchy) -> None:
        super().__init__()
        self.register_buffer("levels", hierarchy.levels()[:-1])

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor, step: Step) -> Tensor:
        """One loss a sample [N], float32 or wider, from labels int64 [N], logits [N, K] and the step's coarse scores."""
        loss = cross_entropy(logits, labels)
        for groups, scores in zip(self.levels, step.coarse, strict=True):
            loss = loss + cross_entropy(scores, groups[labels])
        return loss


class HierarchyAwareFeatures(nn.Module):
    """A criterion: CE of the classes, and what holds the levels together (HAFeature; Garg et al., ECCV 2022, section 3).

    To the cross-entropy of the classes are added, each with weight 1: for every level above them the Jensen-Shannon divergence
    between its probabilities and those of the level below summed up by group; for every such level the mean over pairs of
    neighbours in the batch that differ there of (max(0, m - KL(p || mean)) + max(0, m - KL(q || mean))) / 2; and the head's
    penalty on its axes.

    No half of a divergence exceeds log 2, so that with the published m = 3 every pair counts. The published code fills 256 places
    with such pairs, some several times; here each counts once. A batch that is spread over workers has its pairs within each
    worker's share: this loss alone depends on how many there are.

    Args:
        hierarchy: Of the classes, in label order.
        margin: m, at least 0.

    Raises:
        ConfigError: a negative margin.
    """

    levels: Tensor
    reads_step = True

    def __init__(self, hierarchy: Hierarchy, margin: float = 3.0) -> None:
        super().__init__()
        if not margin >= 0:
            raise ConfigError(f"pair_margin={margin} of hafeature must be at least 0")
        self.register_buffer("levels", hierarchy.levels())
        self.parents = hierarchy.groups_above()
        self.margin = margin

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor, step: Step) -> Tensor:
        """One loss a sample [N], float32 or wider, from labels int64 [N], logits [N, K] and the step's scores and penalty."""
        loss = cross_entropy(logits, labels)
        if step.penalty is not None:
            loss = loss + step.penalty.to(loss)
        scores = [*step.coarse, logits]
        probabilities = [torch.softmax(at_least_float32(one), -1) for one in scores]
        for groups, parents, (above, below) in zip(
            self.levels[:-1], self.parents, pairwise(probabilities), strict=True
        ):
            summed = torch.zeros_like(above).index_add(-1, parents.to(above.device), below)
            first, second = _to_mean(summed, above)
            loss = loss + (first + second) / 2 + self._pairs(above, groups[labels])
        return loss

    def _pairs(self, probabilities: Tensor, groups: Tensor) -> Tensor:
        """[N] whose mean is that over the pairs of neighbours that differ; the last sample has none after it."""
        first, second = _to_mean(probabilities[:-1], probabilities[1:])
        apart = (groups[:-1] != groups[1:]).to(first)
        halves = (self.margin - first).clamp(min=0) + (self.margin - second).clamp(min=0)
        share = len(groups) / apart.sum().clamp(min=1)
        return nn.functional.pad(apart * halves / 2 * share, (0, 1))


def _to_mean(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p || (p + q) / 2) and KL(q || (p + q) / 2) over the last dimension, in nats."""
    mean = _log((p + q) / 2)
    return (p * (_log(p) - mean)).sum(-1), (q * (_log(q) - mean)).sum(-1)


def _log(p: Tensor) -> Tensor:
    """Where p is 0 the gradient of p log p would be minus infinity, times 0 behind a softmax."""
    return p.clamp(min=_FLOOR).log()
