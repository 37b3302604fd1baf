"""`study.optimize(n_jobs=2)`: threads of one process, the study in memory."""

from __future__ import annotations

import optuna

from benchmarks.sides.work import CONCURRENT, HIGH, LOW, RELEASES, load, points_of, study_of, train, words

if __name__ == "__main__":
    folder, trials, epochs = words()
    settings = study_of(epochs)
    data = load(settings)

    def objective(trial: optuna.Trial) -> float:
        """A trial."""
        point = {
            "tau": trial.suggest_float("tau", LOW, HIGH),
            "release": trial.suggest_categorical("release", RELEASES),
        }
        return train(settings, point, data, folder, lambda epoch, accuracy: trial.report(accuracy, epoch))

    study = optuna.create_study(direction="maximize")
    for point in points_of(trials):
        study.enqueue_trial(point)
    study.optimize(objective, n_trials=trials, n_jobs=CONCURRENT)
