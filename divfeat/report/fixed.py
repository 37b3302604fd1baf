"""The table of a comparison at fixed settings (`divfeat.search.fixed`): every method, every seed that was run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from divfeat.files import finite, read_lines, write_json, write_text
from divfeat.objectives import OBJECTIVES, OF_TREES
from divfeat.report.arrays import Floats
from divfeat.report.document import Block, Cell, Code, Heading, Paragraph, Table, blocks_to_markdown
from divfeat.report.group_words import difference, spread
from divfeat.report.groups import BALANCED, PARTITIONS
from divfeat.report.held import coned, most_inside, taken
from divfeat.report.published import short_of_published
from divfeat.report.summary import Runs
from divfeat.search.fixed import ROWS, STRENGTH
from divfeat.search.jobs import Job
from divfeat.statistics import Comparison, verdict
from divfeat.study_config import StudyConfig

TEXT = "fixed.md"
#: Column -> what the cones of a run held.
HELD = {"inside": most_inside, "of the loss": taken}
_SCORES = ("accuracy", BALANCED, *(group for partition in PARTITIONS for group in partition))
#: Linear probes -> metric, a share.
_PROBES = {"fine probe": "test/fine_top1", "unseen probe": "test/unseen_top1"}
#: Over a tree -> metric, as it is.
_MISTAKES = {OBJECTIVES[name].short: OBJECTIVES[name].test for name in OF_TREES} | {
    "tree correlation": "collapse/cophenetic"
}


@dataclass(frozen=True)
class FixedTable:
    """Methods at fixed settings.

    Attributes:
        study: Whose settings of data, model and training they have.
        runs: One a method.
        reference: The method that others are compared with.
        gains: Name -> balanced accuracy minus the reference's, paired by seed; the intervals of all methods hold together.
        note: Why no verdict is given, or "".
        command: The line that made it.
    """

    study: StudyConfig
    runs: Sequence[Runs]
    reference: str
    gains: Mapping[str, Comparison]
    note: str
    command: str

    @property
    def markdown(self) -> str:
        """The table, what is missing, and where the numbers come from."""
        return f"# Fixed settings: {self.study.preset}\n\n{blocks_to_markdown(self._blocks())}\n"

    def to_dict(self) -> dict[str, Any]:
        """Numbers and what produced them, as JSON types: scores and differences in points, missing ones None."""
        found: dict[str, Any] = finite(
            {
                "preset": self.study.preset,
                "config_hash": self.study.identity,
                "command": self.command,
                "reference": self.reference,
                "no_verdict": self.note or None,
                "methods": {one.name: self._method_json(one) for one in self.runs},
            }
        )
        return found

    def _method_json(self, one: Runs) -> dict[str, Any]:
        gain = self.gains.get(one.name)
        return {
            "method": one.method.model_dump(mode="json"),
            "seeds": list(one.seeds),
            "scores": {score: _points(one, score).tolist() for score in (*_SCORES, *_PROBES)},
            "mistakes": {name: one.values(metric).tolist() for name, metric in _MISTAKES.items()},
            "minus_reference": asdict(gain) if gain else None,
            "held": {what: _held(one, what).tolist() for what in HELD},
            "terminal_phase": list(one.terminal),
            "provenance": [record["provenance"] for record in one.completed],
        }

    def _blocks(self) -> list[Block]:
        shown = [
            score for score in (*_SCORES, *_PROBES) if any(np.isfinite(_points(one, score)).any() for one in self.runs)
        ]
        mistakes = [
            name
            for name, metric in _MISTAKES.items()
            if any(np.isfinite(one.values(metric)).any() for one in self.runs)
        ]
        held = [what for what in HELD if any(np.isfinite(_held(one, what)).any() for one in self.runs)]
        headers = [
            "method",
            *shown,
            *mistakes,
            f"balanced minus {self.reference}",
            "training accuracy",
            "terminal phase",
            *held,
        ]
        caption = (
            "Test, percent: mean and standard deviation over the seeds that finished, last of "
            f"{self.study.train.epochs} epochs. Nothing was searched or chosen. Differences are paired by seed; with all seeds "
            f"there, their intervals hold together at {100 * (1 - self.study.protocol.alpha):g} %. Minor: at most "
            f"{self.study.data.boundary} training images. Probes are linear, at a strength of {STRENGTH:g}; unseen: fitted on "
            "test images, each half predicted from the other."
        )
        if held:
            caption += (
                " Inside: training images in their cone, in the epoch with most of them. Of the loss: the share of the whole "
                "training's cross-entropy that images in their cone carried."
            )
        if mistakes:
            caption += (
                " Severity: mean distance in the tree of the wrong predictions; hierarchical distance at k: of the first k "
                "ranks, hits counting 0; both as they are, less is better. Tree correlation: over pairs of classes, of one minus "
                "the cosine of their means (training images) with their distance in the tree."
            )
        blocks: list[Block] = [Table(headers, [self._row(one, shown, mistakes, held) for one in self.runs], caption)]
        if self.note:
            blocks.append(Paragraph(f"No verdict: {self.note}."))
        if gaps := [gap for one in self.runs for gap in one.gaps]:
            blocks.append(Paragraph(f"Without a score: {'; '.join(gaps)}."))
        if facts := [record["provenance"] for one in self.runs for record in one.completed]:
            sources = {name: sorted({str(fact[name]) for fact in facts}) for name in ("commit", "device", "split_hash")}
            told = "; ".join(f"{name} {', '.join(values)}" for name, values in sources.items())
            hours = sum(fact["seconds"] for fact in facts) / 3600
            blocks += [Heading("Provenance"), Paragraph(f"{told}; {len(facts)} runs, {hours:.2f} hours of processes.")]
        return [*blocks, Paragraph("Again, or further:"), Code(self.command)]

    def _row(self, one: Runs, shown: Sequence[str], mistakes: Sequence[str], held: Sequence[str]) -> list[Cell]:
        gain, (terminal, finished) = self.gains.get(one.name), one.terminal
        return [
            one.name,
            *(spread(_points(one, score)) for score in shown),
            *(spread(one.values(_MISTAKES[name]), 3) for name in mistakes),
            difference(gain) if gain else "",
            spread(one.points("train/accuracy_eval")),
            f"{terminal} of {finished}",
            *(spread(values) if np.isfinite(values := _held(one, what)).any() else "" for what in held),
        ]


def write_fixed(jobs: Sequence[Job], folder: Path, study: StudyConfig, *, reference: str, command: str) -> str:
    """Write `fixed.md` and `fixed.json` in `folder`.

    Args:
        jobs: Of `fixed_jobs`.
        folder: With the rows.
        study: Whose settings they have.
        reference: Name of the method that others are compared with.
        command: The line that made it.

    Returns:
        The Markdown.
    """
    runs = runs_of(jobs, folder)
    note = short_of_published(study.protocol, runs)
    table = FixedTable(study, runs, reference, _gains(runs, reference, study, note), note, command)
    write_text(folder / TEXT, table.markdown)
    write_json(folder / "fixed.json", table.to_dict())
    return table.markdown


def runs_of(jobs: Sequence[Job], folder: Path) -> list[Runs]:
    """One a method, with a record of each seed that has a row."""
    rows = {row["key"]: row for row in read_lines(folder / ROWS)}
    found = []
    for name in dict.fromkeys(job.name for job in jobs):
        some = [job for job in jobs if job.name == name]
        keys = tuple(job.key for job in some)
        seeds = tuple(job.experiment.seed for job in some)
        found.append(Runs(name, some[0].experiment.method, seeds, keys, tuple(rows.get(key) for key in keys)))
    return found


def _gains(runs: Sequence[Runs], reference: str, study: StudyConfig, note: str) -> dict[str, Comparison]:
    against = next(one for one in runs if one.name == reference)
    others = [one for one in runs if one is not against]

    def compare(one: Runs) -> Comparison:
        found = verdict(
            _points(one, BALANCED),
            {reference: _points(against, BALANCED)},
            seeds=one.seeds,
            margin=study.protocol.margin,
            alpha=study.protocol.alpha,
            looks=len(others),
        )
        return (found.withheld(note) if note else found).comparisons[0]

    return {one.name: compare(one) for one in others}


def _points(runs: Runs, score: str) -> Floats:
    if score in _PROBES:
        return runs.points(_PROBES[score])
    return runs.points("test/accuracy" if score == "accuracy" else f"test/accuracy_{score}")


def _held(runs: Runs, what: str) -> Floats:
    """[S] percent, NaN of runs without cones."""
    return np.array([HELD[what](record) if coned(record) > 0 else np.nan for record in runs.records], dtype=np.float64)
