"""Learning curves recorded for real: trials drawn at random, each trained to the end and scored after every epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import torch

from divfeat import experiment as experiments
from divfeat.data.prepare import prepare
from divfeat.errors import ConfigError, DataError, NonFiniteError
from divfeat.files import read_mapping, write_json
from divfeat.objectives import OBJECTIVES
from divfeat.provenance import commit, device_name, versions
from divfeat.search.jobs import SEARCH_SEED, Job, experiment, name_of, seed_of
from divfeat.search.subjects import threshold_subject
from divfeat.seeding import stream_seed
from divfeat.study_config import StudyConfig

FORMAT = 1


@dataclass(frozen=True)
class Curves:
    """What was recorded of one study's settings.

    Attributes:
        name: Of the file.
        objective: What was measured.
        epochs: Of each training.
        values: Trial -> the objective after each epoch, in the order of the trials' draws; fewer where it diverged.
        names: Trial -> what people call it.
        about: All else the file holds.
    """

    name: str
    objective: str
    epochs: int
    values: Mapping[str, tuple[float, ...]]
    names: Mapping[str, str]
    about: Mapping[str, Any]

    @property
    def finished(self) -> dict[str, tuple[float, ...]]:
        """Of the trials that were trained to the end."""
        return {key: values for key, values in self.values.items() if len(values) == self.epochs}


def drawn(study: StudyConfig, trials: int) -> list[Job]:
    """The first `trials` different experiments that random draws from the search's space stand for, with the search's own seed.

    Raises:
        ConfigError: two objectives, or a space that holds fewer experiments.
    """
    if len(study.search.objectives) > 1:
        raise ConfigError(f"search.objectives={list(study.search.objectives)}: a curve is of one objective; drop one")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    subject = threshold_subject(study)
    sampler = optuna.samplers.RandomSampler(seed=stream_seed(study.seed, "curves") % 2**32)
    asked = optuna.create_study(sampler=sampler)
    found: dict[str, Job] = {}
    for _ in range(10 * trials):
        method = subject.method(asked.ask(dict(subject.space)).params)
        config = experiment(study, method, seed_of(study, SEARCH_SEED))
        found.setdefault(config.key, Job(config, "search", name_of(method), len(found)))
        if len(found) == trials:
            return list(found.values())
    raise ConfigError(f"--trials {trials}: the space of the search holds {len(found)} experiments; ask for fewer")


def record(
    study: StudyConfig,
    trials: int,
    place: Path,
    command: str,
    *,
    stop_after: float | None = None,
    say: Callable[[str], None] = print,
) -> bool:
    """Train what `place` has no row of, one after another in this process; a row is written as it is won.

    Args:
        study: Settings; its halving, if any, is not used.
        trials: How many.
        place: JSON file, taken up where it exists.
        command: That makes the file, for whoever reads it.
        stop_after: Seconds after which no further training is begun; None for no limit.
        say: Takes a line of progress.

    Returns:
        Whether all are there.

    Raises:
        ConfigError: the file holds curves of other settings; otherwise as `divfeat.experiment.run`.
    """
    jobs, started = drawn(study, trials), time.monotonic()
    measure = OBJECTIVES[study.search.objectives[0]]
    found = read_mapping(place) or {
        "format": FORMAT,
        "command": command,
        "preset": study.preset,
        "config": study.to_dict(),
        "identity": study.identity,
        "objective": study.search.objectives[0],
        "direction": measure.direction,
        "epochs": study.train.epochs,
        "trials": [],
    }
    if found["identity"] != study.identity:
        raise ConfigError(
            f"{place} holds curves of other settings (identity {found['identity']}); choose another --out"
        )
    known = {row["key"] for row in found["trials"]}
    data = prepare(study.data, "search")
    device = device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    for number, job in enumerate(jobs, start=1):
        if job.key in known:
            continue
        if stop_after is not None and time.monotonic() - started >= stop_after:
            return False
        history: list[float] = []

        def heard(epoch: int, metrics: Mapping[str, float], history: list[float] = history) -> None:
            if measure.validation in metrics:
                history.append(float(metrics[measure.validation]))

        row: dict[str, Any] = {"number": job.number, "key": job.key, "name": job.name, "error": None}
        begun = time.monotonic()
        try:
            result = experiments.run(job.experiment, data, heard, rungs=range(1, study.train.epochs + 1))
        except NonFiniteError as error:
            row["error"] = str(error)
        else:
            history.append(float(result.metrics[measure.validation]))
            row["training_seconds"] = result.provenance["training_seconds"]
        row |= {
            "values": history,
            "seconds": round(time.monotonic() - begun, 2),
            "method": job.experiment.method.to_dict(),
            "split_hash": data.split_hash,
            "commit": commit(),
            "versions": dict(versions()),
            "device": device,
        }
        found["trials"] = sorted([*found["trials"], row], key=lambda one: one["number"])
        write_json(place, found)
        say(f"{number} of {trials}: {job.name}, {_told(row, measure.validation)}, {row['seconds']:.0f} s")
    return True


def _told(row: Mapping[str, Any], metric: str) -> str:
    return f"diverged after {len(row['values'])} epochs" if row["error"] else f"{metric} {row['values'][-1]:.4f}"


def read_curves(place: Path) -> Curves:
    """What `record` wrote. Values are such that more is better: those of what is to be small come with their sign turned.

    Raises:
        DataError: no such file, or another format.
    """
    found = read_mapping(place)
    if found is None:
        raise DataError(f"{place} is missing: `python studies/early_stopping.py record` makes it")
    if found.get("format") != FORMAT:
        raise DataError(f"{place} was written in format {found.get('format')}, this divfeat reads format {FORMAT}")
    sign = 1 if found["direction"] == "maximize" else -1
    rows = found.pop("trials")
    return Curves(
        place.stem,
        found["objective"],
        found["epochs"],
        {row["key"]: tuple(sign * value for value in row["values"]) for row in rows},
        {row["key"]: row["name"] for row in rows},
        found | {"rows": [{name: value for name, value in row.items() if name != "values"} for row in rows]},
    )
