import math
import random
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from divfeat.errors import ConfigError
from divfeat.objectives import OBJECTIVES
from divfeat.search.asha import Halving
from divfeat.search.interrupt import Interrupt
from divfeat.search.ledger import Ledger
from divfeat.search.queue import JobQueue
from tests.search.samples import METRIC, completed, curve, make_study, search_job

VALUES = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=20)


def decide(table, trial, rung, reduction, direction="maximize"):
    return "stop" if Halving(reduction, direction, table).stops(trial, rung) else "continue"


def naive(values, index, reduction):
    """By counting, not by sorting: how many are strictly better?"""
    if len(values) < reduction:
        return "continue"
    better = sum(value > values[index] for value in values)
    return "continue" if better < max(1, len(values) // reduction) else "stop"


@given(VALUES, st.integers(2, 5), st.data())
def test_agrees_with_counting_those_that_are_better(values, reduction, data):
    index = data.draw(st.integers(0, len(values) - 1))
    table = {4: {str(i): value for i, value in enumerate(values)}, 8: {"other": 0.0}}
    assert decide(table, str(index), 4, reduction) == naive(values, index, reduction)


@given(VALUES, st.integers(2, 5), st.data())
def test_what_is_to_be_minimised_mirrors_what_is_to_be_maximised(values, reduction, data):
    index = data.draw(st.integers(0, len(values) - 1))
    table = {4: {str(i): -value for i, value in enumerate(values)}}
    assert decide(table, str(index), 4, reduction, "minimize") == naive(values, index, reduction)


@given(VALUES, st.integers(2, 5))
def test_the_best_goes_on_and_enough_others_do(values, reduction):
    table = {1: {str(i): value for i, value in enumerate(values)}}
    on = [i for i in range(len(values)) if decide(table, str(i), 1, reduction) == "continue"]
    assert {i for i, value in enumerate(values) if value == max(values)} <= set(on)
    assert len(on) >= max(1, len(values) // reduction)
    if len(set(values)) == len(values) >= reduction:
        assert len(on) == max(1, len(values) // reduction)


@given(VALUES, st.integers(2, 5))
def test_below_reduction_entries_nobody_stops(values, reduction):
    values = values[: reduction - 1]
    table = {1: {str(i): value for i, value in enumerate(values)}}
    assert all(decide(table, trial, 1, reduction) == "continue" for trial in table[1])


def test_ties_with_the_last_promoted_go_on():
    table = {1: {"a": 0.5, "b": 0.5, "c": 0.5, "d": 0.4}}
    assert [decide(table, trial, 1, 3) for trial in "abcd"] == ["continue"] * 3 + ["stop"]


def naive_promotion(table, gone_on, reduction, last):
    """Algorithm 2 of Li et al. (2020), by sorting everything anew."""
    for rung in sorted(table, reverse=True):
        ranked = sorted(table[rung], key=lambda trial: -table[rung][trial])  # stable: the first that came first
        best = ranked[: max(int(last), len(ranked) // reduction)]
        for trial in best:
            if trial not in gone_on[rung]:
                return trial, rung
    return None


@given(st.integers(2, 4), st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), max_size=40), st.booleans())
def test_promotion_agrees_with_sorting_everything_anew(reduction, steps, last):
    """Trials come with a value, or whoever may go on does and brings its value to the next rung."""
    rungs = (1, 3, 9)
    halving, table, gone_on = Halving(reduction), {rung: {} for rung in rungs}, {rung: set() for rung in rungs}
    for number, (new, value) in enumerate(steps):
        if new:
            table[1][str(number)] = float(value)
            halving.add(str(number), 1, float(value))
            continue
        expected = naive_promotion(table, gone_on, reduction, last)
        assert halving.promoted(last) == (expected and expected[0])
        if expected is not None:
            trial, rung = expected
            gone_on[rung].add(trial)
            if rung != rungs[-1]:
                higher = rungs[rungs.index(rung) + 1]
                table[higher][trial] = float(value)
                halving.add(trial, higher, float(value))


@given(VALUES, st.integers(2, 4))
def test_promotion_taken_up_again_lets_nobody_go_on_but_those_on_their_way(values, reduction):
    halving = Halving(reduction)
    for number, value in enumerate(values):
        halving.add(str(number), 1, value)
    reached, on_their_way = [], []
    while (trial := halving.promoted()) is not None:
        if trial in reached:
            on_their_way.append(trial)
        else:
            reached.append(trial)
            halving.add(trial, 3, -float(trial))
    table = {1: {str(i): value for i, value in enumerate(values)}, 3: {trial: -float(trial) for trial in reached}}
    again = Halving(reduction, table=table)
    assert set(iter(again.promoted, None)) <= set(on_their_way)  # who came later may have left no place


def test_nan_is_no_result():
    halving = Halving(2)
    for trial, value in (("a", math.nan), ("b", 1.0), ("c", 2.0)):
        halving.add(trial, 1, value)
    assert halving.promoted() == "c" and halving.promoted() is None


def test_two_objectives_cannot_be_halved():
    with pytest.raises(ConfigError, match="asha"):
        make_study(search={"asha": {"first_rung": 2}, "objectives": ["fine_probe", "accuracy"]})
    with pytest.raises(ConfigError, match="first_rung=20 must be below"):
        make_study(search={"asha": {"first_rung": 20}})


# --- a simulator over recorded curves ---------------------------------------------------------------------------------

EPOCHS, RUNGS = 27, (1, 3, 9)


def learning_curves(trials, seed):
    """Saturating curves: the final value orders a trial everywhere but for noise that shrinks with the epochs."""
    rng = random.Random(seed)
    for _ in range(trials):
        final = rng.uniform(0.5, 0.95)
        yield [
            final * (1 - 0.5 * math.exp(-epoch / 5)) + rng.uniform(-1, 1) * 0.02 / epoch
            for epoch in range(1, EPOCHS + 1)
        ]


def simulate(ledger, study, curves, concurrent, seed, promotes=False, most=None, table=None):
    """Run `curves` through the queue `concurrent` at a time at random speeds; interrupt it after `most` epochs in all.

    A trial that goes on from its checkpoint at a rung tells that epoch again, as a training does.

    Returns:
        Keys, the epochs spent by key, the queue.
    """
    jobs = [search_job(study, 0.01 * (i + 1), i, RUNGS) for i in range(len(curves))]
    events = {job.key: curve(values) for job, values in zip(jobs, curves, strict=True)}
    configs = {job.key: job.experiment for job in jobs}
    interrupt = Interrupt()
    pending = iter([job for job in jobs if ledger.record(job.key) is None])
    queue = JobQueue(
        pending,
        ledger,
        lambda job: job,
        interrupt,
        [],
        objective=METRIC,
        reduction=3,
        promotes=promotes,
        table=table,
    )
    rng, running = random.Random(seed), {}
    spent = {job.key: len(list(ledger.events(job.key))) for job in jobs}
    for passed in count():
        if passed == most:
            interrupt.signal = "SIGINT"
            queue.close()
            return [job.key for job in jobs], spent, queue
        while len(running) < concurrent and (spec := queue.next()) is not None:
            running[spec.key] = max(0, spent[spec.key] - 1)
        if not running:
            queue.close()
            return [job.key for job in jobs], spent, queue
        key = rng.choice(sorted(running))
        event = events[key][running[key]]
        running[key] += 1
        if running[key] > spent[key]:
            ledger.event(key, event)
            spent[key] = running[key]
        stop = queue.heard(key, [event])
        if running[key] == EPOCHS:
            ledger.write_record(key, completed(configs[key], {METRIC: event[METRIC]}, events[key]))
        if stop or running[key] == EPOCHS:
            del running[key]
            queue.ended(key, None)


@pytest.mark.parametrize("promotes", [False, True])
@pytest.mark.parametrize(("concurrent", "seed"), [(1, 0), (4, 1), (8, 2), (30, 3)])
def test_halving_spends_less_and_keeps_the_best(tmp_path, concurrent, seed, promotes):
    study, ledger = make_study(train={"epochs": EPOCHS}), Ledger(tmp_path)
    curves = list(learning_curves(30, seed))
    keys, spent, queue = simulate(ledger, study, curves, concurrent, seed, promotes)
    assert set(spent) == set(keys)
    finals = {key: values[-1] for key, values in zip(keys, curves, strict=True)}
    best = max(finals, key=finals.__getitem__)
    assert ledger.record(best)["status"] == "completed"
    assert sum(spent.values()) < 0.6 * 30 * EPOCHS
    for key in keys:
        found = ledger.record(key)
        if found["status"] == "pruned":
            assert spent[key] in RUNGS
            assert [row["epoch"] for row in found["history"]] == list(range(spent[key]))
            assert found["metrics"] == {}
            assert f"after {spent[key]} epochs" in found["error"]
        else:
            assert spent[key] == EPOCHS
    assert "failed" not in queue.statuses.values()
    assert not queue.stopping()


@pytest.mark.parametrize("most", [1, 7, 40, 90])
def test_promotion_goes_on_after_an_interruption(tmp_path, most):
    """What was finished stays, who had reached a rung is compared there again, and the best is trained to the end."""
    study, ledger = make_study(train={"epochs": EPOCHS}), Ledger(tmp_path)
    curves = list(learning_curves(30, 4))
    keys, before, first = simulate(ledger, study, curves, 4, 0, promotes=True, most=most)
    finished = {key: ledger.record(key) for key in keys if ledger.record(key) is not None}
    assert not first.paused.keys() & finished.keys()
    table = {
        rung: {key: row[METRIC] for key in keys for row in [*ledger.events(key)][rung - 1 : rung]} for rung in RUNGS
    }
    _, spent, queue = simulate(ledger, study, curves, 4, 1, promotes=True, table=table)
    finals = {key: values[-1] for key, values in zip(keys, curves, strict=True)}
    assert ledger.record(max(finals, key=finals.__getitem__))["status"] == "completed"
    assert all(ledger.record(key) is not None for key in keys)
    assert {key: ledger.record(key) for key in finished} == finished
    assert all(spent[key] >= before[key] for key in keys) and sum(spent.values()) < 0.6 * 30 * EPOCHS
    assert not queue.paused and not queue.running


def test_of_few_trials_one_is_trained_to_the_end(tmp_path):
    study, ledger = make_study(train={"epochs": EPOCHS}), Ledger(tmp_path)
    keys, spent, _ = simulate(ledger, study, list(learning_curves(2, 0)), 2, 0, promotes=True)
    statuses = sorted(ledger.record(key)["status"] for key in keys)
    assert statuses == ["completed", "pruned"] and sorted(spent.values()) == [1, EPOCHS]


def test_geometry_is_halved_in_its_own_direction(tmp_path):
    """The log norm is to be small; where it is undefined nobody is stopped for it."""
    metric, ledger = OBJECTIVES["log_norm"].validation, Ledger(tmp_path)
    jobs = [search_job(make_study(), 0.1 * (i + 1), i, (1,)) for i in range(5)]
    queue = JobQueue(
        iter(jobs), ledger, lambda job: job, Interrupt(), [], objective=metric, direction="minimize", reduction=2
    )
    for _ in jobs:
        queue.next()
    values = [4.0, 5.0, 3.0, math.nan, None]
    stopped = [queue.heard(job.key, curve([value], metric)) for job, value in zip(jobs, values, strict=True)]
    assert stopped == [False, True, False, False, False]


def test_without_an_objective_nothing_is_stopped(tmp_path):
    study, ledger = make_study(), Ledger(tmp_path)
    jobs = [search_job(study, 0.1 * (i + 1), i, RUNGS) for i in range(6)]
    queue = JobQueue(iter(jobs), ledger, lambda job: job, Interrupt(), [])
    for value in range(6):
        job = queue.next()
        assert not queue.heard(job.key, curve([-float(value)] * 3))


def test_a_study_taken_up_again_compares_with_what_came_before(tmp_path):
    study = make_study()
    job = search_job(study, 0.5, 7, RUNGS)
    table = {1: {"a": 0.9, "b": 0.8}}
    fresh, resumed = (
        JobQueue(iter([job]), Ledger(tmp_path), lambda job: job, Interrupt(), [], objective=METRIC, **known)
        for known in ({}, {"table": table})
    )
    for queue, stops in ((fresh, False), (resumed, True)):
        queue.next()
        assert queue.heard(job.key, curve([0.5])) is stops
    assert table == {1: {"a": 0.9, "b": 0.8}}
