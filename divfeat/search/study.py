"""A study: who it is, where it stands, what is wrong with it before it starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from divfeat.data.prepare import PreparedData
from divfeat.search.check import check_study
from divfeat.search.interrupt import Interrupt
from divfeat.search.ledger import Ledger
from divfeat.search.mirror import Mirror
from divfeat.storage import Store
from divfeat.study_config import ExecutionConfig, StudyConfig


@dataclass
class Study:
    """A study and where it stands.

    Args:
        config: Identity.
        execution: How to run it.
        folder: Of the study.
        name: Of the study.
        root: Folder of local data sets.
        mirror: Of its shared storage, whose image the folder is; None where all nodes have the folder.
    """

    config: StudyConfig
    execution: ExecutionConfig
    folder: Path
    name: str
    root: Path | None = None
    #: Folder of the study this one is forked from.
    origin: Path | None = None
    console: Console = field(default_factory=Console)
    interrupt: Interrupt = field(default_factory=Interrupt)
    #: Which budget ended the search before its time, once the study was run.
    cut: str | None = None
    #: Whether MLflow was away at the end, and lacks something of a study that is finished.
    untold: bool = False
    mirror: Mirror | None = None

    @property
    def ledger(self) -> Ledger:
        """Its truth, not yet open."""
        return Ledger(self.folder, self.mirror)

    @property
    def storage(self) -> Path | Store:
        """Where Ray's workers write."""
        return self.folder.resolve() if self.mirror is None else self.mirror.store

    @contextmanager
    def held(self) -> Iterator[None]:
        """Fill the folder from the shared storage, and keep that up to it within the block; nothing to do without.

        Raises:
            ConfigError: the storage holds another study of that name, or another process runs it.
        """
        if self.mirror is None:
            yield
            return
        self.ledger.check(self.config)
        with self.mirror.held():
            yield

    def say(self, line: str) -> None:
        """Print a line as it is."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def check(self) -> PreparedData:
        """Everything that can be known to be wrong before a trial starts: see `check_study`."""
        return check_study(self.config, self.execution.trials, self.root)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to run for this many trials."""
        done = Ledger(self.folder).phase("done")
        return done is not None and done["trials"] >= self.execution.trials
