"""The queue of one phase: hands jobs to the executor, keeps the ledger, tells those who follow."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from divfeat import record as records
from divfeat.cluster.faults import Fault
from divfeat.cluster.trial import TrialSpec
from divfeat.errors import StorageLostError
from divfeat.objectives import Direction
from divfeat.search.asha import Halving, Referee
from divfeat.search.interrupt import Interrupt, TooManyFailuresError
from divfeat.search.jobs import Job
from divfeat.search.ledger import Ledger
from divfeat.stages import stage_key


class Follower(Protocol):
    """Hears what happens to jobs: MLflow and the progress table."""

    def started(self, job: Job) -> None:
        """A job is about to run."""

    def heard(self, job: Job, events: Sequence[Mapping[str, Any]]) -> None:
        """New epochs of a running job."""

    def finished(self, job: Job, record: Mapping[str, Any], fresh: bool) -> None:
        """A job has its record; `fresh` if it ran just now."""

    def paused(self, job: Job) -> None:
        """A job waits at a rung; it is `started` again if it goes on."""

    def stopped(self, job: Job) -> None:
        """A job has no record yet and goes on in a later session."""


class JobQueue:
    """A `JobSource` over jobs made one by one.

    Args:
        jobs: Made lazily, since a proposal depends on what finished before it.
        ledger: Truth.
        spec_of: How a job is placed.
        interrupt: When to stop.
        followers: Told in this order.
        on_record: Called with every job that has its record.
        objective: Metric compared at rungs, or None where nothing is stopped early.
        reduction: Of the halving.
        promotes: Whether every trial pauses at a rung until it is among the best, instead of being stopped there for good.
        direction: Of the objective.
        table: Values at rungs known before, of a study taken up again.
        max_failed_share: Of the finished jobs, judged from the fourth on.
        max_failed_in_row: Jobs that fail one after another before the phase is given up; None for any number.
        shares: Whether other runs can go on from a job's first stage, which then outlives it.
        held: How many jobs may wait for a first stage that a running one trains, while jobs behind them go first. Jobs that
            are made from what finished before them should not be made long before their turn.
    """

    def __init__(
        self,
        jobs: Iterator[Job],
        ledger: Ledger,
        spec_of: Callable[[Job], TrialSpec],
        interrupt: Interrupt,
        followers: Sequence[Follower],
        on_record: Callable[[Job, Mapping[str, Any]], None] = lambda job, record: None,
        objective: str | None = None,
        reduction: int = 3,
        promotes: bool = False,
        direction: Direction = "maximize",
        max_failed_share: float = 0.5,
        max_failed_in_row: int | None = None,
        table: Mapping[int, Mapping[str, float]] | None = None,
        shares: Callable[[Job], bool] = lambda job: False,
        held: int = 1,
    ) -> None:
        self.jobs, self.ledger, self.spec_of, self.interrupt = jobs, ledger, spec_of, interrupt
        self.followers, self.on_record = followers, on_record
        self.objective = objective
        self.max_failed_share, self.max_failed_in_row = max_failed_share, max_failed_in_row
        self.failed_in_row: list[str] = []  # their causes
        self.shares, self.most_held = shares, held
        self.held: list[Job] = []
        self.running: dict[str, list[Job]] = {}  # several proposals may mean the same experiment
        self.referee = Referee(Halving(reduction, direction, table), promotes)
        self.known = {key for values in (table or {}).values() for key in values}  # of an earlier session
        self.paused: dict[str, list[Job]] = {}
        self.statuses: dict[str, str] = {}
        self.errors: Counter[str] = Counter()
        self.fatal: Exception | None = None

    def next(self) -> TrialSpec | None:
        """The next job without a record whose first stage nobody is training just now.

        None while `waiting` says so means: not yet. Where trials are promoted, those that were go before new ones.
        """
        if (spec := self._going_on()) is not None:
            return spec
        for job in self._in_turn():
            found = self.ledger.record(job.key)
            if found is not None:
                self._note(job)  # taken over from a study that this one is forked from
                self._finish(job, found, fresh=False)
            elif job.key in self.running or job.key in self.paused:
                (self.running.get(job.key) or self.paused[job.key]).append(job)
            elif self.referee.promotes and job.key in self.known:
                self._pause([job])
                if (spec := self._going_on()) is not None:
                    return spec
            else:
                return self._start([job])
            if self.stopping():
                return None
        if self.referee.promotes and not self.running and not self._any_completed():
            return self._going_on(last=True)
        return None

    def _any_completed(self) -> bool:
        """Whether a trial of this search, this session's or an earlier one's, was trained to the end."""
        before = (self.ledger.record(key) or {} for key in self.known)
        return "completed" in self.statuses.values() or any(found.get("status") == "completed" for found in before)

    def _start(self, jobs: list[Job]) -> TrialSpec:
        job = jobs[0]
        self._note(job)
        if job.experiment.role == "confirm":
            self.ledger.test_read(job.key, f"{job.name}, seed {job.experiment.seed}")
        self.running[job.key] = jobs
        for follower in self.followers:
            follower.started(job)
        return self.spec_of(job)

    def _note(self, job: Job) -> None:
        self.ledger.start(
            job.key,
            {"phase": job.phase, "name": job.name, "seed": job.experiment.seed, "number": job.number},
        )

    def _going_on(self, last: bool = False) -> TrialSpec | None:
        """The next paused trial that was promoted."""
        key = self.referee.going_on(self.paused, last)
        return None if key is None else self._start(self.paused.pop(key))

    def _pause(self, jobs: list[Job]) -> None:
        self.paused[jobs[0].key] = jobs
        self.ledger.pause(jobs[0].key)
        for follower in self.followers:
            follower.paused(jobs[0])

    @property
    def waiting(self) -> bool:
        """Whether jobs are left that can start once another has trained their first stage, or has reached a rung."""
        return bool(self.held) or (self.referee.promotes and bool(self.running))

    def _in_turn(self) -> Iterator[Job]:
        """Jobs that may start: those held back as soon as their first stage is free, then new ones."""
        for job in list(self.held):
            if not self._in_training(job):
                self.held.remove(job)
                yield job
        while len(self.held) < self.most_held:
            new = next(self.jobs, None)
            if new is None:
                return
            if self._in_training(new):
                self.held.append(new)
            else:
                yield new

    def _in_training(self, job: Job) -> bool:
        """Whether another experiment trains this one's first stage: two must not write one checkpoint."""
        if job.key in self.running or self.ledger.record(job.key) is not None:
            return False
        stage = stage_key(job.experiment)
        return any(
            stage_key(jobs[0].experiment) == stage for jobs in self.running.values()
        ) and not self.ledger.first_stage_done(job.experiment)

    def placed(self, key: str) -> None:
        """A trial holds its place from now on: what that costs is counted."""
        if self.interrupt.budget is not None:
            self.interrupt.budget.placed(key)

    def _gone(self, key: str, *, completed: bool = False) -> None:
        if self.interrupt.budget is not None:
            self.interrupt.budget.gone(key, completed=completed)

    def heard(self, key: str, events: Sequence[dict[str, Any]]) -> bool:
        """Pass epochs on and compare at rungs."""
        job = self.running[key][0]
        if events:
            self.ledger.heard(key, events)
            for follower in self.followers:
                follower.heard(job, events)
        for event in events:
            epochs = int(event["epoch"]) + 1
            value = event.get(self.objective) if self.objective is not None and epochs in job.rungs else None
            if value is not None and not math.isnan(value):  # geometry can be undefined
                self.referee.reached(key, epochs, float(value))
        return self.referee.ends(key)

    def lost(self, key: str, fault: Fault, *, again: bool) -> None:
        """Note it: not held against the trial, but told to who asks why the study takes long."""
        self._gone(key)
        self.ledger.fault(key, fault.kind, fault.cause)

    def ended(self, key: str, lost: Fault | None) -> None:
        """Read the record, or write why there is none."""
        self.ledger.fetch(key)
        found = self.ledger.record(key)
        self._gone(key, completed=found is not None and found["status"] == "completed")
        if found is None and lost is not None and lost.kind == "storage" and not self.stopping():
            self.fatal = StorageLostError(f"{self.ledger.folder}: {lost.cause}")
        if found is None and key not in self.referee.stopped and self.stopping():
            return  # the trial goes on from its checkpoint next time, also one whose worker the signal reached
        jobs = self.running.pop(key)
        if found is None and key in self.referee.pausing:
            self.referee.pausing.remove(key)
            self._pause(jobs)
            return
        if found is None:
            if key in self.referee.stopped:
                status, why, kind = "pruned", f"stopped after {self.referee.stopped[key]} epochs", "pruned"
                self.ledger.remove_stages_of(jobs[0].experiment, shared=self.shares(jobs[0]))
            else:
                why = f"given up: {lost}" if lost is not None else "it ended without a record"
                status, kind = "failed", "memory" if lost is not None and lost.kind == "memory" else "infrastructure"
            config = jobs[0].experiment
            self.ledger.write_record(key, records.ended(status, config, why, kind, self.ledger.events(key)))
            found = self.ledger.record(key)
            assert found is not None
        for index, job in enumerate(jobs):
            self._finish(job, found, fresh=index == 0)

    def close(self) -> None:
        """Say what became of the jobs that the executor left behind: when it was told to stop, or since nobody promoted them."""
        table = self.referee.halving.table
        for key in [] if self.stopping() else list(self.paused):
            self.referee.stopped[key] = max(rung for rung, values in table.items() if key in values)
            self.running[key] = self.paused.pop(key)
            self.ended(key, None)
        for key in list(self.running):
            self.ledger.fetch(key)
            if self.ledger.record(key) is not None:
                self.ended(key, None)
            else:
                self._gone(key)
        for jobs in [*self.running.values(), *self.paused.values()]:
            for follower in self.followers:
                follower.stopped(jobs[0])
        self.running.clear()

    def stuck(self, why: Exception) -> None:
        """The cluster has no place for any trial, and the wait is over: the rest goes on another time."""
        self.fatal = why

    def stopping(self) -> bool:
        """Whether to start nothing more."""
        return self.fatal is not None or self.interrupt.reason is not None

    @property
    def cause(self) -> str:
        """The most common error of this phase."""
        return self.errors.most_common(1)[0][0] if self.errors else "no error was recorded"

    def _finish(self, job: Job, found: Mapping[str, Any], fresh: bool) -> None:
        self.on_record(job, found)
        for follower in self.followers:
            follower.finished(job, found, fresh)
        counted = job.key in self.statuses  # proposals that mean the same experiment fail once
        self.statuses[job.key] = found["status"]
        if not counted and found["status"] == "failed":
            cause = records.cause_of(found)
            self.errors[cause] += 1
            if fresh:
                self.failed_in_row.append(cause)
        elif found["status"] != "failed":
            self.failed_in_row.clear()
        self._judge(job, found)

    def _judge(self, job: Job, found: Mapping[str, Any]) -> None:
        """One bad trial never ends a study; a bad configuration, or too many, do."""
        total, failed = len(self.statuses), list(self.statuses.values()).count("failed")
        if found["status"] != "failed":
            return
        cause, times = self.errors.most_common(1)[0]
        if found.get("error_kind") == "config":
            self.fatal = TooManyFailuresError(f"{job.name} cannot run: {cause}")
        elif total >= 4 and failed > self.max_failed_share * total:
            self.fatal = TooManyFailuresError(
                f"{failed} of {total} runs of the phase {job.phase!r} failed, {times} of them with: {cause}"
            )
        elif self.max_failed_in_row is not None and len(self.failed_in_row) >= self.max_failed_in_row:
            cause, times = Counter(self.failed_in_row).most_common(1)[0]
            self.fatal = TooManyFailuresError(
                f"{len(self.failed_in_row)} runs of the phase {job.phase!r} failed in a row, {times} of them with: {cause}"
            )
