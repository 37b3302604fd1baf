"""What MLflow's pages say of a finished study: the description of its run, and of the registered extractor. Markdown."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from divfeat.methods import method_named
from divfeat.report.arrays import mean_of, sd_of
from divfeat.report.commands import extractor_lines, study_command
from divfeat.report.document import Block, Cell, Code, Heading, Paragraph, Table, blocks_to_markdown
from divfeat.report.outcomes import winner_angles, winner_family
from divfeat.report.summary import WINNER, Objective, StudySummary
from divfeat.report.words import interval, signed, value_cell

#: Rows of a table: MLflow keeps some thousand characters of a description, and the report has all of them.
_MOST_ROWS = 12
#: Figures that the description leads to one by one, where there are such.
_SHOWN = ("accuracy_by_threshold", "two_thresholds", "confirmation", "diversity_by_threshold")

if TYPE_CHECKING:  # importing MLflow takes seconds
    from divfeat.tracking.page import Place


@dataclass(frozen=True)
class ModelPage:
    """What MLflow says of the registered extractor: description of model and version, tags of both."""

    description: str
    of_version: str
    tags: Mapping[str, str]


def study_page(summary: StudySummary, place: Place, said: Sequence[str], files: Mapping[str, Path]) -> str:
    """Description of the study's run.

    Args:
        summary: Of the study.
        place: Where it is in MLflow.
        said: What the terminal says below the verdict, line by line.
        files: Of the report, by their path below `report/`.
    """
    report, figures = (place.artifact(f"report/{name}") for name in ("report.html", "figures"))
    links = f"**[Report]({report})** · [figures]({figures}) · [all settings]({place.artifact('config.yaml')})"
    shown = [name for name in _SHOWN if f"figures/{name}.png" in files]
    # Links and no images: MLflow shows these as wide as they are, and cuts the text beside them off.
    links += "".join(f" · [{name}]({place.artifact(f'report/figures/{name}.png')})" for name in shown)
    blocks: list[Block] = [Paragraph(line.strip()) for line in said if line.strip()]
    for objective in summary.objectives:
        blocks.append(differences(objective))
    if summary.objectives:
        blocks.append(geometry(summary))
    blocks += [Heading("Again", 4), Code(_folded(study_command(summary)), "bash")]
    return f"**{_plain(summary.sentence)}**\n\n{links}\n\n{blocks_to_markdown(blocks)}"


def differences(objective: Objective) -> Table:
    """Winner minus each baseline, as the verdict has it."""
    measure, found = objective.measure, objective.verdict.comparisons
    level = f"{100 * found[0].level:g} % " if found else ""
    rows: list[list[Cell]] = [
        [one.name, signed(one.mean, measure.digits), interval(one.low, one.high, measure.digits), one.verdict]
        for one in found
    ]
    where = "on the training images" if measure.geometry else "on test"
    return Table(
        ["winner minus", f"{measure.short}{measure.points}", f"{level}interval", "verdict"],
        rows[:_MOST_ROWS],
        f"{measure.short[0].upper()}{measure.short[1:]} {where}{_left_out(rows)}.",
    )


def geometry(summary: StudySummary) -> Table:
    """Score and geometry of winner and baselines, means over the confirmation seeds."""
    objective = summary.objectives[0]
    rows: list[list[Cell]] = []
    for runs in summary.confirmed:
        if not runs.completed:
            continue
        reached, done = runs.terminal
        hinged = method_named(runs.method.name).hinge
        score = mean_of(objective.scores[runs.name]) if runs.name in objective.scores else math.nan
        rows.append(
            [
                summary.title(runs.name),
                value_cell(objective.measure, score),
                f"{mean_of(runs.values('collapse/nc1')):.3g}",
                mean_of(runs.values("collapse/numerical_rank")),
                f"{mean_of(runs.points('cone/occupancy')):.1f}" if hinged else None,
                f"{reached} of {done}",
            ]
        )
    return Table(
        [
            "method",
            f"{objective.measure.short}{objective.measure.suffix}",
            "NC1",
            "numerical rank",
            "in own cone (%)",
            "terminal",
        ],
        rows[:_MOST_ROWS],
        f"Means over the confirmation seeds; geometry of the training features{_left_out(rows)}.",
    )


def model_page(summary: StudySummary, place: Place) -> ModelPage | None:
    """What there is to say of the registered extractor; None where none was registered."""
    if summary.registered is None or summary.winner is None or summary.primary is None:
        return None
    objective, found, winner = summary.primary, summary.registered, summary.winner["winner"]
    measure, facts, study = objective.measure, summary.provenance, summary.config
    angles = winner_family(summary).shown(winner_angles(summary))
    thresholds = ", ".join(f"{name} = {value:g}" for name, value in angles.items()) or "no thresholds"
    on_validation = measure.scale * found["value"]
    scores = objective.scores.get(WINNER)
    on_test = math.nan if scores is None else mean_of(scores)
    spread = "" if scores is None else f" ± {_number(sd_of(scores), measure.digits)} over {len(scores)} seeds"
    split = str(facts.get("search_split_hash") or facts.get("split_hash") or "unknown")
    commit = str(facts.get("commit") or "unknown")
    unit = " %" if measure.unit == "share" else ""
    loading = Code(extractor_lines(summary) or "", "python")
    came: list[Block] = [
        Table(
            ["where it came from", ""],
            [
                ["winner", winner["name"]],
                ["thresholds", thresholds],
                ["seed", f"{found['seed']}, at the median of the selection seeds on validation"],
                ["data", f"{study.data.source}, split {split}"],
                ["network", f"{study.model.backbone}, {study.train.epochs} epochs"],
                ["commit", commit],
            ],
        ),
        Table(
            ["how it did", f"{measure.short}{measure.suffix}"],
            [
                ["these weights on validation", f"{_number(on_validation, measure.digits)}{unit}"],
                [
                    "the same method on test, trained anew",
                    f"{_number(on_test, measure.digits)}{unit}{spread}",
                ],
            ],
        ),
        differences(objective),
        Paragraph("To load it:"),
        loading,
    ]
    head = (
        f"**{_plain(summary.sentence)}**\n\n[Study]({place.study}) · [report]({place.artifact('report/report.html')})"
    )
    about = (
        f"Feature extractor of study `{summary.name}`: uint8 images in, features out. A version is the winner of one search; "
        f"a search that was extended may have another."
    )
    tags = {
        "study": summary.name,
        "preset": study.preset,
        "commit": commit,
        "source": study.data.source,
        "split_hash": split,
        "method": summary.winner_method.name if summary.winner_method else winner["name"],
        "winner": winner["name"],
        **{name: f"{value:g}" for name, value in angles.items()},
        f"validation.{objective.name}": _number(on_validation, measure.digits),
        f"test.{objective.name}": _number(on_test, measure.digits),
    }
    return ModelPage(
        f"{about}\n\n{head}\n\n{blocks_to_markdown([came[1], loading])}",
        f"{head}\n\n{blocks_to_markdown(came)}",
        tags,
    )


def _left_out(rows: Sequence[object]) -> str:
    more = len(rows) - _MOST_ROWS
    return f"; {more} more in the report" if more > 0 else ""


def _folded(command: str) -> str:
    """A line for the shell with an option a line."""
    words = shlex.split(command)
    starts = [0, *(place for place, word in enumerate(words) if word.startswith("--"))]
    ends = [*starts[1:], len(words)]
    return " \\\n  ".join(shlex.join(words[start:end]) for start, end in zip(starts, ends, strict=True))


def _number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _plain(text: str) -> str:
    """One line that no Markdown reader takes for markup."""
    return blocks_to_markdown([Paragraph(text)])
