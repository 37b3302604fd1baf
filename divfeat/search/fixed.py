"""Named methods at fixed settings over seeds, in processes of this machine: no Ray, no Optuna, no MLflow, nothing chosen.

For one device without a cluster, and for a first look at a recipe at full length: rows are appended to one file as they are
won, seed by seed, so whatever is cut off leaves whole comparisons, and the same call goes on.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from divfeat import experiment as experiments
from divfeat import record as records
from divfeat.config import DataConfig, ExperimentConfig, MethodConfig
from divfeat.data.prepare import PreparedData, Role, prepare
from divfeat.errors import ConfigError, DivfeatError, NonFiniteError
from divfeat.files import append_line, read_lines
from divfeat.search.jobs import CONFIRM_SEED, Job, experiment, seed_of
from divfeat.study_config import StudyConfig

#: File of the runs under the folder of a comparison: one record a line, with the method's name.
ROWS = "rows.jsonl"
#: Of the linear probe: a test set must not choose it.
STRENGTH = 1.0
#: Longest wait for a run before the time limit is looked at again, seconds.
_LOOK = 5.0


class WorkerLostError(DivfeatError):
    """A process of the comparison died without a word."""


def fixed_jobs(study: StudyConfig, methods: Mapping[str, MethodConfig], seeds: int) -> list[Job]:
    """One experiment a method and seed, on the published training set and the test set, in the order to run them.

    Args:
        study: Data, model, training; its search and protocol are not used.
        methods: Name -> method, its own numbers as given.
        seeds: How many, those of the confirmation of a study of these settings.

    Raises:
        ConfigError: two methods that are one training.
    """
    probe = study.probe.model_copy(update={"strengths": (STRENGTH,), "strengths_before": (STRENGTH,)})
    jobs = [
        Job(
            experiment(study, method, seed_of(study, CONFIRM_SEED, place), "confirm", probe=probe),
            "confirm",
            name,
        )
        for place in range(seeds)
        for name, method in methods.items()
    ]
    first: dict[str, str] = {}
    for job in jobs:
        if (other := first.setdefault(job.key, job.name)) != job.name:
            raise ConfigError(f"methods {other!r} and {job.name!r} are one training: leave one of them out")
    return jobs


def check(jobs: list[Job]) -> None:
    """Load the data and build every method once, so that what cannot work is told before anything is trained.

    Raises:
        ConfigError, DataError: as `divfeat.experiment.run`.
    """
    for job in {job.name: job for job in reversed(jobs)}.values():
        experiments.build(job.experiment, _data(job.experiment))


def run_fixed(
    jobs: list[Job],
    folder: Path,
    *,
    at_a_time: int,
    stop_after: float | None = None,
    say: Callable[[str], None] = print,
) -> bool:
    """Run what `folder` has no row of.

    Args:
        jobs: Of `fixed_jobs`.
        folder: Of `rows.jsonl`, made where it is missing.
        at_a_time: Processes, which share the device.
        stop_after: Seconds after which nothing more is started and what still runs is ended; None for no limit. A run that
            would hardly end in time, going by those before it, is not started.
        say: Takes a line of progress.

    Returns:
        Whether every job has a row.

    Raises:
        WorkerLostError: a process died, of memory as a rule; the rows so far are kept, as with any other error.
    """
    started = time.monotonic()
    known = {row["key"] for row in read_lines(folder / ROWS)}
    left = [job for job in jobs if job.key not in known]
    total, longest = len(jobs), 0.0
    workers = _Workers(min(at_a_time, len(left)))
    say(f"{total - len(left)} of {total} runs done")

    def remaining() -> float:
        return float("inf") if stop_after is None else stop_after - (time.monotonic() - started)

    try:
        while (left and remaining() > longest) or workers.busy:
            while left and workers.idle and remaining() > longest:
                workers.give(left.pop(0))
            for job, row, seconds in workers.finished(min(_LOOK, max(remaining(), 0.0))):
                longest = max(
                    longest, row["provenance"].get("seconds", seconds)
                )  # the first of a process also loads the data
                append_line(folder / ROWS, {"name": job.name, "key": job.key, **row})
                done = total - len(left) - len(workers.busy)
                say(
                    f"{done} of {total} runs done: {job.name}, seed {job.experiment.seed}: {_told(row)}, {seconds:.0f} s"
                )
            if remaining() <= 0:
                break
    finally:
        workers.end()
    return not left and not workers.busy


def _told(row: Mapping[str, Any]) -> str:
    if row["status"] != "completed":
        return f"{row['status']}: {row['error']}"
    part = "test" if row["config"]["role"] == "confirm" else "val"
    return f"{100 * row['metrics'][f'{part}/accuracy']:.2f} % on {part}"


# --- processes --------------------------------------------------------------------------------------------------------------


class _Workers:
    """Processes that each train one job after the other."""

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        threads = max(1, torch.get_num_threads() // max(count, 1))
        self.idle: list[Connection] = []
        self.busy: dict[Connection, tuple[Job, float]] = {}
        self._processes = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, threads), daemon=True)
            process.start()
            theirs.close()  # so that a dead process closes the pipe
            self.idle.append(ours)
            self._processes.append(process)

    def give(self, job: Job) -> None:
        pipe = self.idle.pop(0)
        try:
            pipe.send(job.experiment.to_dict())
        except OSError:
            raise _lost(job) from None
        self.busy[pipe] = (job, time.monotonic())

    def finished(self, timeout: float) -> Iterator[tuple[Job, dict[str, Any], float]]:
        """Jobs that ended within `timeout` seconds, their records, and how long each took; then what went wrong is raised."""
        wrong: list[Exception] = []
        for pipe in wait(list(self.busy), timeout):
            assert isinstance(pipe, Connection)
            job, began = self.busy.pop(pipe)
            try:
                row = pipe.recv()
            except (EOFError, OSError):
                wrong.append(_lost(job))
                continue
            if isinstance(row, Exception):
                wrong.append(row)
                continue
            self.idle.append(pipe)
            yield job, row, time.monotonic() - began
        if wrong:
            raise wrong[0]

    def end(self) -> None:
        for process in self._processes:
            process.terminate()
            process.join()


def _lost(job: Job) -> WorkerLostError:
    return WorkerLostError(
        f"the process that trained {job.name!r}, seed {job.experiment.seed}, died without a word, of too little memory as a "
        "rule: run fewer at a time; what finished is kept"
    )


def _work(pipe: Connection, threads: int) -> None:
    torch.set_num_threads(threads)
    while True:
        try:
            given = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        pipe.send(_record(ExperimentConfig.model_validate(given)))


def _record(config: ExperimentConfig) -> dict[str, Any] | Exception:
    """A record, also of a training that diverged; what else went wrong is no result, and is raised by whom it is sent to."""
    try:
        return records.completed(config, experiments.run(config, _data(config)))
    except NonFiniteError as error:
        return records.ended("failed", config, str(error), type(error).__name__, [])
    except Exception as error:
        return error


def _data(config: ExperimentConfig) -> PreparedData:
    return _loaded(config.data.model_dump_json(), config.role)


@lru_cache(maxsize=1)
def _loaded(settings: str, role: Role) -> PreparedData:
    return prepare(DataConfig.model_validate_json(settings), role)
