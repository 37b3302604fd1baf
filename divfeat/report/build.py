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
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from divfeat.errors import DivfeatError
from divfeat.files import check_writable, write_json
from divfeat.methods import method_named
from divfeat.report import account, findings, group_words, pages
from divfeat.report.commands import mlflow_command, mlflow_server, optuna_command
from divfeat.report.document import Document, write
from divfeat.report.findings import Plots
from divfeat.report.outcomes import as_good_text, terminal_text, winner_angles, winner_family
from divfeat.report.plots import draw
from divfeat.report.reading import read_summary
from divfeat.report.row import results_row
from divfeat.report.summary import Objective, StudySummary
from divfeat.report.words import interval, parameter_text, signed
from divfeat.statistics import Verdict, listed
from divfeat.study_config import ExecutionConfig
from divfeat.thresholds import family_named

if TYPE_CHECKING:  # importing MLflow takes seconds
    from divfeat.tracking.page import Place


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
        """The study's own metrics for MLflow: mean scores where no seed is missing, differences with a verdict, in points.

        The winner's angles in degrees. Geometry as it is; of two objectives the hypervolume of the front, of constraints how
        many trials missed them.
        """
        found: dict[str, float] = {
            "study/trials": len(self.summary.trials),
            "study/test_reads": self.summary.test_reads,
        }
        if self.summary.front is not None:
            found["study/hypervolume"] = self.summary.front.hypervolume
        if self.summary.bounds:
            done = [trial for trial in self.summary.trials if trial.status == "completed"]
            found["study/infeasible"] = sum(not trial.feasible for trial in done)
        for objective in self.summary.objectives:
            for name, scores in objective.scores.items():
                found[f"confirm/{objective.name}/{name}"] = float(scores.mean())
            for one in objective.verdict.comparisons:
                if one.verdict != "no verdict":
                    found[f"difference/{objective.name}/{one.name}"] = one.mean
        for name, value in winner_family(self.summary).shown(winner_angles(self.summary)).items():
            found[f"winner/{name}"] = value
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def study_page(self, place: Place) -> str:
        """Description of the study's run in MLflow, Markdown."""
        return pages.study_page(self.summary, place, _said(self.summary), self.files)

    def model_page(self, place: Place) -> pages.ModelPage | None:
        """What MLflow says of the registered extractor; None where there is none."""
        return pages.model_page(self.summary, place)

    def print(self, console: Console) -> None:
        """Say in short what was found and where the rest is."""

        def say(text: str = "") -> None:
            console.print(text, highlight=False, markup=False, soft_wrap=True)

        summary = self.summary
        say()
        for place, objective in enumerate(summary.objectives):
            say(self.sentence if place == 0 else objective.verdict.sentence)
            console.print(_table(summary, objective))
            if objective.on_these_images:
                say(objective.on_these_images)
        if not summary.objectives:
            say(self.sentence)
        for line in _said(summary):
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
        DataError: no study there, or one of another version of divfeat, or a report that cannot be written.
    """
    summary = read_summary(folder)
    place = summary.folder / "report" if publish is None else Path(publish)
    check_writable(place, "the report's folder")
    if publish is not None:
        default = ExecutionConfig().storage_path
        anywhere = summary.execution.model_copy(update={"storage_path": default})
        summary = dataclasses.replace(summary, place=Path(default) / summary.name, execution=anywhere)
    plots = draw(summary, place / "figures")
    markdown, html = write(document(summary, plots), place)
    write_json(place / "verdict.json", results_row(summary))
    for plot in plots.values() if publish is not None else ():
        if plot.drawing is not None:
            plot.drawing.save(plot.path.with_suffix(".json"))
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
        account.own_numbers,
        account.calibration,
        account.reads_of_test,
        account.provenance,
        account.notes,
        account.reproduce,
    )
    return Document(f"Study {summary.name}", tuple(block for part in parts for block in part(summary, plots)))


def _table(summary: StudySummary, objective: Objective) -> Table:
    where = "on the training images" if objective.measure.geometry else "on test"
    title = f"{objective.measure.short} {where}{', points' * (objective.measure.unit == 'share')}"
    table = Table(title=title, title_justify="left", title_style="")
    level = f"{100 * objective.verdict.comparisons[0].level:g} % " if objective.verdict.comparisons else ""
    for column in ("winner minus", "mean", f"{level}interval", "verdict", "seed correlation"):
        table.add_column(column, justify="left" if column in ("winner minus", "verdict") else "right")
    for one in objective.verdict.comparisons:
        correlation = "–" if math.isnan(one.correlation) else f"{one.correlation:.2f}".replace("-", "−")
        digits = objective.measure.digits
        table.add_row(one.name, signed(one.mean, digits), interval(one.low, one.high, digits), one.verdict, correlation)
    return table


def _said(summary: StudySummary) -> list[str]:
    """What there is to say below the verdict and its tables."""
    return [
        *group_words.thresholds_answer(summary),
        *threshold_lines(summary),
        *_bound_lines(summary),
        terminal_text(summary),
        *summary.missing,
    ]


def threshold_lines(summary: StudySummary) -> list[str]:
    """The winner's thresholds, the best of each way of letting go, and what is as good as the best."""
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
            value = f"{trial.values[0]:.2f} %" if summary.measure.unit == "share" else f"{trial.values[0]:.4g}"
            found = f"{angles} ({value} on validation, one seed{'' if trial.feasible else ', infeasible'})"
        else:
            found = "no trial finished"
        lines.append(f"  best of the search, '{release}': {found}")
    return [*lines, as_good_text(summary)]


def _bound_lines(summary: StudySummary) -> list[str]:
    """Each constraint, how many trials missed it, and whether the winner keeps it."""
    lines = []
    for bound in summary.bounds:
        kept = "unknown" if math.isnan(bound.selection) else "kept" if bound.selection <= 0 else "missed"
        lines.append(f"Constraint {bound.limit.name}: {bound.infeasible} trials infeasible; {kept} by the winner.")
    return lines


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
