"""Studies, jobs and records that need no training: the objective is a function of the angles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from divfeat.config import ExperimentConfig, MethodConfig, ThresholdSpec
from divfeat.search.jobs import Job, experiment, seed_of
from divfeat.settings import make_configs
from divfeat.study_config import StudyConfig

METRIC = "probe/fine_top1"
SECOND = "val/accuracy"


#: What presets have got since they were first shipped, taken back.
SINCE: dict = {"digits-lt": {"train": {"warmup_epochs": 0.0}}}


def as_first_shipped(preset):
    """A preset as it was when the first keys were pinned."""
    return make_configs(preset, overrides=SINCE.get(preset))[0]


def make_study(preset: str = "digits", **overrides: Any) -> StudyConfig:
    return make_configs(preset, overrides)[0]


def hinge(angle: float, release: str = "gate") -> MethodConfig:
    spec = ThresholdSpec(family="global", angles={"tau": angle})
    return MethodConfig.model_validate({"name": "hinge_ce", "thresholds": spec, "release": release})


def search_job(study: StudyConfig, angle: float, number: int = 0, rungs: Sequence[int] = ()) -> Job:
    config = experiment(study, hinge(angle), seed_of(study, 0))
    return Job(config, "search", f"gate {angle:.3f}", number, tuple(rungs))


def completed(config: ExperimentConfig, metrics: dict[str, Any], history: Sequence[Any] = ()) -> dict[str, Any]:
    return {
        "status": "completed",
        "config": config.to_dict(),
        "metrics": dict(metrics),
        "history": list(history),
        "per_class": [],
        "provenance": {},
        "notes": [],
        "error": None,
        "finished": 1.0,
    }


def bowl(config: ExperimentConfig, best: float = 1.0) -> float:
    """Highest where every angle is `best`; 0 angles (CE+ETF) count as 0."""
    angles = config.method.thresholds.angles.values() or [0.0]
    return 0.9 - 0.3 * sum((angle - best) ** 2 for angle in angles) / len(angles)


def curve(values: Sequence[float], metric: str = METRIC) -> list[dict[str, Any]]:
    """Events of a training whose objective after epoch e + 1 is `values[e]`."""
    return [{"epoch": epoch, "time": 1000 * epoch, metric: value} for epoch, value in enumerate(values)]
