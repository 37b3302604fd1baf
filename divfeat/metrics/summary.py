"""Every collapse and cone measure of one set of features, as flat metric names for the record of a run."""

from __future__ import annotations

import torch
from torch import Tensor

from divfeat.errors import DataError
from divfeat.hierarchy import Hierarchy
from divfeat.metrics._inputs import check_features, chunks, class_count
from divfeat.metrics.angular import angular_collapse, cophenetic_correlation, self_duality
from divfeat.metrics.collapse import NC4Accumulator
from divfeat.metrics.cones import ConeAccumulator, feature_norms
from divfeat.metrics.rank import NumericalRankAccumulator
from divfeat.metrics.statistics import check_frame, class_statistics
from divfeat.metrics.variability import NC1Accumulator


@torch.no_grad()
def collapse_summary(
    features: Tensor,
    labels: Tensor,
    frame: Tensor | None = None,
    tau: float | Tensor | None = None,
    num_classes: int | None = None,
    bias: Tensor | None = None,
    *,
    frozen: bool = False,
    hierarchy: Hierarchy | None = None,
) -> dict[str, float]:
    """All measures of collapse, cones and norms by flat name.

    Args:
        features: [N, D], any floating dtype, any device.
        labels: int64 [N].
        frame: [D, K] class axes. None leaves out `collapse/nc3`, `collapse/nc4` and every `cone/` entry.
        tau: thresholds in radians, a float or [K]. None leaves out `cone/occupancy` and `cone/clamped`.
        num_classes: K; None means the frame's, without a frame the tree's, and without either one more than the largest label.
        bias: [K] of the classifier whose agreement with the nearest mean `collapse/nc4` is; None for a frame.
        frozen: Whether the frame is one that features are to collapse onto: with `collapse/angular`, how far the angles of the
            raw class means are from its (mean over pairs of the absolute difference of cosines), `collapse/angular_std` and
            `collapse/angular_std_signed`, and `collapse/self_duality` with its square, which the published code logs.
        hierarchy: Of the classes: with `collapse/nc1_level_<l>`, NC1 of the groups of each level above them, and
            `collapse/cophenetic`, how well angles between class means follow the tree, whatever the axes.

    Returns:
        Name -> value, NaN where a measure is undefined for these features (a run that diverged or collapsed must not
        fail on its diagnostics). `feature/log_norm` is the mean over classes of the classes' mean log norm.
        `collapse/absent_classes` and `collapse/singleton_classes` count the classes left out (the latter only of NC1,
        CDNV and the numerical ranks).

    Raises:
        DataError: wrong shapes or labels, or no samples.
        ConfigError: tau of the wrong shape or range.
    """
    check_features(features, labels)
    if labels.numel() == 0:
        raise DataError("there are no samples: pass at least one")
    if frame is not None:
        check_frame(frame, features.shape[1], num_classes)
        num_classes = frame.shape[1]
    if num_classes is None and hierarchy is not None:
        num_classes = hierarchy.num_classes
    num_classes = class_count(labels, num_classes)

    statistics = class_statistics(features, labels, num_classes)
    variability = NC1Accumulator(statistics)
    ranks = NumericalRankAccumulator(num_classes)
    agreement = None if frame is None else NC4Accumulator(statistics, frame, bias)
    cones = None if frame is None else ConeAccumulator(frame.to(features.device), tau)
    for batch in chunks(features, labels):
        for accumulator in (variability, ranks, agreement, cones):
            if accumulator is not None:
                accumulator.update(*batch)

    nc1, rank = variability.compute(), ranks.compute()
    norm, log_norm = feature_norms(features, labels, num_classes)
    values: dict[str, Tensor | float] = {
        "collapse/nc1": nc1.pooled,
        "collapse/nc1_balanced": nc1.balanced,
        "collapse/nc2": statistics.nc2(),
        "collapse/cdnv": statistics.cdnv(),
        "collapse/numerical_rank": rank.uncentred,
        "collapse/numerical_rank_centred": rank.centred,
        "collapse/absent_classes": statistics.absent,
        "collapse/singleton_classes": statistics.singletons,
        "feature/norm": norm,
        "feature/log_norm": log_norm[statistics.present].mean(),
    }
    if frozen and frame is not None:
        angles = angular_collapse(statistics.means, frame)
        values["collapse/angular"] = angles.mean_absolute
        values["collapse/angular_std"] = angles.std_absolute
        values["collapse/angular_std_signed"] = angles.std_signed
        present = statistics.present.cpu()
        duality = self_duality(statistics.means[statistics.present], frame[:, present.to(frame.device)])
        values["collapse/self_duality"], values["collapse/self_duality_squared"] = duality, duality.square()
    if hierarchy is not None:
        values["collapse/cophenetic"] = cophenetic_correlation(statistics.means, hierarchy)
    for level, groups in enumerate([] if hierarchy is None else hierarchy.levels()[:-1], 1):
        values[f"collapse/nc1_level_{level}"] = _nc1(features, groups.to(labels.device)[labels], int(groups.max()) + 1)
    if frame is not None and agreement is not None and cones is not None:
        cone = cones.compute()
        values["collapse/nc3"] = statistics.nc3(frame)
        values["collapse/nc4"] = agreement.compute().agreement
        values["cone/positive_cosine"] = cone.positive_cosine
        values["cone/negative_cosine"] = cone.negative_cosine
        values |= {f"cone/occupancy_{degrees}deg": share for degrees, share in cone.occupancy_at.items()}
        if cone.occupancy is not None and cone.clamped is not None:
            values["cone/occupancy"], values["cone/clamped"] = cone.occupancy, cone.clamped
    return {name: float(value) for name, value in values.items()}


def _nc1(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Pooled NC1, NaN where it is undefined."""
    variability = NC1Accumulator(class_statistics(features, labels, num_classes))
    for batch in chunks(features, labels):
        variability.update(*batch)
    return variability.compute().pooled
