"""What both of Optuna's sides optimise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna

from benchmarks.sides.work import HIGH, LOW, RELEASES, load, study_of, train


def objective(folder: Path, epochs: int) -> Callable[[optuna.Trial], float]:
    """A function that trains what a trial suggests and logs it in `folder`; the images are loaded once."""
    settings = study_of(epochs)
    data = load(settings)

    def score(trial: optuna.Trial) -> float:
        point = {
            "tau": trial.suggest_float("tau", LOW, HIGH),
            "release": trial.suggest_categorical("release", RELEASES),
        }
        return train(settings, point, data, folder, lambda epoch, accuracy: trial.report(accuracy, epoch))

    return score
