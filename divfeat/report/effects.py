"""What thresholds do, a study a row: the winner against the same without cones, on every group of classes."""

from __future__ import annotations

from collections.abc import Sequence

from divfeat.methods import method_named
from divfeat.report.document import Block, Cell, Heading, Table
from divfeat.report.group_words import difference
from divfeat.report.groups import BALANCED, PARTITIONS, GroupResults, group_results
from divfeat.report.summary import StudySummary
from divfeat.search.jobs import name_of

GROUPS = (BALANCED, *(group for partition in PARTITIONS for group in partition))


def effects(studies: Sequence[tuple[str, StudySummary]]) -> list[Block]:
    """A heading and a table; nothing where the classes of no study form groups.

    Args:
        studies: What each is called, and its summary.
    """
    found = [(title, summary, results) for title, summary in studies if (results := group_results(summary)) is not None]
    if not found:
        return []
    shown = [group for group in GROUPS if any(group in results.groups for *_, results in found)]
    levels = sorted({f"{100 * results.level:.4g} %" for *_, results in found})
    caption = (
        "Winner minus the same method without cones on test, points, paired by seed; the intervals of all baselines and groups "
        f"of a study hold together at {' or '.join(levels)}. Empty: no such group, or no such baseline."
    )
    rows = [_row(title, summary, results, shown) for title, summary, results in found]
    return [Heading("What thresholds do", 4), Table(["study", "winner", "minus", *shown], rows, caption)]


def _row(title: str, summary: StudySummary, results: GroupResults, shown: Sequence[str]) -> list[Cell]:
    method = summary.winner_method
    assert method is not None
    if not method_named(method.name).hinge:
        return [title, f"{name_of(method)}: no cones won", "", *("" for _ in shown)]
    against = {
        group: one for group, some in results.comparisons.items() for one in some if one.name == summary.coneless
    }
    cells: list[Cell] = [difference(against[group]) if group in against else "" for group in shown]
    return [title, name_of(method), summary.coneless or "", *cells]
