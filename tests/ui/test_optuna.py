"""optuna-dashboard on the storages of two finished studies: what it shows is what the ledger has."""

from __future__ import annotations

import math
import re

import optuna
import pytest
from optuna.trial import TrialState

from divfeat.search import protocol
from divfeat.settings import make_configs

pytest.importorskip("playwright", reason="playwright is not installed: pip install -e '.[test]'")

from tests.servers import dashboard, free_port
from tests.ui.browser import visit


@pytest.fixture(scope="module")
def board(tour, tmp_path_factory):
    with dashboard(tour.storage, tmp_path_factory.mktemp("board"), free_port()) as uri:
        yield uri


@pytest.fixture(scope="module")
def front_board(front, tmp_path_factory):
    with dashboard(front.storage, tmp_path_factory.mktemp("front"), free_port()) as uri:
        yield uri


def shown(page, text: str) -> None:
    """Waits for a text that one sees: the menu at the side has some of them too, folded away."""
    page.get_by_text(re.compile(text, re.I)).locator("visible=true").first.wait_for()


def plotted(page, values: list[float]) -> bool:
    """Waits until a plot of the page has a curve of just these values, in this order."""
    curves = "[...document.querySelectorAll('.js-plotly-plot')].flatMap(plot => plot.data.map(curve => [...(curve.y || [])]))"
    same = "curve.length === values.length && curve.every((value, place) => Math.abs(value - values[place]) < 1e-12)"
    page.wait_for_function(f"values => {curves}.some(curve => {same})", arg=values)
    return True


def test_the_storage_has_the_ledgers_values_states_and_degrees(tour) -> None:
    study = optuna.load_study(study_name="tour", storage=tour.storage)
    assert study.metric_names == ["balanced"] and study.direction.name == "MAXIMIZE"
    states = set()
    for number, row in tour.ledger.proposals().items():
        trial, record = study.trials[number], tour.ledger.record(row["key"])
        states.add(trial.state)
        assert (trial.state == TrialState.COMPLETE) == (record["status"] == "completed")
        assert (trial.state == TrialState.PRUNED) == (record["status"] == "pruned")
        value = protocol.metric_of(record, "val/accuracy_balanced")
        if trial.state == TrialState.COMPLETE:
            assert trial.value == value == trial.intermediate_values[4]
        else:
            assert trial.user_attrs["cause"] == record["error"]
        history = {int(event["epoch"]) + 1: event.get("val/accuracy_balanced") for event in record["history"]}
        for epochs in (1, 2):
            if history.get(epochs) is not None:
                assert trial.intermediate_values[epochs] == history[epochs]
        assert trial.user_attrs["name"] == row["name"]
        if row["name"] != "ce_etf":
            assert trial.user_attrs["tau_major_deg"] == pytest.approx(
                math.degrees(row["params"]["tau_major"]), abs=1e-3
            )
    assert states == {TrialState.COMPLETE, TrialState.PRUNED}


def test_history_importance_and_intermediate_values_are_drawn(page, tour, board) -> None:
    visit(page, f"{board}/dashboard/studies/1")
    for heading in ("History", "Hyperparameter Importance", "Intermediate values"):
        shown(page, heading)
    trials = optuna.load_study(study_name="tour", storage=tour.storage).trials
    assert plotted(page, [trial.value for trial in trials])  # the history, pruned trials at their last value
    for trial in trials:
        assert trial.intermediate_values and plotted(page, list(trial.intermediate_values.values()))


def test_slices_are_drawn_over_both_thresholds(page, board) -> None:
    visit(page, f"{board}/dashboard/studies/1/analytics")
    shown(page, "Slice")
    page.locator(".js-plotly-plot").first.wait_for()


def test_pruned_trials_are_called_pruned_with_their_cause(page, tour, board) -> None:
    pruned = [t for t in optuna.load_study(study_name="tour", storage=tour.storage).trials if t.state.name == "PRUNED"]
    visit(page, f"{board}/dashboard/studies/1/trials?numbers={pruned[0].number}")
    for text in (rf"Trial {pruned[0].number}\b", "Pruned", "stopped after", "tau_major_deg"):
        shown(page, text)


def test_two_objectives_have_a_pareto_front(page, front, front_board) -> None:
    study = optuna.load_study(study_name="front", storage=front.storage)
    config = make_configs("digits", {"search": {"objectives": ["fine_probe", "numerical_rank"]}})[0]
    assert study.metric_names == list(config.search.objectives)
    for number, row in front.ledger.proposals().items():
        record = front.ledger.record(row["key"])
        assert study.trials[number].values == [
            protocol.metric_of(record, metric) for metric in protocol.objective_metrics(config)
        ]
    visit(page, f"{front_board}/dashboard/studies/1")
    shown(page, "Pareto")
    points = page.locator(".scatterlayer path.point")
    points.first.wait_for(state="attached")
    assert points.count() >= len(study.trials)
