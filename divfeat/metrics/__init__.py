"""Collapse, cones, accuracy, mistakes and calibration: one-shot functions, and accumulators with update / merge / compute.

Everything is float64 inside and takes features of any floating dtype on any device. Absent classes are left out and
counted. One-shot functions raise `divfeat.errors.DataError` where a measure is undefined; accumulators and
`collapse_summary` give NaN there.
"""

from divfeat.metrics.accuracy import (
    Confusion,
    ConfusionAccumulator,
    accuracy,
    accuracy_by_class,
    accuracy_by_group,
    balanced_accuracy,
    confusion,
)
from divfeat.metrics.angular import AngularCollapse, angular_collapse, cophenetic_correlation, self_duality
from divfeat.metrics.by_class import class_geometry
from divfeat.metrics.calibration import Calibration, CalibrationAccumulator, expected_calibration_error
from divfeat.metrics.collapse import NC4Accumulator, NC4Result, cdnv, nc2, nc3, nc4, nearest_mean_agreement
from divfeat.metrics.cones import (
    FIXED_DEGREES,
    ConeAccumulator,
    ConeStatistics,
    axis_cosines,
    clamped_share,
    cone_occupancy,
    cone_occupancy_at,
    feature_norms,
)
from divfeat.metrics.edges import crossed_edges
from divfeat.metrics.groups import by_boundary, by_shots
from divfeat.metrics.mistakes import (
    Mistakes,
    MistakesAccumulator,
    hierarchical_distance_at_k,
    lowest_risk,
    mistake_severity,
)
from divfeat.metrics.rank import NumericalRankAccumulator, NumericalRankResult, numerical_rank
from divfeat.metrics.statistics import ClassStatistics, ClassStatisticsAccumulator, class_statistics
from divfeat.metrics.summary import collapse_summary
from divfeat.metrics.variability import NC1Accumulator, NC1Result, nc1

__all__ = [
    "FIXED_DEGREES",
    "AngularCollapse",
    "Calibration",
    "CalibrationAccumulator",
    "ClassStatistics",
    "ClassStatisticsAccumulator",
    "ConeAccumulator",
    "ConeStatistics",
    "Confusion",
    "ConfusionAccumulator",
    "Mistakes",
    "MistakesAccumulator",
    "NC1Accumulator",
    "NC1Result",
    "NC4Accumulator",
    "NC4Result",
    "NumericalRankAccumulator",
    "NumericalRankResult",
    "accuracy",
    "accuracy_by_class",
    "accuracy_by_group",
    "angular_collapse",
    "axis_cosines",
    "balanced_accuracy",
    "by_boundary",
    "by_shots",
    "cdnv",
    "clamped_share",
    "class_geometry",
    "class_statistics",
    "collapse_summary",
    "cone_occupancy",
    "cone_occupancy_at",
    "confusion",
    "cophenetic_correlation",
    "crossed_edges",
    "expected_calibration_error",
    "feature_norms",
    "hierarchical_distance_at_k",
    "lowest_risk",
    "mistake_severity",
    "nc1",
    "nc2",
    "nc3",
    "nc4",
    "nearest_mean_agreement",
    "numerical_rank",
    "self_duality",
]
