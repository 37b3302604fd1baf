import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna._hypervolume import compute_hypervolume

from divfeat.errors import DataError
from divfeat.statistics import hypervolume, pareto_front

POINTS = st.lists(st.tuples(st.integers(-2, 6), st.integers(-2, 6)), max_size=10)
CORNERS = st.tuples(st.integers(-2, 3), st.integers(-2, 3))


def naive(points, corner):
    """Unit squares of a grid, above and to the right of the corner, that some point covers."""
    return sum(
        any(x < a and y < b for a, b in points) for x in range(corner[0], 7) for y in range(corner[1], 7)
    )  # a square's lower left corner names it


@given(POINTS, CORNERS)
def test_area_by_counting_squares(points, corner):
    table = np.array(points, dtype=float).reshape(len(points), 2)
    assert hypervolume(table, corner) == naive(points, corner)


@given(POINTS, CORNERS)
def test_agrees_with_optunas_own(points, corner):
    above = np.array([p for p in points if p[0] > corner[0] and p[1] > corner[1]], dtype=float).reshape(-1, 2)
    expected = compute_hypervolume(-above, -np.array(corner, dtype=float)) if len(above) else 0.0
    assert hypervolume(above, corner) == pytest.approx(expected)


@given(POINTS, CORNERS, st.tuples(st.integers(-2, 6), st.integers(-2, 6)), st.randoms())
def test_monotone_and_without_order(points, corner, more, random):
    table = np.array(points, dtype=float).reshape(len(points), 2)
    area = hypervolume(table, corner)
    assert hypervolume(np.vstack([table, more]), corner) >= area
    assert hypervolume(table + 1, corner) >= area
    assert hypervolume(table, np.array(corner) + 1) <= area
    assert hypervolume(np.array(random.sample(points, len(points)), dtype=float).reshape(-1, 2), corner) == area
    assert hypervolume(table[:, ::-1], corner[::-1]) == area
    assert hypervolume(table[pareto_front(table)], corner) == area  # the front alone decides


def test_what_is_not_finite_counts_for_nothing():
    table = np.array([[0.5, 0.5], [math.nan, 1.0], [1.0, math.inf], [0.25, 1.0]])
    assert hypervolume(table, [0, 0]) == pytest.approx(0.25 + 0.125)
    assert hypervolume(np.empty((0, 2)), [0, 0]) == 0


@pytest.mark.parametrize(("values", "reference"), [([1.0, 2.0], [0, 0]), ([[1.0]], [0]), ([[1.0, 2.0]], [0])])
def test_wrong_shapes_are_refused(values, reference):
    with pytest.raises(DataError, match="give"):
        hypervolume(values, reference)
