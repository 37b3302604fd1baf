"""What is spent, over sessions and crashes, and what still fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from divfeat.search.budget import COUNT_SECONDS, MARGIN, REPORT_SECONDS, SAVE_SECONDS, Budget, Limits
from divfeat.settings import make_configs


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Book:
    def __init__(self) -> None:
        self.written = None

    def spend(self):
        return self.written

    def write_spend(self, spend):
        self.written = dict(spend, node_hours=dict(spend["node_hours"]))


def opened(limits, book=None, gpus=2.0, nodes=None):
    clock = Clock()
    budget, book = Budget(limits, gpus, clock), book or Book()
    budget.open(book, lambda: dict(nodes or {"gpu": 1}))
    budget.keep(book)
    return budget, clock


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.0, 4.0)), max_size=30))
def test_trials_cost_from_their_place_to_its_end_as_a_naive_loop_adds_up(steps):
    budget, clock = opened(Limits())
    since, seconds = {}, 0.0
    for key, passed in steps:
        clock.now += passed
        if key in since:
            seconds += clock.now - since.pop(key)
            budget.gone(key)
        else:
            since[key] = clock.now
            budget.placed(key)
            budget.placed(key)  # said twice is held once
    budget.tick()
    seconds += sum(clock.now - at for at in since.values())
    assert budget.spend.run_seconds == pytest.approx(seconds, abs=1e-9)
    assert budget.spend.gpu_hours == pytest.approx(2.0 * seconds / 3600, abs=1e-12)


def test_nodes_cost_while_they_are_there():
    nodes = {"head": 1}
    book, clock = Book(), Clock()
    budget = Budget(Limits(prices={"head": 1.0, "gpu": 10.0}), 0.0, clock)
    budget.open(book, lambda: dict(nodes))
    for _ in range(360):
        clock.now += COUNT_SECONDS
        budget.tick()
    nodes["gpu"] = 2
    clock.now += COUNT_SECONDS
    budget.tick()  # seen from now on
    for _ in range(360):
        clock.now += COUNT_SECONDS
        budget.tick()
    assert budget.spend.node_hours == pytest.approx({"head": 3605 / 3600, "gpu": 1.0})
    assert budget.spend.cost == pytest.approx(3605 / 3600 + 10.0)


def test_a_crash_loses_some_seconds_and_the_next_session_goes_on():
    book = Book()
    budget, clock = opened(Limits(gpu_hours=1.0), book)
    budget.placed("a")
    for _ in range(900):
        clock.now += 1.0
        budget.tick()
    clock.now += 0.5 * SAVE_SECONDS
    budget.tick()  # and the process is gone
    again, clock = opened(Limits(gpu_hours=1.0), book)
    assert 900 - SAVE_SECONDS <= again.spend.run_seconds <= 900
    assert again.exceeded() is None
    again.placed("a")
    clock.now += 1000.0
    assert again.exceeded() == "GPU-hour budget"
    assert again.spend.gpu_hours == pytest.approx(2 * again.spend.run_seconds / 3600)
    again.close()
    assert book.written["gpu_hours"] == again.spend.gpu_hours


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (Limits(seconds=600.0), "time budget"),
        (Limits(gpu_hours=600 * 2 * 2 / 3600), "GPU-hour budget"),
        (Limits(cost=600.0, prices={"gpu": 3600.0}), "cost budget"),
    ],
)
def test_what_fits_is_reckoned_from_what_was_seen(limits, name):
    """Two trials at a time of 30 s each: 40 of them fit in 600 s, less the margin and, but for GPU-hours, the report."""
    budget, clock = opened(limits)
    assert budget.short_for(1e9) is None  # nothing is known yet
    for turn in range(2):
        budget.placed(f"{turn}a"), budget.placed(f"{turn}b")
        clock.now += 30.0
        budget.gone(f"{turn}a", completed=True), budget.gone(f"{turn}b", completed=True)
    assert budget.seconds_per_run() == 30.0
    report = 0.0 if name == "GPU-hour budget" else REPORT_SECONDS
    most = int((600 - 60 - report) / 15 / MARGIN)
    assert budget.short_for(most) is None
    assert budget.short_for(most + 1) == name
    assert budget.short_for(most + 1, margin=1.0) is None
    assert budget.exceeded() is None
    budget.placed("c"), budget.placed("d")
    clock.now += 541.0
    assert budget.exceeded() == name


def test_a_pruned_run_does_not_tell_how_long_one_takes():
    budget, clock = opened(Limits())
    budget.placed("a")
    clock.now += 3.0
    budget.gone("a")
    assert budget.seconds_per_run() is None


def test_a_run_that_comes_back_after_a_pause_took_the_time_before_it_too():
    budget, clock = opened(Limits())
    budget.placed("a")
    clock.now += 20.0
    budget.gone("a")
    clock.now += 100.0
    budget.placed("a")
    clock.now += 10.0
    budget.gone("a", completed=True)
    assert budget.seconds_per_run() == 30.0 == budget.spend.run_seconds


def test_nothing_is_written_before_the_study_is_this_sessions():
    book, clock = Book(), Clock()
    budget = Budget(Limits(prices={"gpu": 3600.0}), 0.0, clock)
    budget.open(book, lambda: {"gpu": 1})
    clock.now += 10 * SAVE_SECONDS
    budget.tick()
    assert book.written is None and budget.spend.cost == 10 * SAVE_SECONDS
    budget.keep(book)
    budget.close()
    assert book.written["cost"] == 10 * SAVE_SECONDS


def test_what_trials_held_at_the_end_of_a_session_counts():
    book = Book()
    budget, clock = opened(Limits(), book)
    budget.placed("a")
    clock.now += 5.0
    budget.close()
    assert book.written["run_seconds"] == 5.0


def test_a_type_that_appears_without_a_price_is_taken_to_be_the_dearest():
    budget, _ = opened(Limits(prices={"gpu": 2.0, "head": 0.1}))
    assert budget.price_of("new") == 2.0
    assert opened(Limits(prices={"gpu": 2.0, "other": 0.5}))[0].price_of("new") == 0.5


def test_no_limit_says_and_stops_nothing():
    budget, clock = opened(Limits(), gpus=0.0)
    budget.placed("a")
    clock.now += 1e9
    assert budget.exceeded() is None and budget.short_for(1e9) is None and str(budget) == ""


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_cost": 3}, "max_cost=3 needs prices"),
        (
            {"fewest_workers": 3, "workers_per_trial": 2},
            "^execution: fewest_workers=3 is more than workers_per_trial=2",
        ),
        ({"gpu_hours": 3}, "gpu_hours=3, but trials take no GPU"),
        ({"prices": {"gpu": -1}}, "price of 'gpu' is -1"),
        ({"max_cost": 0, "prices": {"gpu": 1}}, "execution.max_cost"),
    ],
)
def test_budgets_that_mean_nothing_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        make_configs("digits", overrides={"execution": settings})


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("tracking_uri", "https://me:hunter2@mlflow.example.org/"),
        ("tracking_uri", "postgresql://me:hunter2@db/mlflow"),
        ("storage_path", "s3://AKIA:hunter2@bucket/studies"),
        ("address", "ray://me:hunter2@head:10001"),
    ],
)
def test_a_password_in_an_address_is_refused_and_not_repeated(name, address):
    with pytest.raises(ValueError, match=rf"execution\.{name} .* in the environment") as caught:
        make_configs("digits", overrides={"execution": {name: address}})
    assert "hunter2" not in str(caught.value) and "AKIA" not in str(caught.value)
