"""The command line of the long-tail table: one study a data set, every method a row."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from divfeat.cli.flags import EXIT_CODES_TEXT, add_study_flags
from divfeat.cli.tables import add_table_flags, assigned_protocols, output_of, run_command, studies_of

if TYPE_CHECKING:
    from divfeat.search.table import Output, Planned

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
    add_table_flags(flags, DEFAULT, "every method there is")
    add_study_flags(flags)
    return flags


def _studies(flags: argparse.Namespace) -> list[Planned]:
    """Every baseline tuned.

    Raises:
        ConfigError: as `studies_of`, or baselines as published.
    """
    from divfeat.errors import ConfigError
    from divfeat.search.jobs import every_baseline

    if any(given.get("tune") is False for given in assigned_protocols(flags)):
        raise ConfigError(
            "protocol.tune=false: every method of a table is tuned; for a study of baselines as published run "
            "tau_search.py"
        )
    return studies_of(flags, every_baseline, protocol={"tune": True}, smoke=_SMOKE)


def _output(flags: argparse.Namespace) -> Output:
    from divfeat.report.long_tail import BLOCK, write_table

    return output_of(flags, "long-tail-table", BLOCK.check_places, write_table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the studies and write the table.

    Returns:
        The exit code.
    """
    return run_command(parser().parse_args(arguments), arguments, "long_tail_table.py", _studies, _output)
