"""A study from start to verdict: who it is, where it stands, and its run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from divfeat.cluster.executor import RayExecutor
from divfeat.config import ExecutionConfig, StudyConfig
from divfeat.data.prepare import PreparedData
from divfeat.search.check import check_study
from divfeat.search.interrupt import Interrupt
from divfeat.search.ledger import Ledger
from divfeat.search.session import Reporter, Session
from divfeat.tracking import Tracker
from divfeat.tracking.store import reachable


@dataclass
class Study:
    """A study and where it stands.

    Args:
        config: Identity.
        execution: How to run it.
        folder: Of the study.
        name: Of the study.
        root: Folder of local data sets.
    """

    config: StudyConfig
    execution: ExecutionConfig
    folder: Path
    name: str
    root: Path | None = None
    console: Console = field(default_factory=Console)
    interrupt: Interrupt = field(default_factory=Interrupt)

    def check(self) -> PreparedData:
        """Everything that can be known to be wrong before a trial starts: see `check_study`."""
        return check_study(self.config, self.execution.trials, self.root)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to run for this many trials."""
        done = Ledger(self.folder).phase("done")
        return done is not None and done["trials"] >= self.execution.trials

    def run(self, report: Reporter) -> Any:
        """Run what is left, then report.

        Args:
            report: Called once every phase has its decision; what it returns is returned here.

        Raises:
            ConfigError, DataError: before anything costly, with nothing written.
            StoppedError: a signal or the time budget; the same call goes on.
            TooManyFailuresError: a phase cannot be finished.
        """
        ledger = Ledger(self.folder)
        ledger.check(self.config)
        reachable(self.execution.tracking_uri, self.folder)
        executor = data = None
        if not self.finished:
            data = self.check()
            executor = RayExecutor(
                workers=self.execution.workers_per_trial,
                cpus=self.execution.cpus_per_worker,
                gpus=self.execution.gpus_per_worker,
                address=self.execution.address,
                storage=self.folder.resolve(),
                max_concurrent=self.execution.max_concurrent,
            )
            self.interrupt.renew()
        try:
            ledger.open(self.config)
            if data is not None:
                ledger.same_data("search", data.split_hash)
            tracker = Tracker.open(self.folder.resolve(), self.name, self.execution.tracking_uri)
            session = Session(self, ledger, tracker, executor, data)
            if executor is not None and data is not None:
                executor.share("search", data)
            return session.run(report)
        finally:
            if executor is not None:
                executor.close()
            ledger.close()
