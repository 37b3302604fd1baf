"""One calm table of the study's progress: live in a terminal and in a notebook, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from divfeat.methods import epochs_of
from divfeat.objectives import Measure
from divfeat.search.jobs import Job

#: Seconds between two lines where there is no terminal.
_LINE_SECONDS = 15.0
#: Seconds between two versions of the table in a notebook, each of which travels to the browser.
_TABLE_SECONDS = 1.0


class Progress:
    """Counts runs by phase and guesses the time left from the runs finished so far.

    Args:
        plan: phase -> runs still to do, in order.
        objective: Measure of which the best so far is shown.
        concurrent: Trials at a time.
        epochs: Of one run.
        console: Where to print.
        feasible: Whether a record keeps the search's constraints; only such are the best so far.
        budget: What is spent, as it would be told.
    """

    def __init__(
        self,
        plan: Mapping[str, int],
        objective: Measure,
        concurrent: int,
        epochs: int,
        console: Console,
        feasible: Callable[[Mapping[str, Any]], bool] = lambda record: True,
        budget: object = "",
    ) -> None:
        self.plan, self.feasible, self.budget = dict(plan), feasible, budget
        self.objective, self.concurrent, self.epochs, self.console = objective, concurrent, epochs, console
        self.done: dict[str, int] = dict.fromkeys(plan, 0)
        self.failed: dict[str, int] = dict.fromkeys(plan, 0)
        self.phase = next(iter(self.plan), "")
        self.running: dict[str, tuple[str, int, int]] = {}  # name, epochs done, epochs of both stages
        self.waiting: dict[str, float] = {}  # at a rung, and for how long they have run
        self.durations: list[float] = []
        self.began: dict[str, float] = {}
        self.best: tuple[float, str] | None = None
        self.last_line = 0.0
        self.start_time = time.monotonic()
        self._live: Live | None = None
        self._shown: Any = None  # what IPython put into the cell, to be replaced in place

    def __enter__(self) -> Progress:
        if self.console.is_jupyter:
            from IPython.display import display

            self._shown = display(self.table(), display_id=True)
        elif self.console.is_terminal:
            self._live = Live(get_renderable=self.table, console=self.console, refresh_per_second=2, transient=False)
            self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._shown is not None:
            self._shown.update(self.table())
        if self._live is not None:
            self._live.__exit__(*error)

    def started(self, job: Job) -> None:
        """A job is placed."""
        self.began[job.key] = time.monotonic() - self.waiting.pop(job.key, 0.0)
        self.running[job.key] = (job.name, 0, epochs_of(job.experiment.method, self.epochs))

    def heard(self, job: Job, events: Sequence[Mapping[str, Any]]) -> None:
        """A job went on."""
        self.running[job.key] = (job.name, int(events[-1]["epoch"]) + 1, self.running[job.key][2])
        self._line()

    def finished(self, job: Job, record: Mapping[str, Any], fresh: bool) -> None:
        """A job has its record."""
        self.running.pop(job.key, None)
        waited = self.waiting.pop(job.key, None)
        self.done[self.phase] = self.done.get(self.phase, 0) + 1
        if record["status"] == "failed":
            self.failed[self.phase] = self.failed.get(self.phase, 0) + 1
        if fresh and job.key in self.began:
            self.durations.append(time.monotonic() - self.began[job.key] if waited is None else waited)
        value, sign = record.get("metrics", {}).get(self.objective.validation), self.objective.sign
        ahead = value is not None and (self.best is None or sign * value > sign * self.best[0])
        if self.phase == "search" and ahead and self.feasible(record):
            self.best = (value, job.name)
        self._line()

    def paused(self, job: Job) -> None:
        """A job waits at a rung."""
        self.running.pop(job.key, None)
        self.waiting[job.key] = time.monotonic() - self.began.setdefault(job.key, time.monotonic())

    def stopped(self, job: Job) -> None:
        """A job goes on in a later session."""
        self.running.pop(job.key, None)
        self.waiting.pop(job.key, None)

    def seconds_left(self) -> float | None:
        """A guess, None before the first run has finished."""
        if not self.durations:
            return None
        recent = self.durations[-20:]
        left = sum(max(0, total - self.done[name]) for name, total in self.plan.items())
        return left * sum(recent) / len(recent) / self.concurrent

    def table(self) -> Table:
        """The whole state as one table."""
        left = self.seconds_left()
        title = (
            f"{clock(time.monotonic() - self.start_time)} passed, about {clock(left)} left"
            if left is not None
            else "starting"
        )
        title += self._spent()
        table = Table(title=title, title_justify="left")
        for column, side in (("phase", "left"), ("done", "right"), ("failed", "right"), ("now", "left")):
            table.add_column(column, justify=side)  # type: ignore[arg-type]
        now = ", ".join(f"{name} {epoch}/{epochs}" for name, epoch, epochs in list(self.running.values())[:4])
        if self.waiting:
            now = f"{now}{', ' if now else ''}{len(self.waiting)} at a rung"
        for name, total in self.plan.items():
            note = now if name == self.phase else ""
            if name == "search" and self.best is not None:
                note = f"{self._best()}  {note}"
            table.add_row(name, f"{self.done[name]}/{total}", str(self.failed[name] or ""), note)
        return table

    def _spent(self) -> str:
        said = str(self.budget)
        return f", {said}" if said else ""

    def _best(self) -> str:
        assert self.best is not None
        unit = " %" if self.objective.unit == "share" else ""
        return f"best {self.objective.scale * self.best[0]:.2f}{unit} ({self.best[1]})"

    def _line(self) -> None:
        wait = _LINE_SECONDS if self._shown is None else _TABLE_SECONDS
        if self._live is not None or time.monotonic() - self.last_line < wait:
            return
        self.last_line = time.monotonic()
        if self._shown is not None:
            self._shown.update(self.table())
            return
        total, done = sum(self.plan.values()), sum(self.done.values())
        left = self.seconds_left()
        best = f", {self._best()}" if self.best else ""
        guess = f", about {clock(left)} left" if left is not None else ""
        if self.waiting:
            guess = f", {len(self.waiting)} at a rung{guess}"
        self.console.print(
            f"{self.phase}: {done} of {total} runs done{best}{guess}{self._spent()}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def clock(seconds: float | None) -> str:
    """'3 min 20 s'."""
    if seconds is None:
        return "?"
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def rough(seconds: float) -> str:
    """'4 min', '9 h', '12 days'."""
    for unit, size, most in (("min", 60, 90), ("h", 3600, 48)):
        if seconds < most * size:
            return f"{max(1, round(seconds / size))} {unit}"
    return f"{round(seconds / 86400)} days"
