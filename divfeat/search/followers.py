"""MLflow as a follower of the queue: what the ledger knows, told to the tracker in its words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from divfeat.config import MethodConfig
from divfeat.methods import method_named, parts_of
from divfeat.parts import OFF
from divfeat.record import TREE
from divfeat.search.jobs import Job
from divfeat.search.ledger import Ledger
from divfeat.search.protocol import method_key
from divfeat.study_config import SearchConfig
from divfeat.thresholds import family_named
from divfeat.tracking import Tracker

#: Phases whose runs are settings of the searched method, also where these are no cones, which trains as another method does.
_OF_THE_SEARCH = ("search", "grid")


class TrackingFollower:
    """Passes jobs, epochs and records to MLflow; only the driver does.

    Args:
        tracker: Open.
        ledger: Where the files of a run lie.
        search: What is searched: whose thresholds are 0 in a run without cones.
        spend: What the study has cost so far, as metrics of its own run.
    """

    def __init__(
        self,
        tracker: Tracker,
        ledger: Ledger,
        search: SearchConfig,
        spend: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self.tracker, self.ledger, self.search, self.spend = tracker, ledger, search, spend
        self.known: set[str] = set()

    def reconcile(self) -> None:
        """Bring MLflow up to the ledger."""
        known = {}
        for key, info in self.ledger.started().items():
            record = self.ledger.record(key)
            if record is None:
                continue
            self.known.add(key)
            known[key] = (start_arguments(info, record["config"], self.search), self._tracked(record))
        self.tracker.reconcile(known, lambda key: self._files(key))

    def mark_winner(self, method: MethodConfig) -> None:
        """Tag every finished run of the winner's method, of whichever phase."""
        own = method_key(method)
        records = ((key, self.ledger.record(key)) for key in self.ledger.started())
        found = {key: MethodConfig.model_validate(record["config"]["method"]) for key, record in records if record}
        self.tracker.mark("winner", [key for key, one in found.items() if method_key(one) == own])

    def started(self, job: Job) -> None:
        """Begin the run."""
        info = {"phase": job.phase, "seed": job.experiment.seed, "name": job.name, "number": job.number}
        self.tracker.start_run(job.key, **start_arguments(info, job.experiment.to_dict(), self.search))

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
        self.tracker.finish_run(job.key, self._tracked(record), self._files(job.key))
        if fresh and (spend := self.spend()):
            self.tracker.log_study(spend, len(self.known))

    def paused(self, job: Job) -> None:
        """Say that the run waits; one that an earlier session began may not have been taken up in this one."""
        self.started(job)
        self.tracker.pause_run(job.key)

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

    def _tracked(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """With the thresholds as metrics too: MLflow sorts and filters params as text."""
        found = tracked(record)
        angles = shown_thresholds(MethodConfig.model_validate(record["config"]["method"]), self.search)
        return found | {"metrics": found["metrics"] | {f"threshold/{name}": value for name, value in angles.items()}}

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
        for name in ("features.parquet", "axes.npy", "extractor", "correct.npz", "angles.npz", TREE):
            if record.get("config", {}).get("role") == "confirm" and (folder / name).exists():
                files[name] = folder / name
        return files


def start_arguments(info: Mapping[str, Any], config: Mapping[str, Any], search: SearchConfig) -> dict[str, Any]:
    """Keyword arguments of `Tracker.start_run`.

    Params are what trials differ in, since each is offered as an axis and a column: the method, its thresholds in degrees,
    its own numbers, the seed. What is the same in all of them is in the run's `config.yaml` and among the study's params.

    Args:
        info: Of the ledger: phase, seed, name, number (None where the run is no proposal).
        config: Of the experiment.
        search: What is searched.
    """
    method = MethodConfig.model_validate(config["method"])
    hinge, phase, number = method_named(method.name).hinge, info["phase"], info.get("number")
    proposed = not hinge and phase in _OF_THE_SEARCH
    named = {
        "method": search.method.name if proposed else method.name,
        "release": method.release if hinge else "none",
        "family": search.family if proposed else method.thresholds.family,
    }
    tried = {name: config["train"][name] for name in ("lr", "weight_decay") if phase == "calibrate"}
    place = f"{info['name']} seed {info['seed']}" if number is None else f"{number:03d} {info['name']}"
    return {
        "phase": phase,
        "seed": info["seed"],
        "name": f"{phase} {place}",
        "params": {
            **named,
            **shown_thresholds(method, search),
            **parts_of(method).other_than(OFF),
            **tried,
            "seed": config["seed"],
        },
        "number": number,
        "tags": {**named, "label": info["name"], "role": config["role"]},
    }


def shown_thresholds(method: MethodConfig, search: SearchConfig) -> dict[str, float]:
    """Thresholds of a method in degrees; those of the searched family at 0 where it has no cones."""
    if method_named(method.name).hinge:
        return family_named(method.thresholds.family).shown(method.thresholds.angles)
    family = family_named(search.family)
    return family.shown(family.closed)


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
