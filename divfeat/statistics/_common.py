"""The few definitions that all statistics of a study share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from divfeat.errors import ConfigError

Floats = NDArray[np.float64]

# Scores are multiples of 100 / (test images): a spread below this is the rounding of a float, not a spread.
ZERO_SPREAD = 1e-9


def confidence_level(alpha: float, comparisons: int = 1) -> float:
    """Level 1 - alpha / comparisons.

    Raises:
        ConfigError: alpha is no probability.
    """
    if not 0 < alpha < 1:
        raise ConfigError(f"alpha = {alpha} is not a probability; give a value between 0 and 1, such as 0.05")
    return 1 - alpha / comparisons


def t_half_width(standard_error: float, degrees: int, level: float) -> float:
    """Half the width of a two-sided Student-t interval."""
    return float(special.stdtrit(degrees, 0.5 + level / 2)) * standard_error


def listed(names: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
