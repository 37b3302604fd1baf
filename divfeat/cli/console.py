"""The command `divfeat`: what one does with a study beside running it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from divfeat.cli.flags import BAD_CONFIG, OK, guarded

Run = Callable[[argparse.Namespace], int]
#: Between two looks at a study.
_WATCH_SECONDS = 2.0
#: Exit code of a trial that did not repeat itself.
DIFFERS = 5


def parser() -> argparse.ArgumentParser:
    """The subcommands, each with the function that carries it out as `run`."""
    flags = argparse.ArgumentParser(
        prog="divfeat", description="Look at studies and take from them what they found.", allow_abbrev=False
    )
    commands = flags.add_subparsers(required=True, metavar="COMMAND")
    _add_status(commands)
    _add_report(commands)
    _add_compare(commands)
    _add_export(commands)
    _add_rerun(commands)
    _add_doctor(commands)
    return flags


def _add_status(commands: argparse._SubParsersAction) -> None:
    flags = commands.add_parser(
        "status", help="how a study stands: done, running, stalled, failed and why, spent, left", allow_abbrev=False
    )
    flags.add_argument("study", metavar="STUDY", help="folder of the study")
    flags.add_argument("--watch", action="store_true", help="go on showing it, until no process runs it")
    flags.set_defaults(run=_status)


def _status(given: argparse.Namespace) -> int:
    import time

    from rich.console import Console
    from rich.live import Live

    from divfeat.search.status import status

    folder = Path(given.study)
    found = status(folder)
    if not given.watch:
        Console().print(found)
        return OK
    with Live(found, auto_refresh=False) as live:
        while found.process:
            time.sleep(_WATCH_SECONDS)
            found = status(folder)
            live.update(found, refresh=True)
    return OK


def _add_report(commands: argparse._SubParsersAction) -> None:
    flags = commands.add_parser("report", help="write the report of a study anew", allow_abbrev=False)
    flags.add_argument("study", metavar="STUDY", help="folder of the study, running, stopped or finished")
    flags.add_argument(
        "--publish", metavar="FOLDER", help="write a report to show there, naming no folder of this machine"
    )
    flags.set_defaults(run=_report)


def _report(given: argparse.Namespace) -> int:
    from rich.console import Console

    from divfeat.report.build import build_report

    build_report(given.study, given.publish).print(Console())
    return OK


def _add_compare(commands: argparse._SubParsersAction) -> None:
    flags = commands.add_parser(
        "compare",
        help="several studies beside each other, of any data, settings or commits: tables and figures",
        epilog="Of studies of the same images each is held against the first one given before it.",
        allow_abbrev=False,
    )
    flags.add_argument("studies", metavar="STUDY", nargs="+", help="folder of a study, two or more, finished or not")
    flags.add_argument("--out", metavar="FOLDER", default="comparison", help="to write to; default comparison, here")
    flags.set_defaults(run=_compare)


def _compare(given: argparse.Namespace) -> int:
    from rich.console import Console

    from divfeat.report.compare import print_comparison, write_comparison

    place = Path(given.out)
    found, plots = write_comparison(given.studies, place)
    print_comparison(found, plots, place, Console())
    return OK


def _add_export(commands: argparse._SubParsersAction) -> None:
    flags = commands.add_parser(
        "export", help="the thresholds that won as JSON, and lines that use them in plain PyTorch", allow_abbrev=False
    )
    flags.add_argument("study", metavar="STUDY", help="folder of a study with a winner")
    flags.add_argument("--out", metavar="FILE", default="thresholds.json", help="default thresholds.json, here")
    flags.set_defaults(run=_export)


def _export(given: argparse.Namespace) -> int:
    from divfeat.report.export import example, export_thresholds

    place = Path(given.out)
    content = export_thresholds(given.study, place)
    print(
        f"{place}: {len(content['tau_plus'])} thresholds of {content['study']}, release {content['release']!r}. To use them:\n"
    )
    print(example(content, place), end="")
    return OK


def _add_rerun(commands: argparse._SubParsersAction) -> None:
    flags = commands.add_parser(
        "rerun",
        help="one trial of the search once more, without Ray, nothing written; same score?",
        epilog=f"Exit codes: 0 the same bit for bit, or nothing recorded to compare with, {DIFFERS} a metric differs.",
        allow_abbrev=False,
    )
    flags.add_argument("study", metavar="STUDY", help="folder of the study")
    flags.add_argument(
        "trial", metavar="TRIAL", type=int, help="number of the trial, as in the report's table of proposals"
    )
    flags.set_defaults(run=_rerun)


def _rerun(given: argparse.Namespace) -> int:
    from divfeat.search.rerun import rerun

    found = rerun(Path(given.study), given.trial, lambda line: print(line, flush=True))
    print(f"recorded: {found.told}" + (f"; now: {found.error}" if found.error else ""))
    shown = [*found.objectives, *(name for name in found.differing if name not in found.objectives)]
    for name in shown:
        values = [
            f"{side[name]:.17g}" if side.get(name) is not None else "none" for side in (found.before, found.after)
        ]
        print(f"{name}: recorded {values[0]}, now {values[1]}")
    if not found.before:
        print("again without metrics" if not found.after else "the recorded run has no metrics to compare with")
        return OK
    if not found.differing:
        print(f"the same, bit for bit, in all {len(found.after)} metrics")
        return OK
    print(f"{len(found.differing)} of {len(found.before.keys() | found.after.keys())} metrics differ")
    return DIFFERS


def _add_doctor(commands: argparse._SubParsersAction) -> None:
    flags = commands.add_parser(
        "doctor",
        help="what a study would find here: packages, devices, disk, MLflow, Ray, data",
        epilog="Exit codes: 0 all well, 1 a study would fail on something.",
        allow_abbrev=False,
    )
    flags.add_argument(
        "--storage-path", metavar="URI", default="runs", help="of studies, folder or shared; default runs"
    )
    flags.add_argument("--tracking-uri", metavar="URI", help="of MLflow, as a study takes it")
    flags.add_argument(
        "--address", metavar="ADDRESS", help="of a Ray cluster; default a Ray of its own, started for a moment"
    )
    flags.set_defaults(run=_doctor)


def _doctor(given: argparse.Namespace) -> int:
    from divfeat.search.doctor import examine

    ill = False
    for finding in examine(given.storage_path, given.tracking_uri, given.address):
        ill |= finding.trouble
        print(f"{'TROUBLE' if finding.trouble else 'ok':8}{finding.what}: {finding.said}", flush=True)
    return BAD_CONFIG if ill else OK


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a subcommand; returns the exit code."""
    given = parser().parse_args(arguments)
    run: Run = given.run
    return guarded(lambda: run(given))
