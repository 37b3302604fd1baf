"""What a study would run, how long it would take here, and what it could detect: `--dry-run`."""

from __future__ import annotations

import dataclasses
import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from divfeat.cluster.capacity import Capacity, this_machine
from divfeat.cluster.trial import warm_up
from divfeat.config import MethodConfig
from divfeat.data.prepare import PreparedData
from divfeat.experiment import run
from divfeat.search import protocol, workload
from divfeat.search.budget import Limits
from divfeat.search.jobs import SEARCH_SEED, experiment, seed_of
from divfeat.search.placing import KEPT
from divfeat.search.progress import clock
from divfeat.search.study import Study
from divfeat.statistics import detectable_difference
from divfeat.tracking.store import reachable

#: Steps of an epoch of the warm-up.
_WARM_UP_STEPS = 4
#: Epochs of the warm-up, and the one that is timed (0-based): the first are slow, and 1, 2 and 4 measure collapse.
_WARM_UP_EPOCHS, _TIMED_EPOCH = 4, 2


@dataclass(frozen=True)
class Plan:
    """A study before it is run.

    Attributes:
        name: Of the study.
        folder: Of the study, as text.
        runs: Phase -> runs, in order; what phases share is counted where it is first needed.
        seeds: Phase -> its seeds, in words.
        epochs: Of one run.
        images: Training images of one run of the search.
        scored: Validation images.
        parameters: Of the network.
        concurrent: Trials at a time.
        trainings: What the runs cost, in trainings of a method in one stage: first stages are shared.
        seconds_per_run: Measured on a few warm steps, without the start of Ray's processes.
        scoring_seconds: Those of them that follow the training.
        bytes: On disk.
        confirm_seeds: Seeds of the confirmation.
        baselines: How many.
        detectable: Difference that is detected with probability 0.8, in standard deviations of a seed.
        gpus: Of one trial.
        limits: What may be spent.
        reserved: Trainings that follow the search.
        noise: Standard deviation of a seed, where the study has measured it already; in points unless `unit` is "".
    """

    name: str
    folder: str
    runs: dict[str, int]
    seeds: dict[str, str]
    epochs: int
    images: int
    scored: int
    parameters: int
    concurrent: int
    trainings: float
    seconds_per_run: float
    scoring_seconds: float
    bytes: int
    confirm_seeds: int
    baselines: int
    detectable: float
    noise: float | None
    unit: str = " points"
    note: str = ""
    gpus: float = 0.0
    limits: Limits = field(default_factory=Limits)
    reserved: float = 0.0

    @property
    def seconds(self) -> float:
        """Of the whole study, with as many trials at a time as fit."""
        runs, trainings = (math.ceil(count / self.concurrent) for count in (sum(self.runs.values()), self.trainings))
        return runs * self.scoring_seconds + trainings * (self.seconds_per_run - self.scoring_seconds)

    @property
    def run_seconds(self) -> float:
        """Of all runs, added up."""
        runs = sum(self.runs.values())
        return runs * self.scoring_seconds + self.trainings * (self.seconds_per_run - self.scoring_seconds)

    @property
    def costs(self) -> list[str]:
        """Lines on GPU-hours and money, and on what the budgets leave for the search."""
        lines, limits = [], self.limits
        share = self.reserved / self.trainings if self.trainings else 0.0
        used: dict[str, tuple[float, float | None, Callable[[float], str]]] = {
            "time budget": (self.seconds, limits.seconds, clock)
        }
        if self.gpus:
            hours = self.run_seconds * self.gpus / 3600
            lines.append(f"{hours:.3g} GPU-hours at {self.gpus:g} GPUs a trial")
            used["GPU-hour budget"] = (hours, limits.gpu_hours, lambda value: f"{value:.3g} GPU-hours")
        if limits.prices:
            dearest = max(limits.prices.values())
            cost = self.run_seconds / 3600 * dearest
            lines.append(
                f"cost about {cost:.3g} with one trial a node of the dearest type ({dearest:g} an hour), less with more on one; "
                "idle nodes and the head come on top"
            )
            used["cost budget"] = (cost, limits.cost, lambda value: f"{value:.3g}")
        for name, (whole, limit, shown) in used.items():
            if limit is None:
                continue
            kept = whole * share
            said = f"{name} {shown(limit)}: about {shown(kept)} of it are reserved for what follows the search"
            if kept >= limit:
                said += "; too little for a verdict: the study stops when it is spent, and the same line goes on"
            elif whole > limit:
                said += f", so that the search may end before its {self.runs['search']} trials"
            lines.append(said)
        return lines

    def print(self, console: Console) -> None:
        """Say it."""

        def say(text: str) -> None:
            console.print(text, highlight=False, markup=False, soft_wrap=True)

        table = Table(title=f"plan of {self.name}", title_justify="left")
        for column, side in (("phase", "left"), ("runs", "right"), ("seeds", "left")):
            table.add_column(column, justify=side)  # type: ignore[arg-type]
        for phase, runs in self.runs.items():
            table.add_row(phase, str(runs), self.seeds[phase])
        console.print(table)
        say(
            f"{sum(self.runs.values())} runs of {self.epochs} epochs on {self.images} images, scored on {self.scored}; "
            f"{self.parameters:,} parameters"
        )
        if self.trainings != sum(self.runs.values()):
            say(
                f"second stages cost other than a training, and share their first: about {self.trainings:.0f} trainings in all"
            )
        points = ""
        if self.noise:
            points = (
                f" = {self.detectable * self.noise:.2f}{self.unit} at the noise floor measured here ({self.noise:.2f})"
            )
        say(
            f"{self.confirm_seeds} seeds against {self.baselines} baselines detect a difference of {self.detectable:.2f} "
            f"standard deviations of a seed with probability 0.8{points}"
        )
        say(
            f"about {clock(self.seconds)} with {self.concurrent} trials at a time, from a warm-up "
            f"({self.seconds_per_run:.1f} s a run, without the start of Ray)"
        )
        say(f"disk: about {self.bytes / 2**20:.0f} MiB under {self.folder}")
        for line in self.costs:
            say(line)
        if self.note:
            say(f"note: {self.note}")

    def _repr_html_(self) -> str:
        """In a notebook: the same words."""
        console = Console(file=io.StringIO(), record=True, width=160, force_jupyter=False)
        self.print(console)
        return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")


def make_plan(runner: Study) -> Plan:
    """The plan of a study: checks all that the study would check, and trains nothing but a few warm-up steps.

    Raises:
        ConfigError, DataError: as the study would.
    """
    study, execution = runner.config, runner.execution
    runner.ledger.check(study)
    reachable(execution.tracking_uri, runner.folder)
    data = runner.check()
    rules = study.protocol
    runs = workload.planned_runs(study, execution.trials)
    trainings = workload.planned_trainings(study, execution.trials)
    seconds, scoring, parameters, width = _warm_up(runner, data)
    worker = execution.workers_per_trial, execution.cpus_per_worker, execution.gpus_per_worker
    if execution.address is None:
        here = Capacity([this_machine()], *worker, fewest=execution.fewest_workers)
        concurrent = here.concurrency(execution.max_concurrent)
    else:  # a cluster is not joined for a plan
        concurrent = execution.max_concurrent or 1
    several = f"{rules.select_seeds}, on validation"
    one = {"search": "1", "calibrate": "1", "tune": "1", "confirm": f"{rules.confirm_seeds} new ones, on test"}
    weights = 4 * parameters
    features = runs["confirm"] * (len(data.train) + len(data.evaluation)) * (4 * width + 16)
    kept = sum(runs.get(phase, 0) for phase in KEPT) * weights
    in_mlflow = runs["confirm"] * weights + features
    noise = runner.ledger.phase("protocol")
    return Plan(
        name=runner.name,
        folder=str(runner.folder),
        runs=runs,
        seeds={phase: one.get(phase, several) for phase in runs},
        epochs=study.train.epochs,
        images=len(data.train),
        scored=len(data.evaluation),
        parameters=parameters,
        concurrent=concurrent,
        trainings=sum(trainings.values()),
        seconds_per_run=seconds,
        scoring_seconds=scoring,
        bytes=kept + features + in_mlflow + (concurrent + len(workload.shared_stages(study))) * 2 * weights,
        confirm_seeds=rules.confirm_seeds,
        baselines=len(rules.baselines),
        detectable=detectable_difference(1.0, rules.confirm_seeds, len(rules.baselines), alpha=rules.alpha),
        noise=None if noise is None else noise["noise"]["sd"],
        unit=protocol.objectives(study)[0].points,
        note=data.note,
        gpus=execution.workers_per_trial * execution.gpus_per_worker,
        limits=Limits.of(execution),
        reserved=sum(trainings.get(phase, 0.0) for phase in workload.AFTER_SEARCH),
    )


def _warm_up(runner: Study, data: PreparedData) -> tuple[float, float, int, int]:
    """Seconds of one run and of what follows its training, extrapolated from a few steps, probes and metrics; parameters and
    features of the network.

    Steps are timed once they are warm; what follows the training is taken to grow with the images it looks at.
    """
    config = experiment(runner.config, MethodConfig(name="ce_etf"), seed_of(runner.config, SEARCH_SEED))
    steps = -(-len(data.train) // config.train.batch_size)
    images = min(len(data.train), _WARM_UP_STEPS * config.train.batch_size)
    epochs = {"epochs": _WARM_UP_EPOCHS, "warmup_epochs": 0.0, "schedule": "constant"}
    chosen = np.linspace(0, len(data.train) - 1, images).astype(np.int64)
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, int(runner.execution.cpus_per_worker)))
    warm_up()  # once a process, which trials share: not a part of each run
    started = time.monotonic()
    try:
        result = run(
            config.model_copy(update={"train": config.train.model_copy(update=epochs)}),
            dataclasses.replace(data, train=data.train.subset(chosen)),
        )
    finally:
        torch.set_num_threads(threads)  # of a notebook, which goes on
    after = time.monotonic() - started - result.provenance["training_seconds"]
    after *= (len(data.train) + len(data.evaluation)) / (images + len(data.evaluation))
    clocks = [row["time"] for row in result.history]
    per_step = (clocks[_TIMED_EPOCH] - clocks[_TIMED_EPOCH - 1]) / 1000 / -(-images // config.train.batch_size)
    extractor = result.extractor
    training = per_step * steps * config.train.epochs
    return training + after, after, extractor.parameter_count, extractor.feature_dim
