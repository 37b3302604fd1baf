"""The ledger of a study as pandas frames, under the ledger's own metric names.

Metrics are as recorded: shares in [0, 1] (`val/accuracy`, `probe/fine_top1`), geometry plain, cosines plain, seconds. Angles
are radians. Only differences are in points (percentage points), as in the verdict. What is missing is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from divfeat.record import cause_of
from divfeat.report.groups import BALANCED, group_results
from divfeat.report.outcomes import class_rows
from divfeat.report.summary import StudySummary
from divfeat.search.ledger import Ledger
from divfeat.search.protocol import confirm_seeds
from divfeat.statistics import Comparison

Row = dict[str, Any]
_UNFINISHED = "not finished"


def trials(summary: StudySummary) -> pd.DataFrame:
    """A row a proposal of the search, by number: how it was called, what was proposed, how it ended, its metrics.

    Proposed numbers stand under their own names (`tau`, `tau_minor`, ...): angles and offsets in radians, others plain.
    `feasible`: finished, and keeps every constraint.
    """
    ledger = Ledger(summary.folder)
    proposals = ledger.proposals()
    rows, metrics = [], []
    for trial in summary.trials:
        proposed = {name: value for name, value in proposals[trial.number]["params"].items() if name != "release"}
        record = ledger.record(trial.key) if trial.status != _UNFINISHED else None
        rows.append(
            {
                "number": trial.number,
                "name": trial.name,
                "key": trial.key,
                "family": trial.family,
                "release": trial.release,
                **proposed,
                "status": trial.status,
                "feasible": trial.feasible,
                "seconds": _seconds(record),
                "error": trial.error,
            }
        )
        metrics.append(_metrics(record))
    return _frame(rows, ("number", "name", "key", "family", "release", "status"), metrics).set_index("number")


def runs(summary: StudySummary) -> pd.DataFrame:
    """A row an experiment that was launched, by key: the phase that first needed it, name, seed, how it ended, its metrics."""
    ledger = Ledger(summary.folder)
    rows, metrics = [], []
    begun = sorted(ledger.started().items(), key=lambda item: (item[1].get("time", 0.0), item[0]))
    for key, start in begun:
        record = ledger.record(key)
        rows.append({"key": key, "phase": start["phase"], "name": start["name"], "seed": start["seed"], **_end(record)})
        metrics.append(_metrics(record))
    return _frame(rows, ("key", "phase", "name", "seed", "status"), metrics).set_index("key")


def confirmation(summary: StudySummary) -> pd.DataFrame:
    """A row a method (`winner` or a baseline's name) and seed of the confirmation, with its metrics of the test set.

    Empty before a winner is frozen.
    """
    rows, metrics = [], []
    for one in summary.confirmed:
        for seed, key, record in zip(one.seeds, one.keys, one.records, strict=True):
            rows.append({"method": one.name, "seed": seed, "key": key, **_end(record)})
            metrics.append(_metrics(record))
    return _frame(rows, ("method", "seed", "key", "status"), metrics)


def epochs(summary: StudySummary, keys: Iterable[str]) -> pd.DataFrame:
    """A row an epoch (0-based) of each of the runs `keys`, also of those that failed, were pruned or still run.

    `time` is in milliseconds since 1970, `train/lr` plain. Collapse (`followed/...`, on a fixed subset of the training images) is
    measured at some epochs only.
    """
    ledger = Ledger(summary.folder)
    rows, metrics = [], []
    for key in keys:
        record = ledger.record(key)
        for event in ledger.events(key) if record is None else record["history"]:
            rows.append({"key": key, "epoch": event["epoch"]})
            metrics.append({name: value for name, value in event.items() if name != "epoch"})
    return _frame(rows, ("key", "epoch"), metrics)


def classes(summary: StudySummary) -> pd.DataFrame:
    """A row a method, seed and trained class of the confirmation, its columns as recorded.

    `tau_plus` in radians, `accuracy` of the classifier on test in [0, 1], `cdnv`, `numerical_rank`, `positive_cosine` and
    `feature_norm` of its training features.
    """
    rows, values = [], []
    for one in summary.confirmed:
        for seed, record in zip(one.seeds, one.records, strict=True):
            for found in (record or {}).get("per_class", []):
                named = {name: found[name] for name in ("class", "name", "train_images")}
                rows.append({"method": one.name, "seed": seed, **named})
                values.append({name: value for name, value in found.items() if name not in named})
    return _frame(rows, ("method", "seed", "class", "name", "train_images"), values)


def differences(summary: StudySummary) -> pd.DataFrame:
    """A row an objective and baseline: winner minus baseline on test, paired by seed, with its interval and verdict.

    `mean`, `sd`, `half_width`, `low`, `high` in points where `unit` says so, else as the geometry is measured; `level` in [0, 1];
    `crossed_low`, `crossed_high` if the test images are drawn anew as well; `pairs`: seeds with both scores.
    """
    rows = []
    for objective in summary.objectives:
        for one in objective.verdict.comparisons:
            crossed = objective.crossed.get(one.name)
            rows.append(
                {
                    "objective": objective.name,
                    "metric": objective.metric,
                    **_compared(one),
                    "crossed_low": math.nan if crossed is None else crossed.low,
                    "crossed_high": math.nan if crossed is None else crossed.high,
                    "unit": "points" if objective.measure.unit == "share" else "",
                }
            )
    return _frame(rows, ("objective", "metric", "baseline", "mean", "low", "high", "verdict"))


def group_differences(summary: StudySummary) -> pd.DataFrame:
    """A row a group of classes and baseline: winner minus baseline in the group's accuracy on test, points.

    All of its intervals hold together. Empty where the classes form no groups.
    """
    found = group_results(summary)
    rows = []
    if found is not None:
        sizes = {BALANCED: len(class_rows(summary.confirmed)), **found.sizes}
        for group, some in found.comparisons.items():
            named = {"group": group, "metric": f"test/accuracy_{group}", "classes": sizes[group]}
            rows += [{**named, **_compared(one)} for one in some]
    return _frame(rows, ("group", "metric", "classes", "baseline", "mean", "low", "high", "verdict"))


def paired(summary: StudySummary) -> pd.DataFrame:
    """[seeds, baselines] differences of the primary objective on test, winner minus baseline, as `differences` sums them up."""
    some = summary.primary.verdict.comparisons if summary.primary else ()
    seeds = pd.Index(confirm_seeds(summary.trained) if some else [], name="seed", dtype="int64")
    return pd.DataFrame({one.name: one.differences for one in some}, index=seeds, dtype="float64")


# --- rows -------------------------------------------------------------------------------------------------------------------


def _compared(one: Comparison) -> Row:
    found = asdict(one)
    name, kept = found.pop("name"), found.pop("differences")
    del found["seeds"]
    return {"baseline": name, **found, "pairs": sum(not math.isnan(value) for value in kept)}


def _end(record: Mapping[str, Any] | None) -> Row:
    """How a run ended."""
    if record is None:
        return {"status": _UNFINISHED, "seconds": math.nan, "error": ""}
    error = "" if record["status"] == "completed" else cause_of(record)
    return {"status": record["status"], "seconds": _seconds(record), "error": error}


def _seconds(record: Mapping[str, Any] | None) -> float:
    found = (record or {}).get("provenance", {}).get("seconds")
    return math.nan if found is None else float(found)


def _metrics(record: Mapping[str, Any] | None) -> Mapping[str, float | None]:
    return {} if record is None else record["metrics"]


def _frame(
    rows: Sequence[Row], columns: Sequence[str], numbers: Sequence[Mapping[str, float | None]] | None = None
) -> pd.DataFrame:
    """Rows side by side with their numbers, float64 whatever is missing, by name; `columns` are there without a row too."""
    left = pd.DataFrame(list(rows), columns=None if rows else list(columns))
    if not numbers:
        return left
    names = sorted({name for row in numbers for name in row})
    table = {name: [row.get(name) for row in numbers] for name in names}
    return pd.concat([left, pd.DataFrame(table, index=left.index, dtype="float64")], axis=1)
