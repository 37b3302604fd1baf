"""The confirmation by groups of classes: accuracies of major and minor, many, medium and few, and the winner's gain in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from divfeat.metrics.groups import by_boundary, by_shots
from divfeat.report.arrays import Floats
from divfeat.report.outcomes import class_rows
from divfeat.report.published import short_of_published
from divfeat.report.summary import WINNER, Runs, StudySummary
from divfeat.statistics import Comparison, verdict

#: Two ways to part the classes by training images; a group's metric on test is `test/accuracy_GROUP`.
PARTITIONS = (("major", "minor"), ("many", "medium", "few"))
BALANCED = "balanced"


@dataclass(frozen=True)
class GroupResults:
    """The confirmation by groups of classes.

    Attributes:
        groups: `balanced`, then the groups that the classes form.
        sizes: Classes of each group.
        scores: method -> group -> [S] accuracy on test in points, NaN where missing.
        comparisons: group -> winner against each baseline.
        level: At which all intervals of all groups hold together.
    """

    groups: tuple[str, ...]
    sizes: Mapping[str, int]
    scores: Mapping[str, Mapping[str, Floats]]
    comparisons: Mapping[str, tuple[Comparison, ...]]
    level: float


def group_masks(summary: StudySummary) -> dict[str, np.ndarray]:
    """group -> bool [K] of the confirmation's classes; none before there is one."""
    found = partitions([row["train_images"] for row in class_rows(summary.confirmed)], summary.config.data.boundary)
    return {name: mask for groups in found for name, mask in groups.items()}


def partitions(counts: Sequence[int], boundary: int) -> list[dict[str, np.ndarray]]:
    """For each way to part the classes group -> bool [K], of the groups that hold some classes and not all."""
    sizes = torch.tensor(counts, dtype=torch.int64)
    masks = by_boundary(sizes, boundary) | by_shots(sizes)
    parts = [[name for name in partition if 0 < int(masks[name].sum()) < len(sizes)] for partition in PARTITIONS]
    return [{name: masks[name].numpy() for name in part} for part in parts if part]


def group_scores(runs: Runs, groups: Sequence[str]) -> dict[str, Floats]:
    """group -> [S] accuracy on test in points: the mean over the group's classes."""
    return {group: runs.points(f"test/accuracy_{group}") for group in groups}


def group_results(summary: StudySummary) -> GroupResults | None:
    """Accuracies and differences by group; None before a confirmation, or where the classes form no groups."""
    masks = group_masks(summary)
    if summary.primary is None or not masks:
        return None
    groups = (BALANCED, *masks)
    rules, looks = summary.config.protocol, summary.primary.verdict.looks
    scores = {runs.name: group_scores(runs, groups) for runs in summary.confirmed}
    reason, comparisons = short_of_published(rules, summary.confirmed), {}
    for group in groups:
        found = verdict(
            scores[WINNER][group],
            {name: of_groups[group] for name, of_groups in scores.items() if name != WINNER},
            seeds=summary.confirmed[0].seeds,
            margin=rules.margin,
            alpha=rules.alpha,
            looks=looks * len(groups),  # each group is one more look at the same test images
            same_config=summary.equals,
        )
        comparisons[group] = (found.withheld(reason) if reason else found).comparisons
    sizes = {group: int(mask.sum()) for group, mask in masks.items()}
    return GroupResults(groups, sizes, scores, comparisons, 1 - rules.alpha / looks)
