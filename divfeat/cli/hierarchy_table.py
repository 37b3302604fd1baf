"""The command line of the tables over a tree: one study a preset, every method of such tables a row."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from divfeat.cli.flags import EXIT_CODES_TEXT, add_study_flags
from divfeat.cli.tables import add_table_flags, output_of, run_command, studies_of

if TYPE_CHECKING:
    from divfeat.search.table import Output, Planned

#: The set that needs no download.
DEFAULT = ("digits-hierarchy",)


def parser() -> argparse.ArgumentParser:
    """The flags of `studies/hierarchy_table.py`."""
    flags = argparse.ArgumentParser(
        prog="hierarchy_table.py",
        description="Compare cones at their searched thresholds with every method over a tree of the classes and with each row "
        "of HAFrame's ablation, on one or several data sets with a tree (data.hierarchy), and write the tables. Each preset is a "
        "study like those of tau_search.py. The same line resumes.",
        epilog=EXIT_CODES_TEXT,
        allow_abbrev=False,
    )
    add_table_flags(flags, DEFAULT, "the plain network and every method over a tree")
    add_study_flags(flags)
    return flags


def _studies(flags: argparse.Namespace) -> list[Planned]:
    """Studies with a tree.

    Raises:
        ConfigError: as `studies_of`, a row whose thresholds are what is searched, or a study without a tree.
    """
    from divfeat.errors import ConfigError
    from divfeat.methods import METHODS
    from divfeat.search.jobs import every_tree_baseline

    for name in flags.methods or ():
        if name in METHODS and METHODS[name].hinge:
            raise ConfigError(
                f"--methods {name}: its thresholds are what a study searches (search.method), and the winner is the last row; "
                "hinge_fixed is the searched method at the paper's angle"
            )
    studies = studies_of(flags, every_tree_baseline)
    for study, _, _ in studies:
        if study.data.hierarchy is None:
            raise ConfigError(
                f"--presets {study.preset}: a table over a tree needs one, and data.hierarchy is not set; add --set "
                "data.hierarchy=coarse (or flat, cifar10, cifar100, a file), or take a preset that has one"
            )
    return studies


def _output(flags: argparse.Namespace) -> Output:
    from divfeat.report.hierarchy import BLOCK, write_table

    return output_of(flags, "hierarchy-table", BLOCK.check_places, write_table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the studies and write the tables.

    Returns:
        The exit code.
    """
    return run_command(parser().parse_args(arguments), arguments, "hierarchy_table.py", _studies, _output)
