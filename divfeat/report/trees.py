"""What a study keeps of its tree of classes: the tree itself, the mistakes along its edges, the angles between its classes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from divfeat.data.trees import tree_of_names
from divfeat.errors import ConfigError, DataError
from divfeat.hierarchy import Hierarchy
from divfeat.metrics import Confusion, Mistakes, confusion, crossed_edges
from divfeat.objectives import OBJECTIVES
from divfeat.record import load_tree
from divfeat.report.arrays import Floats
from divfeat.report.outcomes import class_rows
from divfeat.report.summary import Runs, StudySummary
from divfeat.search.ledger import Ledger
from divfeat.search.protocol import recorded


def tree_of_study(summary: StudySummary) -> Hierarchy | None:
    """The tree that the confirmation was scored by: the one its runs kept; of runs that kept none, the one that the
    configuration names, if that gives the severity they recorded. None where there is neither."""
    name = summary.config.data.hierarchy
    if name is None:
        return None
    kept = (load_tree(folder) for runs in summary.confirmed for folder in _folders(summary, runs) if folder is not None)
    found = next((tree for tree in kept if tree is not None), None)
    if found is not None:
        return found
    try:
        names = [row["name"] for row in class_rows(summary.confirmed)]
        found = tree_of_names(name, names, summary.config.data.train_level)
    except (ConfigError, DataError):  # of the images' own coarse labels, or of a file that is gone
        return None
    return found if _scored_by(summary, found) else None


def shares_by_edge(summary: StudySummary, runs: Runs, tree: Hierarchy) -> Floats | None:
    """[nodes, S] share of the mistakes on test that cross the edge above each node, NaN for a seed without predictions; None
    where no seed has them."""
    table = np.full((len(tree.names), len(runs.seeds)), math.nan)
    found = list(_confusions(summary, runs, tree.num_classes))
    for place, counted in found:
        table[:, place] = crossed_edges(counted, tree).numpy()
    return table if found else None


def cosines_of_classes(summary: StudySummary, runs: Runs) -> tuple[Floats, Floats] | None:
    """[S, K, K] cosines between class axes, and between class means of the training features, over the seeds that kept them;
    None where no seed did."""
    tables = []
    for folder in _folders(summary, runs):
        if folder is not None and (folder / "angles.npz").is_file():
            with np.load(folder / "angles.npz") as arrays:
                tables.append((arrays["axes"].astype(np.float64), arrays["means"].astype(np.float64)))
    return (np.stack([axes for axes, _ in tables]), np.stack([means for _, means in tables])) if tables else None


def _scored_by(summary: StudySummary, tree: Hierarchy) -> bool:
    """Whether a run's own predictions have the severity in this tree that its record has: a file may have changed since."""
    for runs in summary.confirmed:
        for place, counted in _confusions(summary, runs, tree.num_classes):
            known = recorded(runs.records[place], OBJECTIVES["severity"].test)
            if known is not None:
                return math.isclose(Mistakes(counted, tree, {}).severity, known, rel_tol=1e-9)
    return False


def _confusions(summary: StudySummary, runs: Runs, num_classes: int) -> Iterator[tuple[int, Confusion]]:
    """Place of each seed whose predictions were kept, and its confusion on test."""
    for place, folder in enumerate(_folders(summary, runs)):
        if folder is None or not (folder / "correct.npz").is_file():
            continue
        with np.load(folder / "correct.npz") as arrays:
            if "predicted" in arrays:
                answers, labels = (torch.from_numpy(arrays[name].astype(np.int64)) for name in ("predicted", "label"))
                yield place, confusion(answers, labels, num_classes)


def _folders(summary: StudySummary, runs: Runs) -> list[Path | None]:
    """Of each seed, None where it did not finish."""
    ledger = Ledger(summary.folder)
    return [
        ledger.run_folder(str(key)) if record is not None and record["status"] == "completed" else None
        for key, record in zip(runs.keys, runs.records, strict=True)
    ]
