"""The noise model against its own formula, written out, and its fit on draws whose parts are known."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from divfeat.errors import DataError
from divfeat.trust.noise import Noise, World, distinct, fit, world

NOISE = Noise(
    accuracy=80.0, images=4000, baselines=3, seed_sd=1.5, seed_share=0.4, difficulty=0.5, taste=0.15, shared=0.1
)


def answers_of(noise, seeds, rng, *, paired=True, exact=False):
    here = world(noise, rng, noise.baselines + 1, exact=exact)
    thresholds = here.thresholds([noise.accuracy] * (noise.baselines + 1))
    (found,) = here.latent(rng, 1, seeds, paired=paired) > -thresholds[:, None, None]
    return {str(place): table.astype(float) for place, table in enumerate(found)}


def test_fit_finds_what_was_planted():
    found = fit(answers_of(NOISE, 60, np.random.default_rng(1)))
    for name, within in {
        "accuracy": 1.0, "seed_sd": 0.35, "seed_share": 0.15, "difficulty": 0.03, "taste": 0.03, "shared": 0.02,
    }.items():  # fmt: skip
        assert getattr(found, name) == pytest.approx(getattr(NOISE, name), abs=within), name
    assert (found.images, found.baselines) == (NOISE.images, NOISE.baselines)


def test_fit_of_methods_on_seeds_of_their_own_finds_nothing_in_common():
    found = fit(answers_of(NOISE, 60, np.random.default_rng(2), paired=False))
    assert found.shared < 0.02 and found.seed_share < 0.2
    assert found.seed_sd == pytest.approx(NOISE.seed_sd, abs=0.35)


def test_latent_parts_have_the_covariances_of_the_formula():
    small = dataclasses.replace(NOISE, images=2)
    here = World(small, np.zeros((2, 2)), exact=True)
    found = here.latent(np.random.default_rng(3), 200_000, 2).reshape(200_000, 8)  # method, seed, image
    seed = (1.5 / (100 * stats.norm.pdf(stats.norm.ppf(0.8)))) ** 2
    rest = 1 - 0.5 - 0.15 - 0.1
    assert small.seed_variance == pytest.approx(seed)
    expected = np.zeros((8, 8))
    places = [(m, s, n) for m in range(2) for s in range(2) for n in range(2)]
    for i, (m, s, n) in enumerate(places):
        for j, (m2, s2, n2) in enumerate(places):
            if s != s2:
                continue
            expected[i, j] = 0.4 * seed + 0.6 * seed * (m == m2)
            expected[i, j] += (0.1 + rest * (m == m2)) * (n == n2)
    np.testing.assert_allclose(np.cov(found.T), expected, atol=0.01)


@pytest.mark.parametrize("exact", [True, False])
def test_true_scores_are_those_asked_for(exact):
    small, wanted = dataclasses.replace(NOISE, images=60), [80.0, 83.0]
    here = world(small, np.random.default_rng(4), 2, exact=exact)
    thresholds = here.thresholds(wanted)
    for m in range(2):
        chances = []
        for n in range(60):
            beside = small.seed_variance + 1 - (0.5 + 0.15) * exact
            at = thresholds[m] + (here.images[m, n] if exact else 0.0)
            if not exact:
                beside = small.seed_variance + 1
            chances.append(stats.norm.cdf(at / math.sqrt(beside)))
        assert 100 * np.mean(chances) == pytest.approx(wanted[m], abs=1e-6)


def test_one_training_under_two_names_counts_once():
    rng = np.random.default_rng(5)
    answers = answers_of(NOISE, 4, rng)
    doubled = answers | {"again": answers["0"].copy()}
    assert len(distinct(doubled)) == 4 and fit(doubled) == fit(answers)


def test_what_cannot_be_fitted_is_refused():
    answers = answers_of(NOISE, 4, np.random.default_rng(6))
    with pytest.raises(DataError, match="two different methods"):
        fit({"a": answers["0"], "b": answers["0"]})
    with pytest.raises(DataError, match="same images"):
        fit({"a": answers["0"], "b": answers["1"][:, :10]})
    with pytest.raises(DataError, match="two seeds"):
        fit({"a": answers["0"][:1], "b": answers["1"][:1]})
