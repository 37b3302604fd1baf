"""What MLflow says of a study: descriptions, saved views, params. That its UI takes the views is seen in tests/ui."""

import json
import re

import pytest

from divfeat.objectives import OBJECTIVES
from divfeat.search.showing import experiment_tags, study_params, thresholds, views
from divfeat.tracking.page import NOTE, Place
from tests.search.samples import make_study

PLACE = Place("7", "abc")


@pytest.mark.parametrize(
    ("preset", "names"),
    [("digits", ["tau_plus_deg"]), ("digits-lt", ["tau_major_deg", "tau_minor_deg"])],
)
def test_the_searched_thresholds_are_columns_in_degrees(preset, names):
    study = make_study(preset)
    assert thresholds(study) == names
    columns = views(study)[0].columns
    assert [column for column in columns if "threshold/" in column] == [f"metrics.`threshold/{name}`" for name in names]


def test_a_search_is_sorted_by_its_objective_in_its_direction():
    for name, measure in OBJECTIVES.items():
        if name in ("many", "medium", "few"):
            continue  # of long tails alone
        preset = "digits-lt" if name in ("major", "minor") else "digits"
        view = views(make_study(preset, search={"objectives": [name]}))[0]
        assert view.order == f"metrics.`{measure.validation}`"
        assert view.ascending == (measure.direction == "minimize")


def test_two_angles_have_a_plane_and_one_has_none():
    kinds = {
        preset: [chart["type"] for chart in views(make_study(preset))[0].charts] for preset in ("digits", "digits-lt")
    }
    assert "CONTOUR" not in kinds["digits"] and "CONTOUR" in kinds["digits-lt"]
    assert kinds["digits"][0] == kinds["digits-lt"][0] == "PARALLEL"


def test_a_family_without_angles_has_views_too():
    study = make_study(search={"family": "none", "releases": ["gate"]})
    assert thresholds(study) == []
    assert [chart["type"] for chart in views(study)[0].charts] == ["SCATTER"]
    assert experiment_tags(study, "a", PLACE, "x")[NOTE]


def test_a_view_is_saved_as_mlflow_keeps_it():
    """Name, times and the state as text within the tag; the menu shows the newest first."""
    study = make_study("digits-lt")
    saved = [json.loads(text) for tag, text in experiment_tags(study, "a", PLACE, "x").items() if "sharedView" in tag]
    assert [row["name"][0] for row in sorted(saved, key=lambda row: -row["createdAt"])] == ["1", "2", "3", "4"]
    state = json.loads(saved[1]["state"])
    assert state["searchFilter"] == "tags.phase = 'confirm'"
    assert state["groupBy"] == {
        "aggregateFunction": "average",
        "groupByKeys": [{"mode": "tag", "groupByData": "label"}],
    }
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == {state["compareRunSections"][0]["uuid"]}
    assert len({chart["uuid"] for chart in state["compareRunCharts"]}) == len(state["compareRunCharts"])


@pytest.mark.parametrize("preset", ["digits", "digits-lt", "cifar10-lt", "tin20-100-small"])
def test_tags_are_no_longer_than_mlflow_takes(preset):
    tags = experiment_tags(make_study(preset), "a" * 60, PLACE, "The winner: better than ce. " * 12)
    assert max(len(text) for text in tags.values()) < 20_000
    assert len(tags[NOTE]) < 5_000


def test_every_link_of_the_description_leads_somewhere():
    study = make_study()
    tags = experiment_tags(study, "a", PLACE, "No verdict yet.")
    assert tags[NOTE].startswith("**No verdict yet.**\n")
    keys = set(re.findall(r"viewStateShareKey=([\w-]+)", tags[NOTE]))
    assert keys == {view.key for view in views(study)}
    assert {f"mlflow.sharedViewState.{key}" for key in keys} <= tags.keys()
    assert "](#/experiments/7/runs/abc/artifacts/report/report.html?workflowType=machine_learning)" in tags[NOTE]


def test_a_study_has_few_params():
    params = study_params(make_study(seed=3), 16)
    assert len(params) <= 12
    assert (params["family"], params["objectives"], params["seed"], params["trials"]) == ("global", "fine_probe", 3, 16)
