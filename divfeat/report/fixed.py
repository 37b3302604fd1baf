"""The table of a comparison at fixed settings (`divfeat.search.fixed`): every method, every seed that was run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from divfeat.files import finite, read_lines, write_json, write_text
from divfeat.report.document import Block, Cell, Heading, Paragraph, Table, blocks_to_markdown
from divfeat.report.group_words import difference, spread
from divfeat.report.groups import BALANCED, PARTITIONS
from divfeat.report.published import short_of_published
from divfeat.report.summary import Runs
from divfeat.search.fixed import ROWS
from divfeat.search.jobs import Job
from divfeat.statistics import Comparison, verdict
from divfeat.study_config import StudyConfig

TEXT = "fixed.md"
_SCORES = ("accuracy", BALANCED, *(group for partition in PARTITIONS for group in partition))


def runs_of(jobs: Sequence[Job], folder: Path) -> list[Runs]:
    """One a method, with the seeds that have a row."""
    rows = {row["key"]: row for row in read_lines(folder / ROWS)}
    found = []
    for name in dict.fromkeys(job.name for job in jobs):
        some = [job for job in jobs if job.name == name]
        found.append(
            Runs(
                name,
                some[0].experiment.method,
                tuple(job.experiment.seed for job in some),
                tuple(job.key for job in some),
                tuple(rows.get(job.key) for job in some),
            )
        )
    return found


def write_fixed(jobs: Sequence[Job], folder: Path, study: StudyConfig, *, reference: str, command: str) -> str:
    """Write `fixed.md` and `fixed.json` in `folder`.

    Args:
        jobs: Of `fixed_jobs`.
        folder: With the rows.
        study: Whose settings they have.
        reference: The method that others are compared with, paired by seed.
        command: The line that made it, without the machine's folders.

    Returns:
        The Markdown.
    """
    runs = runs_of(jobs, folder)
    note = (
        short_of_published(study.protocol, runs) if any(r.name == study.protocol.plain_baseline for r in runs) else ""
    )
    compared = {one.name: _against(one, runs, reference, study, note) for one in runs if one.name != reference}
    blocks = _blocks(runs, compared, study, reference, note, command)
    text = f"# Fixed settings: {study.preset}\n\n{blocks_to_markdown(blocks)}\n"
    write_text(folder / TEXT, text)
    write_json(folder / "fixed.json", _json(runs, compared, study, reference, note, command))
    return text


def _against(runs: Runs, others: Sequence[Runs], reference: str, study: StudyConfig, note: str) -> Comparison | None:
    """Balanced accuracy minus the reference's; the intervals of all methods hold together."""
    against = next((one for one in others if one.name == reference), None)
    if against is None:
        return None
    metric, rules = f"test/accuracy_{BALANCED}", study.protocol
    found = verdict(
        runs.points(metric),
        {reference: against.points(metric)},
        seeds=runs.seeds,
        margin=rules.margin,
        alpha=rules.alpha,
        looks=len(others) - 1,
    )
    return (found.withheld(note) if note else found).comparisons[0]


def _blocks(
    runs: Sequence[Runs],
    compared: dict[str, Comparison | None],
    study: StudyConfig,
    reference: str,
    note: str,
    command: str,
) -> list[Block]:
    shown = [
        score for score in _SCORES if any(np.isfinite(one.points(f"test/accuracy{_tail(score)}")).any() for one in runs)
    ]
    rows: list[list[Cell]] = []
    for one in runs:
        terminal, finished = one.terminal
        gain = compared.get(one.name)
        rows.append(
            [
                one.name,
                *(spread(one.points(f"test/accuracy{_tail(score)}")) for score in shown),
                "" if gain is None else difference(gain),
                spread(one.points("train/accuracy_eval")),
                f"{terminal} of {finished}",
            ]
        )
    headers = ["method", *shown, f"balanced minus {reference}", "training accuracy", "terminal phase"]
    caption = (
        f"Test, percent: mean and standard deviation over the seeds that finished, last of {study.train.epochs} epochs. Nothing "
        "was searched or chosen. Differences are paired by seed; with all seeds there, their intervals hold together at "
        f"{100 * (1 - study.protocol.alpha):g} %. Minor: at most {study.data.boundary} training images."
    )
    gaps = [gap for one in runs for gap in one.gaps]
    facts = [record["provenance"] for one in runs for record in one.completed]
    found: list[Block] = [Table(headers, rows, caption)]
    if note:
        found.append(Paragraph(f"No verdict: {note}."))
    if gaps:
        found.append(Paragraph(f"Without a score: {'; '.join(gaps)}."))
    if facts:
        sources = {field: sorted({str(fact[field]) for fact in facts}) for field in ("commit", "device", "split_hash")}
        told = "; ".join(f"{field} {', '.join(values)}" for field, values in sources.items())
        seconds = sum(fact["seconds"] for fact in facts)
        found += [
            Heading("Provenance"),
            Paragraph(f"{told}; {len(facts)} runs, {seconds / 3600:.2f} hours of processes."),
        ]
    return [*found, Paragraph(f"Again, or further: {command}")]


def _tail(score: str) -> str:
    return "" if score == "accuracy" else f"_{score}"


def _json(
    runs: Sequence[Runs],
    compared: dict[str, Comparison | None],
    study: StudyConfig,
    reference: str,
    note: str,
    command: str,
) -> dict[str, Any]:
    return finite(
        {
            "preset": study.preset,
            "config_hash": study.identity,
            "command": command,
            "reference": reference,
            "no_verdict": note or None,
            "methods": {
                one.name: {
                    "method": one.method.model_dump(mode="json"),
                    "seeds": list(one.seeds),
                    "scores": {score: one.points(f"test/accuracy{_tail(score)}").tolist() for score in _SCORES},
                    "minus_reference": asdict(gain) if (gain := compared.get(one.name)) else None,
                    "terminal_phase": list(one.terminal),
                    "provenance": [record["provenance"] for record in one.completed],
                }
                for one in runs
            },
        }
    )
