"""Angles planted in 100 classes are found: the real proposals over a smooth objective, in as many trials as a study has.

The score falls with the mean squared distance of the classes' angles to those planted, so it says by how many degrees
(root mean square over the classes) a search missed. `global` can at best reach the planted angles' standard deviation.
"""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from divfeat.data.splits import long_tail_counts
from divfeat.search.ledger import Ledger
from divfeat.search.proposals import Proposals, storage_url
from divfeat.search.refine import refinement
from divfeat.thresholds import ThresholdContext, family_named, resolve
from tests.search.samples import completed, make_study

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

#: CIFAR100-LT at imbalance 100.
CONTEXT = ThresholdContext(torch.as_tensor(long_tail_counts(100, 100, 500)))
RANK = torch.linspace(0, 1, 100, dtype=torch.float64)
#: Degrees from the largest to the smallest class; neither is a curve or a step.
PLANTED = {
    "wide on the tail": 10 + 35 * torch.sigmoid(12 * (RANK - 0.5)) + 8 * torch.cos(2 * math.pi * RANK),
    "wide on the head": 5 + 55 * (1 - RANK) ** 2 + 8 * torch.sin(2 * math.pi * RANK),
}
TRIALS = 60
#: Degrees that TPE may miss the best of `per_class` by; over seeds 0 to 4 of both shapes it missed by 0.6 to 3.2, refined
#: from `count_curve` by 0.9 to 3.2, from `major_minor` by 0.7 to 6.0.
MISSED = 5.0


def distance(family, numbers, planted):
    """Degrees, root mean square over the classes."""
    angles = torch.rad2deg(resolve({"family": family, **numbers}, CONTEXT))
    return float(((angles - planted) ** 2).mean().sqrt())


def best_of(family, planted):
    """As near as the family comes, by direct search from several starts."""
    box = family_named(family).space()
    low, high = (np.array([getattr(side, end) for side in box]) for end in ("low", "high"))

    def missed(point):
        return distance(family, {s.name: v for s, v in zip(box, np.clip(point, low, high), strict=True)}, planted)

    starts = np.random.default_rng(0).uniform(low, high, (3, len(box)))
    return min(minimize(missed, start, method="Nelder-Mead", options={"maxiter": 600}).fun for start in starts)


def searched(folder, planted, seed=0, **search):
    """What the best of the trials misses by."""
    study = make_study("digits-lt", search={"releases": ["gate"], **search}, seed=seed)
    ledger = Ledger(folder)
    stages = refinement(study.search, TRIALS, CONTEXT)
    proposals = Proposals(study, ledger, storage_url(folder), "study", stages)
    found = []
    for _ in range(TRIALS):
        job = proposals.ask()
        thresholds = job.experiment.method.thresholds
        found.append(distance(thresholds.family, thresholds.angles, planted))
        ledger.write_record(job.key, completed(job.experiment, {proposals.metrics[0]: 1 - (found[-1] / 90) ** 2}))
        proposals.tell(job.number, ledger.record(job.key))
    return min(found)


@pytest.mark.slow
@pytest.mark.parametrize("shape", PLANTED)
def test_per_class_finds_what_global_cannot_say(tmp_path, shape):
    planted = PLANTED[shape]
    missed = searched(tmp_path, planted, family="per_class")
    assert missed < best_of("per_class", planted) + MISSED
    assert missed < 0.5 * best_of("global", planted)


@pytest.mark.slow
def test_a_refined_search_finds_it_too(tmp_path):
    planted = PLANTED["wide on the head"]
    missed = searched(tmp_path, planted, family="per_class", refine=["global", "count_curve"])
    assert missed < best_of("per_class", planted) + MISSED
    assert missed < 0.5 * best_of("global", planted)


@pytest.mark.parametrize("shape", PLANTED)
def test_what_the_simpler_families_could_reach(shape):
    """Each richer family comes nearer: the planted angles ask for what only `per_class` has."""
    reached = {family: best_of(family, PLANTED[shape]) for family in ("global", "count_curve", "per_class")}
    assert reached["global"] == pytest.approx(float(PLANTED[shape].std(correction=0)), abs=0.01)
    assert reached["per_class"] < 0.5 * reached["count_curve"] < 0.5 * reached["global"]
