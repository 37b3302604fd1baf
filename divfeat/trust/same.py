"""The same method under two names, trained for real on seeds of two streams: whatever differs is noise.

Out of one pool of trainings come many studies: disjoint pairs of seed groups for the verdict alone, and a whole protocol whose
trials are all one method, so that its search finds nothing but luck.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from divfeat.config import MethodConfig
from divfeat.errors import DataError
from divfeat.files import read_lines
from divfeat.objectives import OBJECTIVES
from divfeat.report.arrays import Floats
from divfeat.search.fixed import ROWS, fixed_jobs
from divfeat.search.jobs import SEARCH_SEED, Job, experiment, seed_of
from divfeat.search.protocol import metric_of
from divfeat.statistics import Comparison, optimism, select_top, verdict
from divfeat.study_config import StudyConfig

#: Numbers of confirmation seeds and of baselines that are judged.
SEEDS, BASELINES = (5, 10), (1, 4)
#: Of the protocol whose trials are all one method: trials of the search, the best of which go on, and their further seeds.
TRIED, KEPT, FURTHER = 16, 3, 3
#: Ways to deal the trainings out.
DEALS = 1000
#: Names of the arms and the `study.seed` whose streams of seeds they have; trials of the search come from a third.
ARMS = {"first": 0, "second": 1}
TRIALS, TRIALS_SEED = "trials", 2


def same_jobs(study: StudyConfig, method: MethodConfig, seeds: int, trials: int) -> list[Job]:
    """Trainings of one method: both arms as a confirmation has them, and trials as a search has them.

    Args:
        study: Data, model, training, probe.
        method: The one method.
        seeds: An arm.
        trials: Trainings that are scored on validation, each on a seed of its own.
    """
    arms = [
        [Job(job.experiment, job.phase, name) for job in fixed_jobs(_seeded(study, seed), {name: method}, seeds)]
        for name, seed in ARMS.items()
    ]
    search = _seeded(study, TRIALS_SEED)
    tried = [
        Job(experiment(search, method, seed_of(search, SEARCH_SEED, place)), "search", TRIALS)
        for place in range(trials)
    ]
    return [*(job for pair in zip(*arms, strict=True) for job in pair), *tried]


def _seeded(study: StudyConfig, seed: int) -> StudyConfig:
    return study.model_copy(update={"seed": seed})


def scores_of(jobs: Sequence[Job], study: StudyConfig, folder: Path) -> tuple[dict[str, Floats], dict[str, Any]]:
    """Scores of the trainings, and where they come from.

    Args:
        jobs: Of `same_jobs`, all finished.
        study: Whose objective is the score.
        folder: With the rows.

    Returns:
        Name -> points in the order of the seeds, on test for the arms and on validation for the trials; provenance.

    Raises:
        DataError: a training failed.
    """
    measure = OBJECTIVES[study.search.objectives[0]]
    rows = {row["key"]: row for row in read_lines(folder / ROWS)}
    found: dict[str, list[float]] = {name: [] for name in (*ARMS, TRIALS)}
    for job in jobs:
        value = metric_of(rows[job.key], measure.validation if job.name == TRIALS else measure.test)
        if value is None:
            raise DataError(
                f"{folder / ROWS}: the training of {job.name!r}, seed {job.experiment.seed}, has no score, and runs do not fail "
                "at random: choose settings at which none fails"
            )
        found[job.name].append(100 * value)
    facts = [rows[job.key]["provenance"] for job in jobs]
    told = {name: sorted({str(fact[name]) for fact in facts}) for name in ("commit", "device", "split_hash")}
    return {name: np.array(values) for name, values in found.items()}, told


def judged(scores: Mapping[str, Floats], margin: float) -> dict[str, Any]:
    """What the verdict says of a method against itself.

    Returns:
        Mapping with `arms` (one comparison of all seeds of the first name with as many of the second), `verdicts` (one row a
        number of seeds and baselines) and `protocol` (one row a number of seeds).
    """
    first, second = (scores[name] for name in ARMS)
    count = min(len(first), len(second))
    whole = verdict(first[:count], {"second": second[:count]}, seeds=range(count), margin=margin).comparisons[0]
    told = {name: value for name, value in asdict(whole).items() if name not in ("seeds", "differences")}
    pool, rng = np.concatenate([first, second]), np.random.default_rng(0)
    return {
        "arms": told | {"seeds": count},
        "verdicts": [_dealt(pool, seeds, others, margin, rng) for seeds in SEEDS for others in BASELINES],
        "protocol": [_searched(pool, scores[TRIALS], seeds, margin, rng) for seeds in SEEDS],
    }


def _dealt(pool: Floats, seeds: int, baselines: int, margin: float, rng: np.random.Generator) -> dict[str, Any]:
    """Trainings dealt out to a winner and its baselines, into as many disjoint studies as they make, again and again."""
    names, differences = [], []
    studies = len(pool) // (seeds * (baselines + 1))
    for _ in range(DEALS if studies else 0):
        dealt = rng.permutation(pool)[: studies * seeds * (baselines + 1)].reshape(studies, baselines + 1, seeds)
        for winner, *others in dealt:
            found = _verdict(winner, others, margin)
            names.append({one.verdict for one in found})
            differences += [one.mean for one in found]
    quantiles = [2.5, 25, 50, 75, 97.5]
    return {
        "seeds": seeds,
        "baselines": baselines,
        "disjoint_studies": studies,
        "false": _percent([bool(said & {"better", "worse"}) for said in names]),
        "equivalent": _percent(["equivalent" in said for said in names]),
        "difference": dict(zip(map(str, quantiles), np.percentile(differences, quantiles).tolist(), strict=True)),
    }


def _searched(pool: Floats, trials: Floats, seeds: int, margin: float, rng: np.random.Generator) -> dict[str, Any]:
    """The protocol from search to verdict; every trial is the one method, at the next training dealt."""
    wrong, better, gains, lost = [], [], [], []
    for _ in range(DEALS):
        on_validation, on_test = rng.permutation(trials), rng.permutation(pool)
        tried, further = on_validation[:TRIED], on_validation[TRIED : TRIED + KEPT * FURTHER].reshape(KEPT, FURTHER)
        kept = select_top(tried, KEPT)
        place = int(select_top(further.mean(axis=1), 1)[0])
        winner, *others = on_test[: (max(BASELINES) + 1) * seeds].reshape(-1, seeds)
        said = {one.verdict for one in _verdict(winner, others, margin)}
        wrong.append(bool(said & {"better", "worse"}))
        better.append("better" in said)
        flattered = optimism(tried[kept[place]], further[place], winner)
        gains.append(
            [
                flattered.search - trials.mean(),
                flattered.selection - trials.mean(),
                flattered.confirmation - pool.mean(),
            ]
        )
        lost.append(flattered.from_search)
    mean = np.mean(gains, axis=0)
    return {
        "seeds": seeds,
        "baselines": max(BASELINES),
        "false": _percent(wrong),
        "better": _percent(better),
        "above_the_mean": {"search": mean[0], "selection": mean[1], "confirmation": mean[2]},
        "optimism": float(np.mean(lost)),
    }


def _verdict(winner: Floats, others: Sequence[Floats], margin: float) -> Sequence[Comparison]:
    baselines = {str(place): values for place, values in enumerate(others)}
    return verdict(winner, baselines, seeds=range(len(winner)), margin=margin).comparisons


def _percent(happened: Sequence[bool]) -> float:
    return 100 * float(np.mean(happened))
