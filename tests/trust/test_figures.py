"""The figures of trust show what the results say."""

import numpy as np
import pytest

from divfeat.trust import calibration as drawn_studies
from divfeat.trust import figures


@pytest.fixture
def axes(monkeypatch):
    """Axes of the figure that was saved last."""
    found = []
    real = figures.save
    monkeypatch.setattr(figures, "save", lambda figure, *given: found.append(figure.axes) or real(figure, *given))
    return found


def named(ax, name):
    (bars,) = [one for one in ax.containers if one.get_label() == name]
    return np.asarray(bars[0].get_ydata(), dtype=float)


def result():
    def rows(base):
        return [
            {"case": case.name, "seeds": seeds, "false": [base + place, 0.4]}
            | ({} if case.lapses else {"false_with_images": [0.1 * base, 0.1]})
            for place, case in enumerate(drawn_studies.CASES)
            for seeds in (5, 10)
        ]

    curve = [
        {"seeds": seeds, "difference": d, "better": [10 * d * seeds / 5, 1.0]}
        for seeds in (5, 10)
        for d in (0.0, 1.0, 2.0)
    ]
    studies = {
        name: {"null": rows(base), "power": curve, "detectable": {"5": 9.0, "10": 1.5}}
        for name, base in {"a": 3.0, "b": 5.0}.items()
    }
    return {"alpha": 0.05, "replicates": 7, "studies": studies}


def test_calibration_shows_every_case_and_study(tmp_path, axes):
    caption = figures.calibration(result(), tmp_path / "c.png")
    left, right = axes[0]
    assert (left.get_title(loc="left"), right.get_title(loc="left")) == ("S = 5", "S = 10")
    for place, case in enumerate(drawn_studies.CASES):
        assert named(left, case.name).tolist() == [3.0 + place, 5.0 + place]
    assert named(right, "new images, judged with images").tolist() == pytest.approx([0.3, 0.5])
    assert "7 drawn studies a point" in caption and (tmp_path / "c.png").stat().st_size > 5000


def test_power_shows_the_curves_and_what_a_dry_run_promises(tmp_path, axes):
    figures.power(result(), tmp_path / "p.png")
    assert named(axes[0][0], "S = 10").tolist() == [0.0, 20.0, 40.0]
    stars = [line for line in axes[0][0].get_lines() if line.get_marker() == "*"]
    assert [float(line.get_xdata()[0]) for line in stars] == [1.5]  # the other lies beyond the curve


def test_same_shows_means_with_their_intervals_and_the_steps_in_order(tmp_path, axes):
    scores = {"first": [90.0, 92.0, 94.0], "second": [91.0, 91.5, 92.0]}
    steps = {"confirmation": 0.0, "search": 2.0, "selection": 1.0}
    found = {"digits": {"scores": scores, "protocol": [{"seeds": s, "above_the_mean": steps} for s in (5, 10)]}}
    figures.same(found, tmp_path / "s.png")
    left, right = axes[0]
    assert [tick.get_text() for tick in right.get_xticklabels()] == ["search", "selection", "confirmation"]
    assert [bar.get_height() for bar in right.containers[0]] == [2.0, 1.0, 0.0]
    (low, high) = left.containers[0][2][0].get_segments()[0][:, 0]
    assert (low + high) / 2 == pytest.approx(92) and (high - low) / 2 == pytest.approx(4.303 * 2 / np.sqrt(3), rel=1e-3)
