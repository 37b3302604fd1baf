"""Heads with a classifier for every level of a tree: Flamingo's and HAFeature's, of any depth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from divfeat.errors import ConfigError
from divfeat.hierarchy import Hierarchy
from divfeat.models.extractor import Taps
from divfeat.models.heads import Head, Outputs
from divfeat.models.initialise import build_empty, initialise_linear, keyed_generator


class _LevelHead(Head):
    """A linear classifier for each level, in `levels`, the coarsest first."""

    levels: nn.ModuleList

    @property
    def finest(self) -> nn.Linear:
        """That of the classes."""
        return _linear(self.levels[-1])


class FlamingoHead(_LevelHead):
    """Features in as many chunks as the tree has levels, the coarsest first; the classifier of a level sees its own chunk and,
    without gradient, those of the finer levels (Chang et al., CVPR 2021, "Your 'Flamingo' is My 'Bird'", section 3).

    Classes are predicted from the last chunk alone. Chunks are equal; what is left over goes one each to the last ones, as in
    HAFrame's port.

    Args:
        dim: D.
        hierarchy: Of the classes.
        seed: Of the initial weights.

    Raises:
        ConfigError: fewer features than levels.
    """

    def __init__(self, dim: int, hierarchy: Hierarchy, seed: int = 0) -> None:
        super().__init__()
        self.bounds = _chunks(dim, len(hierarchy.sizes))
        self.levels = _linears([dim - low for low, _ in self.bounds], hierarchy.sizes, seed)

    @property
    def axes(self) -> Tensor:
        """Of the classes [D, K]: zero outside the last chunk."""
        return nn.functional.pad(self.finest.weight, (self.bounds[-1][0], 0)).T

    @property
    def bias(self) -> Tensor | None:
        """Of the classes, [K]."""
        return self.finest.bias

    def score(self, features: Tensor) -> Tensor:
        """Features [..., N, D] to logits of the classes [..., N, K]."""
        return self.finest(features[..., self.bounds[-1][0] :])

    def forward(self, taps: Taps) -> Outputs:
        """Scores on every level."""
        features, logits, _, _ = super().forward(taps)
        coarse = []
        for (low, high), level in zip(self.bounds[:-1], self.levels[:-1], strict=True):
            seen = torch.cat([features[..., low:high], features[..., high:].detach()], -1)
            coarse.append(level(seen))
        return Outputs(features, logits, tuple(coarse))


class HierarchyAwareHead(_LevelHead):
    """A linear classifier with axes of length 1 and a bias for every level, all on the same features (HAFeature; Garg et al.,
    ECCV 2022, section 3).

    Its `penalty` is minus the sum over the levels above the classes of the mean cosine between a group's axis and the sum of
    those of its children ("geometric consistency").

    Args:
        dim: D.
        hierarchy: Of the classes.
        seed: Of the initial weights.
    """

    def __init__(self, dim: int, hierarchy: Hierarchy, seed: int = 0) -> None:
        super().__init__()
        self.levels = _linears([dim] * len(hierarchy.sizes), hierarchy.sizes, seed)
        self.parents = hierarchy.groups_above()

    @property
    def axes(self) -> Tensor:
        """Of the classes, at length 1: [D, K]."""
        return _unit(self.finest).T

    @property
    def bias(self) -> Tensor | None:
        """Of the classes, [K]."""
        return self.finest.bias

    def score(self, features: Tensor) -> Tensor:
        """Features [..., N, D] to logits of the classes [..., N, K]."""
        return nn.functional.linear(features, _unit(self.finest), self.finest.bias)

    def forward(self, taps: Taps) -> Outputs:
        """Scores on every level, and the penalty."""
        features, logits, _, _ = super().forward(taps)
        units = [_unit(level) for level in self.levels]
        coarse = tuple(
            nn.functional.linear(features, unit, _linear(level).bias)
            for unit, level in zip(units[:-1], self.levels[:-1], strict=True)
        )
        penalty = features.new_zeros(())
        for above, below, parents in zip(units[:-1], units[1:], self.parents, strict=True):
            summed = torch.zeros_like(above).index_add(0, parents.to(above.device), below)
            penalty = penalty - nn.functional.cosine_similarity(above, summed, dim=1).mean()
        return Outputs(features, logits, coarse, penalty)


def _chunks(dim: int, levels: int) -> list[tuple[int, int]]:
    width, left = divmod(dim, levels)
    if not width:
        raise ConfigError(
            f"{levels} levels of the tree do not fit into {dim} features, one chunk each: use a wider backbone or "
            "model.projector_dim, or a shallower tree"
        )
    widths = [width + (level >= levels - left) for level in range(levels)]
    ends = [sum(widths[: level + 1]) for level in range(levels)]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _linears(inputs: Sequence[int], sizes: Sequence[int], seed: int) -> nn.ModuleList:
    made = nn.ModuleList()
    for level, (width, groups) in enumerate(zip(inputs, sizes, strict=True), 1):
        linear = build_empty(lambda width=width, groups=groups: nn.Linear(width, groups))  # type: ignore[misc]
        # The classes' own weights are those of a plain head of the same seed.
        initialise_linear(linear, keyed_generator(seed, "head" if level == len(sizes) else f"head {level}"))
        made.append(linear)
    return made


def _linear(module: nn.Module) -> nn.Linear:
    assert isinstance(module, nn.Linear)
    return module


def _unit(module: nn.Module) -> Tensor:
    return nn.functional.normalize(_linear(module).weight, dim=1)
