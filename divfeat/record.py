"""The record of one experiment: what the ledger keeps, and the files beside it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from divfeat.config import ExperimentConfig
from divfeat.experiment import ExperimentResult
from divfeat.files import write_json


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


def save_arrays(folder: Path, result: ExperimentResult, *, weights: bool, features: bool) -> None:
    """Files of an experiment: `correct.npz` always, `extractor/` and `features.npz` where asked."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "correct.npz", **result.correct)  # type: ignore[arg-type]
    if weights:
        (folder / "extractor").mkdir(exist_ok=True)
        write_json(folder / "extractor" / "config.json", result.extractor.config)
        state = {name: value.cpu() for name, value in result.extractor.state_dict().items()}
        torch.save(state, folder / "extractor" / "weights.pt")
    if features:
        columns: dict[str, np.ndarray] = {"axes": result.axes.cpu().float().numpy()}
        for name, found in result.features.items():
            columns[f"{name}_after"] = found.after.cpu().half().numpy()
            columns[f"{name}_fine"] = found.fine.cpu().numpy()
            if found.coarse is not None:
                columns[f"{name}_coarse"] = found.coarse.cpu().numpy()
        np.savez_compressed(folder / "features.npz", **columns)  # type: ignore[arg-type]
