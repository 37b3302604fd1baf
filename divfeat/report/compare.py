"""Several studies beside each other, of any objectives: `divfeat compare STUDY STUDY...`.

Writes `comparison.md`, `comparison.json` and `figures/*.png`. Ledgers alone are read; the same ledgers give the same text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from divfeat.errors import DataError
from divfeat.files import check_writable, finite, write_json, write_text
from divfeat.report import compare_tables
from divfeat.report.compare_plots import FOREST, PAIRS, TRIALS, draw
from divfeat.report.document import Block, Document, Heading, to_markdown
from divfeat.report.findings import figures_of
from divfeat.report.pairs import MethodPair, Pairs, pairs_of
from divfeat.report.plots import Plot
from divfeat.report.row import results_row
from divfeat.report.several import Titled, read_several
from divfeat.report.terminal import print_blocks
from divfeat.statistics import listed

TEXT, NUMBERS = "comparison.md", "comparison.json"


@dataclass(frozen=True)
class StudyComparison:
    """Studies with their titles, in the order they were given, and what those of the same images say about each other."""

    studies: tuple[Titled, ...]
    pairs: Pairs

    def blocks(self, plots: dict[str, Plot]) -> list[Block]:
        """What they are, what won, against what, what was changed, what it did to the features, what is missing."""

        def shown(name: str) -> list[Block]:
            return list(figures_of(plots, name))

        tables = compare_tables
        return [
            *tables.about(self.studies),
            *tables.winners(self.studies),
            *tables.against_baselines(self.studies),
            *shown(FOREST),
            *tables.every_method(self.studies),
            *tables.same_images(self.pairs),
            *shown(PAIRS),
            *([Heading("Every trial"), *shown(TRIALS)] if TRIALS in plots else []),
            *tables.geometry(self.studies),
            *tables.missing(self.studies),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Each study's row of results under its title, and the pairs, as JSON types; missing numbers None."""
        pairs = self.pairs
        found: dict[str, Any] = finite(
            {
                "studies": [
                    {"title": title, "ran": compare_tables.ran(summary), "result": results_row(summary)}
                    for title, summary in self.studies
                ],
                "pairs": [
                    {
                        "study": pair.study,
                        "reference": pair.reference,
                        "changes": list(pair.changes),
                        "margin": pair.margin,
                        "methods": [_method_json(one) for one in pair.methods],
                        "alone": [{"method": method, "study": title} for method, title in pair.alone],
                    }
                    for pair in pairs.pairs
                ],
                "level_of_all_pairs": pairs.level,
                "differences_of_pairs": pairs.count,
                "winners_judged": pairs.looks,
                "unpaired": dict(pairs.unpaired),
            }
        )
        return found


def compare_studies(folders: Sequence[str | Path]) -> StudyComparison:
    """Read the studies in `folders`, two or more, finished or not.

    Raises:
        DataError: fewer than two, or as `read_several`.
    """
    if len(folders) < 2:
        given = f"{folders[0]} is one" if folders else "none is given"
        raise DataError(
            f"a comparison needs two studies or more, and {given}; add another study's folder, or read one by itself with "
            "divfeat report STUDY"
        )
    studies = tuple(read_several(folders))
    return StudyComparison(studies, pairs_of(studies))


def write_comparison(folders: Sequence[str | Path], place: Path) -> tuple[StudyComparison, dict[str, Plot]]:
    """Write the comparison of the studies in `folders` under `place`, which is made where it is missing.

    Raises:
        DataError: as `compare_studies`, or `place` cannot be written; nothing is written then.
    """
    check_writable(place, "--out: the comparison's folder")
    found = compare_studies(folders)
    plots = draw(found.studies, found.pairs, place / "figures")
    title = f"Comparison of {len(found.studies)} studies"
    write_text(place / TEXT, to_markdown(Document(title, found.blocks(plots)), place))
    write_json(place / NUMBERS, found.to_dict())
    return found, plots


def print_comparison(found: StudyComparison, plots: dict[str, Plot], place: Path, console: Console) -> None:
    """The tables, and where text, numbers and figures are."""
    print_blocks(found.blocks(plots), console)
    files = [TEXT, NUMBERS, *(f"figures/{plot.path.name}" for plot in plots.values())]
    console.print(f"\nwritten to {place}: {listed(files)}", highlight=False, markup=False, soft_wrap=True)


def _method_json(one: MethodPair) -> dict[str, Any]:
    return {
        "method": one.method,
        "objective": one.objective,
        "configurations": list(one.configurations),
        "repeated": one.repeated,
        "scores": [values.tolist() for values in one.scores],
        "difference": asdict(one.comparison) if one.comparison else None,
        "why_not": one.why_not,
    }
