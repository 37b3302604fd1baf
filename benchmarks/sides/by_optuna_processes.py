"""Two processes with `study.optimize` over one sqlite file, half of the trials each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import optuna

from benchmarks.sides.work import CONCURRENT, HIGH, LOW, RELEASES, load, points_of, study_of, train, words


def work(folder: Path, trials: int, epochs: int) -> None:
    """What one of the processes does."""
    settings = study_of(epochs)
    data = load(settings)

    def objective(trial: optuna.Trial) -> float:
        point = {
            "tau": trial.suggest_float("tau", LOW, HIGH),
            "release": trial.suggest_categorical("release", RELEASES),
        }
        return train(settings, point, data, folder, lambda epoch, accuracy: trial.report(accuracy, epoch))

    study = optuna.load_study(study_name="search", storage=f"sqlite:///{folder / 'optuna.db'}")
    study.optimize(objective, n_trials=trials)


if __name__ == "__main__":
    folder, trials, epochs = words()
    if sys.argv[4:] == ["worker"]:
        work(folder, trials, epochs)
    else:
        study = optuna.create_study(
            study_name="search", storage=f"sqlite:///{folder / 'optuna.db'}", direction="maximize"
        )
        for point in points_of(trials):
            study.enqueue_trial(point)
        shares = [len(range(worker, trials, CONCURRENT)) for worker in range(CONCURRENT)]
        line = [sys.executable, "-m", "benchmarks.sides.by_optuna_processes", str(folder)]
        workers = [subprocess.Popen([*line, str(share), str(epochs), "worker"]) for share in shares]
        sys.exit(max(worker.wait() for worker in workers))
