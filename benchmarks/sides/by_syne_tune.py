"""Syne Tune's local backend with two workers: a Python process a trial.

It looks for results ten times a second here, by default every 5 s.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from benchmarks.sides.work import CONCURRENT, HIGH, LOW, RELEASES, points_of, words

if __name__ == "__main__":
    folder, trials, epochs = words()
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])  # the trials' processes start in this folder
    os.environ["SYNETUNE_FOLDER"] = str(folder.resolve() / "syne-tune")
    from syne_tune import StoppingCriterion, Tuner
    from syne_tune.backend import LocalBackend
    from syne_tune.config_space import choice, uniform
    from syne_tune.optimizer.baselines import RandomSearch

    space = {
        "tau": uniform(LOW, HIGH),
        "release": choice(list(RELEASES)),
        "folder": str(folder.resolve()),
        "epochs": epochs,
    }

    class Listed(RandomSearch):
        """Ends with its list: the stopping criterion counts up to two trials more."""

        left = trials

        def suggest(self) -> Any:
            """The next setting, or None."""
            self.left -= 1
            return super().suggest() if self.left >= 0 else None

    known = {"folder": str(folder.resolve()), "epochs": epochs}
    search = Listed(
        space,
        metrics=["score"],
        do_minimize=False,
        points_to_evaluate=[{**point, **known} for point in points_of(trials)],
    )
    Tuner(
        trial_backend=LocalBackend(entry_point=str(Path(__file__).with_name("syne_trial.py")), rotate_gpus=False),
        scheduler=search,
        stop_criterion=StoppingCriterion(max_num_trials_finished=trials),
        n_workers=CONCURRENT,
        sleep_time=0.1,
        save_tuner=False,
    ).run()
