"""MLflow's pages of a finished study, read in a browser: which thresholds, and what did they do to geometry and accuracy?"""

from __future__ import annotations

import json
import math
import re
from urllib.parse import quote

import pytest

from divfeat.tracking import Tracker
from divfeat.tracking.tracker import STATUSES

pytest.importorskip("playwright", reason="playwright is not installed: pip install -e '.[test]'")

from tests.ui.browser import RUN_NAME, column, settled, visit

THRESHOLDS = ("threshold/tau_major_deg", "threshold/tau_minor_deg")


def shown_number(text: str) -> float:
    """A cell of the table; MLflow shows a dash where there is no value."""
    return math.nan if text in ("", "-") else float(text.rstrip("…"))


def test_the_search_is_one_click_sorted_by_its_objective_with_thresholds_in_degrees(page, tour) -> None:
    visit(page, tour.table("divfeat-search"))
    trials = tour.runs("tags.phase = 'search' and tags.status = 'completed'")
    pruned = tour.runs("tags.phase = 'search' and tags.status != 'completed'")  # their values are those of fewer epochs
    names = settled(page, len(trials))
    assert len(trials) >= 2 and pruned
    assert set(names) == {run.info.run_name for run in trials}
    scores = [shown_number(text) for text in column(page, "metrics.`val/accuracy_balanced`")]
    assert scores == sorted(scores, reverse=True) and not any(map(math.isnan, scores))
    by_name = {run.info.run_name: run for run in trials}
    for name, text in zip(names, column(page, f"metrics.`{THRESHOLDS[0]}`"), strict=True):
        assert shown_number(text) == pytest.approx(by_name[name].data.metrics[THRESHOLDS[0]], abs=1e-3)
    assert {run.data.params["release"] for run in trials} <= {"gate", "paper", "theorem", "none"}


def test_the_view_is_in_the_menu(page, tour) -> None:
    visit(page, f"{tour.uri}/#/experiments/{tour.experiment}/runs")
    page.get_by_test_id("saved-views-trigger").click()
    page.get_by_text("2 Confirmation: winner and baselines on test").click()
    labels = {run.data.tags["label"] for run in tour.runs("tags.phase = 'confirm'")}
    assert {"winner", "ce"} <= labels  # ce_etf too, unless it is what won
    assert set(settled(page, len(labels))) == {f"Group: {label}" for label in labels}


def test_a_filter_typed_by_hand_finds_what_mlflow_finds(page, tour) -> None:
    visit(
        page, tour.table("divfeat-search")
    )  # by another column than the time: by that MLflow folds runs under the parent
    column(page, RUN_NAME)
    for search in (
        "tags.phase = 'confirm' and tags.label = 'ce'",
        "tags.winner = 'yes' and tags.phase = 'confirm'",
    ):
        box = page.get_by_placeholder(re.compile("metrics.rmse"))
        box.fill(search)
        box.press("Enter")
        expected = tour.runs(search)
        assert len(expected) == 5
        assert set(settled(page, 5)) == {run.info.run_name for run in expected}


def test_a_threshold_can_be_filtered_as_a_number(tour) -> None:
    """Params are text to MLflow: '9' > '57'."""
    wide = tour.runs(f"tags.phase = 'search' and metrics.`{THRESHOLDS[0]}` > 20")
    every = tour.runs("tags.phase = 'search'")
    assert {run.info.run_name for run in wide} == {
        run.info.run_name for run in every if run.data.metrics[THRESHOLDS[0]] > 20
    }
    assert 0 < len(wide) < len(every)


def test_charts_of_thresholds_geometry_and_accuracy_are_drawn(page, tour) -> None:
    """Parallel coordinates, contour, scatter: the first section, made by the view."""
    visit(page, tour.table("divfeat-search", charts=True))
    page.locator(".parcoords canvas").first.wait_for(state="attached")
    page.locator(".contourlayer path").first.wait_for(state="attached")
    points = page.locator(".scatterlayer path.point")
    points.first.wait_for(state="attached")
    done = [run for run in tour.runs("tags.phase = 'search'") if run.data.tags["status"] == "completed"]
    assert points.count() >= len(done)
    text = page.inner_text("body")
    for name in ("tau_major_deg", "tau_minor_deg", "val/accuracy_balanced", "collapse/nc1"):
        assert name in text


def test_runs_are_compared_by_what_they_differ_in(page, tour) -> None:
    """The compare page offers every param: few and useful ones."""
    done = [r.info.run_id for r in tour.runs("tags.phase = 'search' and tags.status = 'completed'")]
    runs, experiments = quote(json.dumps(done)), quote(json.dumps([tour.experiment]))
    visit(page, f"{tour.uri}/#/compare-runs?runs={runs}&experiments={experiments}")
    page.get_by_text("Parallel Coordinates Plot").wait_for()
    page.locator(".js-plotly-plot").first.wait_for()
    chosen = page.inner_text("body")
    assert "tau_major_deg" in chosen and "tau_minor_deg" in chosen


def test_the_studys_run_says_the_verdict_the_winner_and_how_to_repeat_it(page, tour) -> None:
    visit(page, tour.page())
    verdict = json.loads((tour.folder / "report" / "verdict.json").read_text())
    page.get_by_text("Show more").click()
    page.get_by_text(verdict["verdict"][:60]).first.wait_for()
    text = page.inner_text("body")
    for baseline in ("ce", "ce_etf"):
        assert re.search(rf"^{baseline}\s", text, re.M)
    assert "python studies/tau_search.py" in text and "--preset digits-lt" in text
    winner = verdict["winner"]["angles"].get("tau_major")
    if winner is not None:
        assert f"{winner['degrees']:.1f}°" in text
    for label in ("Report", "figures", "all settings", "confirmation"):
        link = page.get_by_role("link", name=label, exact=True).first
        assert f"/runs/{tour.parent}/artifacts/" in link.get_attribute("href")


def test_report_and_figures_are_previewed(page, tour) -> None:
    visit(page, tour.page("report/report.html"))
    frame = page.frame_locator("iframe").first
    frame.locator("h1").wait_for()
    assert frame.locator("h1").inner_text() == "Study tour"
    widths = frame.locator("img").evaluate_all("all => all.map(i => i.naturalWidth)")
    assert len(widths) >= 3 and min(widths) > 100
    visit(page, tour.page("report/report.md"))
    page.get_by_role("heading", name="Study tour").wait_for()
    visit(page, tour.page("report/figures/confirmation.png"))
    page.wait_for_function("[...document.images].some(i => i.naturalWidth > 600)")


def test_the_experiment_says_what_it_asks_and_where_to_look(page, tour) -> None:
    visit(page, f"{tour.uri}/#/experiments/{tour.experiment}/runs")
    verdict = json.loads((tour.folder / "report" / "verdict.json").read_text())
    page.get_by_text(verdict["verdict"][:40]).first.wait_for()
    note = tour.client.get_experiment(tour.experiment).tags["mlflow.note.content"]
    assert "tags.phase = 'confirm'" in note and "threshold/tau_major_deg" in note


def test_the_registered_model_says_where_it_came_from_and_how_it_did(page, tour) -> None:
    registered = tour.ledger.phase("registered")
    assert registered is not None
    visit(page, f"{tour.uri}/#/models/tour/versions/{registered['version']}")
    page.get_by_text("where it came from").wait_for()
    text = page.inner_text("body")
    verdict = json.loads((tour.folder / "report" / "verdict.json").read_text())
    for part in (
        verdict["verdict"][:40],
        verdict["provenance"]["search_split_hash"],
        verdict["provenance"]["commit"],
        f"{100 * registered['value']:.2f}",
        "mlflow.pyfunc.load_model",
        "winner minus",
    ):
        assert part in text, part
    visit(page, f"{tour.uri}/#/models/tour")
    page.get_by_text("Version 1").first.wait_for()
    model = tour.client.get_registered_model("tour")
    assert model.tags["study"] == "tour" and verdict["verdict"][:40].replace("_", "\\_") in model.description


def test_tags_find_nested_runs_that_no_page_of_the_tree_shows(page, server, tmp_path) -> None:
    """The UI fetches 100 runs, newest first: the parent and the first trials are on another page."""
    tracker = Tracker.open(tmp_path, "paged", server)
    tracker.study_run({})
    for number in range(130):
        phase = "confirm" if number < 4 else "search"
        tracker.start_run(
            str(number),
            phase=phase,
            seed=number,
            name=f"{phase} {number:03d}",
            params={},
            start_time=1_000_000 + number,
        )
        tracker._runs.close(tracker._runs.get(str(number)), STATUSES["completed"])
    experiment = tracker.place().experiment
    by_name = "orderByKey=tags.%60mlflow.runName%60&orderByAsc=true"
    visit(page, f"{server}/#/experiments/{experiment}/runs?{by_name}")
    column(page, RUN_NAME)
    box = page.get_by_placeholder(re.compile("metrics.rmse"))
    box.fill("tags.phase = 'confirm'")
    box.press("Enter")
    assert settled(page, 4) == [f"confirm {number:03d}" for number in range(4)]
    page.get_by_text("4 matching runs").wait_for()
