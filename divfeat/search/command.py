"""From a configuration to a printed verdict: what the command does once its flags are understood."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from divfeat.cluster.executor import Capacity, this_machine
from divfeat.config import ExecutionConfig, MethodConfig, StudyConfig
from divfeat.data.prepare import PreparedData
from divfeat.errors import ConfigError
from divfeat.experiment import run
from divfeat.search import protocol
from divfeat.search.interrupt import EXIT_CODES, Interrupt, StoppedError, TooManyFailuresError
from divfeat.search.jobs import SEARCH_SEED, experiment, seed_of
from divfeat.search.ledger import Ledger
from divfeat.search.progress import clock
from divfeat.search.study import KEPT, Study
from divfeat.statistics import detectable_difference
from divfeat.tracking.store import reachable


def run_study(study: StudyConfig, execution: ExecutionConfig, about: str, *, dry_run: bool, command: str) -> int:
    """Run, resume or print a study.

    Args:
        study: Identity.
        execution: How to run it.
        about: Text of the preset.
        dry_run: Print the plan only.
        command: The line that resumes it, printed when it stops early.

    Returns:
        Exit code.

    Raises:
        DivfeatError: bad configuration or data.
    """
    console = Console()
    name = execution.name or f"{study.preset}-{study.identity[:8]}"
    folder = _folder(execution.storage_path, name)
    interrupt = Interrupt(execution.time_budget)
    runner = Study(study, execution, folder, name, console=console, interrupt=interrupt)
    if dry_run:
        return _dry_run(runner, console)
    from divfeat.report.build import build_report  # report/ is below search/ in the house; only the command joins them

    interrupt.install()
    console.print(f"study {name}: {' '.join(about.split())}", highlight=False, soft_wrap=True)
    console.print(f"folder {folder}; the same line resumes, Ctrl-C saves", highlight=False, soft_wrap=True)
    try:
        report = runner.run(lambda: build_report(folder))
    except StoppedError as stopped:
        console.print(
            f"\nstopped by {stopped.reason}; everything finished is saved. To go on:\n  {command}",
            highlight=False,
            soft_wrap=True,
        )
        return EXIT_CODES[stopped.reason]
    except TooManyFailuresError as failure:
        Console(stderr=True).print(
            f"\nerror: {failure}\nThe records are in {folder / 'runs'}; mend the cause and repeat the line:\n  {command}",
            highlight=False,
            soft_wrap=True,
        )
        return 3
    report.print(console)
    return 0


def _folder(storage: str, name: str) -> Path:
    if "://" in storage:
        raise ConfigError(f"--storage-path {storage}: only folders are supported so far; give a path")
    return Path(storage).expanduser() / name


# --- plan -------------------------------------------------------------------------------------------------------------

#: Steps of an epoch of the warm-up.
_WARM_UP_STEPS = 4
#: Epochs of the warm-up, and the one that is timed (0-based): the first are slow, and 1, 2 and 4 measure collapse.
_WARM_UP_EPOCHS, _TIMED_EPOCH = 4, 2


def _dry_run(runner: Study, console: Console) -> int:
    """Print runs, detectable difference, disk and time; train nothing but a few warm-up steps."""
    study, execution = runner.config, runner.execution
    Ledger(runner.folder).check(study)
    reachable(execution.tracking_uri, runner.folder)
    data = runner.check()
    plan = protocol.planned_runs(study, execution.trials)
    seconds, parameters, width = _warm_up(runner, data)
    worker = execution.workers_per_trial, execution.cpus_per_worker, execution.gpus_per_worker
    if execution.address is None:
        concurrent = Capacity([this_machine()], *worker).concurrency(execution.max_concurrent)
    else:  # a cluster is not joined for a plan
        concurrent = execution.max_concurrent or 1
    table = Table(title=f"plan of {runner.name}", title_justify="left")
    for column, side in (("phase", "left"), ("runs", "right"), ("seeds", "left")):
        table.add_column(column, justify=side)  # type: ignore[arg-type]
    seeds = {
        "search": "1",
        "calibrate": "1",
        "confirm": f"{study.protocol.confirm_seeds} new ones, on test",
    }
    for phase, runs in plan.items():
        table.add_row(phase, str(runs), seeds.get(phase, f"{study.protocol.select_seeds}, on validation"))
    console.print(table)
    runs = sum(plan.values())
    protocol_config = study.protocol
    console.print(
        f"{runs} runs of {study.train.epochs} epochs on {len(data.train)} images, scored on {len(data.evaluation)}; "
        f"{parameters:,} parameters",
        highlight=False,
        soft_wrap=True,
    )
    unit = detectable_difference(
        1.0, protocol_config.confirm_seeds, len(protocol_config.baselines), alpha=protocol_config.alpha
    )
    floor = _measured_noise(runner.folder)
    detail = f" = {unit * floor:.2f} points at the noise floor measured here ({floor:.2f})" if floor else ""
    console.print(
        f"{protocol_config.confirm_seeds} seeds against {len(protocol_config.baselines)} baselines detect a difference of "
        f"{unit:.2f} standard deviations of a seed with probability 0.8{detail}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"about {clock(runs * seconds / concurrent)} with {concurrent} trials at a time, from a warm-up "
        f"({seconds:.1f} s a run, without the start of Ray)",
        highlight=False,
        soft_wrap=True,
    )
    kept = sum(plan.get(phase, 0) for phase in KEPT) * 4 * parameters
    features = plan["confirm"] * (len(data.train) + len(data.evaluation)) * (4 * width + 16)
    copies = plan["confirm"] * 4 * parameters + features  # MLflow's
    checkpoints = concurrent * 8 * parameters
    console.print(
        f"disk: about {(kept + features + copies + checkpoints) / 2**20:.0f} MiB under {runner.folder}",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _warm_up(runner: Study, data: PreparedData) -> tuple[float, int, int]:
    """Seconds of one run, extrapolated from a few steps, probes and metrics; parameters and features of the network.

    Steps are timed once they are warm; what follows the training is taken to grow with the images it looks at.
    """
    torch.set_num_threads(max(1, int(runner.execution.cpus_per_worker)))
    config = experiment(runner.config, MethodConfig(name="ce_etf"), seed_of(runner.config, SEARCH_SEED))
    steps = -(-len(data.train) // config.train.batch_size)
    images = min(len(data.train), _WARM_UP_STEPS * config.train.batch_size)
    epochs = {"epochs": _WARM_UP_EPOCHS, "warmup_epochs": 0.0, "schedule": "constant"}
    chosen = np.linspace(0, len(data.train) - 1, images).astype(np.int64)
    started = time.monotonic()
    result = run(
        config.model_copy(update={"train": config.train.model_copy(update=epochs)}),
        dataclasses.replace(data, train=data.train.subset(chosen)),
    )
    after = time.monotonic() - started - result.provenance["training_seconds"]
    after *= (len(data.train) + len(data.evaluation)) / (images + len(data.evaluation))
    clocks = [row["time"] for row in result.history]
    per_step = (clocks[_TIMED_EPOCH] - clocks[_TIMED_EPOCH - 1]) / 1000 / -(-images // config.train.batch_size)
    extractor = result.extractor
    return per_step * steps * config.train.epochs + after, extractor.parameter_count, extractor.feature_dim


def _measured_noise(folder: Path) -> float | None:
    found: Mapping[str, Any] | None = Ledger(folder).phase("protocol")
    return None if found is None else found["noise"]["sd"]
