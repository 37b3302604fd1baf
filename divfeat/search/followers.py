"""MLflow as a follower of the queue: what the ledger knows, told to the tracker in its words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from divfeat.config import MethodConfig
from divfeat.methods import parts_of
from divfeat.parts import OFF
from divfeat.search.jobs import Job
from divfeat.search.ledger import Ledger
from divfeat.tracking import Tracker


class TrackingFollower:
    """Passes jobs, epochs and records to MLflow; only the driver does.

    Args:
        tracker: Open.
        ledger: Where the files of a run lie.
    """

    def __init__(self, tracker: Tracker, ledger: Ledger) -> None:
        self.tracker, self.ledger = tracker, ledger
        self.known: set[str] = set()

    def reconcile(self) -> None:
        """Bring MLflow up to the ledger."""
        known = {}
        for key, info in self.ledger.started().items():
            record = self.ledger.record(key)
            if record is None:
                continue
            self.known.add(key)
            known[key] = (start_arguments(info, record["config"]), tracked(record))
        self.tracker.reconcile(known, lambda key: self._files(key))

    def started(self, job: Job) -> None:
        """Begin the run."""
        info = {"phase": job.phase, "seed": job.experiment.seed, "name": job.name, "number": job.number}
        self.tracker.start_run(job.key, **start_arguments(info, job.experiment.to_dict()))

    def heard(self, job: Job, events: Sequence[Mapping[str, Any]]) -> None:
        """Log epochs."""
        self.tracker.log_events(job.key, [tracked_event(event) for event in events])

    def finished(self, job: Job, record: Mapping[str, Any], fresh: bool) -> None:
        """Close the run, once."""
        if job.key in self.known:
            return
        self.known.add(job.key)
        if not fresh:
            self.started(job)
        self.tracker.finish_run(job.key, tracked(record), self._files(job.key))

    def stopped(self, job: Job) -> None:
        """Close the run until the study is taken up again."""
        history = [tracked_event(event) for event in self.ledger.events(job.key)]
        record = {
            "status": "stopped",
            "metrics": {},
            "config": job.experiment.to_dict(),
            "history": history,
            "error": None,
        }
        self.tracker.finish_run(job.key, record)

    def _files(self, key: str) -> dict[str, Path]:
        folder = self.ledger.run_folder(key)
        record = self.ledger.record(key) or {}
        files: dict[str, Path] = {}
        if record.get("per_class"):
            table = folder / "per_class.parquet"
            if not table.exists():
                half = table.with_suffix(".tmp")  # a kill while writing must not leave a torn table for ever
                pq.write_table(pa.Table.from_pylist(record["per_class"]), half)
                half.replace(table)
            files["per_class.parquet"] = table
        for name in ("features.parquet", "axes.npy", "extractor", "correct.npz"):
            if record.get("config", {}).get("role") == "confirm" and (folder / name).exists():
                files[name] = folder / name
        return files


def start_arguments(info: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `Tracker.start_run`."""
    method = config["method"]
    params = {
        "method": method["name"],
        "release": method["release"],
        "family": method["thresholds"]["family"],
        **method["thresholds"]["angles"],
        **parts_of(MethodConfig.model_validate(method)).other_than(OFF),
        "seed": config["seed"],
        "role": config["role"],
        "lr": config["train"]["lr"],
        "weight_decay": config["train"]["weight_decay"],
        "epochs": config["train"]["epochs"],
        "backbone": config["model"]["backbone"],
        "source": config["data"]["source"],
    }
    return {
        "phase": info["phase"],
        "seed": info["seed"],
        "name": f"{info['name']} seed {info['seed']}",
        "params": params,
        "number": info.get("number"),
        "tags": {"method": info["name"]},
    }


def tracked(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record in the tracker's words."""
    return {
        "status": record["status"],
        "metrics": {name: value for name, value in record["metrics"].items() if value is not None},
        "config": record["config"],
        "history": [tracked_event(event) for event in record["history"]],
        "error": record["error"],
        "time": int(1000 * record["finished"]),
    }


def tracked_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """An epoch in the tracker's words."""
    metrics = {name: value for name, value in event.items() if name not in ("epoch", "time") and value is not None}
    return {"epoch": int(event["epoch"]), "time": int(event["time"]), "metrics": metrics}
