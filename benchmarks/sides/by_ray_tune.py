"""Plain Ray Tune: a `Tuner` with `OptunaSearch`, two trials at a time, data in the object store, actors reused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from benchmarks.sides.work import CONCURRENT, HIGH, LOW, RELEASES, load, points_of, study_of, train, words

if __name__ == "__main__":
    folder, trials, epochs = words()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    study = study_of(epochs)
    ray.init(address="local", num_cpus=CONCURRENT, include_dashboard=False, log_to_driver=False)

    def trial(point: dict[str, Any], data: Any, folder: Path) -> None:
        """A trial."""
        score = train(study, point, data, folder, lambda epoch, accuracy: tune.report({"score": accuracy}))
        tune.report({"score": score})

    space = {"tau": tune.uniform(LOW, HIGH), "release": tune.choice(list(RELEASES))}
    tune.Tuner(
        tune.with_resources(tune.with_parameters(trial, data=load(study), folder=folder.resolve()), {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max",
            search_alg=OptunaSearch(points_to_evaluate=points_of(trials)),
            num_samples=trials,
            max_concurrent_trials=CONCURRENT,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(name="search", storage_path=str(folder.resolve() / "tune"), verbose=0),
    ).fit()
    ray.shutdown()
