"""The tables over a tree out of several studies: `python -m divfeat.report.hierarchy STUDY... --out FOLDER`.

A section a study: rows are methods and ablations, the winner of the search last; columns are accuracies, mistakes in the tree,
collapse to it, and what probes find in the features. Cells are means over the confirmation seeds, with half the width of the
95 % Student-t interval. Ledgers alone are read. The same ledgers give the same text.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from divfeat.errors import DataError, DivfeatError
from divfeat.files import finite, write_json, write_text
from divfeat.report.arrays import Floats, half_width_of, mean_of, sd_of
from divfeat.report.columns import (
    confirmed_studies,
    differences_to,
    joint_level,
    row_name,
    rows_in_order,
    source,
    source_json,
    trials_of,
)
from divfeat.report.commands import study_command
from divfeat.report.document import (
    Block,
    Cell,
    Code,
    Document,
    Heading,
    Paragraph,
    Table,
    blocks_to_markdown,
    to_markdown,
)
from divfeat.report.group_words import difference, estimate
from divfeat.report.marked import MarkedBlock
from divfeat.report.published import short_of_published
from divfeat.report.summary import Runs, StudySummary
from divfeat.search.jobs import name_of
from divfeat.statistics import Comparison, listed

#: What every row is compared with: cross-entropy on the plain network.
REFERENCE = "ce_no_projector"
TEXT, NUMBERS = "hierarchy.md", "hierarchy.json"
BLOCK = MarkedBlock("hierarchy-table")
ACCURACY, SEVERITY = "test/accuracy", "test/mistake_severity"
COPHENETIC = "collapse/cophenetic"
#: Compared with the reference, and what a verdict calls the one that is no score.
_COMPARED = {ACCURACY: "", SEVERITY: "mistake severity"}


@dataclass(frozen=True)
class Metric:
    """A column: its head, the metric of a record, whether that is a share (shown in percent), and digits after the point."""

    head: str
    key: str
    share: bool = False
    digits: int = 3

    def values(self, runs: Runs) -> Floats:
        """[S] as shown, NaN where missing."""
        return runs.points(self.key) if self.share else runs.values(self.key)


@dataclass(frozen=True)
class Section:
    """One study: its metrics, those of mistakes and probes first, and what every method confirmed in it has.

    Attributes:
        title: Of the study.
        summary: Of the study.
        mistakes: Columns of the first table.
        features: Columns of the second one.
        runs: Row -> runs.
        gains: Metric -> method (as the study names it) -> the method minus the reference.
        note: Why there is no verdict, or "".
    """

    title: str
    summary: StudySummary
    mistakes: tuple[Metric, ...]
    features: tuple[Metric, ...]
    runs: Mapping[str, Runs]
    gains: Mapping[str, Mapping[str, Comparison]]
    note: str


@dataclass(frozen=True)
class HierarchyTable:
    """Sections in the order the studies were given."""

    sections: tuple[Section, ...]

    @property
    def markdown(self) -> str:
        """All tables, with a title."""
        blocks = [block for section in self.sections for block in _blocks(section)]
        return to_markdown(Document("Methods over a tree of classes", blocks)).rstrip()

    def to_dict(self) -> dict[str, Any]:
        """Numbers and what produced them, as JSON types: shares and their differences in points, missing ones None."""
        found: dict[str, Any] = finite({"data": [_section_json(section) for section in self.sections]})
        return found


def hierarchy_table(folders: Sequence[str | Path]) -> HierarchyTable:
    """Read the studies in `folders`.

    Raises:
        DataError: no study, one given twice or with its copy, one that has confirmed nothing yet, or one without a tree.
    """
    studies = confirmed_studies(folders, "a table over a tree")
    for _, summary in studies:
        if summary.config.data.hierarchy is None:
            raise DataError(
                f"{summary.folder} has no tree of its classes: its data.hierarchy is not set, so its mistakes have no distance; "
                "leave it out"
            )
    return HierarchyTable(tuple(_section(title, summary) for title, summary in studies))


def write_table(folders: Sequence[str | Path], place: Path, readme: Path | None = None) -> HierarchyTable:
    """Write the tables of the studies in `folders` as `hierarchy.md` and `hierarchy.json` under `place`, made where missing.

    Args:
        folders: One study a section.
        place: Of both files.
        readme: A file whose marked block shows the first study's first table, or None.

    Raises:
        DataError: as `hierarchy_table` and `MarkedBlock.check_places`, with nothing written.
    """
    table = hierarchy_table(folders)
    BLOCK.check_places(place, readme)
    write_text(place / TEXT, table.markdown + "\n")
    write_json(place / NUMBERS, table.to_dict())
    if readme is not None:
        first = blocks_to_markdown([_mistakes(table.sections[0])])
        BLOCK.show(readme, first, "Differences by seed, collapse, provenance", place / TEXT)
    return table


# --- from ledgers -----------------------------------------------------------------------------------------------------------


def _section(title: str, summary: StudySummary) -> Section:
    known = {name for runs in summary.confirmed for record in runs.completed for name in record["metrics"]}

    def numbered(pattern: str, head: str, *, share: bool = False, digits: int = 3) -> list[Metric]:
        """Those there are, by number."""
        found = sorted((int(match[1]), name) for name in known if (match := re.fullmatch(pattern, name)))
        return [Metric(head.format(number), name, share, digits) for number, name in found]

    mistakes = [
        Metric("accuracy", ACCURACY, share=True, digits=2),
        *numbered(r"test/level_(\d+)_accuracy", "level {}", share=True, digits=2),
        Metric("severity", SEVERITY),
        *numbered(r"test/hierarchical_distance_(\d+)", "distance at {}"),
        Metric("angular collapse", "collapse/angular", digits=4),
        Metric("tree correlation", COPHENETIC),
        Metric("fine probe", "test/fine_top1", share=True, digits=2),
        Metric("unseen probe", "test/unseen_top1", share=True, digits=2),
    ]
    features = [
        Metric("self-duality", "collapse/self_duality", digits=4),
        Metric("NC1", "collapse/nc1", digits=4),
        *numbered(r"collapse/nc1_level_(\d+)", "NC1 level {}", digits=4),
    ]

    def measured(metrics: Sequence[Metric]) -> tuple[Metric, ...]:
        return tuple(one for one in metrics if any(np.isfinite(one.values(runs)).any() for runs in summary.confirmed))

    note = short_of_published(summary.config.protocol, summary.confirmed)
    by_key = {one.key: one for one in mistakes}
    gains = {
        key: differences_to(REFERENCE, summary, by_key[key].values, note=note, measures=len(_COMPARED), measure=measure)
        for key, measure in _COMPARED.items()
    }
    rows = {row_name(runs): runs for runs in summary.confirmed}
    ordered = {name: rows[name] for name in rows_in_order(rows)}
    return Section(title, summary, measured(mistakes), measured(features), ordered, gains, note)


# --- as tables --------------------------------------------------------------------------------------------------------------


def _blocks(section: Section) -> Iterator[Block]:
    summary = section.summary
    yield Heading(section.title)
    yield _mistakes(section)
    if said := [*_gaps(section), *_faultless(section)]:
        yield Paragraph(" ".join(said))
    if section.gains[ACCURACY]:
        yield _differences(section)
    else:
        yield Paragraph(f"No differences: {REFERENCE} is none of the rows.")
    if section.note:
        yield Paragraph(f"No verdict: {section.note}.")
    yield _features(section)
    yield Paragraph(f"Tree {summary.config.data.hierarchy}; study {source(summary)}. Again:")
    yield Code(study_command(summary, where=False))


def _mistakes(section: Section) -> Table:
    """A row a method: what the classifier and the probes get right, and how near its mistakes are."""
    rows: list[list[Cell]] = [
        [name, len(runs.completed), *(estimate(one.values(runs), one.digits) for one in section.mistakes)]
        for name, runs in section.runs.items()
    ]
    follows = (
        "Tree correlation: of one minus these cosines with distances in the tree, over pairs of classes (cophenetic), whatever "
        "the axes. "
        if any(one.key == COPHENETIC for one in section.mistakes)
        else ""
    )
    caption = (
        "Test, mean ± half the width of the 95 % Student-t interval over the confirmation seeds that finished, each cell for "
        f"itself; last of {section.summary.config.train.epochs} epochs. Percent: accuracy, level (the group predicted on that "
        "level of the tree, 1 the coarsest), fine probe (linear, on fine labels) and unseen probe (the same, fitted on images "
        "that the network never saw). Severity: mean distance in the tree of wrong predictions; distance at k: of the first k "
        "ranks, hits counting 0; less is better. Angular collapse: mean absolute difference of the cosines of class means "
        "(training images) from those of the method's own frozen axes, 0 at collapse to them. "
        f"{follows}Dash: not defined there, or no run."
    )
    return Table(["method", "seeds", *(one.head for one in section.mistakes)], rows, caption)


def _gaps(section: Section) -> list[str]:
    gaps = [gap for runs in section.runs.values() for gap in runs.gaps]
    return [f"Without a score: {'; '.join(gaps)}."] if gaps else []


def _faultless(section: Section) -> list[str]:
    """Whose severity is over fewer seeds than its row says: it is undefined where nothing is predicted wrong."""
    told = []
    for name, runs in section.runs.items():
        missing = int((np.isfinite(runs.values(ACCURACY)) & np.isnan(runs.values(SEVERITY))).sum())
        if missing:
            told.append(f"{name} in {missing} of {len(runs.completed)} runs")
    return [f"Without a mistake, and so without a severity: {listed(told)}."] if told else []


def _differences(section: Section) -> Table:
    heads = {one.key: one.head for one in section.mistakes}
    keys = [key for key in _COMPARED if key in heads]
    rows: list[list[Cell]] = [
        [name, *(difference(section.gains[key][runs.name], 2 if key == ACCURACY else 3) for key in keys)]
        for name, runs in section.runs.items()
        if runs.name != REFERENCE
    ]
    caption = (
        f"Points of accuracy, and severity as it is: the method minus {REFERENCE}, paired by seed; the intervals of all rows and "
        f"columns hold together at {joint_level(section.summary):.4g} %. Where a seed lacks one of the two there is no verdict."
    )
    return Table(["method", *(f"{heads[key]} minus {REFERENCE}" for key in keys)], rows, caption)


def _features(section: Section) -> Table:
    """A row a method: collapse of its training features, and what it was."""
    trials = trials_of(section.summary)
    rows: list[list[Cell]] = []
    for name, runs in section.runs.items():
        facts: Mapping[str, Any] = next((record["provenance"] for record in runs.completed), {})
        told = name_of(runs.method)
        measured = [estimate(one.values(runs), one.digits) for one in section.features]
        sizes = [trials.get(runs.name), facts.get("parameter_count"), facts.get("feature_dim")]
        terminal = "{} of {}".format(*runs.terminal)
        rows.append([name, "" if told == name else told, *measured, terminal, *sizes])
    caption = (
        "Training images, as above. Self-duality: distance of normalised class means and frozen axes. NC1: spread within classes "
        "over spread between them; of a level: with its groups as classes. Terminal phase: training accuracy at least 99.9 %. "
        "Trials: that its own numbers were searched with; dash: as published, or as the preset gives them."
    )
    heads = ["method", "configuration", *(one.head for one in section.features)]
    return Table([*heads, "terminal phase", "trials", "parameters", "feature dim."], rows, caption)


def _section_json(section: Section) -> dict[str, Any]:
    metrics, trials = (*section.mistakes, *section.features), trials_of(section.summary)

    def numbers(one: Metric, runs: Runs) -> dict[str, Any]:
        values = one.values(runs)
        found = {"values": values.tolist(), "mean": mean_of(values), "sd": sd_of(values)}
        return {**found, "half_width": half_width_of(values)}

    def gain(key: str, runs: Runs) -> dict[str, Any] | None:
        one = section.gains[key].get(runs.name)
        return asdict(one) if one else None

    return {
        **source_json(section.title, section.summary, section.note),
        "hierarchy": section.summary.config.data.hierarchy,
        "metrics": {one.key: {"head": one.head, "unit": "percent" if one.share else "number"} for one in metrics},
        "reference": REFERENCE,
        "methods": {
            name: {
                "configuration": name_of(runs.method),
                "finished": len(runs.completed),
                "gaps": runs.gaps,
                "metrics": {one.key: numbers(one, runs) for one in metrics},
                "minus_reference": {key: gain(key, runs) for key in _COMPARED},
                "terminal_phase": list(runs.terminal),
                "trials": trials.get(runs.name),
            }
            for name, runs in section.runs.items()
        },
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the tables over a tree of the studies given; returns the exit code."""
    flags = argparse.ArgumentParser(prog="python -m divfeat.report.hierarchy", description=main.__doc__)
    flags.add_argument("studies", nargs="+", metavar="STUDY", help="folder of a study whose classes have a tree")
    flags.add_argument("--out", metavar="FOLDER", required=True, help=f"of {TEXT} and {NUMBERS}")
    flags.add_argument(
        "--readme", metavar="FILE", help="show the first study's first table between its marks in this file"
    )
    given = flags.parse_args(arguments)
    try:
        print(write_table(given.studies, Path(given.out), Path(given.readme) if given.readme else None).markdown)
    except DivfeatError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
