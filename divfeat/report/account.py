"""Sections of a report that say how it was found: search, calibration, test reads, provenance, the lines to run again."""

from __future__ import annotations

import math
from collections.abc import Iterator

from divfeat.config import MethodConfig
from divfeat.methods import method_named, parts_of
from divfeat.objectives import OBJECTIVES
from divfeat.ranges import RANGES
from divfeat.report import stability, tradeoffs
from divfeat.report.arrays import mean_of
from divfeat.report.commands import extractor_lines, mlflow_command, mlflow_server, optuna_command, study_command
from divfeat.report.document import Block, Cell, Code, Heading, Paragraph, Table
from divfeat.report.findings import Plots, figures_of
from divfeat.report.summary import StudySummary, Trial
from divfeat.report.words import value_cell
from divfeat.search.jobs import name_of, numbers_in_short
from divfeat.statistics import listed
from divfeat.thresholds import Number, Offset, family_named

#: Rows of the table of proposals.
_MOST_PROPOSALS = 60
#: Column of the table of proposals -> field of a trial, and what the caption says of it.
_HELD = {"inside (%)": "inside", "of the loss (%)": "taken"}
_HELD_MEANS = {
    "inside (%)": " Inside: the largest share over the epochs of training images whose features lay within their class's cone.",
    "of the loss (%)": " Of the loss: the share of the whole training's cross-entropy that images inside their cone carried, "
    "which is what a gate takes away.",
}


# --- search -----------------------------------------------------------------------------------------------------------------


def search(summary: StudySummary, plots: Plots) -> Iterator[Block]:
    """How the search went: counts, history, candidates and their selection, proposals."""
    yield Heading("Search")
    search = summary.config.search
    family = family_named(search.family)
    by_status = {
        status: [trial for trial in summary.trials if trial.status == status]
        for status in ("completed", "pruned", "failed", "not finished")
    }
    always = ("completed", "failed")
    counted = ", ".join(f"{len(some)} {status}" for status, some in by_status.items() if some or status in always)
    different = len({trial.key for trial in summary.trials})
    text = (
        f"{len(summary.trials)} proposals ({counted}), {different} different trainings, one seed, on validation. Family "
        f"'{family.name}': {family.summary}"
    )
    if family.parameters:
        text += f", {_ranges(summary)}; ways of letting go: {listed(search.releases)}"
    text += f"{_searched_method(summary)}; sampler {search.sampler}"
    if search.refine:
        stages = [
            f"{sum(t.family == name for t in summary.trials)} in '{name}'" for name in (*search.refine, search.family)
        ]
        text += f"; refined from plain to rich families, {listed(stages)}, each knowing what those before it measured"
    yield Paragraph(text + ("; trials that lag behind are pruned." if search.asha else "."))
    yield from tradeoffs.constraints(summary)
    yield from figures_of(plots, "search", "front")
    yield from tradeoffs.front(summary)
    if by_status["failed"]:
        yield Table(
            ["trial", "method", "cause"],
            [[trial.number, trial.name, trial.error] for trial in by_status["failed"]],
            "Failed trials.",
        )
    if search.stop:
        stopped: list[list[Cell]] = [
            [trial.number, trial.name, trial.error] for trial in by_status["pruned"] if trial.stopped
        ]
        yield Table(["trial", "method", "reason"], stopped, f"Trials ended by search.stop: {len(stopped)}.")
    yield from stability.told(summary.stability, search.promote)
    if summary.selected:
        yield Heading("Candidates and selection", 3)
        yield Table(*_selection(summary))
    yield Heading("Proposals", 3)
    yield from _hollow_cones(summary)
    shown = summary.trials
    caption = "As proposed."
    if by_status["pruned"]:
        caption += " A pruned trial shows the last value measured, after so many epochs: it compares with those of as many only."
    for column in _held(summary):
        caption += _HELD_MEANS[column]
    if len(shown) > _MOST_PROPOSALS:
        sign = summary.measure.sign

        def rank(trial: Trial) -> tuple[int, float]:
            return (0, 0.0) if math.isnan(trial.values[0]) else (trial.epochs, sign * trial.values[0])

        shown = tuple(sorted(sorted(shown, key=rank)[-_MOST_PROPOSALS:], key=lambda trial: trial.number))
        caption += f" The {len(shown)} best of {len(summary.trials)}"
        caption += ", of more epochs before those of fewer" if by_status["pruned"] else ""
        caption += "; the others are in the folder proposals/."
    scores = [f"{name}{OBJECTIVES[name].suffix}" for name in search.objectives]
    yield Table(
        ["trial", "method", "status", *(["epochs"] if by_status["pruned"] else []), *scores, *_held(summary)],
        [
            [
                trial.number,
                _proposed(summary, trial),
                trial.outcome,
                *([trial.epochs or None] if by_status["pruned"] else []),
                *_shown(summary, trial),
            ]
            for trial in shown
        ],
        caption,
    )


def _hollow_cones(summary: StudySummary) -> Iterator[Block]:
    """How many trials had cones that held hardly any image in any epoch: what they scored says nothing of wider ones."""
    trials = [trial for trial in summary.trials if trial.status == "completed" and not math.isnan(trial.inside)]
    if hollow := sum(trial.hollow for trial in trials):
        yield Paragraph(
            f"Cones that bind: in {hollow} of the {len(trials)} finished trials with cones these never held 1 % of the training "
            "images of the classes that have them, so they changed hardly anything, and their scores are much those of no cones. "
            "Wider angles (search.low, search.high) or a longer training make cones bind."
        )


def _shown(summary: StudySummary, trial: Trial) -> list[Cell]:
    """Its values in the objectives' units, and what its cones held."""
    names = summary.config.search.objectives
    values = [value_cell(OBJECTIVES[name], value) for name, value in zip(names, trial.values, strict=True)]
    held = (getattr(trial, field) for field in _held(summary).values())
    return [*values, *(None if math.isnan(share) else f"{share:.1f}" for share in held)]


def _held(summary: StudySummary) -> dict[str, str]:
    """Column -> field of a trial, of what cones held, as far as any trial tells."""
    return {
        column: field
        for column, field in _HELD.items()
        if not all(math.isnan(getattr(trial, field)) for trial in summary.trials)
    }


def own_numbers(summary: StudySummary, plots: Plots) -> Iterator[Block]:
    """What the baselines' own numbers are, and how they were found."""
    if not summary.own_numbers:
        return
    yield Heading("The baselines' own numbers")
    if not summary.config.protocol.tune:
        names = [one.name for one in summary.own_numbers]
        given = [name for name in names if summary.config.protocol.own.get(name)]
        but = f", {listed(given)} at the numbers that protocol.own gives" if given else ""
        yield Paragraph(
            f"Not searched (protocol.tune is off): {listed(names)} {'stand' if len(names) > 1 else 'stands'} as published{but}. "
            "A baseline that was not tuned is not beaten."
        )
        return
    rows: list[list[Cell]] = [
        [
            one.name,
            one.trials,
            one.completed,
            numbers_in_short(one.published),
            "not frozen yet" if one.found is None else numbers_in_short(one.found),
            value_cell(summary.measure, one.score),
        ]
        for one in summary.own_numbers
    ]
    ranges = {part: RANGES[part] for one in summary.own_numbers for part in one.published}
    yield Table(
        ["baseline", "trials", "completed", "at first", "found", f"{summary.score_name}{summary.measure.suffix}"],
        rows,
        "Searched on validation the way the thresholds are, one search a baseline: the same seed, objective, sampler"
        f"{', constraints' * bool(summary.bounds)} and number of trials, first the values that are published, or given "
        "(protocol.own); of the best few, again on the selection seeds, the rule that decides the winner takes one, whose mean "
        "is given. "
        f"Ranges: {'; '.join(f'{part} {side}' for part, side in ranges.items())}.",
    )


def _searched_method(summary: StudySummary) -> str:
    """The searched method where it is not plain HingeCE, and what of it is searched too; else ""."""
    search = summary.config.search
    if not _another_base(summary):
        return ""
    named = method_named(search.method.name)
    changed = numbers_in_short(parts_of(search.method).other_than(named.parts))
    text = f"; thresholds of {search.method.name}{f' with {changed}' if changed else ''}"
    own = [f"its {part} ({RANGES[part]})" for part in search.own]
    return f"{text}, {listed(own)} searched with them" if own else text


def _another_base(summary: StudySummary) -> bool:
    """Whether angles alone do not say what was trained: another method than plain HingeCE, or numbers of it searched too."""
    search = summary.config.search
    return search.method != MethodConfig() or bool(search.own)


def _ranges(summary: StudySummary) -> str:
    """Of the angles together, of each other parameter by its name."""
    search = summary.config.search
    family = family_named(search.family)
    found = []
    if len(family.others) < len(family.parameters):
        found.append(f"{math.degrees(search.low):g}° to {math.degrees(search.high):g}°")
    for side in family.space(search.low, search.high):
        match family.other(side.name):
            case Offset():
                found.append(f"{side.name} up to {math.degrees(side.high):g}° to either side")
            case Number():
                found.append(f"{side.name} {side.low:g} to {side.high:g}")
    return ", ".join(found)


def _proposed(summary: StudySummary, trial: Trial) -> str:
    if not trial.angles:
        return trial.name
    family = family_named(summary.config.search.family)
    search = summary.config.search
    if family.others or search.refine or _another_base(summary):
        return trial.name
    angles = " / ".join(f"{math.degrees(value):.1f}°" for value in trial.angles.values())
    return f"{trial.release} {angles}" + (" (= CE+ETF)" if trial.name == "ce_etf" else "")


def _selection(summary: StudySummary) -> tuple[list[str], list[list[Cell]], str]:
    count = len(summary.selected) - len(summary.baselines_on_validation)
    rows: list[list[Cell]] = []
    for place, runs in enumerate(summary.selected):
        values = runs.shown(summary.measure)
        candidate = summary.winner["candidates"][place] if summary.winner and place < count else None
        kind = "baseline" if candidate is None else "candidate"
        if candidate is not None and summary.winner and candidate["key"] == summary.winner["winner"]["key"]:
            kind = "winner"
        measure = summary.measure
        searched = value_cell(measure, measure.scale * candidate["search_values"][0]) if candidate else None
        found = (value_cell(summary.measure, value) for value in (*values.tolist(), mean_of(values)))
        rows.append([runs.name, kind, searched, *found])
    seeds = summary.selected[0].seeds
    caption = (
        f"Validation {summary.score_name}{', percent' * (summary.measure.unit == 'share')}. The best candidates of the search on "
        "further seeds; the best mean wins and is frozen. Baselines run on the same seeds and take no part in the choice."
    )
    if summary.bounds:
        caption += " Candidates that keep the constraints in their means go before others."
    if len(summary.config.search.objectives) > 1:
        caption += " Two objectives: the winner is the point of the Pareto front closest to the best of both, each scaled to it."
    return ["method", "", "search", *(f"seed {seed}" for seed in seeds), "mean"], rows, caption


def calibration(summary: StudySummary, plots: Plots) -> Iterator[Block]:
    """What learning rate and weight decay were frozen on."""
    yield Heading("Learning rate and weight decay")
    train, found, rules = summary.trained.train, summary.calibration, summary.config.protocol
    if found is None and (rules.learning_rates or rules.weight_decays):
        yield Paragraph("Not frozen yet: plain cross-entropy has not been tried at every setting.")
        return
    if found is None:
        yield Paragraph(
            f"As given: learning rate {train.lr:g}, weight decay {train.weight_decay:g}, for every method alike."
        )
        return
    rows: list[list[Cell]] = [
        [f"{row['lr']:g}", f"{row['weight_decay']:g}", _percent(row["value"])] for row in found["tried"]
    ]
    yield Table(
        ["learning rate", "weight decay", "CE's validation accuracy (%)"],
        rows,
        f"Frozen on plain cross-entropy before the search: learning rate {train.lr:g}, weight decay {train.weight_decay:g}, for "
        "every method alike.",
    )
    for what, field, tried in (
        ("learning rate", "lr", rules.learning_rates),
        ("weight decay", "weight_decay", rules.weight_decays),
    ):
        if len(tried) > 1 and found[field] in (min(tried), max(tried)):
            end = "lowest" if found[field] == min(tried) else "highest"
            yield Paragraph(f"The {what} chosen is the {end} of those tried: a better one may lie beyond.")


def _percent(share: float | None) -> float:
    return math.nan if share is None else 100 * share


# --- what it rests on ------------------------------------------------------------------------------------------------------


def reads_of_test(summary: StudySummary, plots: Plots) -> Iterator[Block]:
    """How often the test set was read, and for what."""
    yield Heading("Reads of the test set")
    own = summary.test_reads - len(summary.other_reads)
    text = f"{summary.test_reads} in all, noted before each: {own} by winner and baselines on the confirmation seeds."
    if summary.other_reads:
        text += (
            f" {len(summary.other_reads)} belong to experiments that are not in this confirmation, such as those of "
            f"an earlier winner of the same study: {'; '.join(summary.other_reads)}. The more winners are shown the test set, "
            "the less it is new."
        )
    yield Paragraph(text)


def provenance(summary: StudySummary, plots: Plots) -> Iterator[Block]:
    """What produced the numbers: configuration, data, commit, versions, sizes, runs and their failures."""
    yield Heading("Provenance")
    facts = summary.provenance
    versions = facts["versions"]
    rows: list[list[Cell]] = [
        ["configuration", summary.config.identity],
        ["data", f"{summary.config.data.source}, trained on {summary.config.data.train_level} labels, probed on "
                 f"{summary.config.data.probe_level} ones"],
        ["split of the search", f"{_said(facts['search_split_hash'])}: {_said(facts['search_train_images'])} training, "
                                f"{_said(facts['validation_images'])} validation images"],
        ["split of the confirmation", f"{_said(facts['split_hash'])}: {_said(facts['train_images'])} training, "
                                      f"{_said(facts['evaluation_images'])} test images"],
        ["content of the training images", _said(facts["train_hash"])],
        ["content of the test images", _said(facts["evaluation_hash"])],
        ["backbone", summary.config.model.backbone],
        ["epochs", f"{summary.config.train.epochs}, the last one counts"],
        ["commit", _said(facts["commit"])],
        ["device", _said(facts["device"])],
        ["workers a training", _said(facts["workers"])],
        ["versions", ", ".join(f"{name} {_said(version)}" for name, version in versions.items()) or None],
    ]  # fmt: skip
    yield Table(["what", "value"], rows)
    sizes: list[list[Cell]] = []
    for runs in summary.confirmed:
        if runs.completed:
            fact = runs.completed[0]["provenance"]
            strength, before = (runs.values(f"probe/strength{end}") for end in ("", "_before"))
            numbers = [
                fact["parameter_count"],
                fact["feature_dim"],
                f"{mean_of(strength):.3g}",
                f"{mean_of(before):.3g}",
            ]
            sizes.append([runs.name, name_of(runs.method), *numbers])
    if sizes:
        headers = ["method", "configuration", "parameters", "feature dim.", "probe's wd", "before projector"]
        yield Table(headers, sizes)
    if summary.counts:
        yield Table(
            ["phase", "completed", "pruned", "failed", "unfinished", "minutes"],
            [
                [phase, count.completed, count.pruned, count.failed, count.unfinished, f"{count.seconds / 60:.1f}"]
                for phase, count in summary.counts.items()
            ],
            "Runs, each counted where it was first needed; phases share what they have in common. Minutes of training and "
            "measuring, summed over completed runs.",
        )
    causes: list[list[Cell]] = [
        [phase, cause, times] for phase, count in summary.counts.items() for cause, times in count.causes.items()
    ]
    if causes:
        yield Table(["phase", "cause of failure", "runs"], causes)


def _said(value: object) -> str:
    """A value the runs agree on, or all they have, marked."""
    if isinstance(value, list):
        return f"{', '.join(map(str, value))} (the runs differ)"
    return "unknown" if value is None else str(value)


def notes(summary: StudySummary, plots: Plots) -> Iterator[Block]:
    """What the runs say themselves."""
    if summary.notes:
        yield Heading("What the runs say themselves")
    for note in summary.notes:
        yield Paragraph(f"{note[0].upper()}{note[1:]}.")


def reproduce(summary: StudySummary, plots: Plots) -> Iterator[Block]:
    """Lines to copy."""
    yield Heading("Again, and further")
    yield Paragraph("The study; in the same place the line resumes it, and a larger --trials extends it:")
    yield Code(study_command(summary), "bash")
    server, command = mlflow_server(summary), mlflow_command(summary)
    yield Paragraph(
        f"Every training in MLflow{f', at {server}' if server else ''}, and the search in Optuna's dashboard:"
    )
    yield Code("\n".join(filter(None, [command, optuna_command(summary)])), "bash")
    if (lines := extractor_lines(summary)) is not None:
        yield Paragraph("The winner's feature extractor (the selection seed at the validation median):")
        yield Code(lines, "python")
