import inspect
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.image import imread

from divfeat.hierarchy import Hierarchy
from divfeat.report import figures
from divfeat.report.arrays import mean_of, mean_sd, sd_of
from divfeat.report.figures._canvas import plain
from divfeat.report.figures.across import Differences, Trials
from divfeat.report.figures.comparison import MOST_NAMED
from divfeat.report.figures.features import MOST_FINE, MOST_IMAGES, plane_coordinates
from divfeat.report.words import interval, signed
from divfeat.statistics import verdict

NAN = math.nan
GRID = np.arange(0, 18, 2) * math.pi / 36
HOSTILE = "_$\\frac{<b>\n\x00%s " + "x" * 80
RNG = np.random.default_rng(0)
THREE = np.repeat([0, 1, 2], 3)
FLAT = Hierarchy.flat([HOSTILE, "b", "c"])


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, for a look at what is on them."""
    found, original = [], Figure.savefig

    def spy(self, *args, **kwargs):
        original(self, *args, **kwargs)
        found.append(self)

    monkeypatch.setattr(Figure, "savefig", spy)
    return found


@pytest.fixture(autouse=True)
def _strict():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def legend_of(ax):
    return [text.get_text().replace(r"\$", "$") for text in ax.get_legend().get_texts()] if ax.get_legend() else []


def line_named(ax, name):
    (line,) = [line for line in ax.get_lines() if line.get_label() == name]
    return line


def assert_png(path):
    image = imread(path)
    assert min(image.shape[:2]) > 250
    assert image[..., :3].std() > 0.005


def test_accuracy_by_threshold(tmp_path, drawn):
    table = 70 + RNG.standard_normal((9, 5))
    table[2, 1] = NAN
    shuffled = RNG.permutation(9)
    caption = figures.accuracy_by_threshold(
        GRID[shuffled],
        table[shuffled],
        tmp_path / "a.png",
        baseline_accuracy={"CE": [68.0, 69.0, 70.0, NAN], "none": [NAN]},
        as_good=(GRID[3], GRID[6]),
    )
    assert_png(tmp_path / "a.png")
    (ax,) = drawn[0].axes
    curve = line_named(ax, "HingeCE")
    np.testing.assert_allclose(curve.get_xdata(), np.arange(0, 90, 10), atol=1e-9)
    np.testing.assert_allclose(curve.get_ydata(), np.nanmean(table, axis=1))
    assert len(line_named(ax, "one seed").get_ydata()) == 45
    assert set(line_named(ax, "CE").get_ydata()) == {69.0}
    assert legend_of(ax) == ["HingeCE", "one seed", "as good as the best", "CE"]
    shade = next(patch for patch in ax.patches if patch.get_label() == "as good as the best")
    np.testing.assert_allclose([shade.get_x(), shade.get_x() + shade.get_width()], [30, 60])
    assert "degrees" in ax.get_xlabel()
    assert "(%)" in ax.get_ylabel()
    (second,) = ax.child_axes
    assert [label.get_text() for label in second.get_xticklabels()][:3] == ["0", "π/12", "π/6"]
    assert caption == (
        "Mean and single values over 4 to 5 seeds, 1 value missing; baselines: mean and one standard deviation over 3 seeds, "
        "2 values missing."
    )
    assert caption.split()[0] in drawn[0].get_supxlabel()


def test_diversity_by_threshold(tmp_path, drawn):
    nc1, rank = np.exp(3 * GRID)[:, None] * np.ones((9, 3)), (1 + GRID)[:, None] * np.ones((9, 3))
    nc1[4, 0] = rank[4, 0] = NAN
    caption = figures.diversity_by_threshold(
        GRID, nc1, rank, tmp_path / "b.png", baseline_diversity={"CE": ([2.0, NAN], [3.0, NAN])}
    )
    assert "over 2 to 3 seeds, 1 value missing; baselines" in caption
    assert caption.endswith("over 1 seed, 1 value missing.")
    left, right = drawn[0].axes
    assert (left.get_yscale(), right.get_yscale()) == ("log", "linear")
    assert line_named(left, "CE").get_ydata()[0] == 2
    assert line_named(right, "CE").get_ydata()[0] == 3
    np.testing.assert_allclose(line_named(right, "HingeCE").get_ydata(), 1 + GRID)


def test_cosines_over_epochs(tmp_path, drawn):
    curves = {
        "CE+ETF": {"epoch": [1, 2, 3], "own": RNG.random(3), "other": RNG.random(3)},
        "gate": {"epoch": [1, 2, 3], "own": RNG.random((2, 3)), "other": RNG.random((2, 3))},
    }
    caption = figures.cosines_over_epochs(curves, tmp_path / "c.png")
    left, right = drawn[0].axes
    np.testing.assert_allclose(line_named(left, "gate").get_ydata(), curves["gate"]["own"].mean(axis=0))
    np.testing.assert_allclose(line_named(right, "gate").get_ydata(), curves["gate"]["other"].mean(axis=0))
    assert legend_of(right) == ["CE+ETF", "gate"]
    assert caption == "Training features; mean and one standard deviation over 1 to 2 seeds."
    assert_png(tmp_path / "c.png")
    curves["gate"]["own"][1] = curves["gate"]["other"][1] = NAN  # a seed that failed
    assert "over 1 seed, 1 curve missing." in figures.cosines_over_epochs(curves, tmp_path / "c.png")


@given(st.integers(0, 1000), st.integers(2, 20), st.floats(0.01, 100))
def test_projection_is_an_isometry_of_the_plane_up_to_scale(seed, dim, norm):
    rng = np.random.default_rng(seed)
    features, labels = norm * rng.standard_normal((30, dim)), np.arange(30) % 3
    flat = plane_coordinates(features, labels, [0, 1, 2])
    means = np.stack([features[labels == k].mean(axis=0) for k in range(3)])
    corners = np.stack([flat[labels == k].mean(axis=0) for k in range(3)])
    pairs = [(0, 1), (1, 2), (2, 0)]
    wide = np.array([np.linalg.norm(means[i] - means[j]) for i, j in pairs])
    shown = np.array([np.linalg.norm(corners[i] - corners[j]) for i, j in pairs])
    np.testing.assert_allclose(shown, wide / wide.mean(), rtol=1e-6)
    np.testing.assert_allclose(corners.sum(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(corners[0, 0], 0, atol=1e-9)
    assert corners[0, 1] >= 0
    assert corners[1, 0] >= 0
    # Orthogonal to the plane is lost, nothing is stretched.
    between = np.linalg.norm(flat[:, None] - flat[None], axis=-1) * wide.mean()
    true = np.linalg.norm(features[:, None] - features[None], axis=-1)
    assert (between <= true * (1 + 1e-6) + 1e-9).all()
    if dim == 2:
        np.testing.assert_allclose(between, true, rtol=1e-6, atol=1e-6 * norm)


def test_projection_refuses_what_gives_no_plane():
    features, labels = np.eye(4), np.array([0, 1, 2, 0])
    with pytest.raises(ValueError, match="class 7 has no sample"):
        plane_coordinates(features, labels, [0, 1, 7])
    with pytest.raises(ValueError, match="2 classes"):
        plane_coordinates(features, labels, [0, 1])


def test_feature_projection(tmp_path, drawn):
    coarse = np.repeat(np.arange(4), [30, 60, 60, 60])
    fine = coarse * 2 + np.arange(210) % 2
    panel = {"features": np.eye(4)[coarse] + 0.1 * RNG.standard_normal((210, 4)), "coarse": coarse, "fine": fine}
    caption = figures.feature_projection({"CE": panel, "gate": panel}, tmp_path / "d.png", fine_names={2: "beaver"})
    left, right = drawn[0].axes
    assert (left.get_title(loc="left"), right.get_title(loc="left")) == ("CE", "gate")
    np.testing.assert_allclose(left.get_xlim(), right.get_xlim())
    assert len(left.collections) == 6  # three classes (not the rare one) of two fine ones
    names = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert names == ["beaver", *(f"fine class {k}" for k in range(3, 8))]
    assert left.get_xlabel() and left.get_ylabel()
    assert f"at most {MOST_IMAGES} images of up to {MOST_FINE} fine classes each" in caption
    assert_png(tmp_path / "d.png")


def test_feature_projection_draws_a_sample(tmp_path, drawn):
    coarse, fine = np.repeat(np.arange(3), 700), np.arange(2100) // 100
    panel = {"features": np.eye(3)[coarse] + 0.1 * RNG.standard_normal((2100, 3)), "coarse": coarse, "fine": fine}
    figures.feature_projection({"CE": panel}, tmp_path / "d.png")
    assert [len(dots.get_offsets()) for dots in drawn[0].axes[0].collections] == [MOST_IMAGES] * (3 * MOST_FINE)


def bars_of(ax):
    return {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in ax.patches}


def test_gain_by_class_of_major_and_minor_classes(tmp_path, drawn):
    counts = np.array([5, 500, 50, 51])
    winner = np.array([[40.0, 42, NAN], [60, 60, NAN], [50, 50, NAN], [70, 71, NAN]])
    baseline = winner - np.array([4.0, -1, 2, 1])[:, None]
    caption = figures.gain_by_class(
        winner, baseline, tmp_path / "e.png", class_names="abcd", counts=counts, boundary=50, baseline_name="CE"
    )
    upper, lower = drawn[0].axes
    assert bars_of(upper) == {1: -1.0, 2: 1.0, 3: 2.0, 4: 4.0}
    assert bars_of(lower) == {1: 500, 2: 51, 3: 50, 4: 5}
    assert [text.get_text() for text in lower.get_xticklabels()] == ["b", "d", "c", "a"]
    assert "falling number of training images" in lower.get_xlabel()
    assert legend_of(upper)[:2] == ["major: 2 classes, mean 0.0", "minor: 2 classes, mean +3.0"]
    assert caption == (
        "Mean over 2 seeds, 1 seed missing; whiskers: one standard deviation. Minor: at most 50 training images (dotted)."
    )


@pytest.mark.parametrize("classes", [4, MOST_NAMED + 1])
def test_gain_by_class_without_groups_falls(tmp_path, drawn, classes):
    gain = RNG.standard_normal(classes)
    caption = figures.gain_by_class(
        50 + gain, np.full(classes, 50), tmp_path / "e.png", class_names=[f"name {k}" for k in range(classes)]
    )
    (ax,) = drawn[0].axes
    heights = list(bars_of(ax).values())
    np.testing.assert_allclose(heights, np.sort(gain)[::-1])
    assert "falling gain" in ax.get_xlabel()
    assert (ax.get_xticklabels()[0].get_text() == f"name {gain.argmax()}") == (classes <= MOST_NAMED)
    assert legend_of(ax)[0].startswith(f"all: {classes} classes, mean ")
    assert "minor" not in caption.lower() and "exaggerates" in caption


def test_optimisation_history(tmp_path, drawn):
    values = [60.0, 63.0, 61.0, NAN, 64.0, 62.0, None, 1.0]
    status = ["completed"] * 3 + ["failed", "completed", "pruned", "pruned", "completed"]
    release = ["paper", "gate", "theorem", "gate", "paper", "gate", "gate", "paper"]
    trials = [
        {"number": i, "value": v, "status": s, "release": r}
        for i, (v, s, r) in enumerate(zip(values, status, release, strict=True))
    ]
    caption = figures.optimisation_history(trials[::-1], tmp_path / "f.png")
    (ax,) = drawn[0].axes
    assert ax.get_lines()[0].get_ydata().tolist() == [60, 63, 63, 64, 64, 64]
    assert legend_of(ax) == ["best so far", "paper", "gate", "theorem", "pruned", "pruned, no value", "failed"]
    ending = "1 value below the axis, drawn on its edge."
    hollow = "Hollow: the last value of a pruned trial, of fewer epochs, which compares with no finished one."
    assert caption == f"5 finished, 2 pruned, 1 failed; one seed a trial. {hollow} {ending}"
    on_edge = [dots.get_offsets().tolist() for dots in ax.collections if dots.get_offset_transform() != ax.transData]
    assert on_edge == [[[7.0, 0.02]]]
    assert ax.get_ylim()[0] > 40


def test_confirmation(tmp_path, drawn):
    winner = 70 + 0.1 * RNG.standard_normal(10)
    others = {"CE": winner - 3 + 0.1 * RNG.standard_normal(10), "paper": 70 + 0.1 * RNG.standard_normal(10)}
    result = verdict(winner, others, seeds=range(10))
    caption = figures.confirmation({c.name: c.__dict__ for c in result.comparisons}, tmp_path / "g.png", margin=0.5)
    (ax,) = drawn[0].axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["CE", "paper"]
    texts = [text.get_text() for text in ax.texts]
    for text, one in zip(texts, result.comparisons, strict=True):
        assert text == f"{one.verdict}\n{signed(one.mean)} {interval(one.low, one.high)}"
    low, high = result.comparisons[0].low, result.comparisons[0].high
    assert [low, high] in lines_of(ax)
    assert "Tick: one seed (10 seeds)" in caption
    assert "97.5 %" in caption
    assert "±0.5 points" in caption


def lines_of(ax):
    return [np.asarray(line.get_xdata()).tolist() for line in ax.get_lines()]


def test_confirmation_without_a_verdict_draws_no_interval(tmp_path, drawn):
    winner = 70 + 0.1 * RNG.standard_normal(10)
    result = verdict(winner, {"CE": np.append(winner[:9] - 3 + 0.1 * RNG.random(9), NAN)}, seeds=range(10))
    (one,) = result.comparisons
    assert math.isfinite(one.low)
    caption = figures.confirmation({one.name: vars(one)}, tmp_path / "g.png")
    (ax,) = drawn[0].axes
    assert [text.get_text() for text in ax.texts] == ["no verdict"]
    assert [one.low, one.high] not in lines_of(ax)
    (dot,) = [line for line in ax.get_lines() if line.get_marker() == "o"]
    assert dot.get_xdata().tolist() == [one.mean] and dot.get_markerfacecolor() == "white"
    assert "9 seeds, 1 value missing" in caption and "no verdict" in caption and "interval" not in caption


def test_two_thresholds(tmp_path, drawn):
    first, second = RNG.random((2, 30))
    objective = 60 - (first - 0.5) ** 2 - second
    objective[4] = NAN
    caption = figures.two_thresholds(first, second, objective, tmp_path / "h.png", margin=0.2)
    ax = drawn[0].axes[0]
    best = int(np.nanargmax(objective))
    star = ax.get_lines()[0]
    np.testing.assert_allclose([star.get_xdata()[0], star.get_ydata()[0]], np.degrees([first[best], second[best]]))
    assert legend_of(ax)[1] == "failed or pruned"
    near = [k for k in range(30) if objective[k] >= objective[best] - 0.2]
    low, high = (f"{edge(np.degrees(first[near])):.0f}°" for edge in (np.min, np.max))
    assert caption.startswith(f"Best: {objective[best]:.1f} % at {np.degrees(first[best]):.0f}°")
    assert f"{len(near)} of 29 trials lie within 0.2 points of it, at {low} to {high} and" in caption
    assert "29 finished trials, one seed each" in caption
    assert len(ax.child_axes) == 2
    assert_png(tmp_path / "h.png")


def test_trials_that_differ_in_more_than_two_thresholds_are_not_interpolated(tmp_path, drawn):
    first, second = RNG.random((2, 30))
    captions = [
        figures.two_thresholds(first, second, 60 - first, tmp_path / "h.png", besides=besides)
        for besides in ((), ("minor_share", "closed_last"))
    ]
    assert "contours interpolate" in captions[0] and "differ" not in captions[0]
    assert captions[1].endswith("30 finished trials, one seed each; they differ in minor_share and closed_last too.")
    plain, besides = (len(figure.axes[0].collections) for figure in drawn)
    assert besides < plain


def test_a_trial_that_breaks_a_constraint_is_ringed_and_never_the_best(tmp_path, drawn):
    broken = [False, True, False]
    caption = figures.two_thresholds(
        [0.1, 0.2, 0.3], [0.1, 0.5, 0.3], [60, 70, 65], tmp_path / "h.png", infeasible=broken
    )
    ax = drawn[0].axes[0]
    star, ring = ax.get_lines()
    np.testing.assert_allclose([star.get_xdata()[0], ring.get_xdata()[0]], np.degrees([0.3, 0.2]))
    assert legend_of(ax) == ["best: 17° and 17°, 65.0", "breaks a constraint"]
    assert caption.startswith("Best: 65.0 % at 17° and 17°; 1 of 2 trials") and "3 finished trials" in caption


def test_group_tradeoff(tmp_path, drawn):
    """Balanced accuracy weighs 3 major and 1 minor classes; what lies far below is outside and told."""
    trials = {"ours": ([80, 60, NAN, 10], [20, 60, 50, 10]), "ldam": ([70, 72], [50, 40])}
    caption = figures.group_tradeoff(trials, tmp_path / "n.png", means={"ce": ([80, 82], [10, NAN])}, sizes=(3, 1))
    ax = drawn[0].axes[0]
    assert line_named(ax, "ours").get_xydata().tolist() == [[80, 20], [60, 60], [10, 10]]
    assert line_named(ax, "ldam").get_xydata().tolist() == [[70, 50], [72, 40]]
    assert line_named(ax, "ce").get_xydata().tolist() == [[81, 10]]
    assert "ours 65.0 (major 80.0, minor 20.0); ldam 65.0 (major 70.0, minor 50.0)" in caption
    assert "Outside: 1, more than 15 points below the best." in caption and "Stars" in caption
    assert ax.get_xlim()[0] > 50 and ax.get_xlim()[1] > 81
    levels = [line for line in ax.get_lines() if line.get_label().startswith("equal balanced accuracy, 1 points")]
    for line in levels:
        (x, y), (right, low) = line.get_xydata()
        assert 0.75 * x + 0.25 * y == pytest.approx(0.75 * right + 0.25 * low)
    assert len(levels) >= 5
    assert legend_of(ax) == ["ours", "ldam", "ce", "equal balanced accuracy, 1 points apart"]
    assert_png(tmp_path / "n.png")


def test_score_by_held_loss(tmp_path, drawn):
    """Best, what hardly held anything, and collapsed trials on the edge, in either direction."""
    held, scores = [0.0, 2.0, 60.0, 90.0, NAN, 1.0], [89.0, 88.5, 93.0, 70.0, 95.0, 60.0]
    names = ["paper", "gate", "gate", "gate", "gate", "theorem"]
    caption = figures.score_by_held_loss(held, scores, names, tmp_path / "n.png", coneless=[89.2, NAN])
    ax = drawn[0].axes[0]
    assert legend_of(ax) == ["paper", "theorem", "gate", "no cones, same seed"]
    assert line_named(ax, "gate").get_xydata().tolist() == [[2.0, 88.5], [60.0, 93.0]]
    assert line_named(ax, "no cones, same seed").get_ydata()[0] == 89.2
    assert ax.get_ylim()[0] == pytest.approx(93 - 15) and ax.get_ylim()[1] > 93
    edge = [line for line in ax.get_lines() if line.get_markerfacecolor() == "white"]
    assert [line.get_xydata().tolist() for line in edge] == [[[1.0, 78.0]], [[90.0, 78.0]]]
    assert caption.startswith("5 trials with cones, one seed each, over the whole training. Best: 93 at 60.0 %.")
    assert "the farthest scored: gate 1, 0.7; paper 1, 0.2; theorem 1, 29.2. Hollow: 2 outside" in caption
    assert_png(tmp_path / "n.png")
    caption = figures.score_by_held_loss(
        [10, 20, 30, 40, 50],
        [1.0, 0.9, 1.1, 1.0, 90],
        ["gate"] * 5,
        tmp_path / "m.png",
        metric="NC1",
        suffix="",
        minimize=True,
    )
    ax = drawn[1].axes[0]
    assert "Best: 0.9 at 20.0 %. Hollow: 1 outside" in caption and legend_of(ax) == ["gate"]
    assert ax.get_ylim()[0] < 0.9 and 1.1 < ax.get_ylim()[1] < 10
    (edge,) = [line for line in ax.get_lines() if line.get_markerfacecolor() == "white"]
    assert edge.get_xydata().tolist() == [[50, ax.get_ylim()[1]]]


def test_pareto_front(tmp_path, drawn):
    values = [(80, 10), (78, 40), (70, 50), (69, 49), (85, 60), (NAN, 3)]
    trials = [
        {"number": number, "values": pair, "feasible": number != 4, "front": number < 3}
        for number, pair in enumerate(values)
    ]
    lines = {"ce": ([75, 77], [30, 32]), "lost": ([NAN], [NAN])}
    more = {"names": ("minor (%)", "rank"), "directions": ("maximize", "maximize")}
    caption = figures.pareto_front(trials, tmp_path / "k.png", baselines=lines, winner=1, **more)
    ax = drawn[0].axes[0]
    assert line_named(ax, "trial").get_xydata().tolist() == [[69, 49]]
    assert line_named(ax, "infeasible trial").get_xydata().tolist() == [[85, 60]]
    assert line_named(ax, "Pareto front").get_xydata().tolist() == [[70, 50], [78, 40], [80, 10]]
    assert line_named(ax, "Pareto front").get_drawstyle() == "steps-pre"
    assert line_named(ax, "winner").get_xydata().tolist() == [[78, 40]]
    assert line_named(ax, "ce").get_xydata().tolist() == [[76, 31]]
    assert legend_of(ax) == ["trial", "infeasible trial", "Pareto front", "winner", "ce"]
    assert caption.startswith("4 trials, 3 of them on the front; 1 more miss") and "more of the second" in caption
    assert_png(tmp_path / "k.png")


def test_a_search_for_less_with_infeasible_trials(tmp_path, drawn):
    trials = [
        {"number": number, "value": value, "status": status, "release": "gate"}
        for number, (value, status) in enumerate([(3, "completed"), (1, "infeasible"), (2, "completed"), (4, "pruned")])
    ]
    caption = figures.optimisation_history(trials, tmp_path / "l.png", metric="norm", suffix="", minimize=True)
    ax = drawn[0].axes[0]
    (best,) = [line for line in ax.get_lines() if line.get_drawstyle().startswith("steps")]
    assert best.get_ydata().tolist() == [3, 2, 2]
    assert ax.get_ylabel() == "norm" and "infeasible" in legend_of(ax)
    assert caption.startswith("2 finished, 1 infeasible, 1 pruned, 0 failed")


def test_angles_by_count(tmp_path, drawn):
    counts = np.array([10, 500, 50, 120])
    angles, other = np.radians([60, 5, 40, 10]), np.radians([40, 0, 40, 0])
    caption = figures.angles_by_count(counts, angles, tmp_path / "i.png", others={HOSTILE: other}, boundary=50)
    ax = drawn[0].axes[0]
    line = line_named(ax, "winner")
    assert line.get_xdata().tolist() == [500, 120, 50, 10]  # by falling count
    np.testing.assert_allclose(line.get_ydata(), [5, 10, 40, 60])
    np.testing.assert_allclose(line_named(ax, "major: 2 classes").get_ydata(), [5, 10])
    np.testing.assert_allclose(line_named(ax, "minor: 2 classes").get_ydata(), [40, 60])
    np.testing.assert_allclose(ax.get_lines()[3].get_ydata(), [0, 0, 40, 40])
    assert ax.get_xscale() == "log" and ax.get_xlim()[0] > 500 > 10 > ax.get_xlim()[1]
    ticks = [text.get_text() for text in ax.get_xticklabels()]
    assert ticks[0] == "10" and ticks[-1] == "500" and "100" in ticks
    assert "the 1 candidate it was chosen over" in caption and "at most 50 training images" in caption
    assert caption.startswith("τ⁺ is 5° at 500 images and 60° at 10, and never falls.")
    assert_png(tmp_path / "i.png")
    figures.angles_by_count(counts, angles, tmp_path / "i.png")
    assert legend_of(drawn[1].axes[0]) == ["winner", "one class"]
    with pytest.raises(ValueError, match="3 angles for 4 classes"):
        figures.angles_by_count(counts, [0.1, 0.2, 0.3], tmp_path / "i.png")


def test_group_accuracy_by_threshold(tmp_path, drawn):
    tau = {"major": [0.0, 0.2, 0.4], "minor": [0.6, 0.5, 0.1]}
    accuracy = {"major": [80, NAN, 70], "minor": [30, 35, 40]}
    lines = {"major": {"ce": [78, 79]}, "minor": {"ce": [20, 22]}}
    caption = figures.group_accuracy_by_threshold(tau, accuracy, tmp_path / "j.png", baseline_accuracy=lines)
    first, second = drawn[0].axes
    points = line_named(first, "one trial")
    np.testing.assert_allclose(points.get_xdata(), np.degrees([0, 0.4]))
    assert points.get_ydata().tolist() == [80, 70]
    assert line_named(second, "one trial").get_ydata().tolist() == [30, 35, 40]
    assert line_named(first, "ce").get_ydata()[0] == 78.5 and line_named(second, "ce").get_ydata()[0] == 21
    assert first.get_xlabel() == "τ⁺ of major classes (degrees)" and legend_of(second) == ["one trial", "ce"]
    assert caption.startswith("Major: best 80.0 % at 0°. Minor: best 40.0 % at 6°. 3 finished trials, one seed each")
    tau["minor"], accuracy["minor"] = [0.6, 0.5, 0.1, 0.2, 0.3], [40, 35, 30, 31, 36]
    caption = figures.group_accuracy_by_threshold(tau, accuracy, tmp_path / "j.png")
    assert "Minor: best 40.0 % at 34°, 30.0 % at the smallest (6°); rank correlation 0.90." in caption
    assert_png(tmp_path / "j.png")


# --- over class counts -----------------------------------------------------------------------------------------------------

COUNTS = np.array([500, 10, 120, 40])  # in no order
GROUPS = [
    {"major": COUNTS > 50, "minor": COUNTS <= 50},
    {"many": COUNTS > 100, "medium": COUNTS == 40, "few": COUNTS == 10},
]


def curves_of(ax):
    """label -> (x, mean, sd) of the lines with whiskers."""
    found = {}
    for bars in ax.containers:
        line, _, (whiskers,) = bars.lines
        half = [np.ptp(ends[:, 1]) / 2 if len(ends) else NAN for ends in whiskers.get_segments()]
        found[bars.get_label()] = (line.get_xdata(), line.get_ydata(), np.array(half))
    return found


def words_on(ax):
    return [text.get_text() for text in ax.texts]


def test_accuracy_by_count(tmp_path, drawn):
    ours, theirs = 70 + RNG.standard_normal((2, 4, 5))
    ours[1, 2] = NAN
    caption = figures.accuracy_by_count(
        COUNTS, {"winner": ours, "ce": theirs}, tmp_path / "k.png", class_names="abcd", partitions=GROUPS, name="w"
    )
    (ax,) = drawn[0].axes
    order = [0, 2, 3, 1]
    for label, table in (("w", ours), ("ce", theirs)):
        x, mean, sd = curves_of(ax)[label]
        np.testing.assert_allclose(x, COUNTS[order], rtol=0.02)  # the second a little aside
        np.testing.assert_allclose(mean, [np.nanmean(table[k]) for k in order])
        np.testing.assert_allclose(sd, [np.nanstd(table[k], ddof=1) for k in order])
    assert ax.get_xscale() == "log" and ax.get_xlim()[0] > 500 > 10 > ax.get_xlim()[1]
    assert set(words_on(ax)) == {"a", "b", "c", "d", "major", "minor", "many", "medium", "few"}
    means = np.nanmean(ours, axis=1)
    wins = int((means >= theirs.mean(axis=1)).sum())
    major = ours[[0, 2]].mean(axis=0)
    assert caption.startswith(f"Major classes: winner {major.mean():.1f} ± {major.std(ddof=1):.1f}, ce ")
    assert f"or shares it, in {wins} of 4 classes. 4 classes, 5 seeds; a point is a class" in caption
    assert_png(tmp_path / "k.png")


def test_edges_of_groups_lie_between_their_classes(tmp_path, drawn):
    figures.accuracy_by_count(COUNTS, {"winner": COUNTS}, tmp_path / "k.png", class_names="abcd", partitions=GROUPS)
    (ax,) = drawn[0].axes
    dotted = [line.get_xdata()[0] for line in ax.get_lines() if line.get_linestyle() == ":"]
    np.testing.assert_allclose(dotted, [math.sqrt(120 * 40), math.sqrt(40 * 10)])
    (band,) = ax.patches
    assert band.get_x() == pytest.approx(ax.get_xlim()[1])
    assert band.get_x() + band.get_width() == pytest.approx(math.sqrt(120 * 40))


def test_a_hundred_classes_are_averaged_over_neighbours(tmp_path, drawn):
    counts = np.arange(500, 0, -5)
    table = RNG.random((100, 3))
    names = [f"class {k}" for k in range(100)]
    shuffled = RNG.permutation(100)
    caption = figures.accuracy_by_count(counts[shuffled], {"w": table[shuffled]}, tmp_path / "k.png", class_names=names)
    x, mean, sd = curves_of(drawn[0].axes[0])["winner"]
    assert len(x) == 10 and words_on(drawn[0].axes[0]) == []
    bins = table.reshape(10, 10, 3).mean(axis=1)
    np.testing.assert_allclose(mean, bins.mean(axis=1))
    np.testing.assert_allclose(sd, bins.std(axis=1, ddof=1))
    np.testing.assert_allclose(x[0], np.exp(np.log(counts[:10]).mean()))
    assert "the mean of 10 classes of neighbouring size" in caption


def test_gain_by_count(tmp_path, drawn):
    gain, other = RNG.standard_normal((2, 4, 5))
    caption = figures.gain_by_count(
        COUNTS, {"ce_etf": gain, HOSTILE: other}, tmp_path / "l.png", class_names="abcd", partitions=GROUPS
    )
    first, second = drawn[0].axes
    x, mean, sd = curves_of(first)["one class"]
    assert x.tolist() == COUNTS.tolist()
    np.testing.assert_allclose(mean, gain.mean(axis=1))
    np.testing.assert_allclose(sd, gain.std(axis=1, ddof=1))
    np.testing.assert_allclose(curves_of(second)["one class"][1], other.mean(axis=1))
    dashed = [line for line in first.get_lines() if line.get_linestyle() == "--"]
    np.testing.assert_allclose([line.get_ydata()[0] for line in dashed], [gain[[0, 2]].mean(), gain[[1, 3]].mean()])
    assert dashed[0].get_xdata().tolist() == [500, 120]
    assert any(line.get_ydata()[0] == 0 for line in first.get_lines() if line.get_linestyle() == "-")
    minor = gain[[1, 3]].mean(axis=0)
    mean = f"{minor.mean():+.1f}".replace("-", "−") if round(minor.mean(), 1) else "0.0"  # no sign of a zero
    shown = f"minor {mean} ± {minor.std(ddof=1):.1f}"
    assert caption.startswith(f"Winner over ce_etf: {int((gain.mean(axis=1) > 0).sum())} of 4 classes gain (major ")
    assert shown in caption and "4 classes, 5 seeds" in caption
    still = figures.gain_by_count(
        COUNTS, {"a": -0.01 * np.ones(4)}, tmp_path / "l.png", class_names="abcd", partitions=GROUPS
    )
    assert "0 of 4 classes gain (major 0.0, minor 0.0," in still
    assert_png(tmp_path / "l.png")


def test_collapse_by_count(tmp_path, drawn):
    spread = np.array([[0.01, 0.02], [2.0, 3.0], [0.1, 0.2], [NAN, NAN]])
    rank = 1 + RNG.random((4, 2))
    caption = figures.collapse_by_count(
        COUNTS,
        {"spread": {"winner": spread}, "rank": {"winner": rank, "ce": rank}},
        tmp_path / "m.png",
        partitions=GROUPS,
    )
    first, second = drawn[0].axes
    np.testing.assert_allclose(curves_of(first)["winner"][1], [0.015, 0.15, NAN, 2.5])
    assert first.get_yscale() == "log" and second.get_yscale() == "linear"
    assert "0.1" in [text.get_text() for text in first.get_yticklabels()]
    assert legend_of(second) == ["winner", "ce"]
    assert caption.startswith("Spread. Major classes: winner 0.0825 ± 0.0389; minor classes: winner 2.5 ± 0.707. Rank.")
    assert "4 classes, 2 seeds" in caption
    assert_png(tmp_path / "m.png")


DEGENERATE = {
    "no class by count": lambda p: figures.accuracy_by_count([], {"w": np.zeros((0, 3))}, p, class_names=[]),
    "no method by count": lambda p: figures.accuracy_by_count([5, 4], {}, p, class_names="ab"),
    "nothing finite by count": lambda p: figures.accuracy_by_count([5], {HOSTILE: [NAN]}, p, class_names=[HOSTILE]),
    "one class by count": lambda p: figures.accuracy_by_count(
        [5], {HOSTILE: [[1.0, NAN]], "b": [2.0]}, p, class_names=[HOSTILE], partitions=[{HOSTILE: [True]}], name=HOSTILE
    ),
    "no baseline by count": lambda p: figures.gain_by_count([5], {}, p, class_names="a", name=HOSTILE),
    "an empty group": lambda p: figures.gain_by_count(
        [5, 4], {"b": [1.0, NAN]}, p, class_names="ab", partitions=[{"x": [False, False], "y": [True, True]}]
    ),
    "a class without images by count": lambda p: figures.gain_by_count([5, 0], {"b": [1.0, 2.0]}, p, class_names="ab"),
    "no measure": lambda p: figures.collapse_by_count([5], {}, p),
    "nothing measured": lambda p: figures.collapse_by_count([5, 4], {HOSTILE: {"w": [NAN, NAN]}}, p),
    "three measures": lambda p: figures.collapse_by_count([5, 4], {m: {"w": [0.0, 1.0]} for m in "abc"}, p),
    "one threshold": lambda p: figures.accuracy_by_threshold([1.0], [70.0], p, as_good=(1.0, 1.0)),
    "no threshold": lambda p: figures.accuracy_by_threshold([], np.zeros((0, 3)), p),
    "no accuracy": lambda p: figures.accuracy_by_threshold([0, 1], [NAN, NAN], p, baseline_accuracy={HOSTILE: [1, 2]}),
    "no baseline value": lambda p: figures.accuracy_by_threshold([0, 1], [1, 2], p, baseline_accuracy={"a": [NAN]}),
    "hostile note": lambda p: figures.accuracy_by_threshold([0], [1], p, as_good_note=HOSTILE, metric=HOSTILE),
    "no diversity": lambda p: figures.diversity_by_threshold([0.5], [0.0], [NAN], p),
    "no curve": lambda p: figures.cosines_over_epochs({}, p),
    "one epoch": lambda p: figures.cosines_over_epochs({HOSTILE: {"epoch": [1], "own": [0.5], "other": [NAN]}}, p),
    "no panel": lambda p: figures.feature_projection({}, p),
    "collapsed": lambda p: figures.feature_projection(
        {HOSTILE: {"features": np.ones((9, 4)), "coarse": THREE, "fine": THREE}}, p, coarse_names={0: HOSTILE}
    ),
    "not finite": lambda p: figures.feature_projection(
        {"a": {"features": np.full((9, 4), NAN), "coarse": THREE, "fine": THREE}}, p
    ),
    "one dimension": lambda p: figures.feature_projection(
        {"a": {"features": np.arange(9.0)[:, None], "coarse": THREE, "fine": THREE}}, p
    ),
    "two classes": lambda p: figures.feature_projection(
        {"a": {"features": np.eye(4), "coarse": [0, 0, 1, 1], "fine": [0, 1, 2, 3]}}, p
    ),
    "one class": lambda p: figures.gain_by_class([50.0], [NAN], p, class_names=[HOSTILE], baseline_name=HOSTILE),
    "no class": lambda p: figures.gain_by_class([], [], p, class_names=[]),
    "no class of a tail": lambda p: figures.gain_by_class([], [], p, class_names=[], counts=[], boundary=5),
    "empty class": lambda p: figures.gain_by_class([1, 2], [2, 1], p, class_names="ab", counts=[0, 5], boundary=1),
    "no trial": lambda p: figures.optimisation_history([], p),
    "one trial": lambda p: figures.optimisation_history([{"number": 0, "value": 0.0, "status": "completed"}], p),
    "failures only": lambda p: figures.optimisation_history(
        [
            {"number": 3, "value": math.inf, "status": "failed", "release": HOSTILE},
            {"number": 4, "value": 3.0, "status": "pruned", "release": None},
        ],
        p,
    ),
    "nothing compared": lambda p: figures.confirmation({}, p),
    "no margin": lambda p: figures.confirmation(
        {HOSTILE: {"differences": [NAN, 0], "mean": 0, "low": NAN, "high": NAN, "verdict": "no verdict", "level": 0.9}},
        p,
        margin=0,
    ),
    "no angle": lambda p: figures.angles_by_count([], [], p),
    "one angle": lambda p: figures.angles_by_count([5], [0.1], p, boundary=9, name=HOSTILE, others={HOSTILE: [NAN]}),
    "a class without images": lambda p: figures.angles_by_count([5, 0], [0.1, 0.2], p, others={}),
    "no group": lambda p: figures.group_accuracy_by_threshold({}, {}, p),
    "one group": lambda p: figures.group_accuracy_by_threshold({HOSTILE: [NAN, 0.1]}, {HOSTILE: [1, NAN]}, p),
    "no trade": lambda p: figures.group_tradeoff({}, p, sizes=(1, 1)),
    "one trade": lambda p: figures.group_tradeoff(
        {HOSTILE: ([1, NAN], [1, 2])}, p, means={HOSTILE: ([NAN], [1])}, sizes=(1, 9), names=(HOSTILE, "b")
    ),
    "nothing held": lambda p: figures.score_by_held_loss([], [], [], p, coneless=[1.0]),
    "one held": lambda p: figures.score_by_held_loss(
        [5, NAN], [1, 2], [HOSTILE, "gate"], p, metric=HOSTILE, minimize=True
    ),
    "no front": lambda p: figures.pareto_front([], p, names=(HOSTILE, "b"), directions=("maximize", "minimize")),
    "one point": lambda p: figures.pareto_front(
        [{"number": 0, "values": (1.0, NAN), "feasible": True, "front": False}],
        p,
        names=("a", "b"),
        directions=("maximize", "maximize"),
        baselines={HOSTILE: ([NAN], [1.0])},
    ),
    "no pair": lambda p: figures.two_thresholds([], [], [], p),
    "one pair": lambda p: figures.two_thresholds([0.5], [0.5], [60], p, names=(HOSTILE, "b")),
    "a line": lambda p: figures.two_thresholds(GRID.repeat(2), GRID.repeat(2), GRID.repeat(2), p),
    "no study": lambda p: figures.forest([], p, title="a", x="b"),
    "a hostile study": lambda p: figures.forest(
        [
            Differences(
                HOSTILE, HOSTILE, "", 2, 0.5, {HOSTILE: {"mean": NAN, "low": NAN, "high": NAN, "verdict": "no verdict"}}
            )
        ],
        p,
        title="a",
        x="b",
    ),
    "no study of one angle": lambda p: figures.trials_by_threshold([], p),
    "a hostile panel": lambda p: figures.trials_by_threshold([Trials(HOSTILE, [0.1], [5.0], [HOSTILE], HOSTILE)], p),
    "a chain": lambda p: figures.tree(Hierarchy.from_nested({HOSTILE: {"b": {"c": [HOSTILE, "d"]}}}), p),
    "no predictions": lambda p: figures.mistakes_on_tree({}, FLAT, p),
    "no mistakes": lambda p: figures.mistakes_on_tree({HOSTILE: [NAN] * 4, "b": [0.0] * 4}, FLAT, p),
    "no matrices": lambda p: figures.class_cosines({}, FLAT, p),
    "no means": lambda p: figures.class_cosines({HOSTILE: (np.eye(3), np.full((3, 3), NAN))}, FLAT, p),
    "no severity": lambda p: figures.severity_by_accuracy({}, p),
    "one severity": lambda p: figures.severity_by_accuracy(
        {"a": ([50.0, NAN], [2.0, NAN]), HOSTILE: ([NAN], [1.0])},
        p,
        trials=[{"number": 0, "values": (1.0, 2.0), "feasible": True, "front": True}],
    ),
    "no angular": lambda p: figures.angular_over_epochs({}, p),
    "one angular": lambda p: figures.angular_over_epochs({HOSTILE: {"epoch": [1], "angular": [[0.5], [NAN]]}}, p),
    "failed pairs": lambda p: figures.two_thresholds([0.1, NAN], [0.2, 0.3], [NAN, 1], p),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_input_still_gives_a_figure(name, tmp_path):
    caption = DEGENERATE[name](tmp_path / "new" / "z.png")
    assert_png(tmp_path / "new" / "z.png")
    assert caption


def test_every_figure_has_a_degenerate_case():
    source = inspect.getsource(sys.modules[__name__]).split("DEGENERATE =")[1]
    assert all(f"figures.{name}(" in source for name in figures.__all__)


def test_wrong_shapes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="for 2 points"):
        figures.accuracy_by_threshold([0, 1], [1, 2, 3], tmp_path / "a.png")


def test_text_helpers():
    assert plain("_x") == " _x"
    assert plain("a$b\n c\x07") == r"a\$b c"
    assert plain("x" * 50) == "x" * 47 + "…"
    mean, sd = mean_sd(np.array([[1.0, NAN, 3.0], [NAN, NAN, NAN], [5.0, NAN, NAN]]))
    np.testing.assert_array_equal(mean, [2, NAN, 5])
    np.testing.assert_array_equal(sd, [math.sqrt(2), NAN, NAN])
    assert (mean_of(np.array([1.0, NAN, 3.0])), sd_of(np.array([1.0, NAN, 3.0]))) == (2.0, math.sqrt(2))


def test_no_pyplot():
    code = "import sys, divfeat.report.figures; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
