"""What all sides of the search benchmark have in common: the trials, the training function, the log of what was done when."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from divfeat.config import ExperimentConfig
from divfeat.data.prepare import PreparedData, prepare
from divfeat.experiment import run
from divfeat.files import append_line
from divfeat.search.jobs import SEARCH_SEED, experiment, seed_of
from divfeat.search.protocol import objective_metrics
from divfeat.search.subjects import threshold_method
from divfeat.settings import make_configs
from divfeat.study_config import StudyConfig

CONCURRENT = 2
#: Bounds of the searched angle, radians.
LOW, HIGH = 0.0, 17 / 36 * math.pi
#: Without `theorem`, which diverges at some angles: every side must run every trial to its end.
RELEASES = ("gate", "paper")

Point = Mapping[str, Any]


def study_of(epochs: int) -> StudyConfig:
    """The default study, on scikit-learn's digits."""
    study, _, _ = make_configs("digits", overrides={"train": {"epochs": epochs}})
    return study


def points_of(trials: int) -> list[dict[str, Any]]:
    """The settings that every side tries, in this order: none without cones, no two alike."""
    return [
        {"tau": (HIGH - LOW) * (index + 0.5) / trials, "release": RELEASES[index % len(RELEASES)]}
        for index in range(trials)
    ]


def words() -> tuple[Path, int, int]:
    """FOLDER TRIALS EPOCHS of the command line."""
    folder, trials, epochs = sys.argv[1:4]
    return Path(folder), int(trials), int(epochs)


def load(study: StudyConfig) -> PreparedData:
    """The images of a search."""
    return prepare(study.data, "search")


def config_of(study: StudyConfig, point: Point) -> ExperimentConfig:
    """The experiment that divfeat's own search makes of a setting."""
    return experiment(study, threshold_method(study, point), seed_of(study, SEARCH_SEED))


def train(
    study: StudyConfig, point: Point, data: PreparedData, folder: Path, report: Callable[[int, float], None]
) -> float:
    """Run one trial and note when.

    Args:
        study: Settings.
        point: Angle and way of letting go.
        data: Of the search.
        folder: Where the log lies.
        report: Called after each epoch with its number and the training accuracy.

    Returns:
        The objective.
    """
    torch.set_num_threads(1)
    config = config_of(study, point)
    waited, first = 0.0, 0.0

    def on_epoch(epoch: int, metrics: Mapping[str, float]) -> None:
        nonlocal waited, first
        mark = time.time()
        first = first or mark
        report(epoch, float(metrics["train/accuracy"]))
        waited += time.time() - mark

    started = time.time()
    score = run(config, data, on_epoch).metrics[objective_metrics(study)[0]]
    ended = time.time()
    note(folder, config.key, started, first, ended, ended - started - waited, score)
    return score


def note(folder: Path, key: str, started: float, first: float, ended: float, seconds: float, score: float) -> None:
    """Append a trial to the log: its start, the end of its first epoch, its end (Unix seconds), and what it computed."""
    row = {"key": key, "started": started, "first": first, "ended": ended, "seconds": seconds, "score": score}
    append_line(folder / "trials.jsonl", row)
