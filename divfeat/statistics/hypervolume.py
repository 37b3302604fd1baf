"""The hypervolume of a Pareto front of two objectives: one number for how far the front has come."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from divfeat.errors import DataError


def hypervolume(values: ArrayLike, reference: ArrayLike) -> float:
    """Area between a front and a reference point (Zitzler and Thiele, 1998): what at least one trial is better than.

    Optuna has a function for it, `optuna._hypervolume`, that is none of its public ones; a test compares with it.

    Args:
        values: [T, 2] objectives, all maximised; what is not finite counts for nothing, nor does what the reference beats.
        reference: [2] the corner from which the area is counted.

    Returns:
        The area, 0 without a trial above the reference in both objectives.

    Raises:
        DataError: other shapes.
    """
    table, corner = np.asarray(values, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != 2 or corner.shape != (2,):
        raise DataError(f"values of shape {table.shape}, reference of shape {corner.shape}: give [trials, 2] and [2]")
    gain = table[np.isfinite(table).all(axis=1)] - corner
    gain = gain[(gain > 0).all(axis=1)]
    gain = gain[np.argsort(-gain[:, 0], kind="stable")]
    # From the right end of the first objective: a trial adds what it stands out above all those to its right.
    below = np.maximum.accumulate(np.append(0.0, gain[:, 1]))[:-1]
    return float((gain[:, 0] * np.maximum(gain[:, 1] - below, 0.0)).sum())
