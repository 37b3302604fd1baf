"""Sections of a report that say what was found: verdict, thresholds, confirmation, noise, features."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping

import numpy as np

from divfeat.methods import method_named
from divfeat.objectives import OBJECTIVES
from divfeat.report.arrays import mean_of, sd_of
from divfeat.report.document import Block, Callout, Cell, Figure, Heading, Paragraph, Table
from divfeat.report.outcomes import as_good_text, class_angles, terminal_text, winner_angles, winner_family
from divfeat.report.plots import Plot
from divfeat.report.summary import WINNER, Objective, Runs, StudySummary
from divfeat.report.words import angle_cells, interval, parameter_cells, signed, value_cell
from divfeat.search.jobs import baseline, name_of
from divfeat.search.protocol import method_key
from divfeat.statistics import MIN_SEEDS, listed
from divfeat.thresholds import family_named

Plots = Mapping[str, Plot]

#: Metric on test -> header of its column.
_HEADERS = {
    "test/fine_top1": "fine probe",
    "test/fine_top1_before": "probe, before",
    "test/unseen_top1": "unseen",
    "test/unseen_top1_before": "unseen, before",
    "test/accuracy": "classifier",
    "test/accuracy_balanced": "balanced",
    "test/accuracy_major": "major",
    "test/accuracy_minor": "minor",
    "test/accuracy_many": "many",
    "test/accuracy_medium": "medium",
    "test/accuracy_few": "few",
    **{measure.test: measure.short for measure in OBJECTIVES.values() if measure.plain},
}
_PROBES = ("test/fine_top1", "test/fine_top1_before", "test/unseen_top1", "test/unseen_top1_before")
#: Classes up to which a table has a row for each.
_MOST_CLASSES = 30


def figures_of(plots: Plots, *names: str) -> Iterator[Block]:
    """The named figures that there are."""
    for name in names:
        if name in plots:
            plot = plots[name]
            yield Figure(plot.path, plot.title, alt=f"{plot.title}. {plot.caption}")


# --- verdict ------------------------------------------------------------------------------------------------------------


def verdict(summary: StudySummary, plots: Plots) -> Iterator[Block]:
    """One callout and one table an objective, and what is missing."""
    if summary.primary is None:
        yield Callout(summary.sentence, "warning")
    for place, objective in enumerate(summary.objectives):
        what = "Primary objective" if place == 0 else "Second objective"
        detail = (
            f"{what}: {objective.about}, {_where(objective)}. Winner: {summary.winner['winner']['name']}."
            if summary.winner
            else ""
        )
        tone = "warning" if summary.outdated else objective.verdict.tone
        yield Callout(summary.sentence if place == 0 else objective.verdict.sentence, tone, detail)
        yield comparisons(objective)
        if objective.on_these_images:
            yield Paragraph(objective.on_these_images)
        yield from figures_of(plots, "confirmation" if place == 0 else f"confirmation_{objective.name}")
    if summary.missing:
        yield Callout("What is missing", "warning", " ".join(summary.missing))
    if summary.objectives:
        rules = summary.config.protocol
        text = (
            f"A verdict compares winner and baseline seed by seed on test: better or worse where the interval of the mean "
            f"difference leaves out 0, equivalent where it lies within ±{rules.margin:g} points, else not shown. It takes "
            f"{MIN_SEEDS} seeds at least. Metric, baselines, seeds, margin and level were fixed before the search."
        )
        if (looks := summary.objectives[0].verdict.looks) > 1:
            text += (
                f" The search was extended, and the same seeds and test images judged {looks} winners: each gets an equal "
                "share of the chance of an error, or extending until something looks better would end in a verdict."
            )
            if rules.tune:
                text += " The settings of baselines that tuning on has replaced are counted among them."
        if geometry := [one.measure.short for one in summary.objectives if one.measure.geometry]:
            text += (
                f" Of geometry ({listed(geometry)}) a verdict says higher, lower or not shown, by the same intervals: it is no "
                "score, so nothing of it is better or equivalent."
            )
        if counted := [
            one.measure.short for one in summary.objectives if one.measure.plain and not one.measure.geometry
        ]:
            text += (
                f" Of {listed(counted)}, which is no share and has no margin in points, a verdict says higher, lower or not "
                "shown, by the same intervals; lower is better."
            )
        for names in _one_training(summary):
            text += f" {listed(names)} are one training here: their rows say the same twice."
        if summary.coneless is None:
            text += (
                f" No baseline is the searched method without cones ({name_of(baseline('no_cones', summary.config))}): what the "
                "winner gains may come from what it has besides them."
            )
        if parts := _tuned_alone(summary):
            text += (
                f" The searched method without cones, {summary.coneless}, was tuned in {listed(parts)}, which the winner has as "
                f"given: what sets them apart is not the thresholds alone (search.own={json.dumps(parts)} searches both)."
            )
        if len(summary.objectives) > 1:
            text += (
                " The intervals of one objective hold together; the second objective is judged apart from the first."
            )
        yield Paragraph(text)


def _where(objective: Objective) -> str:
    """On what the confirmation measures it."""
    return "on the training images of the confirmation" if objective.measure.geometry else "on test"


def _one_training(summary: StudySummary) -> list[list[str]]:
    """Baselines that tuning has made the same: a study refuses those that are the same from the start."""
    names: dict[str, list[str]] = {}
    for runs in summary.confirmed:
        if runs.name != WINNER:
            names.setdefault(method_key(runs.method), []).append(runs.name)
    return [some for some in names.values() if len(some) > 1]


def _tuned_alone(summary: StudySummary) -> list[str]:
    """Numbers that were searched in the baseline without cones, and not together with the thresholds."""
    found = [one for one in summary.own_numbers if one.name == summary.coneless and one.trials]
    return [part for one in found for part in one.published if part not in summary.config.search.own]


def comparisons(objective: Objective) -> Table:
    """Winner minus each baseline, with interval and verdict."""
    found = objective.verdict.comparisons
    level = f"{100 * found[0].level:g} %" if found else ""
    headers = ["baseline", "difference", f"{level} interval", "verdict", "seed correlation"]
    rows: list[list[Cell]] = [
        [
            one.name + " (= winner)" * one.same_config,
            signed(one.mean, objective.measure.digits),
            interval(one.low, one.high, objective.measure.digits),
            one.verdict,
            one.correlation,
        ]
        for one in found
    ]
    unit = " in points" if objective.measure.unit == "share" else ""
    caption = f"Winner minus baseline{unit}. The seed correlation is what the pairing by seed relies on."
    if objective.crossed:
        headers.append("with test images")
        for row, one in zip(rows, found, strict=True):
            images = objective.crossed.get(one.name)
            row.append(interval(images.low, images.high) if images else None)
        caption += " The last interval also counts that the test set is finite: seeds and images crossed, same level."
    if objective.crossed_note:
        caption += f" The interval that also counts the test images is {objective.crossed_note}."
    return Table(headers, rows, caption)


# --- thresholds ---------------------------------------------------------------------------------------------------------


def thresholds(summary: StudySummary, plots: Plots) -> Iterator[Block]:
    """The winner's angles, the best of each way of letting go, and which are as good as the best."""
    rows: list[list[Cell]] = []
    method = summary.winner_method
    if method is not None and summary.winner is not None:
        release = str(method.release) if method_named(method.name).hinge else "any"
        score = summary.winner["winner"]["mean"]
        family = winner_family(summary)
        for name, value in winner_angles(summary).items():
            rows.append(
                [
                    "winner",
                    release,
                    name,
                    *parameter_cells(family, name, value),
                    value_cell(summary.measure, summary.measure.scale * score[0]) if score else None,
                ]
            )
    best = summary.best_of_release()
    searched = family_named(summary.config.search.family)
    for way, trial in best.items():
        for name, value in trial.angles.items():
            rows.append(
                [
                    f"trial {trial.number}",
                    way,
                    name,
                    *parameter_cells(searched, name, value),
                    value_cell(summary.measure, trial.values[0]),
                ]
            )
    if not rows:
        return
    yield Heading("Best thresholds")
    yield Table(
        [
            "found by",
            "letting go",
            "parameter",
            "radians",
            "degrees",
            "fraction of π",
            f"score{summary.measure.suffix}",
        ],
        rows,
        f"Validation {summary.score_name}: of the winner the mean over the selection seeds; of the best trial of each way of "
        "letting go its one search seed, which flatters it.",
    )
    if summary.equals:
        yield Paragraph(f"The winner's configuration is that of {listed(summary.equals)}: it adds nothing to it.")
    yield Paragraph(as_good_text(summary))
    yield from figures_of(
        plots, "accuracy_by_threshold", "two_thresholds", "angles_by_count", "score_by_held_loss", "groups_by_threshold",
        "group_tradeoff",
    )  # fmt: skip
    yield from _of_each_class(summary)


def _of_each_class(summary: StudySummary) -> Iterator[Block]:
    """The winner's angle of each class, by falling count; of many classes only where the numbers are."""
    classes = sorted(class_angles(summary), key=lambda row: -row["train_images"])
    if not classes:
        return
    if len(classes) > _MOST_CLASSES:
        yield Paragraph(f"The angles of all {len(classes)} classes are in verdict.json, under winner.per_class.")
        return
    rows: list[list[Cell]] = [[row["name"], row["train_images"], *angle_cells(row["tau_plus"])] for row in classes]
    yield Table(
        ["class", "training images", "radians", "degrees", "fraction of π"], rows, "The winner's angle of each class."
    )


# --- confirmation --------------------------------------------------------------------------------------------------------


def confirmation(summary: StudySummary, plots: Plots) -> Iterator[Block]:
    """Means, every seed, and the way from search to confirmation."""
    if not summary.confirmed:
        return
    yield Heading("Confirmation")
    seeds = summary.confirmed[0].seeds
    first = summary.objectives[0]
    scores = {_HEADERS[first.metric]: first.metric}
    scores |= {_HEADERS[metric]: metric for metric in (*(other.metric for other in summary.objectives), *_PROBES)}
    measures = {one.metric: one.measure for one in summary.objectives}
    scores[_HEADERS["test/accuracy"]] = "test/accuracy"
    rows: list[list[Cell]] = []
    for runs in summary.confirmed:
        columns = []
        for metric in scores.values():
            measure = measures.get(metric, OBJECTIVES["accuracy"])  # what is no objective here is a share
            values = measure.scale * runs.values(metric)
            columns.append((measure, values))
        (_, own), *others = columns
        mean, sd = (value_cell(measures[first.metric], value) for value in (mean_of(own), sd_of(own)))
        rest = [value_cell(measure, mean_of(values)) for measure, values in others]
        rows.append([runs.name, mean, sd, int(np.isfinite(own).sum()), *rest])
    names = list(scores)
    plain = [one.measure.short for one in summary.objectives if one.measure.geometry]
    geometry = f" ({listed(plain)}: of the training images)" if plain else ""
    if counted := [one.measure.short for one in summary.objectives if one.measure.plain and not one.measure.geometry]:
        geometry += f" ({listed(counted)}: as it is, lower is better)"
    yield Table(
        ["method", names[0], "sd", "seeds", *names[1:]],
        rows,
        f"Test, percent{geometry}: means over seeds {seeds[0]} to {seeds[-1]}, sd of the primary score. Last epoch, trained on "
        "the whole published training set; the probe's strength is the one that validation chose. 'Unseen' probes are fitted on "
        "test images that the network never saw, each half predicted from the other; 'before' is before the projector.",
    )
    yield Heading("Every seed", 3)
    for objective in summary.objectives:
        yield Table(
            ["method", *(f"seed {seed}" for seed in seeds)],
            [
                [name, *(value_cell(objective.measure, value) for value in values.tolist())]
                for name, values in objective.scores.items()
            ],
            f"Training images: {objective.about}."
            if objective.measure.geometry
            else f"Test{', percent' * (objective.measure.unit == 'share')}: {objective.about}.",
        )
    yield Heading("From search to confirmation", 3)
    steps: list[list[Cell]] = [
        [
            objective.about,
            value_cell(objective.measure, objective.optimism.search),
            value_cell(objective.measure, objective.optimism.selection),
            value_cell(objective.measure, objective.optimism.confirmation),
            signed(objective.optimism.from_search, objective.measure.digits),
            signed(objective.optimism.from_selection, objective.measure.digits),
        ]
        for objective in summary.objectives
    ]
    yield Table(
        ["winner's score", "search", "selection", "confirmation", "search − conf.", "selection − conf."],
        steps,
        f"Percent{', what is no share as it is' if plain or counted else ''}: one search seed and the mean over the selection "
        "seeds, both on validation; the mean over the confirmation seeds on test. The best of many trials flatters itself, by "
        "about what it loses from search to selection; from validation to test the images change too, and the training set may "
        "grow.",
    )
    yield from figures_of(plots, "severity_by_accuracy")


def noise(summary: StudySummary, plots: Plots) -> Iterator[Block]:
    """The noise floor and what could be detected over it."""
    yield Heading("Noise and what could be detected")
    floor, rules = summary.floor, summary.config.protocol
    if floor.seeds < 2:
        yield Paragraph("The noise floor is unknown: fewer than two runs of CE+ETF finished on the selection seeds.")
        return
    measure = summary.measure
    unit, digits = measure.points, measure.digits
    scores = ", ".join(f"{value:.{digits}f}" for value in summary.noise.shown(measure))
    what = f"has a {measure.short} of {scores}" if measure.geometry else f"scores {scores} on validation"
    text = (
        f"CE+ETF {what} over seeds {', '.join(map(str, summary.noise.seeds))}: a standard deviation "
        f"of {floor.sd:.{digits}f}{unit} ({100 * floor.level:g} % interval {floor.low:.{digits}f} to {floor.high:.{digits}f})."
    )
    if math.isinf(summary.detectable):
        text += f" {rules.confirm_seeds} confirmation seeds give no verdict, so nothing could be detected."
    else:
        text += (
            f" At that spread {rules.confirm_seeds} seeds against {len(rules.baselines)} baselines detect a difference of "
            f"{summary.detectable:.{digits}f}{unit} with probability 0.8, if pairing by seed helps nothing."
        )
    halves = [
        one for one in (summary.primary.verdict.comparisons if summary.primary else ()) if math.isfinite(one.half_width)
    ]
    if halves:
        text += f" Half-widths reached: {', '.join(f'{one.half_width:.{digits}f} ({one.name})' for one in halves)}."
    yield Paragraph(text)


# --- features -------------------------------------------------------------------------------------------------------------


def geometry_cells(runs: Runs) -> dict[str, Cell]:
    """Collapse and diversity of a method's training features, by column."""
    reached, done = runs.terminal
    return {
        "NC1": f"{mean_of(runs.values('collapse/nc1')):.3g}",
        "rank": mean_of(runs.values("collapse/numerical_rank")),
        "own cone": f"{mean_of(runs.points('cone/occupancy')):.1f}" if method_named(runs.method.name).hinge else None,
        "30°": f"{mean_of(runs.points('cone/occupancy_30deg')):.1f}",
        "60°": f"{mean_of(runs.points('cone/occupancy_60deg')):.1f}",
        "cosine": mean_of(runs.values("cone/positive_cosine")),
        "norm": mean_of(runs.values("feature/norm")),
        "accuracy": f"{mean_of(runs.points('train/accuracy_eval')):.2f}",
        "terminal": f"{reached} of {done}",
    }


def collapse(summary: StudySummary, plots: Plots) -> Iterator[Block]:
    """Collapse and diversity of the training features."""
    finished = [runs for runs in summary.confirmed if runs.completed]
    if not finished and "diversity_by_threshold" not in plots:
        return
    yield Heading("Collapse and diversity of the features")
    if finished:
        rows: list[list[Cell]] = [[runs.name, *geometry_cells(runs).values()] for runs in finished]
        yield Table(
            ["method", *geometry_cells(finished[0])],
            rows,
            "Training features after the projector, where there is one; means over the confirmation seeds. Numerical rank; "
            "percent of features inside their own cone, and within 30° and 60° of their class axis; mean cosine to it; mean "
            "norm; training accuracy in percent; seeds that reached the terminal phase, a training accuracy of at least "
            "99.9 %: neural collapse is a statement about that phase.",
        )
        yield Paragraph(terminal_text(summary))
    yield from figures_of(
        plots, "diversity_by_threshold", "collapse_by_count", "cosines", "angular", "class_cosines", "features_train",
        "features_test",
    )  # fmt: skip


def classes(summary: StudySummary, plots: Plots) -> Iterator[Block]:
    """Accuracy and gain of each class, whether the classes form groups or not."""
    if found := list(figures_of(plots, "accuracy_by_count", "gain_by_count", "gain_by_class", "mistakes_on_tree")):
        yield Heading("Class by class")
        yield from found
