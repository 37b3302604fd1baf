"""The phases of the protocol, in order, each resumable, and what each decided."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from divfeat.cluster.executor import RayExecutor
from divfeat.config import MethodConfig, Release
from divfeat.data.prepare import PreparedData, prepare
from divfeat.experiment import class_context
from divfeat.methods import method_named
from divfeat.provenance import commit, versions
from divfeat.search import protocol, workload
from divfeat.search.budget import Budget
from divfeat.search.fork import first_of
from divfeat.search.interrupt import TooManyFailuresError
from divfeat.search.jobs import Job
from divfeat.search.ledger import Ledger
from divfeat.search.placing import Placing
from divfeat.search.progress import Progress
from divfeat.search.proposals import Proposals, storage_url
from divfeat.search.refine import Refinement, refinement
from divfeat.search.study import Study
from divfeat.search.subjects import Subject, baseline_subject, threshold_subject
from divfeat.search.tuning import AS_PUBLISHED, Tuned, tunable, tuned_methods
from divfeat.statistics import noise_floor


class Phases:
    """Runs what is left of the protocol.

    Args:
        study: Which one.
        ledger: Of the study.
        executor: Runs the jobs.
        data: Of the search.
        placing: Places them.
        progress: The table that counts.
        budget: Ends the search in time for the phases that follow it.

    Attributes:
        config: Of the study; replaced once learning rate and weight decay are frozen.
        tuned: Replaced once the baselines' own numbers are frozen.
    """

    def __init__(
        self,
        study: Study,
        ledger: Ledger,
        executor: RayExecutor,
        data: PreparedData,
        placing: Placing,
        progress: Progress,
        budget: Budget,
    ) -> None:
        self.study, self.ledger, self.executor, self.data = study, ledger, executor, data
        self.placing, self.progress, self.budget = placing, progress, budget
        self.config = placing.config
        self.tuned: Tuned = AS_PUBLISHED

    def run(self) -> None:
        """Run them.

        Raises:
            StoppedError: a signal or the time budget.
            TooManyFailuresError: a phase cannot be finished.
        """
        self._calibrate()
        self._noise()
        proposals = self._proposals(self.study.name, threshold_subject(self.config), self._refinement())
        self.search(proposals, self.study.execution.trials)
        tuning = self._tune(len(proposals))
        winner = self._select(len(proposals), tuning)
        own = protocol.grid_own(self.config, winner["winner"])
        grid = protocol.grid_jobs(self.config, self._grid_release(winner), own)
        if grid:
            self.placing.run("grid", grid)
            angles, seeds = protocol.grid_angles(self.config), protocol.select_seeds(self.config)
            decision = {"release": self._grid_release(winner), "angles": angles, "seeds": seeds}
            self.ledger.write_phase("grid", decision | ({"own": own} if own else {}))
        self._confirm(winner)

    def _proposals(self, name: str, subject: Subject, refinement: Refinement | None = None) -> Proposals:
        first = first_of(self.ledger.phase("fork"), subject.name, subject.first, subject.space)
        subject = dataclasses.replace(subject, first=first)
        return Proposals(self.config, self.ledger, storage_url(self.study.folder), name, refinement, subject)

    def search(self, proposals: Proposals, trials: int) -> None:
        """The study's own search alone, of `trials` proposals."""
        self._search("search", proposals, trials)

    def _refinement(self) -> Refinement | None:
        context = class_context(self.data, self.config.data.boundary)
        return refinement(self.config.search, self.study.execution.trials, context)

    def _calibrate(self) -> None:
        jobs = protocol.calibration_jobs(self.study.config)
        if not jobs:
            return
        decision = self.ledger.phase("calibrate")
        if decision is None:
            queue = self.placing.run("calibrate", jobs)
            decision = protocol.calibration_decision(jobs, self.ledger.record)
            if decision["lr"] is None:
                raise TooManyFailuresError(
                    f"CE trained to the end at no setting of protocol.learning_rates: {queue.cause}"
                )
            self.ledger.write_phase("calibrate", decision)
        else:
            self.placing.plan("calibrate", jobs)
            self.placing.skip("calibrate", jobs)
        self.config = self.placing.config = protocol.with_calibration(self.study.config, decision)

    def _noise(self) -> None:
        jobs = protocol.noise_jobs(self.config)
        queue = self.placing.run("noise", jobs)
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
            while len(proposals) < trials and not (phase == "search" and self._cut(proposals)):
                yield proposals.ask()

        def told(job: Job, record: Mapping[str, Any]) -> None:
            assert job.number is not None
            proposals.tell(job.number, record)

        pending = len(proposals.pending())
        self.progress.done[phase] = self.progress.done.get(phase, 0) + len(proposals) - pending
        if not pending and (len(proposals) >= trials or (phase == "search" and self._cut(proposals))):
            return
        asha = self.config.search.asha
        first = protocol.objectives(self.config)[0]
        self.placing.run(
            phase,
            jobs(),
            on_record=told,
            objective=first.validation if asha else None,
            direction=first.direction,
            reduction=asha.reduction if asha else 3,
            promotes=self.config.search.promote,
            table=proposals.rung_table(),
        )

    def _cut(self, proposals: Proposals) -> bool:
        """Whether a budget leaves room for the phases that follow, and none for another trial: the search ends here.

        Where it does not reach to a verdict at all, the search goes on until it is spent, and the same line takes it up again.
        """
        count, winner = len(proposals), self.ledger.phase("winner")
        if not count or self.budget.cut:
            return self.budget.cut is not None
        decided = winner is not None and winner["trials"] == count
        found = self.budget.short_for(self._trainings(count + 1) + self.executor.concurrent)
        if found is None or (not decided and self.budget.short_for(self._trainings(count), margin=1.0) is not None):
            return False
        self.budget.cut = found
        self.progress.plan["search"] = count
        self.study.say(
            f"the search ends after {count} of {self.study.execution.trials} trials: the {found} has room for selection and "
            "confirmation, and for no more"
        )
        return True

    def _trainings(self, trials: int) -> float:
        """That follow a search of so many trials."""
        planned = workload.planned_trainings(self.config, trials)
        return sum(planned.get(phase, 0.0) for phase in workload.AFTER_SEARCH)

    def _tune(self, trials: int) -> dict[str, int]:
        """Search the baselines' own numbers, each in as many trials as the search had.

        Returns:
            Proposals by baseline.
        """
        names, made = tunable(self.config), {}
        if names:
            self.progress.plan["tune"] = trials * len(names)
        for name in names:
            proposals = self._proposals(f"{self.study.name}.{name}", baseline_subject(self.config, name))
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
            jobs = self.placing.plan("select", protocol.selection_jobs(self.config, frozen["candidates"], rivals))
            self.placing.skip("select", jobs)
            return frozen
        chosen = protocol.candidates(self.config, self.ledger.proposals(), self.ledger.record)
        if not chosen:
            raise TooManyFailuresError("no trial of the search was completed, so there is nothing to select from")
        self.placing.run("select", protocol.selection_jobs(self.config, chosen, rivals))
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
            data = prepare(self.config.data, "confirm", root=self.study.root)
            self.ledger.same_data("confirm", data.split_hash)
            self.executor.share("confirm", data)
        self.placing.run("confirm", jobs, role="confirm")
