"""The command line of a comparison at fixed settings, without Ray and without MLflow."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from divfeat.cli.flags import (
    BUDGET,
    EXIT_CODES_TEXT,
    OK,
    TERMINATED,
    command_line,
    configure,
    guarded,
    positive,
    positive_int,
    print_config,
)

if TYPE_CHECKING:
    from divfeat.config import MethodConfig
    from divfeat.study_config import StudyConfig


def parser() -> argparse.ArgumentParser:
    """The flags of `studies/fixed_table.py`."""
    flags = argparse.ArgumentParser(
        prog="fixed_table.py",
        description="Train named methods at fixed settings over seeds on this machine's device, without Ray, Optuna or MLflow, "
        "and write a table. Nothing is searched and nothing chosen: a look at a recipe, no study. The same line goes on.",
        epilog=EXIT_CODES_TEXT,
        allow_abbrev=False,
    )
    flags.add_argument(
        "--preset", metavar="NAME", help="settings of data, model and training; default digits-lt", default="digits-lt"
    )
    flags.add_argument(
        "--method",
        nargs="+",
        action="append",
        required=True,
        metavar=("NAME", "SETTING=VALUE"),
        help="a row: a baseline by name, or any name with settings of a method, as in: gate40 name=hinge_ce release=gate "
        "'thresholds={family: global, angles: {tau: 0.7}}'; repeatable, the most informative first",
    )
    flags.add_argument("--reference", metavar="NAME", help="row that the others are compared with; default the first")
    flags.add_argument("--seeds", type=positive_int, default=5, metavar="N", help="runs a method; default 5")
    flags.add_argument(
        "--at-a-time", type=positive_int, default=1, metavar="N", help="processes that share the device; default 1"
    )
    flags.add_argument("--stop-after", type=positive, metavar="S", help="seconds, then stop and save; default none")
    flags.add_argument("--out", required=True, metavar="FOLDER", help="of the rows and the table")
    flags.add_argument("--config", metavar="FILE", help="YAML laid over the preset")
    flags.add_argument(
        "--set", action="append", default=[], metavar="A.B=VALUE", help="one setting over both; repeatable"
    )
    flags.add_argument("--print-config", action="store_true", help="print the resolved settings as YAML; run nothing")
    flags.set_defaults(seed=None, smoke_test=False)
    return flags


def methods_of(given: Sequence[Sequence[str]], study: StudyConfig) -> dict[str, MethodConfig]:
    """Row -> method.

    Raises:
        ConfigError: a row given twice, an unknown method or setting.
    """
    from divfeat.config import MethodConfig
    from divfeat.errors import ConfigError
    from divfeat.search.jobs import baseline
    from divfeat.settings import parse_assignments
    from divfeat.validation import build

    found: dict[str, MethodConfig] = {}
    for name, *settings in given:
        if name in found:
            raise ConfigError(f"--method {name} is given twice: give each row a name of its own")
        if settings:
            found[name] = build(MethodConfig, parse_assignments(settings), f"--method {name}: ")
        else:
            found[name] = baseline(name, study)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and write the table.

    Returns:
        The exit code.
    """
    flags = parser().parse_args(arguments)
    before = signal.signal(signal.SIGTERM, _terminated)  # processes end and the table is written on the way out

    def action() -> int:
        from divfeat.errors import ConfigError
        from divfeat.files import check_writable

        study, execution, _ = configure(flags)
        if flags.print_config:
            return print_config(study, execution)
        methods = methods_of(flags.method, study)
        reference = flags.reference or next(iter(methods))
        if reference not in methods:
            raise ConfigError(f"--reference {reference} is none of the rows {', '.join(methods)}: name one of them")
        folder = Path(flags.out)
        check_writable(folder, "the comparison's folder (--out)")
        from divfeat.report.fixed import write_fixed
        from divfeat.search.fixed import check, fixed_jobs, run_fixed

        jobs = fixed_jobs(study, methods, flags.seeds)
        check(jobs)
        try:
            complete = run_fixed(
                jobs,
                folder,
                at_a_time=flags.at_a_time,
                stop_after=flags.stop_after,
                say=lambda line: print(line, flush=True),
            )
        finally:
            print(
                write_fixed(jobs, folder, study, reference=reference, command=command_line("fixed_table.py", arguments))
            )
        return OK if complete else BUDGET

    try:
        return guarded(action)
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(TERMINATED)
