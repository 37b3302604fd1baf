"""What a study costs, over all its sessions, and when that is enough: time, GPU-hours, money.

Time is that of one session. GPU-hours and money are the whole study's: what earlier sessions spent is on disk. A trial counts
from the moment it has its place (one over several workers from their first word to its end, also while it waits for lost ones), a
node from the moment it is there, whatever it does; of a study's very first wait for a place nothing is kept if none comes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from divfeat.errors import ConfigError
from divfeat.study_config import ExecutionConfig

#: Price of nodes of any other type.
ANY = "other"
#: How often the nodes are counted and the spend is written down, at most.
COUNT_SECONDS, SAVE_SECONDS = 5.0, 10.0
#: Kept back for what follows the last trial: figures, report, the registered extractor.
REPORT_SECONDS = 30.0
#: Estimates of what is left are taken to be short by so much.
MARGIN = 1.1


@dataclass
class Spend:
    """What was spent.

    Attributes:
        seconds: Of sessions, on the wall's clock.
        run_seconds: Of trials, from having their place to giving it back, added up.
        completed: Runs that came to their end.
        completed_seconds: Of these, added up, with what went before a pause or a loss in the same session: they tell how long the
            next takes.
        gpu_hours: Of these.
        node_hours: Node type -> hours that nodes were there.
        cost: Of these, in the currency of the prices.
    """

    seconds: float = 0.0
    run_seconds: float = 0.0
    completed: int = 0
    completed_seconds: float = 0.0
    gpu_hours: float = 0.0
    node_hours: dict[str, float] = field(default_factory=dict)
    cost: float = 0.0

    @property
    def metrics(self) -> dict[str, float]:
        """For MLflow: what there is of it."""
        found = {
            "spend/run_hours": self.run_seconds / 3600,
            "spend/gpu_hours": self.gpu_hours,
            "spend/cost": self.cost,
        }
        return {name: value for name, value in found.items() if value}


class Book(Protocol):
    """Where spends are kept: the ledger."""

    def spend(self) -> Mapping[str, Any] | None:
        """As last written: fields of `Spend`."""

    def write_spend(self, spend: Mapping[str, object]) -> None:
        """Replace it."""


@dataclass(frozen=True)
class Limits:
    """What may be spent; None is no limit.

    Attributes:
        seconds: By one session, on the wall's clock.
        gpu_hours: By the study.
        cost: By the study.
        prices: Node type -> price of an hour; `ANY` stands for the types that are not named.
    """

    seconds: float | None = None
    gpu_hours: float | None = None
    cost: float | None = None
    prices: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, execution: ExecutionConfig) -> Limits:
        """As the user gave them."""
        return cls(execution.time_budget, execution.gpu_hours, execution.max_cost, execution.prices)


class Budget:
    """Counts what is spent and says when it is enough.

    Args:
        limits: What may be spent.
        gpus: That one trial holds.
        clock: Seconds that never go back.
    """

    def __init__(self, limits: Limits, gpus: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits, self.gpus, self.clock = limits, gpus, clock
        self.spend = Spend()
        self.cut: str | None = None  # which of the budgets has ended the search before its time
        self._began = self._last = self._counted = self._saved = clock()
        self._book: Book | None = None
        self._nodes: Callable[[], Mapping[str, int]] = dict
        self._there: Mapping[str, int] = {}
        self._placed: dict[str, float] = {}
        self._before: dict[str, float] = {}  # of a run that may come back: seconds it has had

    def open(self, book: Book, nodes: Callable[[], Mapping[str, int]]) -> None:
        """Go on from what earlier sessions spent, and count; nothing is written before `keep`.

        Args:
            book: Where it stands.
            nodes: How many nodes of each type there are now.

        Raises:
            ConfigError: money is to be reckoned with, and a node type has no price.
        """
        self.spend = Spend(**(book.spend() or {}))
        self._nodes, self._there = nodes, nodes()
        prices = self.limits.prices
        missing = sorted(name for name in self._there if name not in prices and ANY not in prices)
        if prices and missing:
            raise ConfigError(
                f"execution.prices has {', '.join(sorted(prices))}, but the cluster has nodes of type {', '.join(missing)}: name "
                f"their price of an hour too, or that of any other type as {ANY}"
            )
        self._last = self._counted = self.clock()

    def keep(self, book: Book) -> None:
        """From now on write down there what is spent: the study is this session's."""
        self._book = book

    def price_of(self, kind: str) -> float:
        """Of an hour; a type that appears later and has no price is taken to be the dearest."""
        prices = self.limits.prices
        return prices.get(kind, prices.get(ANY, max(prices.values(), default=0.0)))

    # --- what trials do -------------------------------------------------------------------------------------------------

    def placed(self, key: str) -> None:
        """A trial has its place."""
        self.tick()
        self._placed.setdefault(key, self.clock())

    def gone(self, key: str, *, completed: bool = False) -> None:
        """A trial gave it back; one that was `completed` tells how long the next takes."""
        self.tick()
        since = self._placed.pop(key, None)
        if since is None:
            return
        seconds = self._before.pop(key, 0.0) + self.clock() - since
        if completed:
            self.spend.completed += 1
            self.spend.completed_seconds += seconds
        else:
            self._before[key] = seconds

    def tick(self) -> None:
        """Count what passed since the last time."""
        now = self.clock()
        passed, self._last = now - self._last, now
        spend = self.spend
        spend.seconds += passed
        spend.run_seconds += passed * len(self._placed)
        spend.gpu_hours += passed * len(self._placed) * self.gpus / 3600
        for kind, count in self._there.items():
            spend.node_hours[kind] = spend.node_hours.get(kind, 0.0) + passed * count / 3600
            spend.cost += passed * count * self.price_of(kind) / 3600
        if now - self._counted >= COUNT_SECONDS:
            self._there, self._counted = self._nodes(), now
        if now - self._saved >= SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write down what was spent."""
        self._saved = self.clock()
        if self._book is not None:
            self._book.write_spend(asdict(self.spend))

    def close(self) -> None:
        """The session ends."""
        self.tick()
        self._placed.clear()
        self.save()
        self._book = None

    # --- what may still be done -----------------------------------------------------------------------------------------

    def exceeded(self) -> str | None:
        """Which budget is spent, or None."""
        self.tick()
        return next((name for name, used, limit in self._each() if used >= limit), None)

    def seconds_per_run(self) -> float | None:
        """Of the completed runs; None before one is."""
        return self.spend.completed_seconds / self.spend.completed if self.spend.completed else None

    def short_for(self, runs: float, margin: float = MARGIN) -> str | None:
        """Which budget `runs` more runs and the report would not fit in, or None: also while nothing is known of how long a run
        takes. Estimates are taken `margin` times."""
        self.tick()
        spend, each = self.spend, self.seconds_per_run()
        if each is None:
            return None
        report = {"time budget": REPORT_SECONDS, "cost budget": self._cost_per_second() * REPORT_SECONDS}
        so_far = {"time budget": spend.seconds, "GPU-hour budget": spend.gpu_hours, "cost budget": spend.cost}
        for name, used, limit in self._each():
            needed = margin * runs * each * so_far[name] / spend.run_seconds + report.get(name, 0.0)
            if used + needed > limit:
                return name
        return None

    def _each(self) -> list[tuple[str, float, float]]:
        """(name, spent, limit) of every budget there is."""
        limits = self.limits
        found = (
            ("time budget", self.clock() - self._began, limits.seconds),
            ("GPU-hour budget", self.spend.gpu_hours, limits.gpu_hours),
            ("cost budget", self.spend.cost, limits.cost),
        )
        return [(name, used, limit) for name, used, limit in found if limit is not None]

    def _cost_per_second(self) -> float:
        return sum(count * self.price_of(kind) for kind, count in self._there.items()) / 3600

    def __str__(self) -> str:
        """Spent of what, for people; empty where nothing is limited but time."""
        parts = []
        if self.limits.gpu_hours is not None or self.spend.gpu_hours:
            of = "" if self.limits.gpu_hours is None else f" of {self.limits.gpu_hours:g}"
            parts.append(f"{self.spend.gpu_hours:.2f}{of} GPU-hours")
        if self.limits.prices:
            of = "" if self.limits.cost is None else f" of {self.limits.cost:g}"
            parts.append(f"cost {self.spend.cost:.2f}{of}")
        return ", ".join(parts)
