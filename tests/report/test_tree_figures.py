"""Figures over a tree: what is drawn where, against the arrays they were given."""

import itertools

import numpy as np
import pytest
from matplotlib.figure import Figure

from divfeat.hierarchy import Hierarchy, shipped
from divfeat.report import figures

#: In label order: cat, pug, husky, cup. Depth first: cat, pug, husky, cup.
TREE = Hierarchy.from_nested({"animal": {"dog": ["pug", "husky"], "cat": None}, "thing": ["cup"]}).aligned(
    ["cup", "husky", "cat", "pug"]
)
RNG = np.random.default_rng(0)


def drawn(figure, *args, **kwargs) -> tuple[Figure, str]:
    found: list[Figure] = []
    caption = figure(*args, path=found.append, **kwargs)
    found[0].canvas.draw()
    return found[0], caption


def words(ax) -> list[str]:
    return [text.get_text().strip() for text in ax.texts]


def edges(ax) -> dict[tuple[float, float], float]:
    """Left end of each edge (height above, place from the top) -> its width."""
    _, ways = ax.collections
    widths = np.broadcast_to(ways.get_linewidths(), len(ways.get_segments()))
    return {
        (float(way[0][0]), float(way[0][1])): float(width)
        for way, width in zip(ways.get_segments(), widths, strict=True)
    }


def test_a_bare_tree_has_every_name_and_every_edge() -> None:
    figure, caption = drawn(figures.tree, TREE)
    (ax,) = figure.axes
    order = [TREE.classes[label] for label in TREE.depth_first]
    assert [label.get_text() for label in ax.get_yticklabels()] == order
    assert sorted(words(ax)) == ["animal", "dog", "thing"]
    places = {name: order.index(name) for name in order}
    dogs = (places["pug"] + places["husky"]) / 2
    expected = {(3, (dogs + places["cat"]) / 2), (3, places["cup"]), (2, dogs), (2, places["cat"])}
    expected |= {(1, places["pug"]), (1, places["husky"])}
    found = edges(ax)
    assert {key for key in found if key[0] != 1 or key[1] in (places["pug"], places["husky"])} >= expected
    assert len(found) == len(TREE.names) - 1 and ax.get_xlim()[0] > ax.get_xlim()[1]
    assert "ways to the root meet" in caption


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_names_do_not_lie_on_each_other(name: str) -> None:
    figure, _ = drawn(figures.tree, shipped(name))
    ax = figure.axes[0]
    boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert all(upper.y0 >= lower.y1 - 1 for upper, lower in itertools.pairwise(boxes))
    inner = [text.get_window_extent() for text in ax.texts]
    assert not any(one.overlaps(other) for place, one in enumerate(inner) for other in inner[:place])


def test_edges_are_as_wide_as_their_share_and_one_scale_holds_for_both() -> None:
    first = RNG.random((len(TREE.names), 3)) / 4
    first[-1] = 0
    first[:, 1] = np.nan  # a seed that is missing
    second = np.zeros(len(TREE.names))
    second[TREE.classes.index("cup")] = 0.9
    figure, caption = drawn(figures.mistakes_on_tree, {"winner": first, "ce": second}, TREE)
    left, right, bar = figure.axes
    assert "over 1 to 2 seeds, 1 value missing" in caption
    assert right.get_title(loc="left") == "ce: most, 90.0\N{NO-BREAK SPACE}%, above cup"
    means = np.nanmean(first, axis=1)[:-1]
    widths = np.broadcast_to(left.collections[1].get_linewidths(), len(means))
    assert np.argsort(widths).tolist() == np.argsort(means).tolist()
    assert max(widths) < max(right.collections[1].get_linewidths())
    assert bar.get_xlim()[1] == pytest.approx(90)
    with pytest.raises(ValueError, match="for 8 points"):
        drawn(figures.mistakes_on_tree, {"winner": [0.1]}, TREE)


def test_matrices_stand_in_the_order_of_the_tree_with_their_difference() -> None:
    target = np.eye(4)
    measured = np.stack([np.eye(4) + 0.2 * (1 - np.eye(4)), np.eye(4) - 0.4 * (1 - np.eye(4))])
    measured[0, 0, 2] = measured[0, 2, 0] = 0.9
    figure, caption = drawn(figures.class_cosines, {"winner": (target, measured)}, TREE)
    left, right, _ = figure.axes
    order = list(TREE.depth_first)
    np.testing.assert_allclose(right.images[0].get_array(), measured.mean(axis=0)[np.ix_(order, order)])
    assert left.images[0].get_clim() == right.images[0].get_clim() == (-1, 1)
    assert [label.get_text() for label in left.get_yticklabels()] == [TREE.classes[k] for k in order]
    # Of each seed its mean over pairs, then the mean of both: seeds on either side do not cancel.
    told = ((5 * 0.2 + 0.9) / 6 + 0.4) / 2
    assert f"{told:.3f}" in right.get_title(loc="left") and "the 2 groups" in caption and "2 seeds" in caption
    (line,) = {float(line.get_ydata()[0]) for line in left.get_lines() if line.get_ydata()[0] == line.get_ydata()[1]}
    below = [TREE.classes[k] for k in order[int(line + 0.5) :]]
    assert below in (["cup"], ["pug", "husky", "cat"], ["husky", "pug", "cat"], ["cat", "husky", "pug"])


def test_many_classes_have_the_names_of_their_groups() -> None:
    tree = shipped("cifar100")
    figure, _ = drawn(figures.class_cosines, {"a": (np.eye(100), np.eye(100))}, tree)
    left, right, _ = figure.axes
    assert {label.get_text() for label in left.get_yticklabels()} == {"living", "non-living"}
    assert {label.get_text() for label in right.get_xticklabels()} == {"living", "non-living"}


def test_methods_with_their_intervals_and_the_front_of_their_means() -> None:
    methods = {
        "winner": ([70.0, 72.0, 74.0], [2.0, 2.2, 2.4]),
        "ce": ([75.0, 75.0], [2.6, 2.6]),
        "worse": ([71.0, np.nan], [2.7, np.nan]),
        "lost": ([np.nan], [np.nan]),
    }
    trials = [
        {"number": 0, "values": (60.0, 2.0), "feasible": True, "front": True},
        {"number": 1, "values": (70.0, 2.1), "feasible": True, "front": True},
        {"number": 2, "values": (20.0, 1.0), "feasible": True, "front": True},
    ]
    figure, caption = drawn(figures.severity_by_accuracy, methods, trials=trials, winner=1)
    left, right = figure.axes
    assert sorted(words(left)) == ["ce", "winner", "worse"]
    assert caption.startswith("Means with 95 % Student-t intervals over 1 to 3 seeds, 2 values missing.")
    assert "on the front of the means: winner, ce." in caption and "1 outside, more than 15 points" in caption
    (steps,) = [line for line in left.get_lines() if line.get_label() == "Pareto front"]
    np.testing.assert_allclose(steps.get_xydata(), [(72, 2.2), (75, 2.6)])
    across, up = (bars.get_segments()[0] for bars in left.containers[0][2])
    half = 4.3026527 * 2 / np.sqrt(3)  # the t quantile of two degrees of freedom
    np.testing.assert_allclose(across[:, 0], [72 - half, 72 + half])
    np.testing.assert_allclose(up[:, 1], [2.2 - half / 10, 2.2 + half / 10])
    assert right.get_xlim()[0] > 20 and figure.axes[0].get_ylabel() == "mistake severity, lower is better"


def test_names_of_methods_that_lie_together_do_not_cover_each_other() -> None:
    methods = {f"method {k}": (70 + 0.1 * RNG.random(5), 2 + 0.01 * RNG.random(5)) for k in range(5)}
    figure, _ = drawn(figures.severity_by_accuracy, methods)
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == 5
    assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])


def test_angular_collapse_over_epochs_that_double() -> None:
    table = RNG.random((3, 6))
    curves = {"winner": {"epoch": [1, 2, 4, 8, 16, 17], "angular": table}}
    figure, caption = drawn(figures.angular_over_epochs, curves)
    (ax,) = figure.axes
    (line,) = ax.get_lines()
    np.testing.assert_allclose(line.get_ydata(), table.mean(axis=0))
    assert ax.get_xscale() == "log" and ax.get_ylim()[0] == 0 and "3 seeds" in caption
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2", "4", "8", "17"]  # 16 would lie on 17
