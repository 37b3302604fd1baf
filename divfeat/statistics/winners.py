"""The rules that pick trials: the Pareto front, the top few, the winner."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from divfeat.errors import ConfigError, DataError
from divfeat.statistics._common import Floats


def pareto_front(values: ArrayLike) -> NDArray[np.int64]:
    """Indices, ascending, of the trials that no other trial beats: [T, M] objectives, all maximised.

    A trial is beaten by one at least as good everywhere and better somewhere; equal trials stay together, and a
    trial with a value that is not finite (failed, pruned) is never on the front.

    Raises:
        DataError: neither [T] nor [T, M], or no objective.
    """
    table = _objectives(values)
    alive = np.flatnonzero(np.isfinite(table).all(axis=1))
    kept = table[alive]
    at_least = (kept[:, None] >= kept[None]).all(axis=-1)
    above = (kept[:, None] > kept[None]).any(axis=-1)
    return alive[~(at_least & above).any(axis=0)]


def select_top(values: ArrayLike, k: int) -> NDArray[np.int64]:
    """Indices of the k best trials, best first; equal trials in the order they were made; the first is the winner.

    One objective ([T] or [T, 1]): by value. Several ([T, M]): the front by distance to the utopia point after scaling
    each objective to [0, 1] over that front, then the front of the rest in the same way. All objectives are maximised;
    trials with a value that is not finite are never taken, so fewer than k may come back.

    Raises:
        ConfigError: k below 1.
        DataError: as `pareto_front`.
    """
    if k < 1:
        raise ConfigError(f"k = {k}: select at least one trial")
    table = _objectives(values)
    if table.shape[1] == 1:
        order = np.argsort(-table[:, 0], kind="stable")
        return order[np.isfinite(table[order, 0])][:k]
    table, chosen = table.copy(), np.empty(0, dtype=np.int64)
    while chosen.size < k and (front := pareto_front(table)).size:
        # Rounded, so that distances equal but for the last bit fall back on the order of the trials.
        order = np.argsort(np.round(_distance_to_utopia(table[front]), 12), kind="stable")
        chosen = np.concatenate([chosen, front[order]])
        table[front] = math.nan
    return chosen[:k]


def _distance_to_utopia(front: Floats) -> Floats:
    top, span = front.max(axis=0), np.ptp(front, axis=0)
    return np.sqrt((((top - front) / np.where(span > 0, span, 1.0)) ** 2).sum(axis=1))


def _objectives(values: ArrayLike) -> Floats:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim == 1:
        table = table[:, None]
    if table.ndim != 2 or table.shape[1] == 0:
        raise DataError(f"objectives of shape {table.shape}: give [trials] or [trials, objectives]")
    return table
