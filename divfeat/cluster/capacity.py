"""How many trials fit at a time: on the nodes there are, and on those that an autoscaler may add."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from divfeat.errors import ConfigError

#: Cores of the process that drives a training spanning workers; it only waits.
DRIVER_CPUS = 0.1
#: Resource of the nodes that are safe from the spot market; where a cluster has it, such processes take one of it each.
DRIVER_RESOURCE = "divfeat_driver"


@dataclass(frozen=True)
class Capacity:
    """What the nodes offer and one trial takes.

    Attributes:
        nodes: (CPUs, GPUs) of each node; a worker lies on one node, the workers of a trial may lie on several.
        workers: Of one trial.
        cpus: Of each worker.
        gpus: Of each worker.
        drivers: Processes that drive trials over several workers and have a place of their own (`DRIVER_RESOURCE`); None
            where they share the nodes with the workers.
        fewest: Workers with which a trial goes on while there is no place for all; None waits for all.
    """

    nodes: Sequence[tuple[float, float]]
    workers: int
    cpus: float
    gpus: float
    drivers: int | None = None
    fewest: int | None = None

    @property
    def trials(self) -> int:
        """How many trials fit at a time, or 1 where one fits that goes on with fewer workers.

        Trials over several workers also need a place for the process that drives them.
        """
        whole = self._of(self.workers)
        return whole if whole or self.fewest is None else min(1, self._of(self.fewest))

    def _of(self, workers: int) -> int:
        """Trials that fit with so many workers each."""
        room = [self._workers_on(*node) for node in self.nodes]
        most = sum(room) // workers
        if self.workers == 1:
            return most
        if self.drivers is not None:
            return min(most, self.drivers)
        for trials in range(most, 0, -1):
            left, drivers = trials * workers, 0
            for (cpus, _), fit in zip(self.nodes, room, strict=True):
                placed = min(fit, left)
                left -= placed
                drivers += int((cpus - placed * self.cpus + 1e-6) // DRIVER_CPUS)
            if drivers >= trials:
                return trials
        return 0

    @property
    def bundles(self) -> list[dict[str, float]]:
        """What one trial takes, in Ray's words: its workers, and the process that drives several."""
        worker = {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})
        driver = {"CPU": DRIVER_CPUS} if self.drivers is None else {DRIVER_RESOURCE: 1.0}
        return [worker] * self.workers + ([driver] if self.workers > 1 else [])

    def with_more(self, nodes: Sequence[tuple[float, float]]) -> Capacity:
        """The same trial on further nodes."""
        return replace(self, nodes=[*self.nodes, *nodes])

    def _workers_on(self, cpus: float, gpus: float) -> int:
        fits = [int((cpus + 1e-6) // self.cpus)]
        if self.gpus:
            fits.append(int((gpus + 1e-6) // self.gpus))
        return min(fits)

    @property
    def needs(self) -> str:
        """What one trial takes, in words."""
        each = f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"
        if self.workers == 1:
            return f"a trial takes {each}"
        driver = f"{DRIVER_CPUS:g} CPU" if self.drivers is None else f"1 {DRIVER_RESOURCE}"
        few = f" (or {self.fewest} while nodes are missing)" if self.fewest not in (None, self.workers) else ""
        return f"a trial takes {self.workers} workers{few} of {each} and {driver} to drive them"

    @property
    def has(self) -> str:
        """What the nodes offer, in words, like nodes counted."""
        counted: dict[tuple[float, float], int] = {}
        for node in self.nodes:
            counted[node] = counted.get(node, 0) + 1
        words = [
            (f"{number} x " if number > 1 else "") + f"{cpus:g} CPUs and {gpus:g} GPUs"
            for (cpus, gpus), number in counted.items()
        ]
        places = "" if self.drivers is None or self.workers == 1 else f", and {self.drivers} {DRIVER_RESOURCE}"
        return "the nodes have " + (", ".join(words) or "nothing") + places

    def concurrency(self, asked: int | None) -> int:
        """Trials at a time.

        Args:
            asked: By the user; None takes what fits.

        Raises:
            ConfigError: not one trial fits, or not as many as were asked for.
        """
        if self.trials < 1:
            raise ConfigError(f"no trial fits: {self.needs}, {self.has}; {SMALLER}")
        if asked is not None and asked > self.trials:
            raise ConfigError(
                f"--max-concurrent {asked} does not fit: {self.needs}, {self.has}; at most {self.trials} fit"
            )
        return asked or self.trials


#: What makes a trial smaller.
SMALLER = "lower --workers-per-trial, --gpus-per-worker or execution.cpus_per_worker"


def this_machine() -> tuple[float, float]:
    """CPUs and GPUs that Ray would find here."""
    return float(len(os.sched_getaffinity(0))), float(torch.cuda.device_count())
