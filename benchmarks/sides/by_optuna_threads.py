"""`study.optimize(n_jobs=2)`: threads of one process, the study in memory."""

from __future__ import annotations

import optuna

from benchmarks.sides.optuna_trial import objective
from benchmarks.sides.work import CONCURRENT, points_of, words

if __name__ == "__main__":
    folder, trials, epochs = words()
    study = optuna.create_study(direction="maximize")
    for point in points_of(trials):
        study.enqueue_trial(point)
    study.optimize(objective(folder, epochs), n_trials=trials, n_jobs=CONCURRENT)
