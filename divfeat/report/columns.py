"""What tables of several studies share: the studies, their rows, differences to one of them, and what produced the numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from divfeat.errors import DataError
from divfeat.report.arrays import Floats
from divfeat.report.commands import study_command
from divfeat.report.several import Titled, read_several
from divfeat.report.summary import WINNER, Runs, StudySummary
from divfeat.statistics import Comparison, verdict

#: What the searched winner is called in a table of several studies, whose winners differ.
WINNER_ROW = "winner of the search"


def confirmed_studies(folders: Sequence[str | Path], table: str) -> list[Titled]:
    """The studies in `folders`, with what to call them.

    Args:
        folders: One study each.
        table: What is made of them, in words that begin a sentence.

    Raises:
        DataError: no study, one given twice or with its copy, or one that has confirmed nothing yet.
    """
    if not folders:
        raise DataError(f"{table} needs the folder of at least one study")
    studies = read_several(folders)
    for _, summary in studies:
        if not any(runs.completed for runs in summary.confirmed):
            raise DataError(f"{summary.folder} has confirmed nothing yet; run the study to its end, or leave it out")
    return studies


def row_name(runs: Runs) -> str:
    """Of the row that has these runs."""
    return WINNER_ROW if runs.name == WINNER else runs.name


def rows_in_order(names: Iterable[str]) -> list[str]:
    """Each once, in the order they are met, the winner last."""
    return sorted(dict.fromkeys(names), key=lambda name: name == WINNER_ROW)


def trials_of(summary: StudySummary) -> dict[str, int]:
    """Name of a confirmed method -> trials that its own settings were tuned with, where they were."""
    own = {one.name: one.trials for one in summary.own_numbers if one.trials}
    return own | {WINNER: len(summary.trials)}


def differences_to(
    reference: str,
    summary: StudySummary,
    scores: Callable[[Runs], Floats],
    *,
    note: str,
    measures: int = 1,
    measure: str = "",
) -> dict[str, Comparison]:
    """Every other confirmed method minus one of them, paired by seed; the intervals of a study hold together.

    Args:
        reference: Name of that one.
        summary: Of the study.
        scores: [S] of a method.
        note: Why there is no verdict, or "".
        measures: Compared in one table, whose intervals hold together.
        measure: As `verdict` takes it.

    Returns:
        Name -> difference; none where that one was not confirmed.
    """
    against = summary.confirmed_as(reference)
    others = [runs for runs in summary.confirmed if runs is not against]
    if against is None or summary.primary is None:
        return {}
    rules, looks = summary.config.protocol, summary.primary.verdict.looks

    def compare(runs: Runs) -> Comparison:
        found = verdict(
            scores(runs),
            {reference: scores(against)},
            seeds=runs.seeds,
            margin=rules.margin,
            alpha=rules.alpha,
            looks=looks * len(others) * measures,
            measure=measure,
        )
        return (found.withheld(note) if note else found).comparisons[0]

    return {runs.name: compare(runs) for runs in others}


def joint_level(summary: StudySummary) -> float:
    """At which the intervals of `differences_to` hold together, percent."""
    looks = 1 if summary.primary is None else summary.primary.verdict.looks
    return 100 * (1 - summary.config.protocol.alpha / looks)


def source(summary: StudySummary) -> str:
    """Settings, commit and seeds in words."""
    facts = summary.provenance
    commit = facts["commit"] if isinstance(facts["commit"], str) else ", ".join(facts["commit"] or ["unknown"])
    seeds = summary.confirmed[0].seeds
    return f"{summary.config.identity}, commit {commit}, seeds {seeds[0]} to {seeds[-1]}"


def source_json(title: str, summary: StudySummary, note: str) -> dict[str, Any]:
    """What produced the numbers of a study, as JSON types; `note` says why there is no verdict, or is ""."""
    return {
        "title": title,
        "study": summary.name,
        "config_hash": summary.config.identity,
        "command": study_command(summary, where=False),
        "seeds": list(summary.confirmed[0].seeds),
        "epochs": summary.config.train.epochs,
        "provenance": dict(summary.provenance),
        "test_reads": summary.test_reads,
        "no_verdict": note or None,
    }
