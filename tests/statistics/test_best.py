import math

import numpy as np
import pytest
from scipy import stats

from divfeat.errors import ConfigError, DataError
from divfeat.statistics import as_good_as_best, dunnett_critical


@pytest.mark.parametrize(("comparisons", "degrees"), [(1, 5), (2, 10), (7, 14), (9, 36), (30, 300)])
def test_dunnett_against_the_multivariate_t(comparisons, degrees):
    value = dunnett_critical(comparisons, degrees, 0.05)
    if comparisons == 1:
        np.testing.assert_allclose(value, stats.t.ppf(0.95, degrees), rtol=1e-8)
        return
    shape = np.full((comparisons, comparisons), 0.5) + 0.5 * np.eye(comparisons)
    oracle = stats.multivariate_t(shape=shape, df=degrees, seed=0).cdf(np.full(comparisons, value))
    assert abs(oracle - 0.95) < 2e-3


def test_dunnett_against_scipys_test():
    """At the critical value the adjusted p-value of scipy's own Dunnett test is alpha."""
    rng = np.random.default_rng(0)
    groups = rng.standard_normal((4, 6))
    control, treated = groups[0], groups[1:]
    pooled = math.sqrt(groups.var(axis=1, ddof=1).mean())
    wanted = dunnett_critical(3, 20, 0.05) * pooled * math.sqrt(2 / 6)
    treated[0] += control.mean() + wanted - treated[0].mean()
    result = stats.dunnett(*treated, control=control, alternative="greater", rng=np.random.default_rng(1))
    assert abs(result.pvalue[0] - 0.05) < 1e-3


def naive_lower(table, critical):
    """Hsu's lower bounds by loops: the smallest over the others of (mean difference - allowance)."""
    grid, seeds = table.shape
    means = [sum(row) / seeds for row in table.tolist()]
    blocks = [sum(table[:, s].tolist()) / grid for s in range(seeds)]
    grand = sum(means) / grid
    total = sum((table[g, s] - means[g] - blocks[s] + grand) ** 2 for g in range(grid) for s in range(seeds))
    allowance = critical * math.sqrt(total / ((grid - 1) * (seeds - 1))) * math.sqrt(2 / seeds)
    return [min(0.0, *(means[g] - means[j] - allowance for j in range(grid) if j != g)) for g in range(grid)]


def test_bounds_match_a_loop_and_ignore_what_a_seed_does_to_all():
    rng = np.random.default_rng(2)
    table = 70 + rng.standard_normal((8, 4))
    result = as_good_as_best(table, margin=5.0)
    np.testing.assert_allclose(result.lower, naive_lower(table, dunnett_critical(7, 21, 0.05)))
    shifted = as_good_as_best(table + 10 * rng.standard_normal(4), margin=5.0)
    np.testing.assert_allclose(shifted.lower, result.lower, atol=1e-9)


def test_plateau_is_found_and_stays_contiguous():
    curve = np.array([60, 65, 69.9, 70, 70.1, 69.9, 66, 69.95, 50])  # index 7 is good but cut off by index 6
    table = curve[:, None] + 0.02 * np.random.default_rng(3).standard_normal((9, 3))
    result = as_good_as_best(table, margin=0.5)
    assert (result.status, result.best, result.interval) == ("determined", 4, (2, 5))
    assert result.good.tolist() == [False, False, True, True, True, True, False, True, False]
    assert result.difference[4] > 0 > result.difference[3]
    assert as_good_as_best(table + 100 * np.eye(9, 3), margin=0.5).status == "undetermined"


def test_the_whole_grid_can_be_good():
    table = 70 + 0.01 * np.random.default_rng(4).standard_normal((10, 5))
    assert as_good_as_best(table, margin=0.5).interval == (0, 9)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (np.zeros((7, 5)), "7 points"),
        (np.zeros((8, 2)), "2 seeds"),
        (np.full((8, 3), math.nan), "24 of 24 values are missing"),
        (np.arange(8.0)[:, None] + np.arange(3.0), "same for every seed"),
        (np.random.default_rng(0).standard_normal((8, 3)), "noise is too large"),
    ],
)
def test_undetermined_says_why(table, reason):
    result = as_good_as_best(table, margin=0.5)
    assert (result.status, result.interval) == ("undetermined", None)
    assert reason in result.reason
    assert result.good.shape == result.lower.shape == (len(table),)


def test_user_errors():
    with pytest.raises(DataError):
        as_good_as_best(np.zeros(8), margin=0.5)
    with pytest.raises(ConfigError, match="margin"):
        as_good_as_best(np.zeros((8, 3)), margin=0)
    with pytest.raises(ConfigError, match="alpha"):
        as_good_as_best(np.zeros((8, 3)), margin=1, alpha=0)


@pytest.mark.parametrize("grid", [8, 12])
def test_bounds_hold_together_and_are_not_idle(grid):
    """Least favourable: all equal, every true difference 0, so the bound fails as often as allowed."""
    rng, runs, failed = np.random.default_rng(5), 2000, 0
    for _ in range(runs):
        table = 3 * rng.standard_normal(4) + rng.standard_normal((grid, 4))
        means = table.mean(axis=1)
        half = as_good_as_best(table, margin=0.5).half_width
        # One true best, here the first: the event from which every bound follows.
        failed += bool((means[1:] - means[0] - half > 0).any())
    assert abs(failed / runs - 0.05) <= 2.5 * math.sqrt(0.05 * 0.95 / runs)


def test_a_point_beyond_the_margin_is_seldom_called_good():
    rng, runs, margin, wrong = np.random.default_rng(6), 2000, 0.5, 0
    truth = np.full(8, -margin)
    truth[3] = 0.0
    for _ in range(runs):
        result = as_good_as_best(truth[:, None] + 0.1 * rng.standard_normal((8, 3)), margin=margin)
        wrong += bool(np.delete(result.good, 3).any())
    assert 0 < wrong / runs <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / runs)
