"""The report, section by section, verdict first: from summary and plots to the blocks of a document."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from divfeat.report.commands import extractor_lines, mlflow_command, optuna_command, study_command
from divfeat.report.document import Block, Callout, Cell, Code, Document, Figure, Heading, Paragraph, Table
from divfeat.report.figures._canvas import fraction_of_pi
from divfeat.report.plots import Plot
from divfeat.report.summary import Floats, Objective, Runs, StudySummary, Trial, listed
from divfeat.search.jobs import name_of
from divfeat.statistics import MIN_SEEDS
from divfeat.thresholds import family_named

Plots = Mapping[str, Plot]

#: Rows of the table of proposals.
_MOST_PROPOSALS = 60


def document(summary: StudySummary, plots: Plots) -> Document:
    """The whole report."""
    parts = (
        _verdict,
        _thresholds,
        _confirmation,
        _noise,
        _collapse,
        _classes,
        _search,
        _calibration,
        _test_reads,
        _provenance,
        _notes,
        _reproduce,
    )
    return Document(f"Study {summary.name}", tuple(block for part in parts for block in part(summary, plots)))


# --- words --------------------------------------------------------------------------------------------------------------


def signed(value: float) -> str:
    """A difference in points with its sign; a dash where there is none."""
    if math.isnan(value):
        return "–"
    return f"{value:+.2f}".replace("-", "−") if round(value, 2) else "0.00"


def interval(low: float, high: float) -> str:
    """'[−0.10, +0.42]'."""
    return "–" if math.isnan(low) or math.isnan(high) else f"[{signed(low)}, {signed(high)}]"


def angle_cells(radians: float) -> list[str]:
    """An angle in radians, degrees and as a fraction of pi, the last to three digits where it is no round one."""
    fraction = fraction_of_pi(radians)
    return [
        f"{radians:.4f}",
        f"{math.degrees(radians):.1f}°",
        f"{radians / math.pi:.3f}π" if "." in fraction else fraction,
    ]


def angle_text(radians: float) -> str:
    """'1.1345 rad = 65.0° = 13π/36'."""
    first, second, third = angle_cells(radians)
    return f"{first} rad = {second} = {third}"


def winner_angles(summary: StudySummary) -> dict[str, float]:
    """Angles of the winner by name; tau+ = 0 for a winner without any."""
    method = summary.winner_method
    return {} if method is None else dict(method.thresholds.angles) or {"tau": 0.0}


def _mean(values: Floats) -> float:
    found = values[np.isfinite(values)]
    return float(found.mean()) if found.size else math.nan


def _sd(values: Floats) -> float:
    found = values[np.isfinite(values)]
    return float(found.std(ddof=1)) if found.size > 1 else math.nan


def _figure(plots: Plots, *names: str) -> Iterator[Block]:
    for name in names:
        if name in plots:
            plot = plots[name]
            yield Figure(plot.path, plot.title, alt=f"{plot.title}. {plot.caption}")


# --- verdict ------------------------------------------------------------------------------------------------------------


def _verdict(summary: StudySummary, plots: Plots) -> Iterator[Block]:
    if summary.primary is None:
        yield Callout(summary.sentence, "warning")
    for place, objective in enumerate(summary.objectives):
        what = "Primary objective" if place == 0 else "Second objective"
        detail = (
            f"{what}: {objective.about}, on test. Winner: {summary.winner['winner']['name']}." if summary.winner else ""
        )
        yield Callout(summary.sentence if place == 0 else objective.verdict.sentence, objective.verdict.tone, detail)
        yield _comparisons(objective)
        yield from _figure(plots, "confirmation" if place == 0 else f"confirmation_{objective.name}")
    if summary.missing:
        yield Callout("What is missing", "warning", " ".join(summary.missing))
    if summary.objectives:
        rules = summary.config.protocol
        text = (
            f"A verdict compares winner and baseline seed by seed on test: better or worse where the interval of the mean "
            f"difference leaves out 0, equivalent where it lies within ±{rules.margin:g} points, else not shown. It takes "
            f"{MIN_SEEDS} seeds at least. Metric, baselines, seeds, margin and level were fixed before the search."
        )
        if len(summary.objectives) > 1:
            text += (
                " The intervals of one objective hold together; the second objective is judged apart from the first."
            )
        yield Paragraph(text)


def _comparisons(objective: Objective) -> Table:
    found = objective.verdict.comparisons
    level = f"{100 * found[0].level:g} %" if found else ""
    headers = ["baseline", "difference", f"{level} interval", "verdict", "seed correlation"]
    rows: list[list[Cell]] = [
        [
            one.name + " (= winner)" * one.same_config,
            signed(one.mean),
            interval(one.low, one.high),
            one.verdict,
            one.correlation,
        ]
        for one in found
    ]
    caption = "Winner minus baseline in points. The seed correlation is what the pairing by seed relies on."
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


def _thresholds(summary: StudySummary, plots: Plots) -> Iterator[Block]:
    rows: list[list[Cell]] = []
    method = summary.winner_method
    if method is not None and summary.winner is not None:
        release = str(method.release) if method.name == "hinge_ce" else "any"
        score = summary.winner["winner"]["mean"]
        for name, value in winner_angles(summary).items():
            rows.append(["winner", release, name, *angle_cells(value), 100 * score[0] if score else None])
    best = summary.best_of_release()
    for way, trial in best.items():
        for name, value in trial.angles.items():
            rows.append([f"trial {trial.number}", way, name, *angle_cells(value), trial.values[0]])
    if not rows:
        return
    yield Heading("Best thresholds")
    yield Table(
        ["found by", "letting go", "angle", "radians", "degrees", "fraction of π", "score (%)"],
        rows,
        f"Validation {summary.score_name}: of the winner the mean over the selection seeds; of the best trial of each way of "
        "letting go its one search seed, which flatters it.",
    )
    if summary.equals:
        yield Paragraph(f"The winner's configuration is that of {listed(summary.equals)}: it adds nothing to it.")
    yield Paragraph(as_good_text(summary))
    yield from _figure(plots, "accuracy_by_threshold", "two_thresholds")


def as_good_text(summary: StudySummary) -> str:
    """Which thresholds are as good as the best, or why that is undetermined."""
    grid, margin = summary.grid, summary.config.protocol.margin
    if grid is None:
        return f"As good as the best: undetermined, since {summary.grid_note}."
    if grid.interval is None:
        return f"As good as the best: undetermined, since {grid.as_good.reason}."
    low, high = ("{1} ({2})".format(*angle_cells(value)) for value in grid.interval)
    seeds = grid.scores.shape[1]
    span = f"{low} alone" if low == high else f"{low} to {high}"
    return (
        f"Shown to be as good as the best: {span}, within {margin:g} points of the best of {len(grid.angles)} angles on "
        f"validation ({seeds} seeds, letting go the way '{grid.release}', simultaneous "
        f"{100 * (1 - summary.config.protocol.alpha):g} % bounds)."
    )


# --- confirmation --------------------------------------------------------------------------------------------------------


def _confirmation(summary: StudySummary, plots: Plots) -> Iterator[Block]:
    if not summary.confirmed:
        return
    yield Heading("Confirmation")
    seeds = summary.confirmed[0].seeds
    columns = _test_columns(summary)
    rows: list[list[Cell]] = []
    for runs in summary.confirmed:
        found = [runs.points(metric) for metric in columns.values()]
        first = found[0]
        counted = int(np.isfinite(first).sum())
        rows.append(
            [summary.title(runs.name), _mean(first), _sd(first), counted, *(_mean(values) for values in found[1:])]
        )
    names = list(columns)
    yield Table(
        ["method", names[0], "sd", "seeds", *names[1:]],
        rows,
        f"Test, percent: means over seeds {seeds[0]} to {seeds[-1]}, sd of the primary score. Last epoch, trained on the "
        "whole published training set; the probe's strength is the one that validation chose. 'Unseen' probes are fitted on "
        "test images that the network never saw, each half predicted from the other.",
    )
    yield Heading("Every seed", 3)
    for objective in summary.objectives:
        yield Table(
            ["method", *(f"seed {seed}" for seed in seeds)],
            [[summary.title(name), *values.tolist()] for name, values in objective.scores.items()],
            f"Test, percent: {objective.about}.",
        )
    yield Heading("From search to confirmation", 3)
    steps: list[list[Cell]] = [
        [
            objective.about,
            objective.optimism.search,
            objective.optimism.selection,
            objective.optimism.confirmation,
            signed(objective.optimism.from_search),
            signed(objective.optimism.from_selection),
        ]
        for objective in summary.objectives
    ]
    yield Table(
        ["winner's score", "search", "selection", "confirmation", "search − conf.", "selection − conf."],
        steps,
        "Percent: one search seed and the mean over the selection seeds, both on validation; the mean over the confirmation "
        "seeds on test. The best of many trials flatters itself, by about what it loses from search to selection; from "
        "validation to test the images change too, and the training set may grow.",
    )


def _test_columns(summary: StudySummary) -> dict[str, str]:
    """Header -> metric on test: the objectives first, then what stands beside them; only what some run has."""
    named = {
        "fine probe": "test/fine_top1",
        "before projector": "test/fine_top1_before",
        "unseen": "test/unseen_top1",
        "unseen, before": "test/unseen_top1_before",
        "classifier": "test/accuracy",
        "balanced": "test/accuracy_balanced",
        "major": "test/accuracy_major",
        "minor": "test/accuracy_minor",
    }
    first = [objective.metric for objective in summary.objectives]
    order = sorted(named.items(), key=lambda item: first.index(item[1]) if item[1] in first else len(first))
    grouped = _any(summary.confirmed, "test/accuracy_minor")  # else 'balanced' says what 'classifier' says
    kept = [(n, m) for n, m in order if m in first or (_any(summary.confirmed, m) and (grouped or n != "balanced"))]
    return dict(kept)


def _any(some: Sequence[Runs], metric: str) -> bool:
    return any(np.isfinite(runs.values(metric)).any() for runs in some)


def _noise(summary: StudySummary, plots: Plots) -> Iterator[Block]:
    yield Heading("Noise and what could be detected")
    floor, rules = summary.floor, summary.config.protocol
    if floor.seeds < 2:
        yield Paragraph("The noise floor is unknown: fewer than two runs of CE+ETF finished on the selection seeds.")
        return
    scores = ", ".join(f"{value:.2f}" for value in summary.noise.points(summary.metric))
    text = (
        f"CE+ETF scores {scores} on validation over seeds {', '.join(map(str, summary.noise.seeds))}: a standard deviation "
        f"of {floor.sd:.2f} points ({100 * floor.level:g} % interval {floor.low:.2f} to {floor.high:.2f})."
    )
    if math.isinf(summary.detectable):
        text += f" {rules.confirm_seeds} confirmation seeds give no verdict, so nothing could be detected."
    else:
        text += (
            f" At that spread {rules.confirm_seeds} seeds against {len(rules.baselines)} baselines detect a difference of "
            f"{summary.detectable:.2f} points with probability 0.8, if pairing by seed helps nothing."
        )
    halves = [
        one for one in (summary.primary.verdict.comparisons if summary.primary else ()) if math.isfinite(one.half_width)
    ]
    if halves:
        text += f" Half-widths reached: {', '.join(f'{one.half_width:.2f} ({one.name})' for one in halves)}."
    yield Paragraph(text)


# --- features -------------------------------------------------------------------------------------------------------------


def _collapse(summary: StudySummary, plots: Plots) -> Iterator[Block]:
    finished = [runs for runs in summary.confirmed if runs.completed]
    if not finished and "diversity_by_threshold" not in plots:
        return
    yield Heading("Collapse and diversity of the features")
    if finished:
        rows: list[list[Cell]] = []
        for runs in finished:
            reached, done = runs.terminal
            hinged = runs.method.name == "hinge_ce"
            rows.append(
                [
                    summary.title(runs.name),
                    f"{_mean(runs.values('collapse/nc1')):.3g}",
                    _mean(runs.values("collapse/numerical_rank")),
                    f"{_mean(runs.points('cone/occupancy')):.1f}" if hinged else None,
                    f"{_mean(runs.points('cone/occupancy_30deg')):.1f}",
                    f"{_mean(runs.points('cone/occupancy_60deg')):.1f}",
                    _mean(runs.values("cone/positive_cosine")),
                    _mean(runs.values("feature/norm")),
                    f"{_mean(runs.points('train/accuracy_eval')):.2f}",
                    f"{reached} of {done}",
                ]
            )
        headers = [
            "method", "NC1", "num. rank", "in own cone (%)", "in 30° (%)", "in 60° (%)", "cosine", "norm", "train acc. (%)",
            "terminal phase",
        ]  # fmt: skip
        yield Table(
            headers,
            rows,
            "Training features after the projector, where there is one; means over the confirmation seeds. Terminal phase: seeds "
            "that end with a training accuracy of at least 99.9 %. Neural collapse is a statement about that phase.",
        )
    yield from _figure(plots, "diversity_by_threshold", "cosines", "features_train", "features_test")


def terminal_text(summary: StudySummary) -> str:
    """Which methods reached the terminal phase."""
    counts = [(summary.title(runs.name), *runs.terminal) for runs in summary.confirmed if runs.completed]
    if not counts:
        return "unknown, no confirmation run finished"
    if all(reached == done for _, reached, done in counts):
        return "reached by every run"
    if not any(reached for _, reached, _ in counts):
        return "not reached by any run"
    return ", ".join(f"{name} {reached} of {done}" for name, reached, done in counts)


def _classes(summary: StudySummary, plots: Plots) -> Iterator[Block]:
    if "gain_by_class" in plots:
        yield Heading("Class by class")
        yield from _figure(plots, "gain_by_class")


# --- search -----------------------------------------------------------------------------------------------------------------


def _search(summary: StudySummary, plots: Plots) -> Iterator[Block]:
    yield Heading("Search")
    search = summary.config.search
    family = family_named(search.family)
    ended = {status: [t for t in summary.trials if t.status == status] for status in ("completed", "pruned", "failed")}
    counted = ", ".join(f"{len(some)} {status}" for status, some in ended.items() if some or status != "pruned")
    different = len({trial.key for trial in summary.trials})
    text = (
        f"{len(summary.trials)} proposals ({counted}), {different} different trainings, one seed, on validation. Family "
        f"'{family.name}': {family.summary}, {math.degrees(search.low):g}° to {math.degrees(search.high):g}°; ways of letting "
        f"go: {listed(search.releases)}; sampler {search.sampler}"
    )
    yield Paragraph(text + ("; trials that lag behind are pruned." if search.asha else "."))
    yield from _figure(plots, "search")
    if ended["failed"]:
        yield Table(
            ["trial", "method", "cause"],
            [[trial.number, trial.name, trial.error] for trial in ended["failed"]],
            "Failed trials.",
        )
    if summary.selected:
        yield Heading("Candidates and selection", 3)
        yield Table(*_selection(summary))
    yield Heading("Proposals", 3)
    shown = summary.trials
    caption = "As proposed; a pruned trial shows the last value measured."
    if len(shown) > _MOST_PROPOSALS:
        best = sorted(shown, key=lambda trial: -math.inf if math.isnan(trial.values[0]) else trial.values[0])
        shown = tuple(sorted(best[-_MOST_PROPOSALS:], key=lambda trial: trial.number))
        caption += f" The {len(shown)} best of {len(summary.trials)}; the others are in the folder proposals/."
    yield Table(
        ["trial", "method", "status", *(f"{name} (%)" for name in search.objectives)],
        [[trial.number, _proposed(trial), trial.status, *trial.values] for trial in shown],
        caption,
    )


def _proposed(trial: Trial) -> str:
    angles = " / ".join(f"{math.degrees(value):.1f}°" for value in trial.angles.values())
    return f"{trial.release} {angles}" + (" (= CE+ETF)" if trial.name == "ce_etf" else "")


def _selection(summary: StudySummary) -> tuple[list[str], list[list[Cell]], str]:
    count = len(summary.selected) - len(summary.baselines_on_validation)
    rows: list[list[Cell]] = []
    for place, runs in enumerate(summary.selected):
        values = runs.points(summary.metric)
        candidate = summary.winner["candidates"][place] if summary.winner and place < count else None
        kind = "baseline" if candidate is None else "candidate"
        if candidate is not None and summary.winner and candidate["key"] == summary.winner["winner"]["key"]:
            kind = "winner"
        searched = 100 * candidate["search_values"][0] if candidate else None
        rows.append([runs.name, kind, searched, *values.tolist(), _mean(values)])
    seeds = summary.selected[0].seeds
    caption = (
        f"Validation {summary.score_name}, percent. The best candidates of the search on further seeds; the best mean wins and "
        "is frozen. Baselines run on the same seeds and take no part in the choice."
    )
    if len(summary.config.search.objectives) > 1:
        caption += " Two objectives: the winner is the point of the Pareto front closest to the best of both, each scaled to it."
    return ["method", "", "search", *(f"seed {seed}" for seed in seeds), "mean"], rows, caption


def _calibration(summary: StudySummary, plots: Plots) -> Iterator[Block]:
    yield Heading("Learning rate and weight decay")
    train, found = summary.trained.train, summary.calibration
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
        ("learning rate", "lr", summary.config.protocol.learning_rates),
        ("weight decay", "weight_decay", summary.config.protocol.weight_decays),
    ):
        if len(tried) > 1 and found[field] in (min(tried), max(tried)):
            end = "lowest" if found[field] == min(tried) else "highest"
            yield Paragraph(f"The {what} chosen is the {end} of those tried: a better one may lie beyond.")


def _percent(share: float | None) -> float:
    return math.nan if share is None else 100 * share


# --- what it rests on ------------------------------------------------------------------------------------------------------


def _test_reads(summary: StudySummary, plots: Plots) -> Iterator[Block]:
    yield Heading("Reads of the test set")
    runs = len({key for one in summary.confirmed for key in one.keys if key})
    text = f"{summary.test_reads} in all, noted before each: winner and baselines on the confirmation seeds ({runs} experiments)."
    if summary.other_reads:
        text += (
            f" {len(summary.other_reads)} of them belong to experiments that are not in this confirmation, such as those of "
            f"an earlier winner of the same study: {'; '.join(summary.other_reads)}. The more winners are shown the test set, "
            "the less it is new."
        )
    yield Paragraph(text)


def _provenance(summary: StudySummary, plots: Plots) -> Iterator[Block]:
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
            numbers = [fact["parameter_count"], fact["feature_dim"], f"{_mean(strength):.3g}", f"{_mean(before):.3g}"]
            sizes.append([summary.title(runs.name), name_of(runs.method), *numbers])
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
            "measuring, summed over runs.",
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


def _notes(summary: StudySummary, plots: Plots) -> Iterator[Block]:
    if summary.notes:
        yield Heading("What the runs say themselves")
    for note in summary.notes:
        yield Paragraph(f"{note[0].upper()}{note[1:]}.")


def _reproduce(summary: StudySummary, plots: Plots) -> Iterator[Block]:
    yield Heading("Again, and further")
    yield Paragraph("The study; in the same place the line resumes it, and a larger --trials extends it:")
    yield Code(study_command(summary), "bash")
    yield Paragraph("Every training in MLflow, and the search in Optuna's dashboard:")
    yield Code(f"{mlflow_command(summary)}\n{optuna_command(summary)}", "bash")
    if (lines := extractor_lines(summary)) is not None:
        yield Paragraph("The winner's feature extractor (the selection seed at the validation median):")
        yield Code(lines, "python")
