"""What must hold of a study that was killed again and again, and what it must have in common with one that was not."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from mlflow import MlflowClient
from mlflow.entities import ViewType

from divfeat.files import read_json, read_lines

#: Metric of what the chaos study searches for.
_OBJECTIVE = "probe/fine_top1"
#: What a record says of the clock and of where it ran.
_OF_THE_CLOCK = ("finished", "provenance", "history")


class Witness:
    """Remembers every finished trial as it was when it was first seen."""

    def __init__(self, study: Path) -> None:
        self.study = study
        self.seen: dict[str, str] = {}

    def look(self) -> list[str]:
        """Faults found: records that changed or went away."""
        found = {}
        for path in self.study.glob("runs/*/record.json"):
            if (read_json(path) or {}).get("status") == "completed":
                found[path.parent.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        faults = [f"the record of {key} changed" for key, was in self.seen.items() if found.get(key, was) != was]
        faults += [f"the record of {key} went away" for key in self.seen if key not in found]
        self.seen |= found
        return faults


def of_the_ledger(study: Path) -> list[str]:
    """Every trial begun has its record, every epoch is in it once, every read of the test images is noted once."""
    faults = []
    for start in study.glob("runs/*/start.json"):
        record = read_json(start.with_name("record.json"))
        if record is None:
            faults.append(f"{start.parent.name} was begun and has no record")
            continue
        if record["status"] != "completed":
            faults.append(f"{start.parent.name} ended {record['status']}: {record['error']}")
        epochs = [row["epoch"] for row in record["history"]]
        if epochs != list(range(len(epochs))) or len(epochs) != record["config"]["train"]["epochs"]:
            faults.append(f"{start.parent.name} has the epochs {epochs}")
    reads = Counter(row["key"] for row in read_lines(study / "test_reads.jsonl"))
    faults += [
        f"{key} is noted {times} times as a read of the test images" for key, times in reads.items() if times > 1
    ]
    if (study / "stages").exists():
        faults.append("checkpoints were left behind")
    return faults


def of_optuna(study: Path) -> list[str]:
    """Optuna's storage has the proposals of the ledger, each finished with the value of its record."""
    faults = []
    found = optuna.load_study(study_name=study.name, storage=f"sqlite:///{study / 'optuna.db'}")
    proposals = {row["number"]: row for row in (read_json(path) for path in study.glob("proposals/*.json"))}
    if len(found.trials) != len(proposals):
        faults.append(f"Optuna has {len(found.trials)} trials, the ledger {len(proposals)} proposals")
    for trial in found.trials:
        if not trial.state.is_finished():
            faults.append(f"Optuna's trial {trial.number} is {trial.state.name}")
        elif trial.number in proposals and trial.params != proposals[trial.number]["params"]:
            faults.append(f"Optuna's trial {trial.number} has other parameters than the ledger")
        elif trial.number in proposals:
            record = read_json(study / "runs" / proposals[trial.number]["key"] / "record.json") or {}
            if trial.state.name != "COMPLETE" or trial.value != record.get("metrics", {}).get(_OBJECTIVE):
                faults.append(
                    f"Optuna's trial {trial.number} is {trial.state.name} with {trial.values}, unlike its record"
                )
    return faults


def of_mlflow(study: Path, uri: str) -> list[str]:
    """One finished run a trial, none stuck, every epoch's loss once and in order, the scores those of the record."""
    faults = []
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(study.name)
    runs = client.search_runs([experiment.experiment_id], max_results=5000, run_view_type=ViewType.ALL)
    children = [run for run in runs if "trial_key" in run.data.tags]
    for key, times in Counter(run.data.tags["trial_key"] for run in children).items():
        if times > 1:
            faults.append(f"MLflow has {times} runs of {key}")
    faults += [
        f"MLflow's run {run.info.run_name} is {run.info.status}" for run in runs if run.info.status != "FINISHED"
    ]
    if len(runs) != len(children) + 1:
        faults.append(f"MLflow has {len(runs) - len(children)} runs beside those of trials, one is the study's")
    known = {run.data.tags["trial_key"]: run for run in children}
    for start in study.glob("runs/*/start.json"):
        key = start.parent.name
        record, run = read_json(start.with_name("record.json")), known.get(key)
        if run is None or record is None:
            faults.append(f"MLflow has no run of {key}")
            continue
        points = client.get_metric_history(run.info.run_id, "train/loss")
        found = [(point.step, point.value) for point in points]
        if found != [(row["epoch"], row["train/loss"]) for row in record["history"]]:
            faults.append(f"MLflow's run of {key} has its losses as {found}, unlike its record")
        for name, value in record["metrics"].items():
            if value is not None and run.data.metrics.get(name) != value:
                faults.append(f"MLflow's {name} of {key} is {run.data.metrics.get(name)}, the record's {value}")
    return faults


def the_same(study: Path, undisturbed: Path) -> list[str]:
    """The same trials, each with the same numbers, and the same decisions as a study that was left alone."""
    faults = []
    own, other = (_records(folder) for folder in (study, undisturbed))
    for key in own.keys() ^ other.keys():
        faults.append(f"{key} ran in one of the two studies alone")
    for key in own.keys() & other.keys():
        one, two = (
            {name: value for name, value in record.items() if name not in _OF_THE_CLOCK}
            for record in (own[key], other[key])
        )
        faults += [f"{key} differs in {name}" for name in one.keys() | two.keys() if one.get(name) != two.get(name)]
        if _losses(own[key]) != _losses(other[key]):
            faults.append(f"{key} differs in its losses")
    for phase in ("winner", "grid"):
        one, two = (read_json(folder / "phases" / f"{phase}.json") for folder in (study, undisturbed))
        if one != two:
            faults.append(f"the two studies decided otherwise on {phase}")
    return faults


def _records(study: Path) -> dict[str, Any]:
    return {path.parent.name: read_json(path) for path in study.glob("runs/*/record.json")}


def _losses(record: Mapping[str, Any]) -> list[float]:
    return [row["train/loss"] for row in record["history"]]
