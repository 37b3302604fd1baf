"""The command line of one study."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from divfeat.cli.flags import EXIT_CODES_TEXT, add_study_flags, command_line, configure, guarded, print_config


def parser() -> argparse.ArgumentParser:
    """The flags of `studies/tau_search.py`."""
    flags = argparse.ArgumentParser(
        prog="tau_search.py",
        description="Search cone thresholds tau+ of HingeCE, confirm the best against its baselines on fresh seeds, and "
        "print a verdict. The same line resumes; a larger --trials extends; a finished study prints its verdict again.",
        epilog=EXIT_CODES_TEXT,
        allow_abbrev=False,
    )
    flags.add_argument(
        "--preset",
        metavar="NAME",
        help="settings to start from; default digits (README lists them)",
    )
    flags.add_argument("--name", metavar="NAME", help="of the study; default the preset and the hash of its settings")
    flags.add_argument(
        "--fork",
        metavar="NEW_NAME",
        help="with --name and changed settings: a new study that starts from the results of the named one",
    )
    add_study_flags(flags)
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a study.

    Returns:
        The exit code.
    """
    flags = parser().parse_args(arguments)

    def action() -> int:
        study, execution, about = configure(flags)
        if flags.print_config:
            return print_config(study, execution)
        from divfeat.search.command import run_study

        line = command_line("tau_search.py", arguments)
        return run_study(study, execution, about, dry_run=flags.dry_run, command=line, fork=flags.fork)

    return guarded(action)
