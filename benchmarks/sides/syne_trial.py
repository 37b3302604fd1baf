"""One trial of Syne Tune's local backend, which starts this file."""

from __future__ import annotations

import argparse
from pathlib import Path

from syne_tune import Reporter

from benchmarks.sides.work import load, study_of, train

if __name__ == "__main__":
    flags = argparse.ArgumentParser()
    flags.add_argument("--tau", type=float)
    flags.add_argument("--release")
    flags.add_argument("--folder", type=Path)
    flags.add_argument("--epochs", type=int)
    given, _ = flags.parse_known_args()
    tell = Reporter()
    study = study_of(given.epochs)
    point = {"tau": given.tau, "release": given.release}
    score = train(study, point, load(study), given.folder, lambda epoch, accuracy: tell(score=accuracy))
    tell(score=score)
