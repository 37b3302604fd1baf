"""Several studies, one after the other, and one table of them: what `studies/long_tail_table.py` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from divfeat.errors import ConfigError
from divfeat.search.command import folder_of_studies, make_study, run_installed
from divfeat.search.interrupt import Interrupt
from divfeat.search.plan import make_plan
from divfeat.study_config import ExecutionConfig, StudyConfig

#: Under the folder of all studies.
TABLE = "long-tail-table"


def run_table(
    studies: Sequence[tuple[StudyConfig, ExecutionConfig, str]],
    *,
    dry_run: bool,
    command: str,
    publish: Path | None = None,
    readme: Path | None = None,
) -> int:
    """Run what is left of every study, then write the table.

    Args:
        studies: One a column: identity, how to run it, text of its preset. All have the same time budget, which is that of
            the command.
        dry_run: Print the plans only.
        command: The line that resumes, printed when it stops early.
        publish: Folder for a table to show elsewhere, or None, which writes it beside the studies.
        readme: File whose marked block shows the table, or None.

    Returns:
        Exit code: that of the first study that did not come to its end, else 0.

    Raises:
        DivfeatError: bad configuration or data of any study, or a place the table cannot be written to, before the first
            study starts.
    """
    from divfeat.report.long_tail import check_places, write_table  # report/ is below search/; only commands join them

    interrupt = Interrupt(studies[0][1].time_budget)
    runners = [make_study(study, execution, interrupt) for study, execution, _ in studies]
    names = [runner.name for runner in runners]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"the study {twice[0]} stands for two columns; name each preset and each variation once, and leave out execution.name"
        )
    place = publish or folder_of_studies(studies[0][1]) / TABLE
    check_places(place, readme)
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
    table = write_table([runner.folder for runner in runners], place, readme)
    Console().print(f"\n{table.markdown}\n\ntable  {place}", highlight=False, markup=False, soft_wrap=True)
    return 0
