import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from divfeat.errors import ConfigError, DataError
from divfeat.statistics import crossed_interval, detectable_difference, noise_floor, optimism, verdict


def crossed_naive(d):
    """The three parts by loops, from the definition of the two-way table's mean squares."""
    seeds, images = len(d), len(d[0])
    grand = sum(sum(row) for row in d) / (seeds * images)
    rows = [sum(row) / images for row in d]
    columns = [sum(d[s][n] for s in range(seeds)) / seeds for n in range(images)]
    ms_rows = images * sum((r - grand) ** 2 for r in rows) / (seeds - 1)
    ms_columns = seeds * sum((c - grand) ** 2 for c in columns) / (images - 1)
    rest = sum((d[s][n] - rows[s] - columns[n] + grand) ** 2 for s in range(seeds) for n in range(images))
    ms_rest = rest / ((seeds - 1) * (images - 1))
    return np.array([ms_rows, ms_columns, ms_rest]) / (seeds * images) * 100**2


def test_crossed_parts_match_a_loop():
    d = np.random.default_rng(0).integers(-1, 2, size=(4, 30))
    result = crossed_interval(d, level=0.9)
    parts = crossed_naive(d.tolist())
    np.testing.assert_allclose([result.seed_part, result.image_part, result.interaction_part], parts)
    variance = max(parts[0] + parts[1] - parts[2], parts[0], parts[1])
    np.testing.assert_allclose(result.half_width, stats.t.ppf(0.95, 3) * math.sqrt(variance))
    np.testing.assert_allclose(result.mean, 100 * d.mean())


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(2, 40))
def test_crossed_is_never_narrower_than_seeds_alone(seed, seeds, images):
    d = np.random.default_rng(seed).integers(-1, 2, size=(seeds, images))
    crossed = crossed_interval(d)
    alone = stats.t.ppf(0.975, seeds - 1) * (100 * d.mean(axis=1)).std(ddof=1) / math.sqrt(seeds)
    assert crossed.half_width >= alone - 1e-9


def test_crossed_covers_the_truth_where_seeds_alone_do_not():
    rng, runs, seeds, images = np.random.default_rng(1), 2000, 10, 50
    covered = alone = 0
    for _ in range(runs):
        d = 0.02 * rng.standard_normal((seeds, 1)) + 0.5 * rng.standard_normal(images)
        d = d + 0.3 * rng.standard_normal((seeds, images))
        result = crossed_interval(d)
        covered += result.low <= 0 <= result.high
        half = stats.t.ppf(0.975, seeds - 1) * math.sqrt(result.seed_part)
        alone += abs(result.mean) <= half
    error = 2 * math.sqrt(0.05 * 0.95 / runs)
    assert covered / runs >= 0.95 - error
    assert alone / runs < 0.8


def test_crossed_degenerate():
    assert crossed_interval(np.zeros((3, 5))).half_width == 0
    for bad in (np.zeros((1, 5)), np.zeros(5), np.full((3, 3), math.nan)):
        with pytest.raises(DataError, match="at least two"):
            crossed_interval(bad)


@pytest.mark.parametrize("level", [0.0, 1.0, 1.5, math.nan])
def test_a_level_out_of_range_is_refused(level):
    with pytest.raises(ConfigError, match="not a probability"):
        crossed_interval(np.zeros((3, 5)), level=level)
    with pytest.raises(ConfigError, match="not a probability"):
        noise_floor([70.0, 71.0], level=level)


def test_noise_floor_covers_at_its_level():
    rng, runs = np.random.default_rng(2), 2000
    floors = [noise_floor(70 + 1.5 * rng.standard_normal(5), level=0.9) for _ in range(runs)]
    covered = np.mean([floor.low <= 1.5 <= floor.high for floor in floors])
    assert abs(covered - 0.9) <= 2.5 * math.sqrt(0.9 * 0.1 / runs)
    assert all(floor.low < floor.sd < floor.high for floor in floors)
    assert math.isnan(noise_floor([70.0]).sd)


@pytest.mark.parametrize(("seeds", "baselines", "correlation"), [(5, 4, 0.0), (10, 2, 0.0), (10, 4, 0.6)])
def test_detectable_difference_is_detected_with_the_power_asked_for(seeds, baselines, correlation):
    sd, runs, rng = 0.7, 2000, np.random.default_rng(3)
    effect = detectable_difference(sd, seeds, baselines, correlation=correlation)
    others = {f"other {i}": np.zeros(seeds) for i in range(baselines - 1)}
    found = 0
    for _ in range(runs):
        shared = math.sqrt(correlation) * rng.standard_normal(seeds)
        winner, base = shared + math.sqrt(1 - correlation) * rng.standard_normal((2, seeds))
        found += "base" in verdict(effect + sd * winner, {"base": sd * base, **others}, seeds=range(seeds)).named(
            "better"
        )
    assert abs(found / runs - 0.8) <= 2.5 * math.sqrt(0.8 * 0.2 / runs)


def test_detectable_difference_limits():
    assert detectable_difference(1.0, 4, 3) == math.inf
    assert detectable_difference(0.0, 10, 3) == 0
    assert detectable_difference(1.0, 10, 3, correlation=1.0) == 0
    by_seeds = [detectable_difference(1.0, seeds, 3) for seeds in (5, 10, 20, 1000)]
    assert by_seeds == sorted(by_seeds, reverse=True)
    # Many seeds: the normal theory of two samples.
    normal = (stats.norm.ppf(1 - 0.05 / 3 / 2) + stats.norm.ppf(0.8)) * math.sqrt(2 / 1000)
    np.testing.assert_allclose(by_seeds[-1], normal, rtol=5e-3)
    for wrong in ({"baselines": 0}, {"correlation": 2}, {"power": 0.01}):
        with pytest.raises(ConfigError):
            detectable_difference(1.0, 10, **{"baselines": 1, **wrong})


def test_optimism():
    result = optimism(72.0, [71.0, 71.5], [70.0, 70.5, 70.25])
    assert (result.from_search, result.from_selection) == (72 - 70.25, 71.25 - 70.25)
    assert math.isnan(optimism(72.0, [], [70.0]).from_selection)
