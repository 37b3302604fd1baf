"""The command line of the long-tail table: one study a data set, every method a row."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from divfeat.cli.flags import (
    EXIT_CODES_TEXT,
    OK,
    add_study_flags,
    command_line,
    configure,
    guarded,
    print_config,
)

if TYPE_CHECKING:
    from divfeat.study_config import ExecutionConfig, StudyConfig

#: The set that needs no download.
DEFAULT = ("digits-lt",)
#: The fewest epochs that have a last fifth, in which M2m translates and LDAM-DRW weighs: of fewer M2m is refused.
_SMOKE = {"train": {"epochs": 5}}


def parser() -> argparse.ArgumentParser:
    """The flags of `studies/long_tail_table.py`."""
    flags = argparse.ArgumentParser(
        prog="long_tail_table.py",
        description="Compare HingeCE at its searched thresholds with every long-tail baseline, each tuned with as many "
        "trials, on one or several data sets, and write the table. Each column is a study like those of tau_search.py. The "
        "same line resumes.",
        epilog=EXIT_CODES_TEXT,
        allow_abbrev=False,
    )
    flags.add_argument(
        "--presets", nargs="+", metavar="NAME", default=DEFAULT, help="columns, one study each; default digits-lt"
    )
    flags.add_argument(
        "--methods", nargs="+", metavar="NAME", help="baselines of every study, the rows; default every method there is"
    )
    flags.add_argument(
        "--vary",
        nargs="+",
        action="append",
        metavar=("NAME", "A.B=VALUE"),
        help="a column of its own under this name, with these settings over those of --set; give it once a column, without a "
        "setting for the preset as it is; of two --methods that a variation trains alike the first stands",
    )
    flags.add_argument("--publish", metavar="FOLDER", help="write the table there, naming no folder of this machine")
    flags.add_argument("--readme", metavar="FILE", help="show the table between its marks in this file")
    add_study_flags(flags)
    return flags


def _columns(flags: argparse.Namespace) -> Iterator[tuple[StudyConfig, ExecutionConfig, str]]:
    """A study a preset, or a study a preset and variation, which then names it."""
    from divfeat.settings import merge, parse_assignments

    variations = flags.vary or [[""]]
    for words in (flags.set, *(assigned for _, *assigned in variations)):
        _check_assigned(words)
    for preset in flags.presets:
        for name, *assigned in variations:
            named = {"execution": {"name": f"{preset}-{name}"}} if name else {}
            yield _column(flags, preset, merge(parse_assignments(assigned), named))


def _column(
    flags: argparse.Namespace, preset: str, over: Mapping[str, Any]
) -> tuple[StudyConfig, ExecutionConfig, str]:
    from divfeat.search.jobs import distinct, every_baseline
    from divfeat.settings import merge

    study, _, _ = configure(flags, preset, over, _SMOKE)
    rows = tuple(flags.methods) if flags.methods else every_baseline(study)
    if flags.vary:
        rows = distinct(rows, study)
    return configure(flags, preset, merge(over, {"protocol": {"baselines": list(rows), "tune": True}}), _SMOKE)


def _check_assigned(assignments: Sequence[str]) -> None:
    """Refuse words of the user's that the table would pass over.

    Raises:
        ConfigError: other baselines than `--methods`, or baselines as published.
    """
    from divfeat.errors import ConfigError
    from divfeat.settings import parse_assignments

    assigned = parse_assignments(assignments).get("protocol")
    given = assigned if isinstance(assigned, dict) else {}
    if "baselines" in given:
        raise ConfigError("protocol.baselines: the baselines of a table are its rows; name them with --methods")
    if given.get("tune") is False:
        raise ConfigError(
            "protocol.tune=false: every method of a table is tuned; for a study of baselines as published run "
            "tau_search.py"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the studies and write the table.

    Returns:
        The exit code.
    """
    flags = parser().parse_args(arguments)

    def action() -> int:
        studies = list(_columns(flags))
        if flags.print_config:
            for place, (study, execution, _) in enumerate(studies):
                if place:
                    print("---")  # a YAML document each
                print_config(study, execution)
            return OK
        from divfeat.search.table import run_table

        line = command_line("long_tail_table.py", arguments)
        publish, readme = (Path(given) if given else None for given in (flags.publish, flags.readme))
        return run_table(studies, dry_run=flags.dry_run, command=line, publish=publish, readme=readme)

    return guarded(action)
