"""What MLflow says of a study beside its runs: the experiment's description, saved views of its runs, the study's params."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from divfeat.search import protocol
from divfeat.study_config import StudyConfig
from divfeat.thresholds import family_named
from divfeat.tracking.page import KIND, NOTE, Place, View, bars, contour, lines, metric, parallel, param, scatter, tag

#: What thresholds do to geometry: columns and axes of every view.
GEOMETRY = ("collapse/nc1", "collapse/numerical_rank", "cone/occupancy")
#: Geometry while a network trains, where it is measured.
CURVES = (
    "train/loss",
    "train/accuracy",
    "train/inside_cone",
    "followed/collapse/nc1",
    "followed/collapse/numerical_rank",
)
#: Numbers that a plot has an axis for.
_MOST_AXES = 6

_MEANING = {
    "collapse/nc1": "within-class over between-class variability of the training features: 0 is neural collapse",
    "collapse/numerical_rank": "numerical rank of a class's training features, mean of the classes",
    "cone/occupancy": "share of the training features inside the cone of their class",
}


def study_params(study: StudyConfig, trials: int) -> dict[str, object]:
    """The few settings to compare studies by; all of them are in `config.yaml`."""
    return {
        "preset": study.preset,
        "source": study.data.source,
        "imbalance": study.data.imbalance,
        "backbone": study.model.backbone,
        "epochs": study.train.epochs,
        "family": study.search.family,
        "objectives": ", ".join(study.search.objectives),
        "sampler": study.search.sampler,
        "trials": trials,
        "confirm_seeds": study.protocol.confirm_seeds,
        "seed": study.seed,
    }


def experiment_tags(study: StudyConfig, name: str, place: Place, about: str) -> dict[str, str]:
    """Tags of the study's experiment.

    Args:
        study: Which one.
        name: Of the study.
        place: Where its run is.
        about: Where it stands: the verdict, once there is one.
    """
    tags = KIND | {
        "preset": study.preset,
        "objective": ", ".join(study.search.objectives),
        "family": study.search.family,
        NOTE: _note(study, name, place, about),
    }
    for number, view in enumerate(views(study)):
        tags |= view.tag(number)
    return tags


def views(study: StudyConfig) -> list[View]:
    """The questions people ask, each with filter, order, columns and charts."""
    names = thresholds(study)
    scores, tests = (
        [getattr(measure, part) for measure in protocol.objectives(study)] for part in ("validation", "test")
    )
    ascending = protocol.objectives(study)[0].sign < 0
    angles = [f"threshold/{name}" for name in names]
    grouped = ["major", "minor"] if _has_tail(study) else []
    geometry = [name for name in GEOMETRY if name not in scores]
    measures = list(
        dict.fromkeys([*scores, "val/accuracy", *(f"val/accuracy_{group}" for group in grouped), *geometry])
    )
    read = list(dict.fromkeys([*tests, "test/accuracy", *(f"test/accuracy_{group}" for group in grouped), *geometry]))
    search = "tags.phase = 'search'"
    # MLflow sorts by the latest value of a metric, which trials that were pruned or wait have from fewer epochs.
    compared = f"{search} and tags.status = 'completed'" if study.search.asha or study.search.stop else search
    order = (metric(scores[0]), ascending) if compared == search else ("attributes.start_time", True)
    return [
        View(
            "divfeat-search",
            "1 Search: thresholds, geometry, accuracy",
            compared,
            metric(scores[0]),
            ascending,
            [param("release"), *map(metric, angles), *map(metric, measures), tag("status"), tag("winner")],
            list(_search_charts(names, scores)),
        ),
        View(
            "divfeat-confirm",
            "2 Confirmation: winner and baselines on test",
            "tags.phase = 'confirm'",
            metric(tests[0]),
            ascending,
            [*map(metric, read), metric("train/accuracy"), param("seed"), tag("status")],
            [bars(name) for name in read],
            group="label",
            folded=("winner", *study.protocol.baselines),
        ),
        View(
            "divfeat-curves",
            "3 Training curves of the search",
            search,
            *order,
            [*map(metric, angles), metric(scores[0]), tag("status")],
            [lines(name) for name in CURVES],
        ),
        View(
            "divfeat-winner",
            "4 Every run of the winner",
            "tags.winner = 'yes'",
            "attributes.start_time",
            True,
            [tag("phase"), tag("label"), param("seed"), *map(metric, angles), metric(scores[0]), *map(metric, tests)],
        ),
    ]


def thresholds(study: StudyConfig) -> list[str]:
    """Names under which the searched thresholds are shown, degrees."""
    family = family_named(study.search.family)
    return list(family.shown(dict.fromkeys(family.parameters, 0.0)))


def _search_charts(names: Sequence[str], scores: Sequence[str]) -> Iterator[dict[str, object]]:
    """How thresholds, geometry and objectives go together."""
    axes, score = names[:_MOST_AXES], ("METRIC", scores[0])
    if axes:
        geometry = [name for name in GEOMETRY[:2] if name not in scores]
        yield parallel(["release", *axes], [*geometry, *reversed(scores)])
    if len(axes) >= 2:
        yield contour(("PARAM", axes[0]), ("PARAM", axes[1]), score)
    for name in axes[:2]:
        yield scatter(("PARAM", name), score)
        yield scatter(("PARAM", name), ("METRIC", GEOMETRY[0]))
    yield scatter(("METRIC", GEOMETRY[0]), score)
    if len(scores) > 1:
        yield scatter(("METRIC", scores[1]), score)


def _has_tail(study: StudyConfig) -> bool:
    return study.data.imbalance is not None or family_named(study.search.family).by_count


def _note(study: StudyConfig, name: str, place: Place, about: str) -> str:
    """The experiment's description, Markdown."""
    first = protocol.objectives(study)[0]
    better = "more is better" if first.sign > 0 else "less is better"
    unit = ", a share of 1" if first.unit == "share" else ""
    rows = [
        (f"threshold/{shown}", "searched threshold" + (", degrees" if shown.endswith("_deg") else ""))
        for shown in thresholds(study)
    ]
    for measure in protocol.objectives(study):
        rows.append((measure.validation, f"objective on validation: {measure.about}"))
        if measure.test != measure.validation:
            rows.append((measure.test, "the same on test, in runs of the confirmation only"))
    rows += [(column, meaning) for column, meaning in _MEANING.items() if column not in dict(rows)]
    shown = views(study)
    questions = (
        ("Which thresholds, and what did they do to geometry and accuracy?", shown[0], True),
        ("Do they beat the baselines on test?", shown[1], True),
        ("What happened while they trained?", shown[2], True),
        ("Where did the winner come from?", shown[3], False),
    )
    filters = (
        "tags.phase = 'search' and tags.status = 'completed'",
        "tags.phase = 'confirm' and tags.label = 'winner'",
        "tags.status = 'failed'",
        f"tags.release = 'gate' and metrics.`{rows[0][0]}` > 30" if thresholds(study) else "tags.method = 'ce_etf'",
        f"tags.study = '{name}' and tags.role = 'confirm'",
    )
    base = family_named(study.search.family)
    lines_of = [
        f"**{about}**",
        "",
        f"Study `{name}` (preset `{study.preset}`): cone thresholds of `{study.search.method.name}`, family `{base.name}` "
        f"({base.summary}), searched for {first.short} ({better}{unit}) on `{study.data.source}`.",
        "",
        f"**[Verdict, thresholds and figures]({place.study})** · [report]({place.artifact('report/report.html')}) · "
        f"[all settings]({place.artifact('config.yaml')})",
        "",
        "| question | table | charts | filter |",
        "| :--- | :--- | :--- | :--- |",
        *(
            f"| {question} | [table]({place.view(view.key)}) | "
            f"{f'[charts]({place.view(view.key, charts=True)})' if charts else ''} | `{view.search}` |"
            for question, view, charts in questions
        ),
        "",
        "The same views are in the menu **Views**, the first charts of each its own: parallel coordinates, scatter, contour. "
        "To compare runs of your choice, tick them and press **Compare**.",
        "",
        "| column | meaning |",
        "| :--- | :--- |",
        *(f"| `{column}` | {meaning} |" for column, meaning in rows),
        "",
        "Each threshold is a param too (parallel coordinates take it from there); MLflow sorts and filters params as text, so "
        "sort and filter by the metric. A run without cones has 0. A training that several phases need is one run, under the "
        "first of them.",
        "",
        "More filters to paste:",
        "",
        "```",
        *filters,
        "```",
    ]
    return "\n".join(lines_of)
