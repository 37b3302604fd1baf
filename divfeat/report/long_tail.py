"""The long-tail table out of several studies: `python -m divfeat.report.long_tail [STUDY...] --out FOLDER [--readme FILE]`.

Rows are methods, columns data sets, one study each; cells are means and standard deviations over the confirmation seeds on
test, last epoch. Ledgers alone are read. The same ledgers give the same text; a README shows the first of its tables, and is
rebuilt from the written one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from divfeat.errors import DataError, DivfeatError
from divfeat.files import finite, write_json, write_text
from divfeat.report.arrays import Floats, mean_of, sd_of
from divfeat.report.columns import (
    WINNER_ROW,
    confirmed_studies,
    differences_to,
    joint_level,
    row_name,
    rows_in_order,
    source,
    source_json,
    trials_of,
)
from divfeat.report.document import Block, Cell, Heading, Paragraph, Table, blocks_to_markdown
from divfeat.report.effects import effects
from divfeat.report.group_words import difference, spread
from divfeat.report.groups import BALANCED, group_masks, group_scores
from divfeat.report.marked import MarkedBlock
from divfeat.report.published import short_of_published
from divfeat.report.summary import StudySummary
from divfeat.search.jobs import name_of
from divfeat.search.protocol import NOISE_METHOD
from divfeat.statistics import Comparison, listed
from divfeat.thresholds.counts import FEW, MANY

#: What every row is compared with, as in the paper.
REFERENCE = NOISE_METHOD
TEXT = "long_tail.md"
BLOCK = MarkedBlock("long-tail-table")
#: Test accuracy over all images, as a column beside `balanced` and the groups.
ACCURACY = "accuracy"
_SCORES = "Test, percent: mean and standard deviation over the confirmation seeds, last epoch."


@dataclass(frozen=True)
class Entry:
    """One method in one study.

    Attributes:
        configuration: What people call the configuration, as `gate 65.0 deg` of a winner.
        scores: `accuracy`, `balanced` and groups -> [S] points on test, NaN where missing.
        gain: Balanced accuracy against CE+ETF, paired by seed; None of CE+ETF itself and where it was not confirmed.
        trials: That its own settings were tuned with; None where they were not.
        parameters: Of the network; None where no run finished.
        feature_dim: Of the features; None where no run finished.
        terminal: Finished runs that reached the terminal phase, and finished runs.
    """

    configuration: str
    scores: Mapping[str, Floats]
    gain: Comparison | None
    trials: int | None
    parameters: int | None
    feature_dim: int | None
    terminal: tuple[int, int]


@dataclass(frozen=True)
class Column:
    """One data set: its study, the groups its classes form, and the methods confirmed on it; `note` says why no verdict."""

    title: str
    summary: StudySummary
    groups: tuple[str, ...]
    entries: Mapping[str, Entry]
    note: str


@dataclass(frozen=True)
class LongTailTable:
    """Columns in the order the studies were given."""

    columns: tuple[Column, ...]

    @property
    def methods(self) -> list[str]:
        """Rows: every method confirmed in any study, in the order they are met, the winner last."""
        return rows_in_order(name for column in self.columns for name in column.entries)

    @property
    def blocks(self) -> list[Block]:
        """As tables: all data sets beside each other (more studies than methods go down), what thresholds do, then groups."""
        groups = (block for column in self.columns for block in _groups(column, self.methods))
        overview = _by_study(self) if len(self.columns) > len(self.methods) else _by_method(self)
        return [overview, *effects([(column.title, column.summary) for column in self.columns]), *groups]

    @property
    def markdown(self) -> str:
        """The tables, without a title."""
        return blocks_to_markdown(self.blocks)

    def to_dict(self) -> dict[str, Any]:
        """Numbers and what produced them, as JSON types: scores and differences in points, missing ones None."""
        found: dict[str, Any] = finite(
            {"methods": self.methods, "data": [_column_json(column) for column in self.columns]}
        )
        return found


def long_tail_table(folders: Sequence[str | Path]) -> LongTailTable:
    """Read the studies in `folders`, one a data set.

    Raises:
        DataError: no study, one given twice or with its copy, or one that has confirmed nothing yet.
    """
    studies = confirmed_studies(folders, "a long-tail table")
    return LongTailTable(tuple(_column(title, summary) for title, summary in studies))


def write_table(folders: Sequence[str | Path], place: Path, readme: Path | None = None) -> LongTailTable:
    """Write the table of the studies in `folders` as `long_tail.md` and `long_tail.json` under `place`.

    Args:
        folders: One study a data set.
        place: Made where it is missing.
        readme: A file whose marked block is rebuilt from what was written, or None.

    Raises:
        DataError: as `long_tail_table` and `MarkedBlock.check_places`, with nothing written.
    """
    table = long_tail_table(folders)
    BLOCK.check_places(place, readme)
    write_text(place / TEXT, table.markdown + "\n")
    write_json(place / "long_tail.json", table.to_dict())
    if readme is not None:
        rebuild_readme(readme, place)
    return table


def rebuild_readme(readme: Path, place: Path) -> None:
    """Show the first table of `place` in the marked block of `readme`, with a link to the whole.

    Raises:
        DataError: a file is missing, or the marks are.
    """
    BLOCK.read(readme)
    if not (place / TEXT).is_file():
        raise DataError(f"{place / TEXT}: there is no such file; give the studies to make the table from")
    overview = (place / TEXT).read_text(encoding="utf-8").partition("\n#### ")[0].strip()
    BLOCK.show(readme, overview, "By groups of classes, with provenance", place / TEXT)


# --- from ledgers -----------------------------------------------------------------------------------------------------------


def _column(title: str, summary: StudySummary) -> Column:
    groups = (BALANCED, *group_masks(summary))
    note = short_of_published(summary.config.protocol, summary.confirmed)
    gains = differences_to(REFERENCE, summary, lambda runs: runs.points(f"test/accuracy_{BALANCED}"), note=note)
    trials, entries = trials_of(summary), {}
    for runs in summary.confirmed:
        facts = [record["provenance"] for record in runs.completed]
        entries[row_name(runs)] = Entry(
            configuration=name_of(runs.method),
            scores={ACCURACY: runs.points("test/accuracy"), **group_scores(runs, groups)},
            gain=gains.get(runs.name),
            trials=trials.get(runs.name),
            parameters=facts[0]["parameter_count"] if facts else None,
            feature_dim=facts[0]["feature_dim"] if facts else None,
            terminal=runs.terminal,
        )
    return Column(title, summary, groups, entries, note)


# --- as tables --------------------------------------------------------------------------------------------------------------


def _by_method(table: LongTailTable) -> Table:
    """A row a method."""
    headers = ["method"]
    for column in table.columns:
        headers += [f"{column.title}: {what}" for what in (*_scores(column), f"balanced minus {REFERENCE}")]
    rows: list[list[Cell]] = []
    for method in table.methods:
        cells: list[Cell] = [method]
        for column in table.columns:
            entry, scores = column.entries.get(method), _scores(column)
            if entry is None:
                cells += [""] * (len(scores) + 1)
            else:
                cells += [spread(entry.scores[score]) for score in scores]
                cells.append(difference(entry.gain) if entry.gain else "")
        rows.append(cells)
    caption = f"{_SCORES} " + " ".join(
        f"{column.title}: {'; '.join([_told(column), *_won(column), *_withheld(column)])}." for column in table.columns
    )
    if any(ACCURACY not in _scores(column) for column in table.columns):
        caption += " Where the test classes have one size, accuracy is balanced accuracy and left out."
    return Table(headers, rows, f"{caption} Empty: not in that study.")


def _by_study(table: LongTailTable) -> Table:
    """A row a study: its winner, and every method in balanced accuracy, the winner first."""
    methods = [method for name in (WINNER_ROW, REFERENCE) for method in table.methods if method == name]
    methods += [method for method in table.methods if method not in methods]
    headers = ["study", "the winner"]
    for method in methods:
        headers += [f"{method}: {BALANCED}", *([f"{method} minus {REFERENCE}"] if method != REFERENCE else [])]
    rows: list[list[Cell]] = []
    alike: dict[str, list[str]] = {}
    for column in table.columns:
        winner = column.entries.get(WINNER_ROW)
        cells: list[Cell] = [column.title, winner.configuration if winner else ""]
        for method in methods:
            entry = column.entries.get(method)
            cells.append(spread(entry.scores[BALANCED]) if entry else "")
            if method != REFERENCE:
                cells.append(difference(entry.gain) if entry and entry.gain else "")
        rows.append(cells)
        alike.setdefault("; ".join([_told(column), *_withheld(column)]), []).append(column.title)
    told = " ".join(f"{listed(titles)}: {text}." for text, titles in alike.items())
    return Table(headers, rows, f"{_SCORES} {told} Empty: not in that study.")


def _scores(column: Column) -> list[str]:
    """Accuracy and balanced accuracy, or the latter alone where they are the same number in every run."""
    same = all(
        np.allclose(entry.scores[ACCURACY], entry.scores[BALANCED], rtol=0, atol=1e-4, equal_nan=True)
        for entry in column.entries.values()
    )
    return [BALANCED] if same else [ACCURACY, BALANCED]


def _told(column: Column) -> str:
    """Seeds and level in words."""
    summary = column.summary
    seeds = len(summary.confirmed[0].seeds)
    text = f"{seeds} seeds, {summary.config.train.epochs} epochs"
    if summary.primary is not None and any(entry.gain for entry in column.entries.values()):
        text += f", differences paired by seed with intervals that hold together at {joint_level(summary):.4g} %"
    return text


def _won(column: Column) -> list[str]:
    winner = column.entries.get(WINNER_ROW)
    return [f"the winner is {winner.configuration}"] if winner else []


def _withheld(column: Column) -> list[str]:
    return [f"no verdict: {column.note}"] if column.note else []


def _groups(column: Column, methods: Sequence[str]) -> list[Block]:
    """One row a method of the study: its groups, what it was tuned with and how large it is."""
    groups = [group for group in column.groups if group != BALANCED]
    rows: list[list[Cell]] = []
    for method in methods:
        if (entry := column.entries.get(method)) is not None:
            seeds = int(np.isfinite(entry.scores[BALANCED]).sum())
            sizes = [entry.trials, entry.parameters, entry.feature_dim]
            told = "" if entry.configuration == method else entry.configuration
            terminal = "{} of {}".format(*entry.terminal)
            rows.append([method, told, *(spread(entry.scores[group]) for group in groups), seeds, terminal, *sizes])
    boundary = column.summary.config.data.boundary
    caption = (
        f"Test, percent, means over the classes of a group. Minor: at most {boundary} training images; many: above {MANY}; "
        f"few: below {FEW}. Terminal phase: training accuracy at least 99.9 %. Trials: that its own settings were tuned with."
    )
    headers = ["method", "configuration", *groups, "seeds", "terminal phase", "trials", "parameters", "feature dim."]
    return [Heading(column.title, 4), Table(headers, rows, caption), Paragraph(f"Study {source(column.summary)}.")]


def _column_json(column: Column) -> dict[str, Any]:
    return {
        **source_json(column.title, column.summary, column.note),
        "groups": list(column.groups),
        "methods": {
            name: {
                "configuration": entry.configuration,
                "scores": {group: values.tolist() for group, values in entry.scores.items()},
                "mean": {group: mean_of(values) for group, values in entry.scores.items()},
                "sd": {group: sd_of(values) for group, values in entry.scores.items()},
                f"balanced_minus_{REFERENCE}": asdict(entry.gain) if entry.gain else None,
                "terminal_phase": list(entry.terminal),
                "trials": entry.trials,
                "parameter_count": entry.parameters,
                "feature_dim": entry.feature_dim,
            }
            for name, entry in column.entries.items()
        },
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the long-tail table of the studies given; returns the exit code."""
    flags = argparse.ArgumentParser(prog="python -m divfeat.report.long_tail", description=main.__doc__)
    flags.add_argument(
        "studies",
        nargs="*",
        metavar="STUDY",
        help="folder of a study, one a data set; without any, --out has the table",
    )
    flags.add_argument(
        "--readme", metavar="FILE", help=f"rebuild the block between {BLOCK.begin} and {BLOCK.end} in this file"
    )
    flags.add_argument("--out", metavar="FOLDER", required=True, help="of long_tail.md and long_tail.json")
    given = flags.parse_args(arguments)
    try:
        place, readme = Path(given.out), Path(given.readme) if given.readme else None
        if given.studies:
            print(write_table(given.studies, place, readme).markdown)
        elif readme is not None:
            rebuild_readme(readme, place)
        else:
            raise DataError(
                "give the folders of studies to make a table of, or --readme to show the one that --out has"
            )
    except DivfeatError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
