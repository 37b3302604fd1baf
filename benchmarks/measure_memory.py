"""Memory: what the data of four trials at a time take on a node, and whether a training grows from epoch to epoch.

The trials run under Ray as a study's do. What belongs to no data, such as libraries and the network, is measured by the same
trials on few images and taken off both sides. Sums are of memory that no two processes share (USS), and of the object store.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.made import prepared
from benchmarks.rows import Row
from divfeat.cluster.faults import Fault
from divfeat.config import ExperimentConfig, ModelConfig, TrainConfig
from divfeat.data.prepare import PreparedData

REPEATS = 2
TRIALS = 4
#: Of what one copy of the images takes, each further trial may add this share: batches and the subset that is followed are
#: its own, and two readings of one worker lie some MiB apart.
_FURTHER = 0.2
#: Growth from epoch 5 to the end; the allocator keeps pieces of the batches and of the measurements at epochs 8, 16 and 32.
_FLAT = 1.02
_MIB = 2**20
_FEW = 1000


class OwnCopy:
    """Becomes data wherever it is unpickled: a trial that reads it from the object store has made its own."""

    def __init__(self, train: int, evaluation: int) -> None:
        self.sizes = train, evaluation

    def __reduce__(self) -> Any:
        return prepared, self.sizes


class FourTrials:
    """A `JobSource` of trainings that go on until all of them have been seen to train at the same time.

    Args:
        data: For the configuration.
        folder: Where the trials write.
        samples: Readings of memory to take, one at each word of a trial.
    """

    def __init__(self, data: PreparedData, folder: Path, samples: int) -> None:
        from divfeat.cluster.trial import TrialSpec

        def spec(seed: int) -> TrialSpec:
            config = ExperimentConfig(
                data=data.config,
                model=ModelConfig(backbone="digits_cnn"),
                train=TrainConfig(epochs=10_000, batch_size=100, augment="crop_flip"),
                seed=seed,
            )
            return TrialSpec(config.key, config.to_dict(), str(folder / config.key), str(folder / "stages"), cpus=_CPUS)

        self.specs = [spec(seed) for seed in range(TRIALS)]
        self.training: set[str] = set()
        self.samples = samples
        self.private: list[float] = []

    def next(self) -> Any:
        """The next trial."""
        return self.specs.pop() if self.specs else None

    @property
    def waiting(self) -> bool:
        """None waits for another."""
        return False

    def heard(self, key: str, events: Sequence[dict[str, Any]]) -> bool:
        """Once every trial has been heard of: read what all workers hold."""
        self.training.add(key)
        if len(self.training) == TRIALS:
            self.private.append(sum(worker.memory_full_info().uss for worker in workers()) / _MIB)
            print(f"  {self.private[-1]:.0f} MiB in {TRIALS} processes", file=sys.stderr, flush=True)
        return False

    def placed(self, key: str) -> None:
        """What that costs is not asked."""

    def lost(self, key: str, fault: Fault, *, again: bool) -> None:
        """Its memory would be missing from what is read."""
        raise RuntimeError(f"a trial was lost: {fault.cause}")

    def ended(self, key: str, lost: Fault | None) -> None:
        """Only by word of the driver."""

    def stuck(self, why: Exception) -> None:
        """There is no place for a trial."""
        raise why

    def stopping(self) -> bool:
        """Whether enough was read."""
        return len(self.private) >= self.samples


#: Cores that Ray counts for a trial, so that four run on two cores.
_CPUS = 0.5


def workers() -> list[Any]:
    """The processes in which trials train, of this driver's cluster, as psutil has them.

    Raises:
        RuntimeError: they are not as many as the trials.
    """
    import psutil  # of the extra for tests: to list the benchmarks must need less

    from divfeat.cluster.pool import TrialRunner

    names = {process: "".join(process.cmdline()) for process in psutil.Process().children(recursive=True)}
    found = [process for process, name in names.items() if TrialRunner.__name__ in name]
    if len(found) != TRIALS:
        raise RuntimeError(f"{len(found)} processes train, not {TRIALS}: {sorted(names.values())}")
    return found


def held(executor: Any, shared: Any, data: PreparedData, samples: int) -> float:
    """MiB in four workers together, each alone, while all train on `shared`: the least read, which they hold all the time."""
    with tempfile.TemporaryDirectory() as folder:
        executor.share("search", shared)
        source = FourTrials(data, Path(folder), samples)
        executor.run(source, "search")
    return min(source.private)


def at_a_time(repeats: int, small: bool) -> Iterator[Row]:
    """Four trials on one set of images."""
    import ray

    from divfeat.cluster.executor import RayExecutor

    count = 2000 if small else 20_000
    many, few = prepared(count, 200), prepared(_FEW, 200)
    copy = many.train.images.nbytes / _MIB
    pairs, further = [], []
    with tempfile.TemporaryDirectory() as folder:
        executor = RayExecutor(
            workers=1, cpus=_CPUS, gpus=0.0, address=None, storage=Path(folder), max_concurrent=TRIALS
        )
        try:
            samples = 2 if small else 8
            for _ in range(repeats):
                nothing = held(executor, few, few, samples)
                shared = held(executor, many, many, samples) - nothing
                own = held(executor, OwnCopy(count, 200), many, samples) - nothing
                pairs.append((copy + max(shared, 0.0), own))
                further.append((max(shared, 0.0) / TRIALS, copy))
        finally:
            executor.close()
            ray.shutdown()
    setting = {"trials": TRIALS, "images": count, "copy_mib": round(copy, 1), "network": "digits_cnn", "threads": 1}
    yield Row("data of four trials", "object store", "a copy each", "MiB", pairs, "times", setting=setting)
    yield Row("a further trial", "private memory", "one copy", "MiB", further, "share", goal=_FURTHER, setting=setting)


def grown(small: bool) -> dict[str, float]:
    """Resident MiB of this process after epoch 5 and after the last one of a training as a trial runs it, tracking on."""
    import psutil

    from benchmarks.measure_experiment import Tracked
    from divfeat.cluster import trial

    trial.REPORT_SECONDS = 0.0  # a word after every epoch
    data = prepared(_FEW, 200)
    config = ExperimentConfig(
        data=data.config,
        model=ModelConfig(backbone="compact"),
        train=TrainConfig(epochs=6 if small else 60, batch_size=100, augment="crop_flip"),
    )
    seen: dict[int, float] = {}

    def look(events: Sequence[Mapping[str, Any]]) -> None:
        for event in events:
            seen[int(event["epoch"]) + 1] = psutil.Process().memory_info().rss / _MIB

    with tempfile.TemporaryDirectory() as folder:
        Tracked(Path(folder)).run(config, data, look)
    return {
        "early": seen[5],
        "late": seen[config.train.epochs],
        **{f"epoch {at}": seen[at] for at in sorted(seen)[::5]},
    }


def measure(repeats: int, small: bool) -> Iterator[Row]:
    """Trials beside each other, then epochs after each other."""
    yield from at_a_time(repeats, small)
    pairs, setting = [], {}
    for _ in range(repeats):
        words = f"import json; from benchmarks.measure_memory import grown; print(json.dumps(grown({small})))"
        told = subprocess.run(
            [sys.executable, "-c", words], check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1]
        )
        setting = json.loads(told.stdout.splitlines()[-1])
        pairs.append((setting["late"], setting["early"]))
    setting = {name: round(value, 1) for name, value in setting.items()} | {"threads": torch.get_num_threads()}
    yield Row("a training's memory", "at the end", "after epoch 5", "MiB", pairs, "share", goal=_FLAT, setting=setting)
