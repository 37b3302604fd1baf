"""The phases of a study as lists of jobs and decisions: what design section 5 calls the protocol.

calibrate -> noise -> search -> tune -> select -> grid -> confirm. Every function here is pure: it reads records and returns
jobs or a decision; who runs the jobs and who writes the decision down is `divfeat.search.phases`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from divfeat.config import ExperimentConfig, MethodConfig, Release, ThresholdSpec
from divfeat.methods import canonical
from divfeat.objectives import OBJECTIVES, OF_NOTHING, Measure
from divfeat.search.constraints import Limit, excesses, feasible_top, limits, violation
from divfeat.search.jobs import (
    CONFIRM_SEED,
    SEARCH_SEED,
    SELECT_SEED,
    Job,
    baseline,
    experiment,
    name_of,
    own_values_of,
    searched_method,
    seed_of,
)
from divfeat.search.tuning import AS_PUBLISHED, Tuned, baselines
from divfeat.study_config import StudyConfig
from divfeat.thresholds import family_named
from divfeat.validation import digest

Record = Mapping[str, Any]
RecordOf = Callable[[str], Record | None]
#: Baseline -> candidates for its own numbers, as of `candidates`.
Rivals = Mapping[str, Sequence[Mapping[str, Any]]]
NO_RIVALS: Rivals = {}

#: What CE's learning rate and weight decay are frozen on (design 5.1).
CALIBRATION_METRIC = "val/accuracy"
NOISE_METHOD = "ce_etf"


def calibration_jobs(study: StudyConfig) -> list[Job]:
    """CE at every learning rate and weight decay of the protocol; none where both lists are empty."""
    protocol = study.protocol
    if not protocol.learning_rates and not protocol.weight_decays:
        return []
    jobs = []
    for lr in protocol.learning_rates or (study.train.lr,):
        for decay in protocol.weight_decays or (study.train.weight_decay,):
            settings = study.train.model_copy(update={"lr": lr, "weight_decay": decay})
            config = experiment(study, MethodConfig(name="ce"), seed_of(study, SEARCH_SEED), train=settings)
            jobs.append(Job(config, "calibrate", f"ce lr {lr:g} wd {decay:g}"))
    return jobs


def calibration_decision(jobs: Sequence[Job], record_of: RecordOf) -> dict[str, Any]:
    """The learning rate and weight decay with CE's best validation accuracy; ties keep the first."""
    values = [metric_of(record_of(job.key), CALIBRATION_METRIC) for job in jobs]
    finished = [(value, -index) for index, value in enumerate(values) if value is not None]
    chosen = jobs[-max(finished)[1]].experiment.train if finished else None
    rows = [
        {
            "key": job.key,
            "lr": job.experiment.train.lr,
            "weight_decay": job.experiment.train.weight_decay,
            "value": value,
        }
        for job, value in zip(jobs, values, strict=True)
    ]
    return {
        "metric": CALIBRATION_METRIC,
        "tried": rows,
        "lr": chosen and chosen.lr,
        "weight_decay": chosen and chosen.weight_decay,
    }


def with_calibration(study: StudyConfig, decision: Mapping[str, Any]) -> StudyConfig:
    """The study at the frozen learning rate and weight decay."""
    train = study.train.model_copy(update={"lr": decision["lr"], "weight_decay": decision["weight_decay"]})
    return study.model_copy(update={"train": train})


def select_seeds(study: StudyConfig) -> list[int]:
    """Seeds of selection, noise floor and grid: none of them was used in the search."""
    return [seed_of(study, SELECT_SEED, index) for index in range(study.protocol.select_seeds)]


def confirm_seeds(study: StudyConfig) -> list[int]:
    """Seeds of the confirmation: new ones."""
    return [seed_of(study, CONFIRM_SEED, index) for index in range(study.protocol.confirm_seeds)]


def noise_jobs(study: StudyConfig) -> list[Job]:
    """CE+ETF on the selection seeds: the noise floor, measured before the search."""
    return seeded_jobs(study, "noise", NOISE_METHOD, MethodConfig(name=NOISE_METHOD), select_seeds(study))


def seeded_jobs(study: StudyConfig, phase: str, name: str, method: MethodConfig, seeds: Sequence[int]) -> list[Job]:
    """One method over several seeds, on validation."""
    return [Job(experiment(study, method, seed), phase, name) for seed in seeds]


def limits_of(study: StudyConfig, record_of: RecordOf) -> tuple[Limit, ...]:
    """The constraints with their bounds; what is relative to CE+ETF follows from its runs for the noise floor."""
    if not study.search.constraints:
        return ()
    return limits(study.search.constraints, _mean_over(study, MethodConfig(name=NOISE_METHOD), record_of))


def _mean_over(study: StudyConfig, method: MethodConfig, record_of: RecordOf) -> Callable[[str], float | None]:
    """Validation metric -> mean over the selection seeds that have it, None without any."""
    records = [record_of(experiment(study, method, seed).key) for seed in select_seeds(study)]

    def mean(metric: str) -> float | None:
        values = [value for value in (metric_of(record, metric) for record in records) if value is not None]
        return float(np.mean(values)) if values else None

    return mean


def candidates(
    study: StudyConfig, proposals: Mapping[int, Mapping[str, Any]], record_of: RecordOf, name: str = ""
) -> list[dict[str, Any]]:
    """The top proposals by their search score, each experiment once; on the Pareto front first for two objectives.

    Only proposals that keep the search's constraints; where none does, those that miss them least. What a search starts from,
    no cones or a baseline's published numbers, is a candidate wherever it was tried and keeps them no worse: one seed is noisy,
    and what looked best there must not win over it unseen on the selection seeds.

    Args:
        study: Objectives, constraints.
        proposals: By number.
        record_of: The ledger's records.
        name: Of a tuned baseline, "" for the study's own search.

    Returns:
        Rows with `name`, `method` (mapping), `number`, `search_values`, `excess` where there are constraints, and `start` where
        a row is there as the start alone.
    """
    metrics, bounds = objective_metrics(study), limits_of(study, record_of)
    rows: dict[str, dict[str, Any]] = {}
    for number, proposal in proposals.items():
        record = record_of(proposal["key"])
        values = [metric_of(record, metric) for metric in metrics]
        if record is None or any(value is None for value in values) or proposal["key"] in rows:
            continue
        rows[proposal["key"]] = {
            "name": proposal["name"],
            "method": record["config"]["method"],
            "number": number,
            "key": proposal["key"],
            "search_values": values,
        }
        if bounds:
            rows[proposal["key"]]["excess"] = excesses(bounds, lambda metric, record=record: metric_of(record, metric))  # type: ignore[misc]
    found = list(rows.values())
    if not found:
        return []
    order = _best(study, [row["search_values"] for row in found], found, study.protocol.select_top)
    chosen = [found[index] for index in order]
    start = experiment(study, baseline(name or "no_cones", study), seed_of(study, SEARCH_SEED)).key
    keeps = start in rows and violation(rows[start].get("excess", {})) <= min(
        violation(row.get("excess", {})) for row in chosen
    )
    if keeps and all(row["key"] != start for row in chosen):
        chosen.append(rows[start] | {"start": True})
    return chosen


def _best(
    study: StudyConfig, values: Sequence[Sequence[float]], rows: Sequence[Mapping[str, Any]], k: int
) -> list[int]:
    """Places of the k best rows by their objective values, in the objectives' directions and under the constraints."""
    signs = [measure.sign for measure in objectives(study)]
    missed = [violation(row.get("excess", {})) for row in rows]
    return [int(place) for place in feasible_top(np.array(values) * signs, missed, k)]


def selection_jobs(study: StudyConfig, chosen: Sequence[Mapping[str, Any]], rivals: Rivals = NO_RIVALS) -> list[Job]:
    """Candidates and baselines on the selection seeds; baselines too, since their probe strengths are frozen here.

    Args:
        study: Baselines, seeds.
        chosen: Candidates of the search.
        rivals: Candidates of the baselines that are tuned, which stand for them; one without any is run as published.
    """
    jobs = []
    for row in (*chosen, *(row for rows in rivals.values() for row in rows)):
        method = MethodConfig.model_validate(row["method"])
        jobs += seeded_jobs(study, "select", row["name"], method, select_seeds(study))
    for name, method in baselines(study).items():
        if not rivals.get(name):
            jobs += seeded_jobs(study, "select", name, method, select_seeds(study))
    return jobs


def tuned_decision(
    study: StudyConfig, rivals: Rivals, trials: Mapping[str, int], record_of: RecordOf
) -> dict[str, Any]:
    """The best setting of each tuned baseline, by the rule that decides the winner.

    Args:
        study: At the frozen learning rate and weight decay.
        rivals: Candidates by baseline.
        trials: How many proposals they were chosen among, by baseline.
        record_of: The ledger's records.

    Returns:
        Baseline -> mapping as of `winner_decision`, with `trials`; its `winner` is None where no candidate finished: such a
        baseline stays as published.
    """
    decision = {}
    for name, rows in rivals.items():
        try:
            found = winner_decision(study, rows, record_of)
        except ValueError:
            found = {"winner": None, "candidates": [dict(row) for row in rows], "seeds": select_seeds(study)}
        decision[name] = found | {"trials": trials[name]}
    return decision


def winner_decision(study: StudyConfig, chosen: Sequence[Mapping[str, Any]], record_of: RecordOf) -> dict[str, Any]:
    """The candidate with the best mean on the selection seeds alone; for two objectives the front's compromise.

    Returns:
        Mapping with `winner` (the row, with `values` per seed and `mean`), all `candidates` and the `seeds`.

    Constraints hold for the means over these seeds (`excess`); where no candidate keeps them, the one that misses them
    least is taken. Runs do not fail at random, so a candidate that failed on a seed ranks behind every one that failed on fewer.

    Raises:
        ValueError: no candidate has a complete record on any selection seed.
    """
    rows, bounds = [], limits_of(study, record_of)
    for row in chosen:
        method = MethodConfig.model_validate(row["method"])
        values = seed_values(study, method, select_seeds(study), record_of)
        kept = {"excess": excesses(bounds, _mean_over(study, method, record_of))} if bounds else {}
        rows.append(
            dict(row)
            | {"values": values, "mean": [float(np.mean(column)) if column else None for column in values]}
            | kept
        )
    complete = [row for row in rows if all(mean is not None for mean in row["mean"])]
    if not complete:
        raise ValueError("no candidate of the search finished on the selection seeds")
    most = max(len(row["values"][0]) for row in complete)
    complete = [row for row in complete if len(row["values"][0]) == most]
    (index,) = _best(study, [row["mean"] for row in complete], complete, 1)
    return {"winner": complete[index], "candidates": rows, "seeds": select_seeds(study)}


def same_baselines(study: StudyConfig, winner: Mapping[str, Any], tuned: Tuned = AS_PUBLISHED) -> tuple[str, ...]:
    """Baselines whose configuration the winner has."""
    key = method_key(MethodConfig.model_validate(winner["method"]))
    return tuple(name for name, method in baselines(study, tuned).items() if method_key(method) == key)


def seed_values(
    study: StudyConfig, method: MethodConfig, seeds: Sequence[int], record_of: RecordOf
) -> list[list[float]]:
    """Objective values [objectives][finished seeds] of one method on validation, as recorded."""
    found = [record_of(experiment(study, method, seed).key) for seed in seeds]
    columns = []
    for metric in objective_metrics(study):
        column = [metric_of(record, metric) for record in found]
        columns.append([value for value in column if value is not None])
    return columns


def grid_angles(study: StudyConfig) -> list[float]:
    """The fixed grid over the searched range, in radians; empty where the family has other than one angle.

    Empty for geometry and distances too: which angles are as good as the best is asked of a share, in points.
    """
    points = study.protocol.grid_points
    if points == 0 or objectives(study)[0].plain or not family_named(study.search.family).one_angle:
        return []
    return [float(angle) for angle in np.linspace(study.search.low, study.search.high, points)]


def grid_jobs(study: StudyConfig, release: Release, own: Mapping[str, float] | None = None) -> list[Job]:
    """The one-dimensional family over its grid, at the winner's way of letting go, on the selection seeds.

    Args:
        study: Family, range, number of points.
        release: Way of letting go.
        own: The winner's values of the parts that are searched together with the angles; None where there are none.
    """
    jobs = []
    for angle in grid_angles(study):
        method = grid_method(study, angle, release, own)
        jobs += seeded_jobs(study, "grid", name_of(method), method, select_seeds(study))
    return jobs


def grid_method(
    study: StudyConfig, angle: float, release: Release, own: Mapping[str, float] | None = None
) -> MethodConfig:
    """The method at one angle of the grid."""
    (parameter,) = family_named(study.search.family).parameters
    spec = ThresholdSpec(family=study.search.family, angles={parameter: angle})
    return searched_method(study, spec, release, own or {})


def grid_own(study: StudyConfig, winner: Mapping[str, Any]) -> dict[str, float]:
    """The winner's values of the parts that are searched together with the angles: the grid's too."""
    return own_values_of(MethodConfig.model_validate(winner["method"]), study.search.own)


def confirmed_methods(
    study: StudyConfig, winner: Mapping[str, Any], tuned: Tuned = AS_PUBLISHED
) -> dict[str, MethodConfig]:
    """Winner and baselines by name."""
    return {"winner": MethodConfig.model_validate(winner["method"])} | baselines(study, tuned)


Strengths = Mapping[str, Mapping[str, float]]


def frozen_strengths(
    study: StudyConfig,
    winner: Mapping[str, Any],
    record_of: RecordOf,
    known: Strengths,
    tuned: Tuned = AS_PUBLISHED,
) -> dict[str, Mapping[str, float]]:
    """What the confirmation's probes take over from validation: the median strength over the selection seeds.

    Args:
        study: At the frozen learning rate and weight decay.
        winner: Its row.
        record_of: The ledger's records.
        known: Strengths frozen before; these stay, since their confirmation may have read the test set.
        tuned: Baselines that are not as published.

    Returns:
        `method_key` -> field of `ProbeConfig` -> strength; without a method that no selection run of which was finished.
    """
    frozen = dict(known)
    for method in confirmed_methods(study, winner, tuned).values():
        strengths = _median_strengths(study, method, record_of)
        if strengths is not None:
            frozen.setdefault(method_key(method), strengths)
    return frozen


def _median_strengths(study: StudyConfig, method: MethodConfig, record_of: RecordOf) -> dict[str, float] | None:
    if study.probe.solver == "sgd" and len(study.probe.strengths or (0,)) == 1:
        return {}  # nothing was chosen
    found = [record_of(experiment(study, method, seed).key) for seed in select_seeds(study)]
    strengths = {}
    for field, metric in (("strengths", "probe/strength"), ("strengths_before", "probe/strength_before")):
        values = [value for value in (metric_of(record, metric) for record in found) if value is not None]
        if not values:
            return None
        median = np.median(values) if min(values) <= 0 else math.exp(float(np.median(np.log(values))))
        # Six digits: the strength is part of a key, which must not hang on a machine's last bit.
        strengths[field] = float(f"{median:.6g}")
    return strengths


def method_key(method: MethodConfig) -> str:
    """The same for two methods that train alike."""
    return digest(canonical(method).to_dict())


def confirmation_jobs(
    study: StudyConfig, winner: Mapping[str, Any], strengths: Strengths, tuned: Tuned = AS_PUBLISHED
) -> list[Job]:
    """Winner and baselines on new seeds, trained as published; the probe's strength is the one validation chose."""
    jobs = []
    for name, method in confirmed_methods(study, winner, tuned).items():
        jobs += [Job(config, "confirm", name) for config in confirmation_experiments(study, method, strengths)]
    return jobs


def confirmation_experiments(study: StudyConfig, method: MethodConfig, strengths: Strengths) -> list[ExperimentConfig]:
    """One experiment a confirmation seed, or none where the method has no frozen strength."""
    frozen = strengths.get(method_key(method))
    if frozen is None:
        return []
    probe = study.probe.model_copy(update={field: (value,) for field, value in frozen.items()})
    return [experiment(study, method, seed, "confirm", probe=probe) for seed in confirm_seeds(study)]


def objectives(study: StudyConfig) -> list[Measure]:
    """What the search follows, the first one first."""
    return [OBJECTIVES[name] for name in study.search.objectives]


def objective_metrics(study: StudyConfig) -> list[str]:
    """Metric names of the objectives on validation."""
    return [measure.validation for measure in objectives(study)]


def recorded(record: Record | None, metric: str) -> float | None:
    """A metric of a completed record, else None; None too where it has nothing to be a mean over."""
    if record is None or record["status"] != "completed":
        return None
    value = record["metrics"].get(metric)
    return None if value is None or math.isnan(value) else float(value)


def metric_of(record: Record | None, metric: str) -> float | None:
    """The same for who compares runs: a mean over nothing counts as something (`divfeat.objectives.OF_NOTHING`)."""
    value = recorded(record, metric)
    if value is None and record is not None and record["status"] == "completed" and metric in record["metrics"]:
        return OF_NOTHING.get(metric)
    return value
