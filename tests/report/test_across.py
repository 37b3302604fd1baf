"""The figures over several studies, and blocks on a screen."""

import math
from io import StringIO

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from rich.console import Console

from divfeat.report import figures
from divfeat.report.document import Callout, Code, Heading, Paragraph, Table
from divfeat.report.document import Figure as Shown
from divfeat.report.figures.across import Differences, Trials
from divfeat.report.terminal import print_blocks


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, for a look at what is on them."""
    found, original = [], Figure.savefig

    def spy(self, *args, **kwargs):
        original(self, *args, **kwargs)
        found.append(self)

    monkeypatch.setattr(Figure, "savefig", spy)
    return found


def entry(mean, low, high, verdict, level=0.975):
    return {"mean": mean, "low": low, "high": high, "verdict": verdict, "level": level}


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_a_forest_has_a_panel_a_measure_and_a_group_a_study(tmp_path, drawn):
    groups = [
        Differences(
            "one",
            "accuracy",
            " (points)",
            2,
            0.5,
            {"ce": entry(1, 0.5, 1.5, "better"), "x": entry(0, 0, 0, "not shown")},
        ),
        Differences("two", "NC1", "", 4, 0.0, {"ce": entry(0.01, -0.02, 0.04, "not shown", 0.99)}),
        Differences("three", "accuracy", " (points)", 2, 0.5, {"ce": entry(-3, -4, -2, "no verdict")}),
    ]
    caption = figures.forest(groups, tmp_path / "f.png", title="Winner minus baseline", x="difference")
    assert imread(tmp_path / "f.png").std() > 0.005
    accuracy, nc1 = drawn[0].axes
    assert [ax.get_xlabel() for ax in (accuracy, nc1)] == ["difference (points)", "difference"]
    assert [tick.get_text() for tick in accuracy.get_yticklabels()] == ["ce", "x", "ce"]
    said = texts(accuracy)
    assert said == ["one", "better  +1.00 [+0.50, +1.50]", "0.00 in every seed", "three", "no verdict"]
    assert texts(nc1) == ["two", "not shown  +0.0100 [−0.0200, +0.0400]"]
    spans = [line.get_xdata() for line in accuracy.get_lines() if len(line.get_xdata()) == 2]
    assert any(np.allclose(span, [0.5, 1.5]) for span in spans) and not any(
        np.allclose(span, [-4, -2]) for span in spans
    )
    low, high = accuracy.get_xlim()
    assert low < -3 and high > 1.5 and nc1.get_xlim()[0] > -0.1
    assert "at 97.5 or 99 %" in caption and "hollow: no verdict" in caption and "margin" in caption
    assert len(accuracy.collections) == 2 and not nc1.collections  # a margin a study, none of geometry


def test_each_study_has_its_own_panel_of_trials(tmp_path, drawn):
    angles, scores = np.radians([0, 20, 40, 60]), [90.0, 91.0, 93.0, 20.0]
    panels = [
        Trials("one", angles, scores, ["gate", "paper", "gate", "gate"], "validation accuracy"),
        Trials("two", np.radians([10, 30]), [3.0, 2.0], ["paper", "paper"], "log feature norm", "", True),
        Trials("three", [], [], [], "validation accuracy"),
    ]
    caption = figures.trials_by_threshold(panels, tmp_path / "t.png")
    axes = [ax for ax in drawn[0].axes if ax.get_title(loc="left")]
    assert [ax.get_title(loc="left") for ax in axes] == ["one", "two", "three"]
    assert [ax.get_ylabel() for ax in axes] == [
        "validation accuracy (%)",
        "log feature norm",
        "validation accuracy (%)",
    ]
    one = {line.get_label(): line for line in axes[0].get_lines()}
    np.testing.assert_allclose(one["gate"].get_xdata(), [0, 40])  # the fourth lies far below
    np.testing.assert_allclose(one["gate"].get_ydata(), [90, 93])
    assert one["no cones, same seed"].get_ydata()[0] == 90 and "Hollow: 1 outside" in caption
    assert "4 of one, 2 of two and 0 of three" in caption
    legends = [ax.get_legend() for ax in axes if ax.get_legend()]
    assert [text.get_text() for text in legends[0].get_texts()] == ["paper", "gate", "no cones, same seed"]
    assert "no finished trial" in texts(axes[2])


def test_a_score_an_angle(tmp_path):
    with pytest.raises(ValueError, match="1 angles, 2 scores"):
        figures.trials_by_threshold([Trials("one", [0.1], [1.0, 2.0], ["gate"], "accuracy")], tmp_path / "t.png")


def printed(blocks, width):
    console = Console(file=StringIO(), width=width)
    print_blocks(blocks, console)
    return console.file.getvalue()


def test_blocks_on_a_screen_are_read_as_plain_text():
    blocks = [
        Heading("[red]Title"),
        Paragraph("a [bold]b[/bold]"),
        Table(["[x]", "y"], [["[/]", 1.5], ["n", math.nan]], "Caption."),
        Shown("p.png", "Seen"),
        Callout("Verdict", detail="why"),
        Code("x = [1]\n  y"),
    ]
    text = printed(blocks, 60)
    for said in (
        "[red]Title",
        "a [bold]b[/bold]",
        "[x]",
        "[/]",
        "1.50",
        "–",
        "Caption.",
        "Seen: p.png",
        "Verdict why",
        "  y",
    ):
        assert said in text


def test_a_table_that_is_too_wide_is_turned_where_that_is_narrower():
    table = Table(
        ["study", *(f"a long fact {k}" for k in range(8))], [["one", *["value"] * 8], ["two", *["other"] * 8]]
    )
    wide, narrow = printed([table], 200), printed([table], 60)
    assert any("a long fact 0" in line and "a long fact 7" in line for line in wide.splitlines())
    assert any("study" in line and "one" in line and "two" in line for line in narrow.splitlines())
    assert any("a long fact 3" in line and "value" in line and "other" in line for line in narrow.splitlines())
    many = Table(["study", "fact"], [[f"study {k}", "some words of a fact"] for k in range(20)])
    assert not any("study 7" in line and "study 8" in line for line in printed([many], 30).splitlines())  # wider still
