"""A study that starts from what another one found: its runs where they are the same experiments, else its best settings.

Whatever decides a run decides its key, so a run of the other study is taken over just where this one would train the very
same. Confirmations are not: this study's winner is confirmed by its own, and the test images that the other one has looked at
are counted.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from divfeat.config import ExperimentConfig
from divfeat.errors import ConfigError
from divfeat.files import write_json
from divfeat.search.jobs import experiment
from divfeat.search.ledger import Ledger, differences, known_study
from divfeat.search.protocol import objectives
from divfeat.study_config import StudyConfig, deciding

#: Settings of the other study that are tried first although they have to be trained anew.
BEST = 5


def check_fork(ledger: Ledger, origin: Path) -> None:
    """Refuse a fork that is none, before anything is written.

    Raises:
        DataError: no study in `origin`, or one that cannot be read.
        ConfigError: the new study was forked from another one, or begun without.
    """
    found, known = known_study(origin), ledger.phase("fork")
    how = "choose another name, or leave --fork out to resume it by --name"
    if known is None and (ledger.proposals() or ledger.phase("protocol") is not None):
        raise ConfigError(f"--fork {ledger.folder.name}: that study has begun on its own; {how}")
    if known is not None and known["identity"] != found["identity"]:
        raise ConfigError(
            f"--fork {ledger.folder.name}: that study was forked from {known['name']!r}, not from {origin.name!r}; {how}"
        )


def fork(ledger: Ledger, study: StudyConfig, origin: Path, split_hash: str) -> Mapping[str, Any]:
    """Take over what `study` can use of the study in `origin`; done once, and found again by a resume.

    Args:
        ledger: Of the new study, open.
        study: Its identity.
        origin: Folder of the other, as `check_fork` wants it.
        split_hash: Of the images and their split.

    Returns:
        Mapping: `name` and `identity` of the other study, `differences`, `same_images`, `runs` taken over, `settings` by subject
        ("" or a tuned baseline) that are tried first, `test_reads` of the other.
    """
    known = ledger.phase("fork")
    if known is not None:
        return known
    found = known_study(origin)
    old = Ledger(origin)
    same_images = (old.phase("data") or {}).get("search") == split_hash
    taken = _take_runs(ledger, old, study) if same_images else set()
    reads = old.test_reads()
    decision = {
        "name": origin.name,
        "identity": found["identity"],
        "differences": differences(deciding(found["config"]), deciding(study.to_dict())),
        "same_images": same_images,
        "runs": len(taken),
        "settings": {name: _settings(old, study, taken, name) for name in _subjects(origin)},
        "test_reads": len(reads),
        "time": time.time(),
    }
    ledger.write_phase("fork", decision)
    return decision


def first_of(
    decision: Mapping[str, Any] | None,
    name: str,
    first: Sequence[Mapping[str, Any]],
    space: Mapping[str, BaseDistribution],
) -> list[Mapping[str, Any]]:
    """What the search of a subject tries first: its own settings, then those of the other study that lie in its space.

    Args:
        decision: Of `fork`; None for a study that is none.
        name: Of the subject, "" for the study's own search.
        first: Its own.
        space: Parameter -> distribution.
    """
    tried = list(first)
    for setting in (decision or {}).get("settings", {}).get(name, ()):
        if (
            setting not in tried
            and setting.keys() == space.keys()
            and all(map(_within, space.values(), map(setting.get, space)))
        ):
            tried.append(setting)
    return tried


def note_of(decision: Mapping[str, Any]) -> str:
    """What was taken over, in words."""
    changed = "; ".join(line.strip() for line in decision["differences"]) or "no setting that decides a result"
    images = "" if decision["same_images"] else ", on other images or another split"
    again = sum(map(len, decision["settings"].values()))
    said = (
        f"forked from {decision['name']} ({changed}{images}): {decision['runs']} of its runs are the same experiments here and "
        f"were not run again, {again} of its settings are tried first"
    )
    if decision["test_reads"]:
        said += (
            f"; it has read the test images for {decision['test_reads']} runs, so whoever changed settings may have seen what "
            "they say"
        )
    return said


def _take_runs(ledger: Ledger, old: Ledger, study: StudyConfig) -> set[str]:
    """Copy the finished runs that this study would do the same; a proposal's number is its own, and noted when it is made."""
    taken = set()
    for key, info in old.started().items():
        record = old.record(key)
        if record is None or record["status"] != "completed" or not _same_here(study, key, record):
            continue
        taken.add(key)
        place = ledger.run_folder(key)
        if place.exists():
            continue  # of a fork that was killed here
        half = place.with_name(f".{key}.half")
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(old.run_folder(key), half)
        (half / "start.json").unlink(missing_ok=True)
        if info.get("number") is None:
            write_json(half / "start.json", info)
        ledger.take_over(key, half)
    return taken


def _same_here(study: StudyConfig, key: str, record: Mapping[str, Any]) -> bool:
    config = ExperimentConfig.model_validate(record["config"])
    if config.role != "search":
        return False
    frozen = {"lr": config.train.lr, "weight_decay": config.train.weight_decay}  # this study may freeze the same
    here = study.model_copy(update={"train": study.train.model_copy(update=frozen)})
    return experiment(here, config.method, config.seed).key == key


def _subjects(origin: Path) -> list[str]:
    return ["", *sorted(path.name for path in (origin / "proposals").glob("*/"))]


def _settings(old: Ledger, study: StudyConfig, taken: set[str], name: str) -> list[dict[str, Any]]:
    """Proposals of the other study, in their order: those whose runs were taken over, which cost nothing, and the best others."""
    rows = [row for _, row in sorted(old.proposals(name).items())]
    measure = objectives(study)[0]

    def value(row: Mapping[str, Any]) -> float | None:
        record = old.record(row["key"])
        found = None if record is None or record["status"] != "completed" else record["metrics"].get(measure.validation)
        return None if found is None else measure.sign * float(found)

    others = [(score, row["number"]) for row in rows if row["key"] not in taken and (score := value(row)) is not None]
    best = {number for _, number in sorted(others, reverse=True)[:BEST]}
    return [row["params"] for row in rows if row["key"] in taken or row["number"] in best]


def _within(values: BaseDistribution, value: Any) -> bool:
    if isinstance(values, FloatDistribution):
        return isinstance(value, int | float) and values.low <= value <= values.high
    return isinstance(values, CategoricalDistribution) and value in values.choices
