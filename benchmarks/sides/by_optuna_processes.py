"""Two processes with `study.optimize` over one sqlite file, half of the trials each."""

from __future__ import annotations

import subprocess
import sys

import optuna

from benchmarks.sides.optuna_trial import objective
from benchmarks.sides.work import CONCURRENT, points_of, words

if __name__ == "__main__":
    folder, trials, epochs = words()
    storage = f"sqlite:///{folder / 'optuna.db'}"
    if sys.argv[4:] == ["worker"]:
        study = optuna.load_study(study_name="search", storage=storage)
        study.optimize(objective(folder, epochs), n_trials=trials)
    else:
        study = optuna.create_study(study_name="search", storage=storage, direction="maximize")
        for point in points_of(trials):
            study.enqueue_trial(point)
        shares = [len(range(worker, trials, CONCURRENT)) for worker in range(CONCURRENT)]
        line = [sys.executable, "-m", "benchmarks.sides.by_optuna_processes", str(folder)]
        workers = [subprocess.Popen([*line, str(share), str(epochs), "worker"]) for share in shares]
        sys.exit(max(worker.wait() for worker in workers))
