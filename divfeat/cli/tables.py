"""What the commands share that run a study a preset and write one table of them: flags, the studies, the run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from divfeat.cli.flags import OK, command_line, configure, guarded, print_config

if TYPE_CHECKING:
    from divfeat.search.table import Output, Planned
    from divfeat.study_config import StudyConfig


class Shown(Protocol):
    """A table that was written."""

    @property
    def markdown(self) -> str:
        """Its text."""
        ...


#: (folder of the table, page that shows it or None): refuses either.
Check = Callable[[Path, "Path | None"], None]
#: (folders of the studies, folder of the table, page that shows it or None) to what was written.
Write = Callable[[Sequence[Any], Path, "Path | None"], Shown]


def add_table_flags(flags: argparse.ArgumentParser, presets: Sequence[str], rows: str) -> None:
    """The flags that say which studies there are, which rows, and where the table goes.

    Args:
        flags: To add to.
        presets: Where the line names none.
        rows: What the rows are where the line names none, in words.
    """
    flags.add_argument(
        "--presets", nargs="+", metavar="NAME", default=presets, help=f"one study each; default {' '.join(presets)}"
    )
    flags.add_argument(
        "--methods", nargs="+", metavar="NAME", help=f"baselines of every study, the rows; default {rows}"
    )
    flags.add_argument(
        "--vary",
        nargs="+",
        action="append",
        metavar=("NAME", "A.B=VALUE"),
        help="a study of its own under this name, with these settings over those of --set; give it once a study, without a "
        "setting for the preset as it is; of two --methods that a variation trains alike the first stands",
    )
    flags.add_argument("--publish", metavar="FOLDER", help="write the table there, naming no folder of this machine")
    flags.add_argument("--readme", metavar="FILE", help="show the table between its marks in this file")


def assigned_protocols(flags: argparse.Namespace) -> Iterator[Mapping[str, Any]]:
    """What `--set`, and then each variation, says of the protocol.

    Raises:
        ConfigError: words that assign nothing.
    """
    from divfeat.settings import parse_assignments

    for words in (flags.set, *(assigned for _, *assigned in flags.vary or ())):
        given = parse_assignments(words).get("protocol")
        yield given if isinstance(given, dict) else {}


def studies_of(
    flags: argparse.Namespace,
    every: Callable[[StudyConfig], Sequence[str]],
    *,
    protocol: Mapping[str, Any] | None = None,
    smoke: Mapping[str, Any] | None = None,
) -> list[Planned]:
    """A study a preset, or a study a preset and variation, which then names it.

    Args:
        flags: Of `add_table_flags` and the study's.
        every: Rows of a study where the line names none.
        protocol: Of every study, over what the line says.
        smoke: What the command's own `--smoke-test` lays over that of all.

    Raises:
        ConfigError: anything unknown or invalid, and other baselines than `--methods`.
    """
    from divfeat.errors import ConfigError
    from divfeat.search.jobs import distinct
    from divfeat.settings import merge, parse_assignments

    if any("baselines" in given for given in assigned_protocols(flags)):
        raise ConfigError("protocol.baselines: the baselines of a table are its rows; name them with --methods")
    found = []
    for preset in flags.presets:
        for name, *assigned in flags.vary or [[""]]:
            over = merge(parse_assignments(assigned), {"execution": {"name": f"{preset}-{name}"}} if name else {})
            study, _, _ = configure(flags, preset, over, smoke)
            rows = tuple(flags.methods) if flags.methods else every(study)
            if flags.vary:
                rows = distinct(rows, study)
            rules = {"baselines": list(rows), **(protocol or {})}
            found.append(configure(flags, preset, merge(over, {"protocol": rules}), smoke))
    return found


def output_of(flags: argparse.Namespace, folder: str, check: Check, write: Write) -> Output:
    """Where the table goes, as `--publish` and `--readme` say.

    Args:
        flags: Of `add_table_flags`.
        folder: Under the folder of all studies, where no other is named.
        check: Refuses places that could not be written to.
        write: Writes the table of these studies.
    """
    from divfeat.search.table import Output

    publish, readme = (Path(given) if given else None for given in (flags.publish, flags.readme))
    return Output(
        folder,
        publish,
        check=lambda place: check(place, readme),
        write=lambda folders, place: write(folders, place, readme).markdown,
    )


def run_command(
    flags: argparse.Namespace,
    arguments: Sequence[str] | None,
    script: str,
    planned: Callable[[argparse.Namespace], Sequence[Planned]],
    output: Callable[[argparse.Namespace], Output],
) -> int:
    """Run the studies and write the table, or print their settings.

    Args:
        flags: Parsed.
        arguments: What they were parsed from; None for this process's own.
        script: Under studies/, for the line that resumes.
        planned: The studies.
        output: The table.

    Returns:
        The exit code.
    """

    def action() -> int:
        studies = planned(flags)
        if flags.print_config:
            for place, (study, execution, _) in enumerate(studies):
                if place:
                    print("---")  # a YAML document each
                print_config(study, execution)
            return OK
        from divfeat.search.table import run_table

        return run_table(studies, output(flags), dry_run=flags.dry_run, command=command_line(script, arguments))

    return guarded(action)
