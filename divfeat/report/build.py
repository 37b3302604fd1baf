"""The report of a study, made from its folder alone: `python -m divfeat.report.build STUDY_FOLDER`.

Writes `report/report.md`, `report/report.html` (figures inside), `report/figures/*.png` and `report/verdict.json` into the
folder. The same ledger gives the same files.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from divfeat.config import ExecutionConfig
from divfeat.errors import DivfeatError
from divfeat.files import write_json
from divfeat.methods import method_named
from divfeat.report import account, findings, group_words
from divfeat.report.commands import mlflow_command, mlflow_server, optuna_command
from divfeat.report.document import Document, write
from divfeat.report.findings import Plots
from divfeat.report.outcomes import as_good_text, terminal_text, winner_angles, winner_family
from divfeat.report.plots import draw
from divfeat.report.reading import read_summary
from divfeat.report.row import results_row
from divfeat.report.summary import SCORE_NAMES, Objective, StudySummary
from divfeat.report.words import interval, parameter_text, signed
from divfeat.statistics import Verdict, listed
from divfeat.thresholds import family_named


@dataclass(frozen=True)
class Report:
    """A written report.

    Attributes:
        markdown: Path of `report.md`.
        html: Path of `report.html`, figures inside.
        files: Every file of it by its path below `report/`, for MLflow.
        summary: What it says.
    """

    markdown: Path
    html: Path
    files: dict[str, Path]
    summary: StudySummary

    @property
    def verdict(self) -> Verdict | None:
        """On the primary objective; None before a winner is frozen."""
        return self.summary.primary.verdict if self.summary.primary else None

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        return self.summary.sentence

    @property
    def metrics(self) -> dict[str, float]:
        """The study's own metrics for MLflow in points: mean scores where no seed is missing, differences with a verdict."""
        found: dict[str, float] = {
            "study/trials": len(self.summary.trials),
            "study/test_reads": self.summary.test_reads,
        }
        for objective in self.summary.objectives:
            for name, scores in objective.scores.items():
                found[f"confirm/{objective.name}/{name}"] = float(scores.mean())
            for one in objective.verdict.comparisons:
                if one.verdict != "no verdict":
                    found[f"difference/{objective.name}/{one.name}"] = one.mean
        for name, value in winner_angles(self.summary).items():
            found[f"winner/{name}"] = value
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def print(self, console: Console) -> None:
        """Say in short what was found and where the rest is."""

        def say(text: str = "") -> None:
            console.print(text, highlight=False, markup=False, soft_wrap=True)

        summary = self.summary
        say()
        for place, objective in enumerate(summary.objectives):
            say(self.sentence if place == 0 else objective.verdict.sentence)
            console.print(_table(summary, objective))
        if not summary.objectives:
            say(self.sentence)
        answer = group_words.thresholds_answer(summary)
        for line in (*answer, *_threshold_lines(summary), terminal_text(summary), *summary.missing):
            say(line)
        say()
        say(f"report  {self.html}\n        {self.markdown}")
        say(f"MLflow  {mlflow_server(summary) or mlflow_command(summary)}")
        say(f"Optuna  {optuna_command(summary)}")


def build_report(folder: str | Path, publish: str | Path | None = None) -> Report:
    """Write the report of the study in `folder`; a study that has not ended gets one that says so.

    Args:
        folder: Of the study.
        publish: Folder for a report to show elsewhere, whose lines to copy name no folder of this machine; None writes the
            study's own, in its folder `report`.

    Raises:
        DataError: no study there, or one of another version of divfeat.
    """
    summary = read_summary(folder)
    place = summary.folder / "report" if publish is None else Path(publish)
    if publish is not None:
        default = ExecutionConfig().storage_path
        anywhere = summary.execution.model_copy(update={"storage_path": default})
        summary = dataclasses.replace(summary, place=Path(default) / summary.name, execution=anywhere)
    plots = draw(summary, place / "figures")
    markdown, html = write(document(summary, plots), place)
    write_json(place / "verdict.json", results_row(summary))
    paths = [html, markdown, place / "verdict.json", *(plot.path for plot in plots.values())]
    return Report(markdown, html, {path.relative_to(place).as_posix(): path for path in paths}, summary)


def document(summary: StudySummary, plots: Plots) -> Document:
    """The report: verdict first, then what was found, then what it rests on."""
    parts = (
        findings.verdict,
        findings.thresholds,
        findings.confirmation,
        group_words.groups,
        findings.noise,
        findings.collapse,
        findings.classes,
        account.search,
        account.calibration,
        account.reads_of_test,
        account.provenance,
        account.notes,
        account.reproduce,
    )
    return Document(f"Study {summary.name}", tuple(block for part in parts for block in part(summary, plots)))


def _table(summary: StudySummary, objective: Objective) -> Table:
    table = Table(title=f"{SCORE_NAMES[objective.name]} on test, points", title_justify="left", title_style="")
    level = f"{100 * objective.verdict.comparisons[0].level:g} % " if objective.verdict.comparisons else ""
    for column in ("winner minus", "mean", f"{level}interval", "verdict", "seed correlation"):
        table.add_column(column, justify="left" if column in ("winner minus", "verdict") else "right")
    for one in objective.verdict.comparisons:
        correlation = "–" if math.isnan(one.correlation) else f"{one.correlation:.2f}".replace("-", "−")
        table.add_row(one.name, signed(one.mean), interval(one.low, one.high), one.verdict, correlation)
    return table


def _threshold_lines(summary: StudySummary) -> list[str]:
    lines = []
    method = summary.winner_method
    same = f" The same configuration as {listed(summary.equals)}." if summary.equals else ""
    searched = family_named(summary.config.search.family)
    if not searched.parameters:
        return [f"Winner: {summary.winner['winner']['name']}.{same}"] if summary.winner else []
    if method is not None:
        way = f", letting go the way '{method.release}'" if method_named(method.name).hinge else ""
        family = winner_family(summary)
        angles = "; ".join(parameter_text(family, name, value) for name, value in winner_angles(summary).items())
        lines.append(f"Winner: {angles}{way}.{same}")
    best = summary.best_of_release()
    for release in summary.config.search.releases:
        if release in best:
            trial = best[release]
            angles = "; ".join(parameter_text(searched, name, value) for name, value in trial.angles.items())
            found = f"{angles} ({trial.values[0]:.2f} % on validation, one seed)"
        else:
            found = "no trial finished"
        lines.append(f"  best of the search, '{release}': {found}")
    return [*lines, as_good_text(summary)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Rebuild the report of the study folder given; returns the exit code."""
    flags = argparse.ArgumentParser(prog="python -m divfeat.report.build", description=main.__doc__)
    flags.add_argument("study", help="folder of the study")
    flags.add_argument("--publish", metavar="FOLDER", help="write it there, naming no folder of this machine")
    given = flags.parse_args(arguments)
    try:
        build_report(given.study, given.publish).print(Console())
    except DivfeatError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
