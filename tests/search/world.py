"""Whole studies over several sessions, with all that is real but cluster, tracker and trainings."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from divfeat.cluster.faults import Fault
from divfeat.config import ExperimentConfig
from divfeat.errors import ConfigError
from divfeat.files import write_json
from divfeat.search import session
from divfeat.search.budget import Budget
from divfeat.search.ledger import Ledger
from divfeat.search.progress import Progress
from divfeat.search.study import Study
from divfeat.study_config import ExecutionConfig, StudyConfig
from tests.search.samples import METRIC, completed, make_study

SMALL = {"baselines": ["ce"], "grid_points": 0, "learning_rates": [], "weight_decays": []}
GATE = make_study(protocol=SMALL, search={"releases": ["gate"]})


def angle_of(config: ExperimentConfig) -> float:
    return next(iter(config.method.thresholds.angles.values()), 0.0)


def scored(config: ExperimentConfig, value: float, strength: float = 1e-3) -> dict[str, Any]:
    metrics = {METRIC: value, "val/accuracy": value, "test/fine_top1": value}
    return completed(config, metrics | {"probe/strength": strength, "probe/strength_before": 1e-3})


class World:
    """Stands for cluster and tracker over all sessions of one study.

    `outcome` gives a record, "lost" (infrastructure), "stop" (a signal comes while it runs) or an exception to raise.
    """

    def __init__(self, folder: Path, config: StudyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.config = folder, config
        self.outcome: Callable[[ExperimentConfig], Any] = lambda config: scored(config, 0.8 - 0.01 * angle_of(config))
        self.ran: list[tuple[str, str]] = []
        self.calls: list[tuple[str, Any]] = []
        self.away = False
        self.origin: Path | None = None  # study that this one is forked from
        self.progress: Progress | None = None
        self.nodes = {"head": 1, "gpu": 2}
        self.seconds = 0.0  # on the clock of the budget; a run takes 100
        self.wait: Callable[[], None] = lambda: None  # for the first place
        world = self

        class Executor:
            concurrent = 2

            def __init__(self, **placement: Any) -> None: ...

            def wait(self, *told: Any) -> None:
                world.wait()

            def begin(self) -> None: ...

            def node_types(self) -> dict[str, int]:
                return world.nodes

            def share(self, role: str, data: Any) -> None: ...

            def close(self) -> None: ...

            def run(self, source: Any, role: str) -> None:
                world.run(source)

        class Tracked:
            @classmethod
            def open(cls, *place: Any, **how: Any) -> Tracked:
                return cls()

            @property
            def away(self) -> bool:
                return world.away

            def __getattr__(self, name: str) -> Callable[..., Any]:
                def call(*arguments: Any, **named: Any) -> Any:
                    world.calls.append((name, arguments))
                    return (
                        None if name != "register_extractor" or world.away else 1
                    )  # no place either: nothing to link to

                return call

        class Seen(Progress):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments)
                world.progress = self

        monkeypatch.setattr(session, "RayExecutor", Executor)
        monkeypatch.setattr(session, "Tracker", Tracked)
        monkeypatch.setattr(session, "Progress", Seen)
        monkeypatch.setattr(session, "Budget", lambda *given: Budget(*given, clock=lambda: self.seconds))

    def run(self, source: Any) -> None:
        while (spec := source.next()) is not None:
            config = ExperimentConfig.model_validate(spec.experiment)
            self.ran.append((config.role, spec.key))
            source.placed(spec.key)
            self.seconds += 100.0
            if source.stopping():
                return  # the budget is spent
            found = self.outcome(config)
            if found == "stop":
                self.study.interrupt.signal = "SIGTERM"
                return  # the executor kills what runs without a word
            if found == "stuck":
                source.stuck(ConfigError("no trial has had a place for 600 s"))
                return
            if found != "lost":
                if spec.keep:
                    write_json(Path(spec.folder) / "extractor" / "config.json", {})
                    torch.save({}, Path(spec.folder) / "extractor" / "weights.pt")
                self.ledger.write_record(spec.key, found)
            source.ended(spec.key, Fault("node", "gone") if found == "lost" else None)

    def session(self, trials: int, **execution: Any) -> Any:
        """One call of the command."""
        self.ran, self.calls = [], []
        console = Console(file=io.StringIO(), width=150)
        settings = ExecutionConfig(trials=trials, **execution)
        self.study = Study(self.config, settings, self.folder, self.folder.name, console=console, origin=self.origin)
        return session.run_session(self.study, lambda: SimpleNamespace(files={}, metrics={}, sentence="a verdict"))

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.folder)

    @property
    def test_reads(self) -> list[str]:
        return [row["key"] for row in self.ledger.test_reads()]

    @property
    def winner(self) -> str:
        found = self.ledger.phase("winner")
        assert found is not None
        return found["winner"]["name"]

    def called(self, name: str) -> list[Any]:
        return [arguments for call, arguments in self.calls if call == name]
