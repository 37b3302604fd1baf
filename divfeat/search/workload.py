"""What a study's phases would run, before anything is known: how many runs, what they cost, which first stages they share."""

from __future__ import annotations

from collections.abc import Sequence, Set

from divfeat.config import MethodConfig
from divfeat.methods import first_stage, parts_of
from divfeat.search.jobs import SEARCH_SEED, baseline, experiment, seed_of
from divfeat.search.protocol import (
    NOISE_METHOD,
    calibration_jobs,
    confirm_seeds,
    grid_angles,
    grid_method,
    method_key,
    select_seeds,
)
from divfeat.search.tuning import baselines, tunable
from divfeat.second import SECONDS
from divfeat.stages import stage_key
from divfeat.study_config import StudyConfig
from divfeat.thresholds import family_named

#: Phases that follow the search: a budget keeps back what they need.
AFTER_SEARCH = ("tune", "select", "grid", "confirm")


def planned_runs(study: StudyConfig, trials: int) -> dict[str, int]:
    """Runs of each phase before anything is known; shared ones are counted where they are first needed.

    What a search starts from is taken to be none of the top, so that it is a candidate more (`protocol.candidates`).
    """
    protocol = study.protocol
    seeds, top = protocol.select_seeds, min(protocol.select_top, trials)
    searched = tunable(study)
    alone = {method_key(baseline("no_cones", study))} if _start_is_alone(study, trials) else set()
    starts = len(searched) * (trials > top) + len(alone)
    noise = {method_key(MethodConfig(name=NOISE_METHOD))}
    every = {name: method_key(method) for name, method in baselines(study).items()}
    fixed = {key for name, key in every.items() if name not in searched} - noise
    on_grid = {method_key(grid_method(study, angle, study.search.releases[0])) for angle in grid_angles(study)}
    plan = {
        "calibrate": len(calibration_jobs(study)),
        "noise": seeds,
        "search": trials,
        "tune": trials * len(searched),
        "select": (top * (1 + len(searched)) + starts + len(fixed)) * seeds,
        "grid": len(on_grid - noise - fixed - alone) * seeds,
        "confirm": (1 + len(set(every.values()))) * protocol.confirm_seeds,
    }
    return {name: runs for name, runs in plan.items() if runs}


def _start_is_alone(study: StudyConfig, trials: int) -> bool:
    """Whether the searched method without cones is run on the selection seeds as a candidate alone: no baseline is it."""
    key = method_key(baseline("no_cones", study))
    others = {method_key(method) for name, method in baselines(study).items() if name not in tunable(study)}
    family = family_named(study.search.family)
    tried = study.search.low == 0 and trials >= len(family.tried_first) and bool(family.parameters)
    return (
        tried
        and trials > study.protocol.select_top
        and key not in others | {method_key(MethodConfig(name=NOISE_METHOD))}
    )


def planned_trainings(study: StudyConfig, trials: int) -> dict[str, float]:
    """`planned_runs` by what they cost, in trainings of a method in one stage: a first stage is trained once a seed.

    Those of the search are taken to have a first stage each, since their thresholds differ.
    """
    protocol, runs = study.protocol, planned_runs(study, trials)
    top = min(protocol.select_top, trials)
    searching = 1 + (_second(study, study.search.method) or 0.0)
    every, searched = baselines(study), tunable(study)
    fixed = [method for name, method in every.items() if name not in searched]
    varied = [every[name] for name in searched]
    alone = [baseline("no_cones", study)] if _start_is_alone(study, trials) else []
    noise = {method_key(MethodConfig(name=NOISE_METHOD))}
    costs = {
        "search": trials * searching,
        "tune": _at_one_seed(study, [], varied, trials, set()),
        "select": (top * searching + _at_one_seed(study, [*fixed, *alone], varied, top + (trials > top), noise))
        * protocol.select_seeds,
        "grid": runs.get("grid", 0) * searching,
        "confirm": (searching + _at_one_seed(study, list(every.values()), [], 1, set())) * protocol.confirm_seeds,
    }
    return {name: float(costs.get(name, count)) for name, count in runs.items()}


def _at_one_seed(
    study: StudyConfig, fixed: Sequence[MethodConfig], varied: Sequence[MethodConfig], times: int, trained: Set[str]
) -> float:
    """Trainings that methods take at one seed.

    Args:
        study: Epochs.
        fixed: Run once.
        varied: Run with other numbers every time, which are those of the second stage where there is one.
        times: How often.
        trained: Keys of methods that are trained already.
    """
    firsts = {
        method_key(first_stage(method))
        for method in (*fixed, *varied)
        if method in fixed or _second(study, method) is not None
    }
    found = float(len(firsts - trained))
    for method in fixed:
        found += _second(study, method) or 0.0
    for method in varied:
        second = _second(study, method)
        found += times * (1.0 if second is None else second)
    return found


def _second(study: StudyConfig, method: MethodConfig) -> float | None:
    """What the second stage of a method costs, in trainings; None where it has none."""
    parts = parts_of(method)
    return None if parts.second == "none" else SECONDS[parts.second].trainings(parts, study.train.epochs)


def shared_stages(study: StudyConfig) -> frozenset[str]:
    """Keys of the first stages of all planned runs in two stages: whoever trains one leaves its checkpoint to the others.

    Tuning varies the numbers of a second stage, which its first does not hang on.
    """
    methods = [method for method in baselines(study).values() if parts_of(method).second != "none"]
    seeds = [("search", seed) for seed in select_seeds(study)] + [("confirm", seed) for seed in confirm_seeds(study)]
    if study.protocol.tune:
        seeds.append(("search", seed_of(study, SEARCH_SEED)))
    return frozenset(stage_key(experiment(study, method, seed, role)) for method in methods for role, seed in seeds)
