"""Collapse and cones of each class on its own: what a long tail is looked at by."""

from __future__ import annotations

import torch
from torch import Tensor

from divfeat.metrics._inputs import check_features, chunks, class_counts, class_sums, exact
from divfeat.metrics.cones import axis_cosines
from divfeat.metrics.rank import NumericalRankAccumulator
from divfeat.metrics.statistics import check_frame, class_statistics


@torch.no_grad()
def class_geometry(features: Tensor, labels: Tensor, frame: Tensor) -> dict[str, Tensor]:
    """Geometry of each class's features, by the name of its column in a record.

    Args:
        features: [N, D], any floating dtype, any device.
        labels: int64 [N] in [0, K).
        frame: [D, K] class axes, columns of any length.

    Returns:
        Name -> float64 [K] on the CPU. `positive_cosine`: mean cosine to the own axis; `feature_norm`: mean norm; both NaN
        for an absent class. `cdnv`: the class's part of the CDNV, its within-class variance over the squared distances
        to the other class means (mean over classes: `cdnv`); `numerical_rank`: uncentred (mean over classes:
        `numerical_rank`); both NaN for a class of fewer than two samples, which has no spread.

    Raises:
        DataError: wrong shapes or labels, or no samples.
    """
    check_features(features, labels)
    check_frame(frame, features.shape[1])
    classes = frame.shape[1]
    positive, _ = axis_cosines(features, labels, frame)
    ranks = NumericalRankAccumulator(classes)
    for batch in chunks(features, labels):
        ranks.update(*batch)
    labels = labels.to(positive.device)
    size = class_counts(labels, classes)  # 0 / 0 is the NaN of an absent class
    norms = exact(features).norm(dim=-1)
    found = {
        "positive_cosine": class_sums(positive, labels, classes) / size,
        "feature_norm": class_sums(norms, labels, classes) / size,
        "cdnv": class_statistics(features, labels, classes).cdnv_by_class(),
        "numerical_rank": ranks.class_ranks(centred=False),
    }
    return {name: values.cpu() for name, values in found.items()}
