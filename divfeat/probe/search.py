"""Choosing the strength on validation: the whole grid, or the same grid from coarse to fine."""

from __future__ import annotations

import math
from collections.abc import Callable

#: The 45 weight decays of the protocol, 1e-6 to 1e5, four a decade (C = 1 / strength; Kornblith et al. 2019).
PROTOCOL_STRENGTHS: tuple[float, ...] = tuple(10 ** (-6 + index / 4) for index in range(45))


def best_index(accuracies: dict[int, float]) -> int:
    """The index of the highest accuracy; ties go to the stronger regularisation (larger index).

    Validation cannot tell tied classifiers apart; the one of smaller norm varies less with the training sample.
    """
    return max(accuracies, key=lambda index: (accuracies[index], index))


def grid(count: int, accuracy: Callable[[int], float]) -> dict[int, float]:
    """Evaluate all `count` indices, strong (the last) to weak, so that each fit warm-starts the next."""
    return {index: accuracy(index) for index in reversed(range(count))}


def coarse_to_fine(count: int, accuracy: Callable[[int], float], samples: int) -> dict[int, float]:
    """Evaluate few of `count` indices: about one in a decade of the protocol's grid, then ever closer around the best.

    The coarse pass runs from strong to weak and ends after two points in a row that lie more than one binomial standard
    error (of `samples` validation images) below the best: past its peak the accuracy does not return, and the weak end
    is the expensive one. Underfitted points all score alike and never end the pass.
    """
    stride = 2 ** max(0, int(math.log2(max(1, count - 1) / 10)))
    found: dict[int, float] = {}
    behind = 0
    for index in [*range(count - 1, 0, -stride), 0]:
        found[index] = accuracy(index)
        peak = max(found.values())
        error = math.sqrt(peak * (1 - peak) / samples)
        behind = behind + 1 if found[index] < peak - error else 0
        if behind == 2:
            break
    while stride > 1:
        stride //= 2
        centre = best_index(found)
        for index in (centre + stride, centre - stride):
            if 0 <= index < count and index not in found:
                found[index] = accuracy(index)
    return found
