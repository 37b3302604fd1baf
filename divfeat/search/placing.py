"""Placing the jobs of a phase: each experiment once, counted for the progress table, run on the cluster what has no record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from divfeat.cluster.executor import RayExecutor
from divfeat.cluster.trial import TrialSpec
from divfeat.methods import parts_of
from divfeat.search import workload
from divfeat.search.interrupt import Interrupt, StoppedError
from divfeat.search.jobs import Job
from divfeat.search.ledger import Ledger
from divfeat.search.mirror import STAGES
from divfeat.search.progress import Progress
from divfeat.search.queue import Follower, JobQueue
from divfeat.stages import stage_key
from divfeat.study_config import ExecutionConfig, StudyConfig

#: Phases whose weights are kept: the registered extractor comes from a selection run, confirmed runs keep theirs.
KEPT = ("noise", "select", "confirm")


class Placing:
    """Runs jobs.

    Args:
        config: Of the study; replaced once learning rate and weight decay are frozen.
        execution: How to run it.
        ledger: Of the study.
        executor: None where nothing is left to run.
        interrupt: Ends a phase between two epochs.
        progress: The table that counts.
        following: Hears of every job, before the table.
    """

    def __init__(
        self,
        config: StudyConfig,
        execution: ExecutionConfig,
        ledger: Ledger,
        executor: RayExecutor | None,
        interrupt: Interrupt,
        progress: Progress,
        following: Follower,
    ) -> None:
        self.config, self.execution, self.ledger, self.executor = config, execution, ledger, executor
        self.interrupt, self.progress, self.following = interrupt, progress, following
        self.stages_in_common: frozenset[str] = frozenset()

    def run(self, phase: str, jobs: Iterable[Job], role: str = "search", **options: Any) -> JobQueue:
        """Run the jobs that have no record yet.

        Args:
            phase: Of the protocol.
            jobs: All of them, or what makes them one by one.
            role: What they may see: the data they are given.
            options: Further arguments of `JobQueue`.

        Raises:
            StoppedError: a signal or the time budget.
            StorageLostError: trials cannot write any more.
            TooManyFailuresError: the phase cannot be finished.
        """
        self._phase(phase)
        self.stages_in_common = workload.shared_stages(self.config)
        held = 1
        if isinstance(jobs, Sequence):
            jobs = self._without_done(self.plan(phase, jobs))
            held += len(jobs)
        queue = JobQueue(
            iter(jobs),
            self.ledger,
            self._spec,
            self.interrupt,
            [self.following, self.progress],
            # A baseline that diverges at its own settings must not end the study: it can still stand as published.
            max_failed_share=1.0 if phase == "tune" else self.execution.max_failed_share,
            max_failed_in_row=None if phase == "tune" else self.execution.max_failed_in_row,
            shares=self._shares,
            held=held,
            **options,
        )
        if isinstance(jobs, Sequence) and not jobs:
            return queue
        assert self.executor is not None
        self.executor.run(queue, role)
        queue.close()
        if queue.fatal is not None:
            raise queue.fatal
        if self.interrupt.reason is not None:
            raise StoppedError(self.interrupt.reason)
        return queue

    def plan(self, phase: str, jobs: Sequence[Job]) -> list[Job]:
        """Each experiment once, and counted: the plan could only guess what coincides."""
        unique = {job.key: job for job in reversed(jobs)}
        self.progress.plan[phase] = len(unique)
        return list(reversed(unique.values()))

    def _without_done(self, jobs: Sequence[Job]) -> list[Job]:
        """Leave out what has a record: no cluster is asked for a phase that is done."""
        done = [job for job in jobs if self.ledger.record(job.key) is not None]
        self.skip(self.progress.phase, done)
        return [job for job in jobs if self.ledger.record(job.key) is None]

    def skip(self, phase: str, jobs: Sequence[Job]) -> None:
        """Count what earlier phases or sessions ran."""
        records = [self.ledger.record(job.key) for job in jobs]
        failed = sum(record is not None and record["status"] == "failed" for record in records)
        self.progress.done[phase] = self.progress.done.get(phase, 0) + len(jobs)
        self.progress.failed[phase] = self.progress.failed.get(phase, 0) + failed

    def _phase(self, phase: str) -> None:
        self.progress.phase = phase
        self.progress.plan.setdefault(phase, 0)
        self.progress.done.setdefault(phase, 0)
        self.progress.failed.setdefault(phase, 0)

    def _shares(self, job: Job) -> bool:
        """Whether what the job leaves of its first stage may serve another: then it stays until the study is done."""
        return parts_of(job.experiment.method).second != "none" or stage_key(job.experiment) in self.stages_in_common

    def _place(self, key: str) -> dict[str, Any]:
        mirror = self.ledger.mirror
        if mirror is not None:
            return {"folder": f"runs/{key}", "stages": STAGES, "store": mirror.store.address}
        return {"folder": str(self.ledger.run_folder(key).resolve()), "stages": str(self.ledger.stages.resolve())}

    def _spec(self, job: Job) -> TrialSpec:
        return TrialSpec(
            key=job.key,
            experiment=job.experiment.to_dict(),
            **self._place(job.key),
            rungs=job.rungs,
            stop=tuple(one.to_dict() for one in self.config.search.stop) if job.phase == "search" else (),
            keep=job.phase in KEPT,
            shared=self._shares(job),
            workers=self.execution.workers_per_trial,
            fewest=self.execution.fewest_workers,
            cpus=self.execution.cpus_per_worker,
            gpus=self.execution.gpus_per_worker,
            checkpoint_seconds=self.execution.checkpoint_seconds,
        )
