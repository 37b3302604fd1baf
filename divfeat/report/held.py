"""What the cones of a run held: images, and the loss that these carried."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def measured(record: Mapping[str, Any] | None, metric: str) -> list[float]:
    """`metric` of each epoch that has it; none of a run without a record."""
    return [float(row[metric]) for row in (record or {}).get("history", ()) if row.get(metric) is not None]


def most_inside(record: Mapping[str, Any] | None) -> float:
    """Largest share over the epochs of training images within their class's cone, percent; NaN where no epoch tells."""
    return 100 * max(measured(record, "train/inside_cone"), default=math.nan)


def taken(record: Mapping[str, Any] | None) -> float:
    """Share of the whole training's cross-entropy that such images carried, percent; NaN where no epoch tells."""
    whole = sum(measured(record, "train/cross_entropy"))
    return 100 * sum(measured(record, "train/cross_entropy_inside")) / whole if whole else math.nan


def coned(record: Mapping[str, Any] | None) -> float:
    """Share of the training images whose class has a cone; NaN where the run did not finish."""
    rows = (record or {}).get("per_class", [])
    images = sum(row["train_images"] for row in rows)
    return sum(row["train_images"] for row in rows if row.get("tau_plus", 0) > 0) / images if images else math.nan
