"""Which test images a run answered correctly, and what follows from it: scores by class, weights of images."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from divfeat.objectives import OBJECTIVES
from divfeat.report.arrays import Floats
from divfeat.report.summary import Runs
from divfeat.search.ledger import Ledger

#: Objectives that are means over classes, all or those of a group, so that every class weighs alike.
_BY_CLASS = ("balanced", "minor", "major", "many", "medium", "few")


@dataclass(frozen=True)
class Answers:
    """Answers of one method's runs.

    Attributes:
        correct: [S, N] 1 where image n was answered correctly at seed s, 0 where not; NaN rows for seeds without answers.
        labels: int64 [N].
    """

    correct: Floats
    labels: NDArray[np.int64]

    @property
    def complete(self) -> bool:
        """Whether every seed has its answers."""
        return bool(np.isfinite(self.correct).all())

    def by_class(self) -> Floats:
        """[K, S] share answered correctly, NaN for a class without an image and a seed without answers."""
        found = np.full((int(self.labels.max()) + 1, len(self.correct)), math.nan)
        for k in np.unique(self.labels):
            found[k] = self.correct[:, self.labels == k].mean(axis=1)
        return found


def read_answers(ledger: Ledger, runs: Runs, objective: str) -> Answers | None:
    """What the runs answered, image by image; None where no seed has it, or seeds saw different images.

    Geometry has no answers, and distances in a tree are none that are right or wrong: None.
    """
    if OBJECTIVES[objective].plain:
        return None
    # The array of `correct.npz` behind the score, and the labels whose classes it is about.
    array, level = ("fine_probe", "fine") if objective == "fine_probe" else ("accuracy", "label")
    rows: list[Floats | None] = []
    labels: NDArray[np.int64] | None = None
    for key, record in zip(runs.keys, runs.records, strict=True):
        path = ledger.run_folder(str(key)) / "correct.npz"
        if record is None or record["status"] != "completed" or not path.is_file():
            rows.append(None)
            continue
        with np.load(path) as columns:
            rows.append(columns[array].astype(np.float64))
            found = columns[level].astype(np.int64)
        if labels is not None and not np.array_equal(labels, found):
            return None
        labels = found
    if labels is None:
        return None
    gap = np.full(len(labels), math.nan)
    return Answers(np.stack([gap if row is None else row for row in rows]), labels)


def image_weights(objective: str, labels: NDArray[np.int64], counted_classes: Collection[int]) -> Floats:
    """[N] weights, mean 1, under which the mean answer is the objective's score.

    A mean over K classes gives an image of class y the weight N / (K n_y), so that every class weighs alike.

    Args:
        objective: Name of the objective.
        labels: [N] as `Answers` has them.
        counted_classes: Those of the group that the objective is about, which alone count; for `balanced` all.
    """
    if objective not in _BY_CLASS:
        return np.ones(len(labels))
    size = np.bincount(labels)
    counted = (size > 0) & np.isin(np.arange(len(size)), list(counted_classes))
    weights = np.divide(len(labels), counted.sum() * size, out=np.zeros(len(size)), where=counted)
    return weights[labels]
