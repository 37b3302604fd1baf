"""One run of a study in one process: what is left of its phases, the registered extractor, the report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from divfeat.cluster.executor import RayExecutor
from divfeat.config import MethodConfig
from divfeat.data.prepare import PreparedData
from divfeat.files import read_json
from divfeat.provenance import commit
from divfeat.search import protocol, workload
from divfeat.search.background import Background
from divfeat.search.budget import Budget, Limits
from divfeat.search.constraints import excesses, violation
from divfeat.search.followers import TrackingFollower
from divfeat.search.fork import check_fork, fork, note_of
from divfeat.search.interrupt import TooManyFailuresError
from divfeat.search.jobs import experiment
from divfeat.search.ledger import Ledger
from divfeat.search.phases import Phases
from divfeat.search.placing import Placing
from divfeat.search.progress import Progress
from divfeat.search.showing import experiment_tags, study_params
from divfeat.search.study import Study
from divfeat.tracking import Tracker
from divfeat.tracking.page import NOTE, Place
from divfeat.tracking.store import reachable


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

    def study_page(self, place: Place) -> str:
        """Description of the study's run in MLflow."""

    def model_page(self, place: Place) -> ModelPage | None:
        """What MLflow says of the registered extractor."""


class ModelPage(Protocol):
    """Of the registered extractor."""

    @property
    def description(self) -> str:
        """Of the model as a whole."""

    @property
    def of_version(self) -> str:
        """Of the version."""

    @property
    def tags(self) -> Mapping[str, str]:
        """Of both."""


Reporter = Callable[[], Made]


def run_session(study: Study, report: Reporter) -> Any:
    """Run what is left, then report.

    Args:
        study: Which one.
        report: Called once every phase has its decision; what it returns is returned here.

    Raises:
        ConfigError, DataError: before anything costly, with nothing written.
        StoppedError: a signal or the time budget; the same call goes on.
        TooManyFailuresError: a phase cannot be finished.
    """
    ledger = study.ledger
    known = ledger.check(study.config)
    if study.origin is not None:
        check_fork(ledger, study.origin)
    if not known:  # a study that has begun goes on without its tracking server, and tells it later
        reachable(study.execution.tracking_uri, study.folder)
    executor = data = None
    worker = study.execution.workers_per_trial * study.execution.gpus_per_worker
    limits = dataclasses.replace(Limits.of(study.execution), seconds=study.interrupt.seconds_left)
    budget = Budget(limits, worker)
    if not study.finished:
        data = study.check()
        executor = RayExecutor(
            workers=study.execution.workers_per_trial,
            fewest=study.execution.fewest_workers,
            cpus=study.execution.cpus_per_worker,
            gpus=study.execution.gpus_per_worker,
            address=study.execution.address,
            storage=study.storage,
            max_concurrent=study.execution.max_concurrent,
            wait_for_nodes=study.execution.wait_for_nodes,
            progress_timeout=study.execution.progress_timeout,
        )
        study.interrupt.renew()
    try:
        if executor is not None:
            budget.open(ledger, executor.node_types)
            study.interrupt.budget = budget
            if known:
                budget.keep(ledger)  # a wait for nodes costs what the head costs
            executor.wait(study.say, lambda: study.interrupt.reason is not None)
        ledger.open(study.config)
        if executor is not None:
            budget.keep(ledger)
            executor.begin()
        if data is not None:
            ledger.same_data("search", data.split_hash)
            if study.origin is not None:
                study.say(note_of(fork(ledger, study.config, study.origin, data.split_hash)))
            if data.note:
                study.say(f"note: {data.note}")
        tracker = Tracker.open(study.folder.resolve(), study.name, study.execution.tracking_uri, late=known)
        session = Session(study, ledger, tracker, executor, data, budget)
        if executor is not None and data is not None:
            executor.share("search", data)
        return session.run(report)
    finally:
        try:
            if study.interrupt.budget is budget:
                study.interrupt.budget = None
                budget.close()
        finally:
            if executor is not None:
                executor.close()
            ledger.close()


class Session:
    """One run of a study in one process."""

    def __init__(
        self,
        study: Study,
        ledger: Ledger,
        tracker: Tracker,
        executor: RayExecutor | None,
        data: PreparedData | None,
        budget: Budget,
    ) -> None:
        self.data, self.budget = data, budget
        self.study, self.ledger, self.tracker, self.executor = study, ledger, tracker, executor
        frozen = ledger.phase("calibrate")
        # Replaced by the phases' once learning rate and weight decay are frozen.
        self.config = protocol.with_calibration(study.config, frozen) if frozen else study.config
        self.following = TrackingFollower(tracker, ledger, study.config.search, lambda: budget.spend.metrics)
        self.background = Background(self.following)
        plan = workload.planned_runs(self.config, study.execution.trials)
        concurrent, first = executor.concurrent if executor else 1, protocol.objectives(self.config)[0]
        self.progress = Progress(
            plan, first, concurrent, self.config.train.epochs, study.console, self._feasible, budget
        )
        self.placing = Placing(
            self.config, study.execution, ledger, executor, study.interrupt, self.progress, self.background
        )

    def run(self, report: Reporter) -> Any:
        """Run what is left, then report: see `run_session`."""
        study = self.study
        self.ledger.write_execution(study.execution.to_dict() | {"time": time.time()})
        tags = {"preset": self.config.preset, "commit": commit()}
        params = study_params(self.config, study.execution.trials)
        self.tracker.study_run(self.config.to_dict(), tags, params)
        self._describe("No verdict yet: the study runs, or waits to be resumed.")
        if self.executor is not None:
            self.ledger.reopen()
            self.ledger.forgive(self._open_phases())
        self.following.reconcile()
        status = "stopped"
        try:
            if self.executor is not None and self.data is not None:
                phases = Phases(study, self.ledger, self.executor, self.data, self.placing, self.progress, self.budget)
                with self.background, self.progress:
                    phases.run()
                self.config = phases.config
                self.ledger.remove_stages()
                self.ledger.write_phase("done", {"trials": len(self.ledger.proposals()), "time": time.time()})
            self._register()
            self._mark_winner()
            made = report()
            self.tracker.log_report(made.files)
            status = "completed"
            metrics = {**made.metrics, **self.budget.spend.metrics}
            self.tracker.finish_study(status, metrics, {"verdict": made.sentence} | self._say(made))
            study.cut, study.untold = self.budget.cut, self.tracker.away
            return made
        except TooManyFailuresError:
            status = "failed"
            raise
        finally:
            if status != "completed":
                self.tracker.finish_study(status, self.budget.spend.metrics)

    def _describe(self, about: str) -> None:
        place = self.tracker.place()
        if place is not None:
            self.tracker.describe_experiment(experiment_tags(self.config, self.study.name, place, about))

    def _say(self, made: Made) -> dict[str, str]:
        """Put what was found on MLflow's pages; returns the tags of the study's run that hold its own."""
        place = self.tracker.place()
        if place is None:
            return {}
        self._describe(made.sentence)
        registered, page = self.ledger.phase("registered"), made.model_page(place)
        if registered is not None and page is not None:
            self.tracker.describe_model(
                registered["model"],
                registered["version"],
                description=page.description,
                tags=page.tags,
                of_version=page.of_version,
            )
        return {NOTE: made.study_page(place)}

    def _mark_winner(self) -> None:
        decision = self.ledger.phase("winner")
        assert decision is not None
        self.following.mark_winner(MethodConfig.model_validate(decision["winner"]["method"]))

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
