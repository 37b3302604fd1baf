"""One trial of a study once more, from its saved configuration, in this process: no Ray, nothing written to the study."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from divfeat.config import ExperimentConfig
from divfeat.data.prepare import prepare
from divfeat.errors import DataError, NonFiniteError
from divfeat.experiment import run
from divfeat.files import read_mapping
from divfeat.search.ledger import Ledger, known_study
from divfeat.search.protocol import objective_metrics
from divfeat.study_config import StudyConfig
from divfeat.validation import build


@dataclass(frozen=True)
class Rerun:
    """A trial and its repetition.

    Attributes:
        number: Of the trial.
        name: What people call its method.
        objectives: The metrics that the search looks at.
        before: Metrics as recorded; none of a trial that did not finish.
        after: Metrics now; none where it diverged.
        error: Why there are none now, or "".
        told: How the recorded run ended, `completed` or its status and error.
    """

    number: int
    name: str
    objectives: tuple[str, ...]
    before: Mapping[str, float]
    after: Mapping[str, float]
    error: str
    told: str

    @property
    def differing(self) -> list[str]:
        """Metrics that are not the same number, bit for bit, or that only one of both has."""
        names = dict.fromkeys([*self.objectives, *self.before, *self.after])
        return [name for name in names if not _same(self.before.get(name), self.after.get(name))]


def rerun(folder: Path, number: int, say: Callable[[str], None] = print) -> Rerun:
    """Run trial `number` of the search again.

    Args:
        folder: Of the study.
        number: Optuna's, as the report's table of proposals has it.
        say: Takes a line an epoch.

    Raises:
        DataError: no study, no such trial, one that has not ended, or other images than it was run on.
        ConfigError: as `divfeat.experiment.run`.
    """
    study, ledger = build(StudyConfig, known_study(folder)["config"]), Ledger(folder)
    proposals = ledger.proposals()
    if number not in proposals:
        known = f"it has {min(proposals)} to {max(proposals)}" if proposals else "it has none yet"
        raise DataError(f"{folder} has no trial {number}: {known}")
    row = proposals[number]
    record = ledger.record(row["key"])
    if record is None:
        raise DataError(f"trial {number} of {folder} has not ended; run the study on, or give another trial")
    config = build(ExperimentConfig, record["config"])
    data = prepare(config.data, config.role)
    known_hash = record["provenance"].get("split_hash", data.split_hash)
    if data.split_hash != known_hash:
        raise DataError(
            f"trial {number} was run on other images (split {known_hash}, now {data.split_hash}): put the data back that it had "
            "(DIVFEAT_DATA)"
        )
    execution = read_mapping(folder / "execution.json") or {}
    torch.set_num_threads(max(1, int(execution.get("cpus_per_worker", 1))))  # their number decides the last bits
    if (workers := int(execution.get("workers_per_trial", 1))) > 1:
        say(f"the study trained by {workers} workers a trial; here one does, which adds up in another order")
    say(f"trial {number}, {row['name']}: {config.train.epochs} epochs on {len(data.train)} images")

    def progress(epoch: int, metrics: Mapping[str, float]) -> None:
        say(f"epoch {epoch + 1} of {config.train.epochs}: loss {metrics.get('train/loss', math.nan):.4f}")

    metrics: Mapping[str, float] = {}
    error = ""
    try:
        metrics = run(config, data, progress).metrics
    except NonFiniteError as reason:
        error = str(reason)
    status = str(record["status"])
    told = status if status == "completed" else f"{status}: {record.get('error')}"
    objectives = tuple(objective_metrics(study))
    return Rerun(number, str(row["name"]), objectives, record["metrics"], metrics, error, told)


def _same(one: float | None, other: float | None) -> bool:
    """Bit for bit; what a record has as null is NaN here."""
    missing = [value is None or math.isnan(value) for value in (one, other)]
    return all(missing) or (not any(missing) and one == other)
