"""One run of a study in one process: the phases of the protocol, each resumable, and what each decided."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from divfeat.cluster.executor import RayExecutor
from divfeat.cluster.trial import TrialSpec
from divfeat.config import MethodConfig, Release
from divfeat.data.prepare import PreparedData, prepare
from divfeat.experiment import stage_key
from divfeat.files import read_json, write_json
from divfeat.methods import method_named, parts_of
from divfeat.provenance import commit, versions
from divfeat.search import protocol, workload
from divfeat.search.constraints import excesses, violation
from divfeat.search.followers import TrackingFollower
from divfeat.search.interrupt import StoppedError, TooManyFailuresError
from divfeat.search.jobs import Job, experiment
from divfeat.search.ledger import Ledger
from divfeat.search.progress import Progress
from divfeat.search.proposals import Proposals, storage_url
from divfeat.search.queue import JobQueue
from divfeat.search.refine import Refinement, refinement
from divfeat.search.subjects import baseline_subject
from divfeat.search.tuning import AS_PUBLISHED, Tuned, tunable, tuned_methods
from divfeat.statistics import noise_floor
from divfeat.thresholds import ThresholdContext
from divfeat.tracking import Tracker

if TYPE_CHECKING:
    from divfeat.search.study import Study


class Made(Protocol):
    """What a report hands back: files for MLflow, the study's own metrics, one sentence."""

    @property
    def files(self) -> Mapping[str, Path]:
        """Name -> file."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """Of the study as a whole."""

    @property
    def sentence(self) -> str:
        """The verdict."""


Reporter = Callable[[], Made]

#: Phases whose weights are kept: the registered extractor comes from a selection run, confirmed runs keep theirs.
KEPT = ("noise", "select", "confirm")


class Session:
    """One run of a study in one process."""

    def __init__(
        self, study: Study, ledger: Ledger, tracker: Tracker, executor: RayExecutor | None, data: PreparedData | None
    ) -> None:
        self.data = data
        self.study, self.ledger, self.tracker, self.executor = study, ledger, tracker, executor
        frozen = ledger.phase("calibrate")
        # Replaced once learning rate and weight decay are frozen.
        self.config = protocol.with_calibration(study.config, frozen) if frozen else study.config
        self.shared: frozenset[str] = frozenset()
        self.tuned: Tuned = AS_PUBLISHED  # replaced once the baselines' own numbers are frozen
        self.interrupt = study.interrupt
        self.following = TrackingFollower(tracker, ledger)
        plan = workload.planned_runs(self.config, study.execution.trials)
        concurrent, first = executor.concurrent if executor else 1, protocol.objectives(self.config)[0]
        self.progress = Progress(plan, first, concurrent, self.config.train.epochs, study.console, self._feasible)

    def run(self, report: Reporter) -> Any:
        """As `Study.run`."""
        study = self.study
        write_json(study.folder / "execution.json", study.execution.to_dict() | {"time": time.time()})
        self.tracker.study_run(self.config.to_dict(), {"preset": self.config.preset, "commit": commit()})
        if self.executor is not None:
            self.ledger.reopen()
            self.ledger.forgive(self._open_phases())
        self.following.reconcile()
        status = "stopped"
        try:
            if self.executor is not None:
                with self.progress:
                    self._phases()
                self.ledger.remove_stages()
                self.ledger.write_phase("done", {"trials": len(self.ledger.proposals()), "time": time.time()})
            self._register()
            made = report()
            self.tracker.log_report(made.files)
            status = "completed"
            self.tracker.finish_study(status, made.metrics, {"verdict": made.sentence})
            return made
        except TooManyFailuresError:
            status = "failed"
            raise
        finally:
            if status != "completed":
                self.tracker.finish_study(status)

    def _open_phases(self) -> set[str]:
        """Phases whose failed runs may be tried again: nothing that a frozen decision, or a bound trials met, rests on."""
        phases = {"search", "tune", "grid", "confirm"}
        if self.ledger.phase("calibrate") is None:
            phases.add("calibrate")
        winner = self.ledger.phase("winner")
        if winner is None or winner["trials"] < self.study.execution.trials:
            phases |= {"noise", "select"}
        if self.ledger.proposals() and any(one.than for one in self.config.search.constraints):
            phases.discard("noise")
        return phases

    def _feasible(self, record: Mapping[str, Any]) -> bool:
        limits = protocol.limits_of(self.config, self.ledger.record)
        return violation(excesses(limits, lambda metric: protocol.metric_of(record, metric))) == 0

    def _register(self) -> None:
        """Register the winner's extractor, once: of its selection runs the one at the validation median."""
        decision = self.ledger.phase("winner")
        assert decision is not None
        winner = decision["winner"]
        method = MethodConfig.model_validate(winner["method"])
        metric = protocol.objective_metrics(self.config)[0]
        runs = []
        for seed in protocol.select_seeds(self.config):
            key = experiment(self.config, method, seed).key
            value = protocol.metric_of(self.ledger.record(key), metric)
            folder = self.ledger.run_folder(key) / "extractor"
            if value is not None and folder.exists():
                runs.append((value, seed, key, folder))
        if not runs:
            return
        value, seed, key, folder = sorted(runs)[(len(runs) - 1) // 2]
        version = self.tracker.register_extractor(
            self.study.name,
            read_json(folder / "config.json"),
            torch.load(folder / "weights.pt", weights_only=True),
            key=key,
            tags={"method": winner["name"], "seed": str(seed), metric.replace("/", "."): f"{value:.4f}"},
            description=f"Feature extractor of {winner['name']}, seed {seed} (the median of {len(runs)} on validation), "
            f"study {self.study.name}. uint8 images in, features out.",
        )
        if version is not None:  # else MLflow is away: the same line registers it later
            found = {"model": self.study.name, "version": version, "key": key, "seed": seed, "value": value}
            self.ledger.write_phase("registered", found)

    def _phases(self) -> None:
        self._calibrate()
        self._noise()
        proposals = Proposals(
            self.config, self.ledger, storage_url(self.study.folder), self.study.name, self._refinement()
        )
        self._search("search", proposals, self.study.execution.trials)
        tuning = self._tune(len(proposals))
        winner = self._select(len(proposals), tuning)
        own = protocol.grid_own(self.config, winner["winner"])
        grid = protocol.grid_jobs(self.config, self._grid_release(winner), own)
        if grid:
            self._run("grid", grid)
            angles, seeds = protocol.grid_angles(self.config), protocol.select_seeds(self.config)
            decision = {"release": self._grid_release(winner), "angles": angles, "seeds": seeds}
            self.ledger.write_phase("grid", decision | ({"own": own} if own else {}))
        self._confirm(winner)

    def _refinement(self) -> Refinement | None:
        assert self.data is not None
        context = ThresholdContext(torch.as_tensor(self.data.class_counts), boundary=self.config.data.boundary)
        return refinement(self.config.search, self.study.execution.trials, context)

    # --- phases ---------------------------------------------------------------------------------------------------------

    def _calibrate(self) -> None:
        jobs = protocol.calibration_jobs(self.study.config)
        if not jobs:
            return
        decision = self.ledger.phase("calibrate")
        if decision is None:
            queue = self._run("calibrate", jobs)
            decision = protocol.calibration_decision(jobs, self.ledger.record)
            if decision["lr"] is None:
                raise TooManyFailuresError(
                    f"CE trained to the end at no setting of protocol.learning_rates: {queue.cause}"
                )
            self.ledger.write_phase("calibrate", decision)
        else:
            self._plan("calibrate", jobs)
            self._skip("calibrate", jobs)
        self.config = protocol.with_calibration(self.study.config, decision)

    def _noise(self) -> None:
        jobs = protocol.noise_jobs(self.config)
        queue = self._run("noise", jobs)
        limits = protocol.limits_of(self.config, self.ledger.record)
        if unknown := [limit.name for limit in limits if math.isnan(limit.bound)]:
            raise TooManyFailuresError(
                f"search.constraints: {', '.join(unknown)} is relative to {protocol.NOISE_METHOD}, of which no run has that "
                f"metric: {queue.cause}"
            )
        if self.ledger.phase("protocol") is None:
            first = protocol.objectives(self.config)[0]
            metric = first.validation
            values = [protocol.metric_of(self.ledger.record(job.key), metric) for job in jobs]
            scores = [first.scale * value for value in values if value is not None]
            floor = noise_floor(np.array(scores)).sd if len(scores) >= 2 else None
            self.ledger.write_phase(
                "protocol",
                {
                    "written": time.time(),
                    "commit": commit(),
                    "versions": versions(),
                    "primary_metric": metric,
                    "objectives": list(self.config.search.objectives),
                    "train": self.config.train.to_dict(),
                    "noise": {"method": protocol.NOISE_METHOD, "scores": scores, "sd": floor},
                    "pareto_rule": "closest to the utopia point of the front, objectives scaled to [0, 1]",
                    **({"constraints": {limit.name: limit.bound for limit in limits}} if limits else {}),
                    **self.config.protocol.to_dict(),
                },
            )

    def _search(self, phase: str, proposals: Proposals, trials: int) -> None:
        """Ask and tell until there are so many proposals, all with their record."""

        def jobs() -> Iterator[Job]:
            yield from proposals.pending()
            while len(proposals) < trials:
                yield proposals.ask()

        def told(job: Job, record: Mapping[str, Any]) -> None:
            assert job.number is not None
            proposals.tell(job.number, record)

        pending = len(proposals.pending())
        self.progress.done[phase] = self.progress.done.get(phase, 0) + len(proposals) - pending
        if len(proposals) >= trials and not pending:
            return
        asha = self.config.search.asha
        first = protocol.objectives(self.config)[0]
        self._run(
            phase,
            jobs(),
            on_record=told,
            objective=first.validation if asha else None,
            direction=first.direction,
            reduction=asha.reduction if asha else 3,
            table=proposals.rung_table(),
        )

    def _tune(self, trials: int) -> dict[str, int]:
        """Search the baselines' own numbers, each in as many trials as the search had.

        Returns:
            Proposals by baseline.
        """
        names, made = tunable(self.config), {}
        if names:
            self.progress.plan["tune"] = trials * len(names)
        for name in names:
            subject = baseline_subject(self.config, name)
            storage = storage_url(self.study.folder)
            proposals = Proposals(self.config, self.ledger, storage, f"{self.study.name}.{name}", subject=subject)
            self._search("tune", proposals, trials)
            made[name] = len(proposals)
        return made

    def _select(self, trials: int, tuning: Mapping[str, int]) -> dict[str, Any]:
        """The winner among `trials` proposals. Frozen once decided: a resume must not choose again after test was read.

        So are the tuned baselines, each among its own proposals (`tuning`); what they were frozen among is told with them.
        """
        frozen, known = self.ledger.phase("winner"), self.ledger.phase("tuned") or {}
        decided = {name: found["trials"] for name, found in known.items()} == dict(tuning)
        if decided:
            rivals = {name: found["candidates"] for name, found in known.items()}
        else:
            rivals = {
                name: protocol.candidates(self.config, self.ledger.proposals(name), self.ledger.record, name)
                for name in tuning
            }
        if decided and frozen is not None and frozen["trials"] == trials:
            self.tuned = tuned_methods(known)
            jobs = self._plan("select", protocol.selection_jobs(self.config, frozen["candidates"], rivals))
            self._skip("select", jobs)
            return frozen
        chosen = protocol.candidates(self.config, self.ledger.proposals(), self.ledger.record)
        if not chosen:
            raise TooManyFailuresError("no trial of the search was completed, so there is nothing to select from")
        self._run("select", protocol.selection_jobs(self.config, chosen, rivals))
        if not decided:
            known = protocol.tuned_decision(self.config, rivals, tuning, self.ledger.record)
            self.ledger.write_phase("tuned", known)
        self.tuned = tuned_methods(known)
        try:
            winner = protocol.winner_decision(self.config, chosen, self.ledger.record)
        except ValueError as error:
            raise TooManyFailuresError(str(error)) from error
        before = frozen["strengths"] if frozen is not None else {}
        strengths = protocol.frozen_strengths(self.config, winner["winner"], self.ledger.record, before, self.tuned)
        winner |= {"trials": trials, "strengths": strengths}
        self.ledger.write_phase("winner", winner)
        return winner

    def _grid_release(self, winner: Mapping[str, Any]) -> Release:
        method = MethodConfig.model_validate(winner["winner"]["method"])
        return method.release if method_named(method.name).hinge else self.config.search.releases[0]

    def _confirm(self, winner: Mapping[str, Any]) -> None:
        jobs = protocol.confirmation_jobs(self.config, winner["winner"], winner["strengths"], self.tuned)
        if any(self.ledger.record(job.key) is None for job in jobs):
            assert self.executor is not None
            data = prepare(self.config.data, "confirm", root=self.study.root)
            self.ledger.same_data("confirm", data.split_hash)
            self.executor.share("confirm", data)
        self._run("confirm", jobs, role="confirm")

    # --- the queue --------------------------------------------------------------------------------------------------------

    def _run(self, phase: str, jobs: Iterable[Job], role: str = "search", **options: Any) -> JobQueue:
        """Run the jobs that have no record yet."""
        self._phase(phase)
        self.shared = workload.shared_stages(self.config)
        held = 1
        if isinstance(jobs, Sequence):
            jobs = self._without_done(self._plan(phase, jobs))
            held += len(jobs)
        queue = JobQueue(
            iter(jobs),
            self.ledger,
            self._spec,
            self.interrupt,
            [self.following, self.progress],
            # A baseline that diverges at its own settings must not end the study: it can still stand as published.
            max_failed_share=1.0 if phase == "tune" else self.study.execution.max_failed_share,
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

    def _plan(self, phase: str, jobs: Sequence[Job]) -> list[Job]:
        """Each experiment once, and counted: the plan could only guess what coincides."""
        unique = {job.key: job for job in reversed(jobs)}
        self.progress.plan[phase] = len(unique)
        return list(reversed(unique.values()))

    def _without_done(self, jobs: Sequence[Job]) -> list[Job]:
        """Leave out what has a record: no cluster is asked for a phase that is done."""
        done = [job for job in jobs if self.ledger.record(job.key) is not None]
        self._skip(self.progress.phase, done)
        return [job for job in jobs if self.ledger.record(job.key) is None]

    def _skip(self, phase: str, jobs: Sequence[Job]) -> None:
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
        return parts_of(job.experiment.method).second != "none" or stage_key(job.experiment) in self.shared

    def _spec(self, job: Job) -> TrialSpec:
        return TrialSpec(
            key=job.key,
            experiment=job.experiment.to_dict(),
            folder=str(self.ledger.run_folder(job.key).resolve()),
            stages=str(self.ledger.stages.resolve()),
            rungs=job.rungs,
            stop=tuple(one.to_dict() for one in self.config.search.stop) if job.phase == "search" else (),
            keep=job.phase in KEPT,
            shared=self._shares(job),
            workers=self.study.execution.workers_per_trial,
            cpus=self.study.execution.cpus_per_worker,
            gpus=self.study.execution.gpus_per_worker,
        )
