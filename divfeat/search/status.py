"""How a study stands, from its folder alone: what is done, runs or hangs, what failed and why, what it cost, what is left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from divfeat.files import read_mapping
from divfeat.objectives import OBJECTIVES
from divfeat.record import cause_of
from divfeat.search.constraints import excesses, violation
from divfeat.search.ledger import Ledger, known_study
from divfeat.search.progress import clock
from divfeat.search.protocol import limits_of, metric_of
from divfeat.search.workload import planned_runs
from divfeat.study_config import StudyConfig
from divfeat.validation import build

#: Silent epochs after which a run is taken to hang, and seconds that it may be silent in any case.
SILENT_EPOCHS, SILENT_SECONDS = 20, 300.0


@dataclass(frozen=True)
class RunningTrial:
    """A run that was launched and has no record.

    Attributes:
        phase: That asked for it.
        name: What people call it.
        seed: Of it.
        epochs: Finished ones.
        silent: Seconds since it was last heard of.
        stalled: Whether that is long for a run of this study.
        waits: Whether it has paused at a rung, until it is among the best there or the search ends.
    """

    phase: str
    name: str
    seed: int
    epochs: int
    silent: float
    stalled: bool
    waits: bool


@dataclass(frozen=True)
class StudyStatus:
    """A study at one moment.

    Attributes:
        name: Of the study.
        process: That runs it, or "" where none does.
        finished: Whether every phase has its decision.
        epochs: Of a training.
        plan: phase -> runs, as planned before anything was known; what the search finds can save some.
        ended: phase -> how runs ended -> how many.
        running: What runs, or waits at a rung; without a process, what goes on when the study is taken up again.
        causes: Why runs failed -> how many.
        spent: Seconds of all runs that ended, added up.
        left: Seconds until the end, a guess; None before a run has ended, and where nothing runs.
        best: Score and name of the best trial of the search that keeps its constraints, or None.
    """

    name: str
    process: str
    finished: bool
    epochs: int
    plan: Mapping[str, int]
    ended: Mapping[str, Mapping[str, int]]
    running: tuple[RunningTrial, ...]
    causes: Mapping[str, int]
    spent: float
    left: float | None
    best: tuple[str, str] | None

    @property
    def state(self) -> str:
        """In a word or two."""
        if self.process:
            stalled = sum(one.stalled for one in self.running)
            return f"running (process {self.process})" + (f", {stalled} stalled" if stalled else "")
        return "finished" if self.finished else "not running; the line that started it goes on"

    def __rich__(self) -> Group:
        """As lines and tables for a terminal."""
        lines = [f"{self.name}: {self.state}"]
        spent = f"{clock(self.spent)} of runs spent"
        lines.append(spent + (f", about {clock(self.left)} left" if self.left is not None else ""))
        if self.best is not None:
            lines.append(f"best of the search: {self.best[0]} ({self.best[1]})")
        parts: list[Any] = [Text("\n".join(lines)), self._phases()]
        if self.running:
            parts.append(self._running())
        if self.causes:
            causes = Table("failed runs", "cause", title_justify="left")
            for cause, count in sorted(self.causes.items(), key=lambda item: -item[1]):
                causes.add_row(str(count), Text(cause))
            parts.append(causes)
        return Group(*parts)

    def _phases(self) -> Table:
        waiting = Counter(one.phase for one in self.running if one.waits)
        table = Table("phase", "planned", "completed", "pruned", "failed", *(["at a rung"] if waiting else []))
        for phase in dict.fromkeys([*self.plan, *self.ended]):
            ended = self.ended.get(phase, {})
            counts = [str(ended.get(status) or "") for status in ("completed", "pruned", "failed")]
            table.add_row(
                phase, str(self.plan.get(phase, "")), *counts, *([str(waiting[phase] or "")] if waiting else [])
            )
        return table

    def _running(self) -> Table:
        table = Table("running" if self.process else "begun", "phase", "seed", "epochs", "heard of")
        for one in self.running:
            said = (
                f"{clock(one.silent)} ago" + (" - stalled?" if one.stalled else "") + (", waits" if one.waits else "")
            )
            table.add_row(Text(one.name), one.phase, str(one.seed), f"{one.epochs}/{self.epochs}", said)
        return table


def status(folder: Path, now: float | None = None) -> StudyStatus:
    """Read how the study in `folder` stands; nothing is written, and the study is not disturbed.

    Args:
        folder: Of the study.
        now: Seconds since the epoch, default the clock's.

    Raises:
        DataError: no study there, or one that cannot be read.
    """
    study, ledger = build(StudyConfig, known_study(folder)["config"]), Ledger(folder)
    now = time.time() if now is None else now
    execution = read_mapping(folder / "execution.json") or {}
    trials = int(execution.get("trials", 0))
    records = {key: (info, ledger.record(key)) for key, info in ledger.started().items()}
    ended: dict[str, Counter[str]] = {}
    causes: Counter[str] = Counter()
    seconds: list[tuple[float, float]] = []  # when it ended, how long it took
    for info, record in records.values():
        if record is None:
            continue
        ended.setdefault(str(info["phase"]), Counter())[str(record["status"])] += 1
        if record["status"] == "failed":
            causes[cause_of(record)] += 1
        took = record["provenance"].get("seconds") or max(0.0, record["finished"] - info["time"])
        seconds.append((record["finished"], took))
    recent = [took for _, took in sorted(seconds)[-20:]]
    an_epoch = median(recent) / study.train.epochs if recent else 0.0
    running = tuple(
        _running(ledger, key, info, now, max(SILENT_SECONDS, SILENT_EPOCHS * an_epoch))
        for key, (info, record) in records.items()
        if record is None
    )
    plan = planned_runs(study, trials) if trials else {}
    process = ledger.owner()
    done = ledger.phase("done")
    left = None
    if process and recent:
        runs = sum(max(0, count - sum(ended.get(phase, Counter()).values())) for phase, count in plan.items())
        left = runs * sum(recent) / len(recent) / max(1, sum(not one.waits for one in running))
    return StudyStatus(
        name=folder.resolve().name,
        process=process,
        finished=done is not None and done["trials"] >= trials,
        epochs=study.train.epochs,
        plan=plan,
        ended=ended,
        running=tuple(sorted(running, key=lambda one: (one.phase, one.name, one.seed))),
        causes=causes,
        spent=sum(took for _, took in seconds),
        left=left,
        best=_best(study, ledger),
    )


def _running(ledger: Ledger, key: str, info: Mapping[str, Any], now: float, patience: float) -> RunningTrial:
    log = ledger.run_folder(key) / "events.jsonl"
    heard = log.stat().st_mtime if log.exists() else float(info["time"])
    silent = max(0.0, now - heard)
    epochs, waits = len(ledger.events(key)), ledger.paused(key)
    stalled = silent > patience and not waits
    return RunningTrial(str(info["phase"]), str(info["name"]), int(info["seed"]), epochs, silent, stalled, waits)


def _best(study: StudyConfig, ledger: Ledger) -> tuple[str, str] | None:
    """Of the trials that keep every constraint."""
    measure, limits = OBJECTIVES[study.search.objectives[0]], limits_of(study, ledger.record)
    best: tuple[float, str] | None = None
    for row in ledger.proposals().values():
        record = ledger.record(row["key"])
        value = metric_of(record, measure.validation)
        kept = violation(excesses(limits, lambda metric, record=record: metric_of(record, metric))) == 0  # type: ignore[misc]
        if value is not None and kept and (best is None or measure.sign * value > best[0]):
            best = measure.sign * value, str(row["name"])
    if best is None:
        return None
    unit = " %" if measure.unit == "share" else ""
    return f"{measure.scale * measure.sign * best[0]:.2f}{unit}", best[1]
