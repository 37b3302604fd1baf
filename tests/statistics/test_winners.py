import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from divfeat.errors import ConfigError, DataError
from divfeat.statistics import pareto_front, select_top

VALUES = st.one_of(st.integers(-3, 3).map(float), st.just(math.nan), st.just(-math.inf))
TABLES = hnp.arrays(np.float64, st.tuples(st.integers(0, 12), st.integers(1, 3)), elements=VALUES)


def naive_front(table):
    rows = [(i, row) for i, row in enumerate(table.tolist()) if all(map(math.isfinite, row))]

    def beats(a, b):
        return all(x >= y for x, y in zip(a, b, strict=True)) and a != b

    return [i for i, row in rows if not any(beats(other, row) for _, other in rows)]


@given(TABLES)
def test_front_matches_a_loop(table):
    assert pareto_front(table).tolist() == naive_front(table)


@given(TABLES, st.integers(1, 14))
def test_select_top_is_a_ranking(table, k):
    chosen = select_top(table, k).tolist()
    finite = np.isfinite(table).all(axis=1)
    assert len(chosen) == len(set(chosen)) == min(k, int(finite.sum()))
    assert finite[chosen].all()
    assert chosen == select_top(table, 100).tolist()[:k]
    front = naive_front(table)
    assert all(i in front for i in chosen[: len(front)])


def test_one_objective_by_value_first_trial_on_ties():
    values = [1.0, 5.0, math.nan, 5.0, 3.0, -math.inf]
    assert select_top(values, 3).tolist() == [1, 3, 4]
    assert select_top(np.array(values)[:, None], 9).tolist() == [1, 3, 4, 0]


def test_two_objectives_take_the_point_closest_to_utopia():
    # Front: 0, 1, 2. Scaled to [0, 1]: (1, 0), (0.8, 0.75), (0, 1): the middle one is closest to (1, 1).
    table = np.array([[80.0, 10.0], [78.0, 40.0], [70.0, 50.0], [69.0, 49.0], [60.0, 60.0 - 20.0]])
    assert pareto_front(table).tolist() == [0, 1, 2]
    assert select_top(table, 5).tolist() == [1, 0, 2, 3, 4]
    # The rule knows no units: stretching an objective changes nothing.
    assert select_top(table * [1, 1e-4] + [0, 7], 5).tolist() == [1, 0, 2, 3, 4]


def test_ties_of_distance_go_to_the_first_trial():
    # The two inner points are equally far, though floating point puts the second closer in the last bit.
    x = np.arange(4.0)
    table = np.stack([0.1 * x, 60.3 + 0.1 * x[::-1]], axis=1)
    scaled = (table.max(axis=0) - table) / np.ptp(table, axis=0)
    assert np.linalg.norm(scaled[1]) > np.linalg.norm(scaled[2])
    assert select_top(table, 1).tolist() == [1]
    assert select_top(table[[2, 1, 0, 3]], 1).tolist() == [0]
    assert select_top([[1.0, 2.0], [1.0, 2.0]], 1).tolist() == [0]


def test_user_errors():
    with pytest.raises(ConfigError):
        select_top([1.0], 0)
    with pytest.raises(DataError):
        select_top(np.zeros((2, 2, 2)), 1)
    assert select_top([], 2).size == 0
