"""Two processes that train and nothing else: no search, no report, nothing kept."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.sides.work import CONCURRENT, Point, load, points_of, study_of, train, words

_held: dict[str, Any] = {}


def begin(epochs: int) -> None:
    """What a process does first."""
    _held["study"] = study_of(epochs)
    _held["data"] = load(_held["study"])


def one(point: Point, folder: Path) -> float:
    """A trial."""
    return train(_held["study"], point, _held["data"], folder, lambda epoch, accuracy: None)


if __name__ == "__main__":
    folder, trials, epochs = words()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(CONCURRENT, spawn, begin, (epochs,)) as pool:
        for waiting in [pool.submit(one, point, folder) for point in points_of(trials)]:
            waiting.result()
