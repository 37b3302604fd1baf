"""Order at scale: 2,000 trials that train nothing, with ledger, Optuna and MLflow on: what keeping them costs, and how it grows.

Proposals (TPE, the default), queue, ledger, followers and MLflow's sqlite file are those of a study; the simulated executor
writes the records, each with the metrics and epochs of one real training, so that bookkeeping alone is measured. Halves of one
run are compared.
"""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.rows import Row
from divfeat import experiment as experiments
from divfeat import record as records
from divfeat.cluster.simulated import Curve, Simulated
from divfeat.cluster.trial import TrialSpec
from divfeat.config import ExperimentConfig
from divfeat.data.prepare import prepare
from divfeat.search import protocol
from divfeat.search.followers import TrackingFollower
from divfeat.search.interrupt import Interrupt
from divfeat.search.jobs import Job
from divfeat.search.ledger import Ledger
from divfeat.search.proposals import Proposals, storage_url
from divfeat.search.queue import JobQueue
from divfeat.settings import make_configs
from divfeat.study_config import StudyConfig
from divfeat.tracking import Tracker

REPEATS = 1
_TRIALS = 2_000
#: Points of one run at which everything is read, as shares of its trials: each twice as far as the one before.
_MARKS = (0.125, 0.25, 0.5, 1.0)
_MIB = 2**20


@dataclass(frozen=True)
class Mark:
    """How a study stood after so many trials.

    Attributes:
        trials: That had ended.
        processor: Seconds of this process, all threads, since the first one.
        passed: Seconds on the clock since then.
        memory: Resident, MiB.
        disk: Of the study's folder, MiB.
        files: In it.
        opened: Seconds of this process until MLflow's first page of runs, sorted by start, is there.
    """

    trials: int
    processor: float
    passed: float
    memory: float
    disk: float
    files: int
    opened: float


def a_record(study: StudyConfig) -> dict[str, Any]:
    """Of one real training, of one epoch, by plain cross-entropy."""
    config = ExperimentConfig(data=study.data, model=study.model, train=study.train, probe=study.probe)
    return records.completed(config, experiments.run(config, prepare(config.data, "search")))


def kept(folder: Path, trials: int) -> list[Mark]:
    """Run so many trials that train nothing; how everything stood at the marks."""
    study, _ = make_configs(
        "digits",
        {"train": {"epochs": 1, "warmup_epochs": 0}, "probe": {"strengths": [1.0]}},
    )[:2]
    template, marks = a_record(study), []
    ledger = Ledger(folder)
    ledger.open(study)
    tracker = Tracker.open(folder, "order")
    tracker.study_run(study.to_dict())
    following = TrackingFollower(
        tracker, ledger, study.search
    )  # in this thread, so that its work is counted where it arises
    proposals = Proposals(study, ledger, storage_url(folder), "order")
    metric = protocol.objective_metrics(study)[0]
    at = [max(1, round(share * trials)) for share in _MARKS]
    begun, spent = time.monotonic(), time.process_time()

    def jobs() -> Iterator[Job]:
        while len(proposals) < trials:
            yield proposals.ask()

    def told(job: Job, record: Mapping[str, Any]) -> None:
        assert job.number is not None
        proposals.tell(job.number, record)
        if job.number + 1 in at:
            marks.append(_mark(folder, job.number + 1, (begun, spent), tracker))

    def ended(spec: TrialSpec) -> None:
        found = copy.deepcopy(template) | {"config": spec.experiment, "finished": time.time()}
        found["metrics"][metric] = 0.5 + 0.4 * (int(spec.key[:8], 16) / 2**32)
        for event in found["history"]:
            ledger.event(spec.key, event)
        ledger.write_record(spec.key, found)

    def spec_of(job: Job) -> TrialSpec:
        return TrialSpec(job.key, job.experiment.to_dict(), str(ledger.run_folder(job.key)), str(ledger.stages))

    queue = JobQueue(jobs(), ledger, spec_of, Interrupt(), [following], on_record=told)
    Simulated(lambda spec: Curve(template["history"], 1.0), ended=ended).run(queue)
    queue.close()
    ledger.close()
    return marks


def _mark(folder: Path, trials: int, since: tuple[float, float], tracker: Tracker) -> Mark:
    begun, spent = since
    processor, passed = time.process_time() - spent, time.monotonic() - begun
    resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return Mark(trials, processor, passed, resident / _MIB, sum(sizes) / _MIB, len(sizes), opened(tracker.uri))


def opened(uri: str) -> float:
    """Seconds of this process until a fresh client has the first page of the newest runs, as MLflow's table asks for it."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    found = client.get_experiment_by_name("order")
    assert found is not None
    begun = time.process_time()
    client.search_runs([found.experiment_id], max_results=100, order_by=["attributes.start_time DESC"])
    return time.process_time() - begun


def measure(repeats: int, small: bool) -> Iterator[Row]:
    """What a trial costs in the second half of a run beside one of its second eighth, and the same of memory and disk."""
    trials = 100 if small else _TRIALS
    found: list[list[Mark]] = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(prefix="divfeat-bench-") as folder:
            found.append(kept(Path(folder) / "order", trials))
    marks = ", ".join(str(mark.trials) for mark in found[0])

    def pairs(value: Callable[[Mark], float], scale: float) -> list[tuple[float, float]]:
        """A trial's share of the second half, and of the second eighth."""
        return [(scale * _grown(each, value, -2), scale * _grown(each, value, 0)) for each in found]

    def row(what: str, unit: str, value: Callable[[Mark], float], scale: float, goal: float, most: float | None) -> Row:
        setting = {
            "trials": trials,
            "at_trials": [mark.trials for mark in found[0]],
            "total": [[value(mark) for mark in each] for each in found],
        }
        early = f"of trials {found[0][0].trials} to {found[0][1].trials}"
        late = f"of trials {found[0][-2].trials} to {found[0][-1].trials}"
        return Row(what, late, early, unit, pairs(value, scale), "share", goal=goal, most=most, setting=setting)

    yield row("bookkeeping a trial, processor", "ms", lambda mark: mark.processor, 1e3, 1.5, None)
    yield row("disk a trial", "KiB", lambda mark: mark.disk, 1024, 1.2, None)
    yield row("files a trial", "files", lambda mark: mark.files, 1, 1.05, None)
    yield row("memory of the driver a trial", "KiB", lambda mark: mark.memory, 1024, 2.0, None)
    last, first = [each[-1].opened for each in found], [each[0].opened for each in found]
    yield Row(
        "opening the experiment in MLflow, processor",
        f"after {found[0][-1].trials} trials",
        f"after {found[0][0].trials}",
        "s",
        list(zip(last, first, strict=True)),
        "share",
        goal=found[0][-1].trials / found[0][0].trials,
        setting={"trials": trials, "marks": marks},
    )


def _grown(marks: list[Mark], value: Callable[[Mark], float], at: int) -> float:
    """Between one mark and the next, a trial."""
    before, after = marks[at], marks[at + 1]
    return (value(after) - value(before)) / (after.trials - before.trials)
