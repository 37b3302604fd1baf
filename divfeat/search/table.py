"""Several studies, one after the other, and one table of them: what `studies/*_table.py` with a study a column do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from divfeat.errors import ConfigError
from divfeat.search.command import folder_of_studies, make_study, run_installed
from divfeat.search.interrupt import Interrupt
from divfeat.search.plan import make_plan
from divfeat.study_config import ExecutionConfig, StudyConfig

#: Identity of a study, how to run it, text of its preset.
Planned = tuple[StudyConfig, ExecutionConfig, str]


@dataclass(frozen=True)
class Output:
    """What becomes of finished studies; report/ is below search/, so that only commands join them.

    Attributes:
        folder: Of the table, under the folder of all studies, where it goes nowhere else.
        publish: Folder for a table to show elsewhere, or None.
        check: Refuses, before the first study, a folder that `write` could not write to (DivfeatError).
        write: Writes the table of the studies in these folders into that one; returns its Markdown.
    """

    folder: str
    publish: Path | None
    check: Callable[[Path], None]
    write: Callable[[Sequence[Path], Path], str]


def run_table(studies: Sequence[Planned], output: Output, *, dry_run: bool, command: str) -> int:
    """Run what is left of every study, then write the table.

    Args:
        studies: All have the same time budget, which is that of the command.
        output: The table.
        dry_run: Print the plans only.
        command: The line that resumes, printed when it stops early.

    Returns:
        Exit code: that of the first study that did not come to its end, else 0.

    Raises:
        DivfeatError: bad configuration or data of any study, or a place the table cannot be written to, before the first
            study starts.
    """
    interrupt = Interrupt(studies[0][1].time_budget)
    runners = [make_study(study, execution, interrupt) for study, execution, _ in studies]
    names = [runner.name for runner in runners]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"the study {twice[0]} stands for two columns; name each preset and each variation once, and leave out execution.name"
        )
    place = output.publish or folder_of_studies(studies[0][1]) / output.folder
    output.check(place)
    if dry_run:
        for runner in runners:
            make_plan(runner).print(runner.console)
        return 0
    if len(runners) > 1:
        for runner in runners:
            if not runner.finished:
                runner.check()  # a column that cannot be run is told before hours go into another
    interrupt.install()
    for runner, (_, _, about) in zip(runners, studies, strict=True):
        code = run_installed(runner, about, command)
        if code:
            return code
    text = output.write([runner.folder for runner in runners], place)
    Console().print(f"\n{text}\n\ntable  {place}", highlight=False, markup=False, soft_wrap=True)
    return 0
