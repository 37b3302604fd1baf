"""What many records say together: where they come from, how they ended, and their own notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: Fields of a record's provenance that the runs of one confirmation should agree on.
_SHARED = (
    "split_hash",
    "train_hash",
    "evaluation_hash",
    "train_images",
    "evaluation_images",
    "epoch_policy",
    "commit",
    "device",
    "workers",
)


@dataclass(frozen=True)
class RunCount:
    """Runs that a phase was the first to need, by how they ended; `causes` of failures with their number."""

    completed: int = 0
    pruned: int = 0
    failed: int = 0
    unfinished: int = 0
    seconds: float = 0.0
    causes: Mapping[str, int] = field(default_factory=dict)


def run_counts(
    started: Mapping[str, Mapping[str, Any]], record_of: Callable[[str], Mapping[str, Any] | None]
) -> dict[str, RunCount]:
    """Counts by phase, in the order the phases began."""
    statuses: dict[str, Counter[str]] = {}
    causes: dict[str, Counter[str]] = {}
    seconds: Counter[str] = Counter()
    for key, info in sorted(started.items(), key=lambda item: (item[1].get("time", 0.0), item[0])):
        phase = str(info["phase"])
        record = record_of(key)
        status = "unfinished" if record is None else str(record["status"])
        statuses.setdefault(phase, Counter())[status] += 1
        causes.setdefault(phase, Counter())
        if record is not None:
            seconds[phase] += record["provenance"].get("seconds") or 0.0
            if status == "failed":
                lines = str(record.get("error") or record.get("error_kind") or "unknown").strip().splitlines()
                causes[phase][lines[-1].strip()] += 1
    return {
        phase: RunCount(
            count["completed"],
            count["pruned"],
            count["failed"],
            count["unfinished"],
            seconds[phase],
            dict(causes[phase]),
        )
        for phase, count in statuses.items()
    }


def collected(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Provenance of many runs: one value where they agree, else the list of all, None where nothing is known."""
    rows = [record["provenance"] for record in records]
    found = {name: _agreed([row.get(name) for row in rows]) for name in _SHARED}
    packages = list(dict.fromkeys(name for row in rows for name in row.get("versions", {})))
    versions = {name: _agreed([row["versions"].get(name) for row in rows]) for name in packages}
    return found | {"versions": versions}


def _agreed(values: Iterable[Any]) -> Any:
    distinct = list(dict.fromkeys(value for value in values if value is not None))
    return distinct[0] if len(distinct) == 1 else (distinct or None)


def said_by_runs(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Notes of the runs, each once, with the number of runs that say it."""
    unique = {record["key"]: record for record in records}
    notes = Counter(note for record in unique.values() for note in record["notes"])
    return [f"{note} ({count} of {len(unique)} runs)" for note, count in notes.items()]
