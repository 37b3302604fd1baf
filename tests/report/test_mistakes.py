"""Reports of studies that follow mistakes over a tree: what is no share is shown as it is, and lower is better."""

import math

import numpy as np
import pytest

from divfeat.report.build import build_report
from tests.report.test_bounds import printed, text_of
from tests.report.test_hierarchy_table import studied


@pytest.mark.parametrize("objectives", [["accuracy", "severity"], ["severity"], ["accuracy", "distance_5"]])
def test_mistakes_as_objectives(tmp_path, objectives):
    study = studied(tmp_path / "s", search={"objectives": objectives}).all()
    report = build_report(tmp_path / "s")
    text, screen = text_of(report), printed(report)
    summary = report.summary
    followed = next(one for one in summary.objectives if one.measure.unit == "number")
    assert f"Of {followed.measure.short}, which is no share" in text and "lower is better" in text
    assert f"{followed.measure.short} (%)" not in text
    assert followed.measure.short in screen
    metric = followed.measure.test
    runs = summary.confirmed_as("ce_no_projector")
    np.testing.assert_array_equal(followed.scores["ce_no_projector"], runs.values(metric))
    for one in followed.verdict.comparisons:
        assert one.verdict in ("higher", "lower", "not shown", "no verdict")
        if math.isfinite(one.mean):
            gap = followed.scores["winner"] - followed.scores[one.name]
            assert one.mean == pytest.approx(np.nanmean(gap))
    assert not followed.crossed  # no answer of an image is right or wrong here
    if objectives[0] == "severity":
        assert summary.grid is None
        least = min(trial.values[0] for trial in summary.trials)
        assert summary.winner["candidates"][0]["search_values"][0] == pytest.approx(least)
    else:
        front = summary.front
        assert front is not None and len(front.trials) >= 1 and "figures/front.png" in report.files
    assert study.config.search.objectives == tuple(objectives)
