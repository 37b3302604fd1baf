"""The tables of several studies beside each other; different objectives stand in different columns and are never mixed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

import numpy as np

from divfeat.methods import method_named, parts_of
from divfeat.objectives import Measure
from divfeat.report.arrays import Floats
from divfeat.report.document import Block, Cell, Code, Heading, Paragraph, Table, cell_text
from divfeat.report.findings import geometry_cells
from divfeat.report.group_words import difference, spread
from divfeat.report.outcomes import winner_angles, winner_family
from divfeat.report.pairs import MethodPair, Pair, Pairs, commit_of
from divfeat.report.several import Titled
from divfeat.report.summary import WINNER, Objective, Runs, StudySummary
from divfeat.report.words import short_angle, signed
from divfeat.search.jobs import numbers_in_short
from divfeat.search.ledger import Ledger
from divfeat.statistics import MIN_SEEDS, ZERO_SPREAD, Comparison, listed
from divfeat.study_config import plain_of
from divfeat.thresholds import Number

#: Of a report's columns on the features, those shown here.
_GEOMETRY = ("NC1", "rank", "own cone", "60°", "accuracy", "terminal")
#: Digits of a hash that a table shows.
_SHORT = 8


# --- what they are ------------------------------------------------------------------------------------------------------------


def about(studies: Sequence[Titled]) -> Iterator[Block]:
    """A row a study: data, objective, size, and which program ran it when; in what all agree is said once."""
    yield Heading("The studies")
    facts = [_facts(summary) for _, summary in studies]
    alike = [name for name in facts[0] if len({one[name] for one in facts}) == 1]
    apart = [name for name in facts[0] if name not in alike]
    if alike:
        yield Paragraph(f"All of them: {'; '.join(f'{name} {cell_text(facts[0][name])}' for name in alike)}.")
    rows = [[title, *(one[name] for name in apart)] for (title, _), one in zip(studies, facts, strict=True)]
    yield Table(
        ["study", *apart],
        rows,
        "Split: first digits of the hash over the confirmation's training and test images. Seeds: of the confirmation. Trials: "
        "of the search over thresholds. Times are UTC.",
    )


def _facts(summary: StudySummary) -> dict[str, Cell]:
    known = ran(summary)
    return {
        "preset": summary.config.preset,
        "data": _data(summary),
        "split": known["split"],
        "objective": " and ".join(summary.config.search.objectives),
        "seeds": known["seeds"],
        "epochs": summary.config.train.epochs,
        "trials": len(summary.trials),
        "commit": known["commit"],
        "ran": known["when"],
        "state": known["state"],
    }


def ran(summary: StudySummary) -> dict[str, str | None]:
    """On which images, over which seeds, by which commit, when, and whether to the end; None where that is unknown."""
    split = summary.provenance["split_hash"] if summary.confirmed else None
    seeds = [seed for runs in summary.confirmed[:1] for seed in runs.seeds]
    times = [datetime.fromtimestamp(time, UTC) for time in summary.span or ()]
    same_day = len({time.date() for time in times}) == 1
    when = f"{times[0]:%Y-%m-%d %H:%M} to {times[1]:{'%H:%M' if same_day else '%Y-%m-%d %H:%M'}}" if times else None
    return {
        "split": split[:_SHORT] if isinstance(split, str) else None,
        "seeds": f"{seeds[0]} to {seeds[-1]}" if seeds else None,
        "commit": commit_of(summary),
        "when": when,
        "state": "not finished" if _lacks(summary) else "finished",
    }


def _data(summary: StudySummary) -> str:
    """'torchvision:CIFAR100, coarse labels, imbalance 20'."""
    data = summary.config.data
    tail = f", imbalance {data.imbalance:g}" if data.imbalance is not None else ""
    return f"{data.source}, {data.train_level} labels{tail}"


# --- what won ---------------------------------------------------------------------------------------------------------------


def winners(studies: Sequence[Titled]) -> Iterator[Block]:
    """A row a study: what won, at which thresholds, and its objective on validation and on test."""
    yield Heading("Winners")
    headers = ["study", "method", "letting go", "thresholds", "objective", "validation", "test"]
    rows: list[list[Cell]] = []
    for title, summary in studies:
        told = [title, *_winner(summary)]
        for place, objective in enumerate(summary.objectives):
            rows.append([*told, _named(objective), *_scores(summary, objective, place)])
        if not summary.objectives:
            rows.append([*told, None, None, None])
    yield Table(
        headers,
        rows,
        "Mean and standard deviation over the selection seeds on validation (what won is the best of several there, which "
        "flatters it), and over the confirmation seeds on test; geometry is that of the training images in both.",
    )
    for title, summary in studies:
        yield Paragraph(f"{title}. {summary.sentence}")


def _winner(summary: StudySummary) -> list[Cell]:
    """Its method, way of letting go and thresholds."""
    method = summary.winner_method
    if method is None:
        return ["none yet", None, None]
    named = method_named(method.name)
    own = numbers_in_short(parts_of(method).other_than(named.parts))
    name = f"{method.name} {own}".strip()
    if not named.hinge:
        return [name, "any", "none (τ⁺ = 0)"]
    family = winner_family(summary)
    values = [
        f"{parameter} {f'{value:.2f}' if isinstance(family.other(parameter), Number) else short_angle(value)}"
        for parameter, value in winner_angles(summary).items()
    ]
    return [name, method.release, ", ".join(values)]


def _named(objective: Objective) -> str:
    return f"{objective.measure.short}{objective.measure.suffix}"


def _scores(summary: StudySummary, objective: Objective, place: int) -> list[Cell]:
    assert summary.winner is not None
    found = summary.winner["winner"].get("values")
    digits = objective.measure.digits
    chosen = objective.measure.scale * np.asarray(found[place] if found else [], dtype=np.float64)
    return [spread(chosen, digits), spread(objective.scores[WINNER], digits)]


# --- against the baselines ----------------------------------------------------------------------------------------------------


def against_baselines(studies: Sequence[Titled]) -> Iterator[Block]:
    """The winner minus each baseline, with interval and verdict."""

    def cell(objective: Objective, name: str) -> Cell:
        one = next((one for one in objective.verdict.comparisons if one.name == name), None)
        if one is None or one.same_config:
            return "" if one is None else "is the winner"
        shown = _difference(one, objective.measure)
        return f"{shown or ''} {'in every seed' if one.half_width <= ZERO_SPREAD else one.verdict}".strip()

    columns = _columns(studies)
    names = dict.fromkeys(one.name for *_, objective in columns for one in objective.verdict.comparisons)
    if not names:
        return
    yield Heading("Winner minus baselines")
    levels = sorted({f"{100 * (1 - o.verdict.alpha / o.verdict.looks):.4g} %" for *_, o in columns})
    margins = sorted({f"±{o.verdict.margin:g}" for *_, o in columns if not o.measure.plain})
    equivalent = f" Equivalent: within {' or '.join(margins)} points." if margins else ""
    yield _matrix(
        "winner minus",
        list(names),
        [(f"{title}: {objective.measure.short}", objective) for title, _, objective in columns],
        cell,
        "Test, points (what is no share as it is; geometry of the training images), paired by seed. The intervals of one study "
        "hold together at "
        f"{' or '.join(levels)}, each study by itself.{equivalent} Empty: not in that study.",
    )


def _difference(one: Comparison, measure: Measure) -> str | None:
    """With its interval, where the seeds differ and give one."""
    if one.half_width <= ZERO_SPREAD:
        return signed(one.mean, measure.digits)
    return difference(one, measure.digits)


def every_method(studies: Sequence[Titled]) -> Iterator[Block]:
    """Each method's own score in each study."""
    columns = _columns(studies)
    names = dict.fromkeys(name for *_, objective in columns for name in objective.scores if name != WINNER)
    if not columns:
        return

    def cell(objective: Objective, name: str) -> Cell:
        found: Floats | None = objective.scores.get(name)
        return "" if found is None else spread(found, objective.measure.digits)

    yield Heading("Every method")
    yield _matrix(
        "method",
        [*names, WINNER],
        [(f"{title}: {_named(objective)}", objective) for title, _, objective in columns],
        cell,
        "Test: mean and standard deviation over the confirmation seeds, last epoch; geometry of the training images. Empty: not "
        "in that study. Columns of different objectives or images are not to be read against each other.",
    )


def _columns(studies: Sequence[Titled]) -> list[tuple[str, StudySummary, Objective]]:
    """One a study and objective of which something is confirmed."""
    return [
        (title, summary, objective)
        for title, summary in studies
        for objective in summary.objectives
        if any(np.isfinite(values).any() for values in objective.scores.values())
    ]


def _matrix(
    corner: str,
    names: Sequence[str],
    columns: Sequence[tuple[str, Objective]],
    cell: Callable[[Objective, str], Cell],
    caption: str,
) -> Table:
    """A row a method and a column a study, or the other way round where there are more studies than methods."""
    if len(columns) > len(names):
        rows = [[title, *(cell(objective, name) for name in names)] for title, objective in columns]
        return Table(["study", *(f"{corner} {name}" if corner != "method" else name for name in names)], rows, caption)
    rows = [[name, *(cell(objective, name) for _, objective in columns)] for name in names]
    return Table([corner, *(title for title, _ in columns)], rows, caption)


# --- the same images ------------------------------------------------------------------------------------------------------------


def same_images(pairs: Pairs) -> Iterator[Block]:
    """What was changed between two studies of the same images, and what became of each method."""
    yield Heading("Study against study")
    if pairs.count:
        looks = (
            f", shared by the {pairs.looks} winners that a study's test images have judged" if pairs.looks > 1 else ""
        )
        yield Paragraph(
            "A study is held against the first one before it that saw the same training and test images and has an objective of "
            f"it. Differences are paired by seed; the intervals of all {pairs.count} of this section hold together at "
            f"{100 * pairs.level:.4g} % (Bonferroni{looks}). They count the seeds, not that the test images are a sample."
        )
    for pair in pairs.pairs:
        yield from _pair(pair)
    reasons: dict[str, list[str]] = {}
    for title, reason in pairs.unpaired.items():
        reasons.setdefault(reason, []).append(title)
    for reason, titles in reasons.items():
        yield Paragraph(f"Held against no other study: {listed(titles)} ({reason}).")


def _pair(pair: Pair) -> Iterator[Block]:
    yield Heading(f"{pair.study} minus {pair.reference}", 3)
    if pair.changes:
        yield Paragraph(f"What differs ({pair.reference} -> {pair.study}):")
        yield Code("\n".join(pair.changes))
    else:
        yield Paragraph("Nothing differs in settings, trials, commit, device or versions.")
    for objective in dict.fromkeys(one.objective for one in pair.methods):
        some = [one for one in pair.methods if one.objective == objective]
        yield _pair_table(pair, some)
        yield Paragraph(_plainly(pair, some))
    if pair.alone:
        told = [f"{method} ({title})" for method, title in pair.alone]
        yield Paragraph(f"Confirmed in one of the two alone, so not compared: {listed(told)}.")


def _pair_table(pair: Pair, some: Sequence[MethodPair]) -> Table:
    measure = some[0].measure
    rows: list[list[Cell]] = []
    for one in some:
        first, second = (spread(values, measure.digits) for values in one.scores)
        found = one.comparison
        shown = _difference(found, measure) if found else None
        words = one.why_not
        if found is not None:
            same = found.half_width <= ZERO_SPREAD
            words = found.reason if same else ": ".join(filter(None, [found.verdict, found.reason]))
        seeds = int(np.isfinite(one.scores[1] - one.scores[0]).sum())
        rows.append([_called(one), first, second, seeds, shown, words])
    levels = {one.comparison.level for one in some if one.comparison}
    level = f"; each interval at {100 * levels.pop():.4g} %" if levels else ""
    where = "training images" if measure.geometry else "test"
    return Table(
        ["method", pair.reference, pair.study, "seeds", "difference", "verdict"],
        rows,
        f"{measure.short[0].upper()}{measure.short[1:]}{measure.suffix} on {where}: means and standard deviations over the seeds "
        f"of both; {pair.study} minus {pair.reference}{measure.points and ' in points'}{level}.",
    )


def _called(one: MethodPair) -> str:
    """The method; a winner that both studies have with what people call it."""
    first, second = one.configurations
    return f"{one.method} ({first})" if one.method == WINNER and first == second else one.method


def _plainly(pair: Pair, some: Sequence[MethodPair]) -> str:
    """What the table says, in one sentence for each kind of finding."""
    kinds: dict[str, list[str]] = {}
    for one in some:
        kinds.setdefault(_finding(pair, one), []).append(one.method)
    return " ".join(f"{listed(names)}: {finding}." for finding, names in kinds.items())


def _finding(pair: Pair, one: MethodPair) -> str:
    found = one.comparison
    again = " (the very same experiments, run twice)" if one.repeated else ""
    if found is None:
        return "not compared"
    if found.reason.startswith("the same"):
        return f"{found.reason}{again}"
    words = {
        "equivalent": f"equivalent, within ±{pair.margin:g} points",
        "not shown": "no difference shown",
        "no verdict": "no verdict",
    }.get(found.verdict, f"{found.verdict} in {pair.study}")
    return f"{words}{again}"


# --- features, and what is missing ----------------------------------------------------------------------------------------------


def geometry(studies: Sequence[Titled]) -> Iterator[Block]:
    """Of each study the winner's features and those of plain cross-entropy."""
    rows = [
        [title, runs.name, *(geometry_cells(runs)[column] for column in _GEOMETRY)]
        for title, summary in studies
        for runs in _shown(summary)
        if runs.completed
    ]
    if not rows:
        return
    yield Heading("Collapse and diversity of the features")
    yield Table(
        ["study", "method", *_GEOMETRY],
        rows,
        "Training features after the projector, where there is one; means over the confirmation seeds: NC1, numerical rank, "
        "percent of features inside their own cone and within 60° of their class axis, training accuracy in percent, seeds that "
        "reached the terminal phase (99.9 %). Beside the winner CE, or where it was not confirmed the searched method without "
        "cones.",
    )


def _shown(summary: StudySummary) -> list[Runs]:
    names = [runs.name for runs in summary.confirmed]
    plain = "ce" if "ce" in names else plain_of(names) or summary.coneless
    return [runs for runs in summary.confirmed if runs.name in (WINNER, plain)]


def missing(studies: Sequence[Titled]) -> Iterator[Block]:
    """What studies lack."""
    rows: list[list[Cell]] = [[title, sentence] for title, summary in studies for sentence in _lacks(summary)]
    if rows:
        yield Heading("What is missing")
        yield Table(
            ["study", "missing"],
            rows,
            f"A verdict takes {MIN_SEEDS} seeds without a gap; the command of a study goes on with it.",
        )


def _lacks(summary: StudySummary) -> list[str]:
    if summary.missing or Ledger(summary.folder).phase("done") is not None:
        return list(summary.missing)
    return ["The study has not come to its end."]
