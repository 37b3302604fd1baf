"""From a configuration to a printed verdict: what the command does once its flags are understood."""

from __future__ import annotations

from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from rich.console import Console

from divfeat.errors import ConfigError, disk_fault
from divfeat.search.interrupt import EXIT_CODES, OF_THE_STUDY, Interrupt, StoppedError, TooManyFailuresError
from divfeat.search.ledger import differences
from divfeat.search.mirror import Mirror
from divfeat.search.plan import make_plan
from divfeat.search.session import run_session
from divfeat.search.study import Study
from divfeat.settings import make_configs
from divfeat.storage import is_uri, network_filesystem, open_store
from divfeat.study_config import ExecutionConfig, StudyConfig, deciding
from divfeat.validation import build

if TYPE_CHECKING:
    from divfeat.report.build import Report


def run_study(
    study: StudyConfig, execution: ExecutionConfig, about: str, *, dry_run: bool, command: str, fork: str | None = None
) -> int:
    """Run, resume or print a study.

    Args:
        study: Identity.
        execution: How to run it.
        about: Text of the preset.
        dry_run: Print the plan only.
        command: The line that resumes it, printed when it stops early.
        fork: Name of a new study that starts from what the one named in `execution` found; None runs that one.

    Returns:
        Exit code.

    Raises:
        DivfeatError: bad configuration or data.
    """
    runner = make_study(study, execution, Interrupt(execution.time_budget), fork)
    if dry_run:
        make_plan(runner).print(runner.console)
        return 0
    runner.interrupt.install()
    return run_installed(runner, about, command)


def make_study(study: StudyConfig, execution: ExecutionConfig, interrupt: Interrupt, fork: str | None = None) -> Study:
    """The study under its own name or the one given, in its folder; or its `fork`, a new study that starts from it.

    Raises:
        ConfigError: a storage that cannot be used, a folder on another machine's disk, or a fork of a study that is not there,
            or of itself.
    """
    name = execution.name or f"{study.preset}-{study.identity[:8]}"
    home = folder_of_studies(execution)
    _check_disk(execution, home)
    store = None
    if is_uri(execution.storage_path):
        store = open_store(execution.storage_path, execution.storage_patience)

    def mirror(name: str) -> Mirror | None:
        return None if store is None else Mirror(store.inside(name), home / name)

    origin = None
    if fork is not None:
        execution = build(ExecutionConfig, execution.to_dict() | {"name": fork}, prefix="execution.")
        if execution.name == name:
            raise ConfigError(f"--fork {fork}: a study cannot be forked into itself; choose a new name")
        if (known := mirror(name)) is not None:
            known.fill()
        if not (home / name / "study.json").exists():
            raise ConfigError(
                f"--fork {fork}: there is no study {name!r} in {execution.storage_path} to start from; give the --name of one "
                "that is"
            )
        name, origin = fork, home / name
    return Study(
        study,
        execution,
        home / name,
        name,
        console=Console(),
        interrupt=interrupt,
        origin=origin,
        mirror=mirror(name),
    )


def folder_of_studies(execution: ExecutionConfig) -> Path:
    """On this machine."""
    storage = execution.storage_path
    return Path(execution.home if is_uri(storage) else storage).expanduser()


def run_installed(runner: Study, about: str, command: str) -> int:
    """Run or resume `runner`, whose interrupt has taken over the signals; arguments and result as `run_study`."""
    console = runner.console
    try:
        report = carry_out(runner, about, "the same line resumes, Ctrl-C saves")
    except StoppedError as stopped:
        # Money and GPU-hours are the whole study's: the same line would stop where this one did.
        more = ", give more of it" if stopped.reason in OF_THE_STUDY else ""
        runner.say(f"\nstopped by {stopped.reason}; everything finished is saved. To go on{more}:\n  {command}")
        return EXIT_CODES[stopped.reason]
    except TooManyFailuresError as failure:
        _complain(
            f"{failure}\nThe records are in {runner.folder / 'runs'}; mend the cause and repeat the line:\n  {command}"
        )
        return 3
    except Exception as error:
        lost = disk_fault(error)
        if lost is None:
            raise
        _complain(
            f"the study's storage fails: {lost}\nFree or mend it ({runner.folder}); what was finished is saved. Then repeat the "
            f"line:\n  {command}"
        )
        return EXIT_CODES["SIGTERM"]  # stopped from outside, and resumable
    report.print(console)
    if runner.untold:
        runner.say(
            f"\nMLflow at {runner.execution.tracking_uri} is away and lacks a part of this study. When it is back, the same line "
            f"tells it, and runs nothing:\n  {command}"
        )
    if runner.cut is not None:
        runner.say(
            f"\nthe {runner.cut} ended the search early; the verdict above holds for the trials that were made. To search on, "
            f"give more of it:\n  {command}"
        )
        return EXIT_CODES[runner.cut]
    return 0


def _complain(message: str) -> None:
    Console(stderr=True).print(f"\nerror: {message}", highlight=False, markup=False, soft_wrap=True)


def carry_out(runner: Study, about: str, how: str) -> Report:
    """Say what is about to run, run or resume it, and write its report: what a command and a notebook do alike.

    Args:
        runner: The study.
        about: Text of the preset.
        how: How the user resumes and stops it, in words.

    Raises:
        DivfeatError: bad configuration or data.
        StoppedError: a signal or the time budget.
        TooManyFailuresError: a phase cannot be finished.
    """
    from divfeat.report.build import build_report  # report/ is below search/ in the house; only the command joins them

    said = (
        f"study {runner.name}: {' '.join(about.split())}",
        *_changes(runner.config),
        f"folder {runner.folder}{'' if runner.mirror is None else f', storage {runner.execution.storage_path}'}; {how}",
    )
    runner.console.print("\n".join(said), highlight=False, markup=False, soft_wrap=True)  # one output in a notebook
    with runner.held():
        report: Report = run_session(runner, lambda: build_report(runner.folder))
    return report


def _check_disk(execution: ExecutionConfig, home: Path) -> None:
    """Refuse a folder where sqlite's locks do not hold."""
    kind = network_filesystem(home)
    if kind is None:
        return
    if is_uri(execution.storage_path):
        raise ConfigError(
            f"execution.home={execution.home}: lies on another machine's disk ({kind}), where sqlite would lose data; give a "
            "folder of this machine's own disk, --set execution.home=FOLDER"
        )
    place = Path(execution.storage_path).expanduser().absolute()
    raise ConfigError(
        f"--storage-path {execution.storage_path}: lies on another machine's disk ({kind}), where sqlite would lose data; "
        f"give it as {place.as_uri()}, which keeps the databases on this machine's own disk (execution.home)"
    )


def _changes(study: StudyConfig) -> list[str]:
    """Lines that say in which settings `study` is not its preset, whose text is printed above them."""
    preset, _, _ = make_configs(study.preset)
    found = differences(deciding(preset.to_dict()), deciding(study.to_dict()))
    lines = [f"  {shorten(line, 160, placeholder=' ...')}" for line in found]
    return ["changed from the preset:", *lines] if lines else []
