"""Groups of classes in words and tables: do thresholds help, on which classes, at whose cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from divfeat.methods import method_named
from divfeat.report.arrays import Floats, half_width_of, mean_of, sd_of
from divfeat.report.document import Block, Heading, Paragraph, Table
from divfeat.report.findings import Plots
from divfeat.report.groups import BALANCED, PARTITIONS, GroupResults, group_results
from divfeat.report.summary import WINNER, StudySummary
from divfeat.report.words import interval, signed
from divfeat.statistics import Comparison
from divfeat.thresholds.counts import FEW, MANY


def thresholds_answer(summary: StudySummary) -> list[str]:
    """A sentence for each way to part the classes; none where they form no groups."""
    found, method = group_results(summary), summary.winner_method
    if found is None or method is None:
        return []
    if not method_named(method.name).hinge:
        return ["Thresholds are not shown to help: what won on validation has none (τ⁺ = 0 on every class)."]
    against = {group: one for group, some in found.comparisons.items() for one in some if one.name == summary.coneless}
    if not against:
        return [
            "What thresholds do is not known: none of the baselines is the same without them "
            "(add no_cones to protocol.baselines)."
        ]
    parts = [{group: against[group] for group in partition if group in against} for partition in PARTITIONS]
    return [answer(part, found.level) for part in parts if part]


def answer(against: Mapping[str, Comparison], level: float) -> str:
    """What thresholds do to the groups of one partition.

    Args:
        against: group -> winner against the same without thresholds.
        level: At which all intervals of the study's groups hold together.
    """
    verdicts = [one.verdict for one in against.values()]
    helped, harmed = "better" in verdicts, "worse" in verdicts
    if helped:
        head = "Thresholds help some classes at the cost of others" if harmed else "Thresholds help"
    elif harmed:
        head = "Thresholds do harm"
    else:
        unknown = all(verdict == "no verdict" for verdict in verdicts)
        head = "Whether thresholds help is not known" if unknown else "Thresholds are not shown to help"
    first = [group for group, one in against.items() if one.verdict == ("better" if helped else "worse")]
    clauses = [_clause(group, against[group], helped) for group in (*first, *(g for g in against if g not in first))]
    some = next(iter(against.values()))
    text = f"{head}: against {some.name}, {'; '.join(clauses)}."
    for reason in dict.fromkeys(one.reason for one in against.values() if one.reason):
        text += f" {reason[0].upper()}{reason[1:]}."
    return f"{text} {len(some.seeds)} paired seeds; the intervals of all groups hold together at {100 * level:.4g} %."


def _clause(group: str, one: Comparison, helped: bool) -> str:
    """What happens to a group; where another is helped, what it loses is the cost."""
    measured = difference(one) or "no seed has both scores"
    if one.verdict == "no verdict":
        return f"no verdict on {group} classes ({measured})"
    if one.verdict == "better":
        return f"{group} classes gain {measured} points"
    if helped and one.mean < 0:
        sure = {"worse": "", "equivalent": ", within the margin"}.get(one.verdict, ", not shown to differ from 0")
        return f"at a cost of {measured} on {group} ones{sure}"
    if one.verdict == "worse":
        return f"{group} classes lose, {measured} points"
    if one.verdict == "equivalent":
        return f"{group} classes stay within the margin ({measured})"
    return f"no difference is shown on {group} classes ({measured})"


# --- in the report ------------------------------------------------------------------------------------------------------------


def groups(summary: StudySummary, plots: Plots) -> Iterator[Block]:
    """The answer, the accuracies by group with their spread, and the winner's differences by group."""
    found = group_results(summary)
    if found is None:
        return
    yield Heading("Groups of classes")
    for sentence in thresholds_answer(summary):
        yield Paragraph(sentence)
    told = ", ".join(f"{size} {group}" for group, size in found.sizes.items())
    yield Table(
        ["method", "seeds", *found.groups],
        [
            [name, int(np.isfinite(scores[BALANCED]).sum()), *(spread(scores[group]) for group in found.groups)]
            for name, scores in found.scores.items()
        ],
        f"The classifier on test, percent: mean over the classes of a group; mean and standard deviation over seeds. Classes: "
        f"{told}. Minor: at most {summary.config.data.boundary} training images; many: above {MANY}; few: below "
        f"{FEW}.",
    )
    names = [name for name in found.scores if name != WINNER]
    yield Table(
        ["winner minus", *found.groups],
        [
            [name, *(difference(found.comparisons[group][place]) for group in found.groups)]
            for place, name in enumerate(names)
        ],
        f"Points, paired by seed; the intervals of all baselines and groups hold together at {100 * found.level:.4g} %.",
    )


def spread(values: Floats, digits: int = 2) -> str | None:
    """'71.20 ± 0.42': mean and standard deviation over the seeds there are; None where there is none."""
    return _plus_minus(mean_of(values), sd_of(values), digits)


def estimate(values: Floats, digits: int = 2) -> str | None:
    """'71.20 ± 0.52': mean and half the width of its 95 % Student-t interval; the mean alone of one, None where there is none."""
    return _plus_minus(mean_of(values), half_width_of(values), digits)


def _plus_minus(mean: float, around: float, digits: int) -> str | None:
    if np.isnan(mean):
        return None
    text = f"{mean:.{digits}f}" if np.isnan(around) else f"{mean:.{digits}f} ± {around:.{digits}f}"
    return text.replace("-", "−")


def difference(one: Comparison, digits: int = 2) -> str | None:
    """'+0.42 [−0.10, +0.94]'; None where no seed has both scores."""
    if np.isnan(one.mean):
        return None
    mean = signed(one.mean, digits)
    return mean if np.isnan(one.half_width) else f"{mean} {interval(one.low, one.high, digits)}"


def groups_json(summary: StudySummary) -> dict[str, Any] | None:
    """The same as plain values, for `verdict.json`: scores and differences in points."""
    found: GroupResults | None = group_results(summary)
    if found is None:
        return None
    return {
        "answer": thresholds_answer(summary),
        "level": found.level,
        "classes": dict(found.sizes),
        "scores": {
            name: {group: values.tolist() for group, values in scores.items()} for name, scores in found.scores.items()
        },
        "differences": {group: [asdict(one) for one in some] for group, some in found.comparisons.items()},
    }
