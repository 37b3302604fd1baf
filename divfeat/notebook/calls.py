"""Studies from Python: the same study as the command's, under the same name, in the same folder."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, overload

from divfeat.notebook.result import StudyResult
from divfeat.search.command import carry_out, make_study
from divfeat.search.interrupt import Interrupt, StoppedError, TooManyFailuresError, raise_interrupt
from divfeat.search.plan import Plan, make_plan
from divfeat.settings import SMOKE, assigned, layered, load_file

_HOW = "the same call resumes, interrupting the kernel saves"
_IN_THREAD = "the same call resumes; this is no main thread, where no interrupt arrives: only time_budget stops it"


@overload
def study(
    preset: str | None = None,
    *,
    config: str | Path | None = None,
    set: Mapping[str, Any] | None = None,
    name: str | None = None,
    fork: str | None = None,
    trials: int | None = None,
    max_concurrent: int | None = None,
    workers_per_trial: int | None = None,
    gpus_per_worker: float | None = None,
    address: str | None = None,
    storage_path: str | Path | None = None,
    tracking_uri: str | None = None,
    seed: int | None = None,
    time_budget: float | None = None,
    gpu_hours: float | None = None,
    max_cost: float | None = None,
    smoke_test: bool = False,
    dry_run: Literal[False] = False,
) -> StudyResult: ...


@overload
def study(
    preset: str | None = None,
    *,
    config: str | Path | None = None,
    set: Mapping[str, Any] | None = None,
    name: str | None = None,
    fork: str | None = None,
    trials: int | None = None,
    max_concurrent: int | None = None,
    workers_per_trial: int | None = None,
    gpus_per_worker: float | None = None,
    address: str | None = None,
    storage_path: str | Path | None = None,
    tracking_uri: str | None = None,
    seed: int | None = None,
    time_budget: float | None = None,
    gpu_hours: float | None = None,
    max_cost: float | None = None,
    smoke_test: bool = False,
    dry_run: Literal[True],
) -> Plan: ...


def study(
    preset: str | None = None,
    *,
    config: str | Path | None = None,
    set: Mapping[str, Any] | None = None,
    name: str | None = None,
    fork: str | None = None,
    trials: int | None = None,
    max_concurrent: int | None = None,
    workers_per_trial: int | None = None,
    gpus_per_worker: float | None = None,
    address: str | None = None,
    storage_path: str | Path | None = None,
    tracking_uri: str | None = None,
    seed: int | None = None,
    time_budget: float | None = None,
    gpu_hours: float | None = None,
    max_cost: float | None = None,
    smoke_test: bool = False,
    dry_run: bool = False,
) -> StudyResult | Plan:
    """Run a study, take it up again, or return it where it is finished: what `python studies/tau_search.py` does.

    The arguments are that command's flags, and the same ones give the same study: name, folder, identity. Interrupting the
    kernel once saves and ends the call within a few epochs, twice ends it at once; the same call goes on. Signal handlers are as
    before when the call returns. A Ray that is initialised in this process is used as it is, and stays.

    Args:
        preset: Settings to start from; None takes what `config` names, or `digits`.
        config: YAML file laid over the preset.
        set: Settings over both, such as `{"search.family": "major_minor", "train.epochs": 40}`; angles in radians.
        name: Of the study; None makes it of the preset and its identity.
        fork: Name of a new study that starts from the results of the one called `name`, with other settings.
        trials: Proposals of the search, and for each baseline that is tuned; more than before extend it.
        max_concurrent: Trials at a time; None as many as fit.
        workers_per_trial: Processes of one training.
        gpus_per_worker: GPUs (or a share of one) of a worker.
        address: Of a running Ray cluster; None starts Ray here, unless it is initialised.
        storage_path: Folder of all studies, or shared storage (`file:///...`, `s3://...`, `gs://...`); `runs` in the folder the
            kernel runs in.
        tracking_uri: MLflow server; None an sqlite file in the study's folder.
        seed: Of the whole study.
        time_budget: Seconds of this call; the search ends in time for confirmation and report.
        gpu_hours: Of the whole study, likewise.
        max_cost: Of the whole study, likewise, at the prices in the setting `execution.prices`.
        smoke_test: The whole path in about a minute: few trials, epochs, seeds.
        dry_run: Return the plan and run nothing.

    Returns:
        What the study found, or with `dry_run` its plan.

    Raises:
        ConfigError: a setting is unknown or invalid, before anything costly.
        DataError: a data set is missing or not what the settings say it is.
        StoppedError: an interrupt or the time budget; says how to go on.
        TooManyFailuresError: a phase cannot be finished; says why.
    """
    identity, execution, about = layered(
        preset,
        load_file(config) if config is not None else {},
        assigned(set or {}),
        seed=seed,
        execution={
            "name": name,
            "trials": trials,
            "max_concurrent": max_concurrent,
            "workers_per_trial": workers_per_trial,
            "gpus_per_worker": gpus_per_worker,
            "address": address,
            "storage_path": None if storage_path is None else str(storage_path),
            "tracking_uri": tracking_uri,
            "time_budget": time_budget,
            "gpu_hours": gpu_hours,
            "max_cost": max_cost,
        },
        smoke=SMOKE if smoke_test else None,
    )
    interrupt = Interrupt(execution.time_budget, raise_interrupt)
    runner = make_study(identity, execution, interrupt, fork)
    if dry_run:
        return make_plan(runner)
    main = threading.current_thread() is threading.main_thread()
    try:
        with interrupt.installed() if main else nullcontext():
            return StudyResult(carry_out(runner, about, _HOW if main else _IN_THREAD).summary)
    except StoppedError as stopped:
        folder = str(runner.folder.resolve())
        raise StoppedError(
            stopped.reason,
            f"stopped by {stopped.reason}; everything finished is saved in {folder}. The same call goes on from there; "
            f"divfeat.open_study({folder!r}) shows what there is",
        ) from None
    except TooManyFailuresError as failure:
        raise TooManyFailuresError(
            f"{failure}\nThe records are in {runner.folder / 'runs'}; mend the cause and repeat the call"
        ) from failure
