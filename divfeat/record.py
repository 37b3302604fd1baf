"""The record of one experiment: what the ledger keeps, and the files beside it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from divfeat.config import ExperimentConfig
from divfeat.errors import DataError
from divfeat.experiment import ExperimentResult
from divfeat.features import FeatureSet
from divfeat.files import append_line, read_lines, read_mapping, write_json
from divfeat.hierarchy import Hierarchy

#: Of records and of the study's folder around them.
FORMAT = 1
#: The tree of the classes, in the folder of a confirmation.
TREE = "hierarchy.json"


def completed(config: ExperimentConfig, result: ExperimentResult) -> dict[str, Any]:
    """The record of a finished experiment, as JSON types."""
    return {
        "status": "completed",
        "config": config.to_dict(),
        "metrics": result.metrics,
        "history": result.history,
        "per_class": result.per_class,
        "provenance": result.provenance,
        "notes": result.notes,
        "error": None,
        "finished": time.time(),
    }


def ended(
    status: str, config: ExperimentConfig, error: str, kind: str, history: list[dict[str, Any]]
) -> dict[str, Any]:
    """The record of an experiment that was `pruned` or has `failed`; `kind` says whose fault it was."""
    return {
        "status": status,
        "config": config.to_dict(),
        "metrics": {},
        "history": history,
        "per_class": [],
        "provenance": {},
        "notes": [],
        "error": error,
        "error_kind": kind,
        "finished": time.time(),
    }


def cause_of(record: Mapping[str, Any]) -> str:
    """Why a run failed or was pruned: the last line of what it said."""
    lines = str(record.get("error") or record.get("error_kind") or "no reason recorded").strip().splitlines()
    return lines[-1].strip()


def write(folder: Path, key: str, content: Mapping[str, Any]) -> None:
    """The truth about one experiment, in its folder, by atomic rename."""
    write_json(folder / "record.json", written(key, content))


def written(key: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """What `write` writes."""
    return {"format": FORMAT, "key": key, **content}


def events(folder: Path) -> list[dict[str, Any]]:
    """The epochs in the event log of a run's folder, in order; a retry repeats epochs, and the last line of one counts."""
    rows = {row["epoch"]: row for row in read_lines(folder / "events.jsonl") if "epoch" in row}
    return [rows[epoch] for epoch in sorted(rows)]


#: What `note_fault` writes.
FAULTS = "faults.jsonl"


def note_fault(folder: Path, kind: str, cause: str, **more: Any) -> None:
    """Note what took a trial from its place without being its doing."""
    append_line(folder / FAULTS, fault(kind, cause) | more)


def fault(kind: str, cause: str) -> dict[str, Any]:
    """What `note_fault` notes."""
    return {"kind": kind, "cause": cause, "time": time.time()}


def faults(folder: Path) -> list[dict[str, Any]]:
    """What `note_fault` noted, in order."""
    return read_lines(folder / FAULTS)


def save_arrays(folder: Path, result: ExperimentResult, *, weights: bool, features: bool) -> None:
    """Files of an experiment: `correct.npz` always, `angles.npz` and `hierarchy.json` of a confirmation with a tree, `extractor/`
    and `features.parquet` where asked."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "correct.npz", **result.correct)  # type: ignore[arg-type]
    if result.angles and result.provenance["role"] == "confirm":
        np.savez_compressed(folder / "angles.npz", **result.angles)  # type: ignore[arg-type]
    if result.hierarchy is not None and result.provenance["role"] == "confirm":
        write_json(folder / TREE, asdict(result.hierarchy))
    if weights:
        (folder / "extractor").mkdir(exist_ok=True)
        write_json(folder / "extractor" / "config.json", result.extractor.config)
        state = {name: value.cpu() for name, value in result.extractor.state_dict().items()}
        torch.save(state, folder / "extractor" / "weights.pt")
    if features:
        np.save(folder / "axes.npy", result.axes.cpu().float().numpy())
        save_features(folder / "features.parquet", result.features)


def load_tree(folder: Path) -> Hierarchy | None:
    """The tree of classes that `save_arrays` wrote, which no file of the data set can change any more; None where it wrote none.

    Raises:
        DataError: what is there is no tree.
    """
    found = read_mapping(folder / TREE)
    if found is None:
        return None
    try:
        return Hierarchy(tuple(found["names"]), tuple(found["parents"]), found["num_classes"])
    except (KeyError, TypeError) as error:
        raise DataError(f"{folder / TREE} holds no tree of names, parents and num_classes") from error


def save_features(path: Path, features: Mapping[str, FeatureSet]) -> None:
    """Features after the projector, one row an image: `split`, `fine`, `coarse` (where there is one), `feature` float32 [D]."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for split, found in features.items():
        rows = found.after.cpu().float().numpy()
        columns: dict[str, Any] = {
            "split": pa.array([split] * len(rows)).dictionary_encode(),
            "fine": found.fine.cpu().numpy(),
            "feature": pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1]),
        }
        if found.coarse is not None:
            columns["coarse"] = found.coarse.cpu().numpy()
        tables.append(pa.table(columns))
    pq.write_table(pa.concat_tables(tables), path, compression="zstd")


def load_features(path: Path, split: str) -> dict[str, np.ndarray]:
    """One split of what `save_features` wrote: `feature` float32 [N, D], `fine` and, where there is one, `coarse` int64 [N].

    Raises:
        DataError: the file has no such split.
    """
    import pyarrow.parquet as pq

    table = pq.read_table(path, filters=[("split", "=", split)])
    if not len(table):
        raise DataError(
            f"{path} holds no features of split {split!r}; a search keeps train and val, else train and test"
        )
    columns = {name: table[name].to_numpy() for name in ("fine", "coarse") if name in table.column_names}
    rows = table["feature"].combine_chunks()
    return {"feature": rows.flatten().to_numpy().reshape(len(table), -1), **columns}
