"""What a search may follow: accuracies and mistakes on the scored images, and the geometry of the training features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Measure:
    """A measure by which trials are compared, as objective or as constraint.

    Attributes:
        validation: Metric of a run of the search.
        test: Metric of a run of the confirmation. Geometry is measured on the training images in both, under one name.
        short: The measure in two or three words.
        about: What it is, in a phrase.
        direction: Which values a search looks for.
        unit: `share` is recorded in [0, 1], and shown in percent and points; `number` has no unit and is shown as it is.
    """

    validation: str
    test: str
    short: str
    about: str
    direction: Direction = "maximize"
    unit: Literal["share", "number"] = "share"

    @property
    def geometry(self) -> bool:
        """Whether it is one of the training features: it is no score, so more of it is neither better nor worse."""
        return self.validation == self.test

    @property
    def plain(self) -> bool:
        """Whether a verdict says higher or lower of it, without a margin in points: of geometry, and of what is no share."""
        return self.geometry or self.unit == "number"

    @property
    def sign(self) -> int:
        """Times this, more is what a search looks for."""
        return 1 if self.direction == "maximize" else -1

    @property
    def scale(self) -> int:
        """Recorded values times this are shown: points of a share, a number as it is."""
        return 100 if self.unit == "share" else 1

    @property
    def digits(self) -> int:
        """After the point, of a difference: what is a share is shown in points, geometry may be small."""
        return 2 if self.unit == "share" else 4

    @property
    def suffix(self) -> str:
        """After a name: ` (%)` of a share."""
        return " (%)" if self.unit == "share" else ""

    @property
    def points(self) -> str:
        """After a difference: ` points` of a share."""
        return " points" if self.unit == "share" else ""


def _group(name: str, what: str) -> Measure:
    return Measure(
        f"val/accuracy_{name}", f"test/accuracy_{name}", f"{name}-class accuracy", f"mean accuracy of the {what}"
    )


def _distance(k: int) -> Measure:
    ranks = "the first rank" if k == 1 else f"the first {k} ranks"
    return Measure(
        f"val/hierarchical_distance_{k}",
        f"test/hierarchical_distance_{k}",
        f"hierarchical distance at {k}",
        f"mean distance in the tree of {ranks} of the classifier",
        "minimize",
        "number",
    )


#: By name. What is searched for with geometry is diversity (figure 4 of the HingeCE paper), so NC1 and rank are maximised;
#: the log norm is minimised, since the norm grows without bound where all logits are clamped.
OBJECTIVES: dict[str, Measure] = {
    "fine_probe": Measure(
        "probe/fine_top1",
        "test/fine_top1",
        "fine-probe accuracy",
        "linear probe on fine labels, after the projector",
    ),
    "accuracy": Measure("val/accuracy", "test/accuracy", "accuracy", "accuracy of the classifier on its own labels"),
    "balanced": Measure(
        "val/accuracy_balanced", "test/accuracy_balanced", "balanced accuracy", "mean of the classes' accuracies"
    ),
    "minor": _group("minor", "minor classes"),
    "major": _group("major", "major classes"),
    "many": _group("many", "classes with more than 100 training images"),
    "medium": _group("medium", "classes with 20 to 100 training images"),
    "few": _group("few", "classes with fewer than 20 training images"),
    "severity": Measure(
        "val/mistake_severity",
        "test/mistake_severity",
        "mistake severity",
        "mean distance in the tree of the wrong predictions of the classifier",
        "minimize",
        "number",
    ),
    "distance": _distance(1),
    "distance_5": _distance(5),
    "distance_20": _distance(20),
    "nc1": Measure(
        "collapse/nc1",
        "collapse/nc1",
        "NC1",
        "within-class over between-class variability of the training features",
        unit="number",
    ),
    "numerical_rank": Measure(
        "collapse/numerical_rank",
        "collapse/numerical_rank",
        "numerical rank",
        "numerical rank of a class's training features, mean of the classes",
        unit="number",
    ),
    "occupancy": Measure(
        "cone/occupancy",
        "cone/occupancy",
        "cone occupancy",
        "share of the training features inside the cone of their class",
    ),
    "log_norm": Measure(
        "feature/log_norm",
        "feature/log_norm",
        "log feature norm",
        "mean log norm of the training features, mean of the classes",
        "minimize",
        "number",
    ),
}

#: Those that need a tree of the classes (`data.hierarchy`), and the deepest rank each looks at.
OF_TREES: dict[str, int] = {"severity": 1, "distance": 1, "distance_5": 5, "distance_20": 20}

#: What a validation metric counts as in a search where it has nothing to be a mean over: without a mistake there is no severity
#: (recorded as null), and no mistake is better than the smallest. On test it stays undefined, and the seed without a score.
OF_NOTHING: dict[str, float] = {OBJECTIVES["severity"].validation: 0.0}

#: Metrics of an epoch, on which a training can be ended (`search.stop`). Those that begin with `followed/` are measured on
#: up to 1,000 training images after 1, 2, 4, 8, ... epochs and the last.
EPOCH_METRICS: tuple[str, ...] = (
    *(f"train/{n}" for n in ("loss", "accuracy", "positive_cosine", "negative_cosine")),
    *(f"train/{n}" for n in ("inside_cone", "cross_entropy", "cross_entropy_inside", "feature_norm")),
    *(f"followed/collapse/{n}" for n in ("nc1", "nc1_balanced", "nc2", "nc3", "nc4", "cdnv")),
    *(f"followed/collapse/{n}" for n in ("numerical_rank", "numerical_rank_centred")),
    *(f"followed/cone/{n}" for n in ("positive_cosine", "negative_cosine", "occupancy", "clamped")),
    *(f"followed/feature/{n}" for n in ("norm", "log_norm")),
)
