"""Recorded curves on a simulated cluster: every slot-second accounted for, and what each rule of early stopping spends."""

from __future__ import annotations

import math
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from divfeat.cluster.simulated import Curve, Faults, Simulated
from divfeat.cluster.trial import TrialSpec
from divfeat.errors import ConfigError
from divfeat.search.interrupt import Interrupt
from divfeat.search.ledger import Ledger
from divfeat.search.queue import JobQueue
from divfeat.search.replay import HalvingSource, replay
from tests.search.samples import METRIC, completed, make_study, search_job


def saturating(trials: int, epochs: int, seed: int, noise: float = 0.02) -> dict[str, list[float]]:
    """Curves whose final value orders trials everywhere but for noise that shrinks with the epochs."""
    rng = random.Random(seed)
    found = {}
    for trial in range(trials):
        final = rng.uniform(0.5, 0.95)
        found[str(trial)] = [
            final * (1 - 0.5 * math.exp(-epoch / 5)) + rng.uniform(-1, 1) * noise / epoch
            for epoch in range(1, epochs + 1)
        ]
    return found


def test_without_halving_everything_is_trained_and_time_is_what_a_list_of_slots_says() -> None:
    curves = saturating(10, 4, seed=0)
    seconds = {key: 1.0 + int(key) for key in curves}
    found = replay(curves, "none", seconds=seconds, nodes=2, slots=2, start_seconds=0.5)
    free = [0.0] * 4  # by hand: each trial on the slot that is free first
    for key in curves:
        free.sort()
        free[0] += 0.5 + 4 * seconds[key]
    assert found.usage.seconds == pytest.approx(max(free))
    assert (found.finished, found.epochs, found.regret) == (10, 40, 0.0)
    assert found.usage.useful == pytest.approx(4 * sum(seconds.values()))
    assert found.usage.starting == pytest.approx(10 * 0.5) and found.usage.lost == 0.0
    assert found.usage.offered == pytest.approx(4 * max(free))


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["none", "stop", "promote"]),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([3.0, 20.0, math.inf]),
    st.integers(1, 4),
)
def test_failures_undo_epochs_but_change_no_result_that_every_trial_gives(
    seed, rule, nodes, slots, mean, every
) -> None:
    curves = saturating(12, 9, seed)
    faults = Faults(mean_seconds=mean, away_seconds=2.0, checkpoint_epochs=every, seed=seed)
    found = replay(curves, rule, nodes=nodes, slots=slots, start_seconds=0.25, faults=faults)
    usage = found.usage
    assert found.finished >= 1 and found.winner is not None
    assert found.regret == max(values[-1] for values in curves.values()) - found.value >= 0
    assert usage.useful == pytest.approx(found.epochs)  # an epoch takes a second; each counts once
    assert usage.useful + usage.lost + usage.starting <= usage.offered + 1e-6
    assert usage.offered <= nodes * slots * usage.seconds + 1e-6
    if mean == math.inf:
        assert usage.lost == usage.failures == 0
    if rule == "none":
        assert (found.finished, found.epochs, found.regret) == (12, 108, 0.0)


def test_a_failure_costs_what_was_done_since_the_checkpoint() -> None:
    """One node that fails once, in the middle of the sixth of nine epochs: four are kept, one and a half are lost."""

    class Once(random.Random):
        times = iter([5.5, math.inf])

        def expovariate(self, lambd: float = 1.0) -> float:
            return next(self.times)

    curves = {"a": [0.1] * 9}
    cluster = Simulated(
        lambda spec: Curve([{"epoch": epoch, "value": value} for epoch, value in enumerate(curves[spec.key])], 1.0),
        faults=Faults(mean_seconds=1.0, away_seconds=10.0, checkpoint_epochs=2),
    )
    source = HalvingSource({"a": 9}, (3,), "stop", 3)
    real, random.Random = random.Random, Once
    try:
        cluster.run(source)
    finally:
        random.Random = real
    assert cluster.usage.lost == pytest.approx(1.5) and cluster.usage.failures == 1
    assert cluster.usage.seconds == pytest.approx(5.5 + 10 + 5) and source.finished == {"a": 0.1}
    assert cluster.usage.offered == pytest.approx(5.5 + 5) and cluster.usage.useful == pytest.approx(9.0)


def test_promotion_trains_a_late_best_one_and_stopping_may_not() -> None:
    """Stopping lets whoever comes first go on; pausing waits until enough others have come to compare with."""
    early = {str(trial): [0.1 + trial / 100] * 9 for trial in range(8)}  # ever better: each beats all before it
    stop, promote = (replay(early, rule, reduction=3) for rule in ("stop", "promote"))
    assert stop.regret == promote.regret == 0.0
    assert promote.epochs < stop.epochs  # one slot, ever better ones: stopping stops nobody


@pytest.mark.parametrize("seed", range(5))
def test_both_rules_find_the_best_for_less(seed: int) -> None:
    curves = saturating(60, 27, seed, noise=0.0)
    for rule in ("stop", "promote"):
        found = replay(curves, rule, nodes=4, slots=2)
        assert found.regret == 0.0
        assert found.epochs < 0.6 * 60 * 27


def test_at_least_one_trial_is_trained_to_the_end_when_none_of_few_is_promoted() -> None:
    found = replay(saturating(2, 9, seed=0), "promote", reduction=4)
    assert found.finished == 1 and found.epochs < 18


def test_the_same_seed_gives_the_same_run_and_another_gives_other_failures() -> None:
    curves = saturating(30, 9, seed=1)
    runs = [replay(curves, "promote", nodes=5, faults=Faults(mean_seconds=10.0, seed=seed)) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_ten_thousand_trials_on_a_thousand_nodes_that_fail_take_seconds() -> None:
    curves = saturating(10_000, 27, seed=0)
    started = time.perf_counter()
    found = replay(
        curves,
        "promote",
        seconds={key: 60.0 + int(key) % 7 for key in curves},
        nodes=1000,
        start_seconds=30.0,
        faults=Faults(mean_seconds=6 * 3600.0, away_seconds=300.0),
    )
    print(f"{time.perf_counter() - started:.1f} s of real time, {found.usage}")
    assert found.usage.failures > 10 and found.regret < 0.01 and 0.5 < found.usage.utilisation < 1


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.lists(st.integers(0, 4), min_size=9, max_size=9), min_size=1, max_size=12),
    st.sampled_from(["none", "stop", "promote"]),
    st.integers(2, 4),
    st.integers(1, 4),
    st.sampled_from([5.0, math.inf]),
)
def test_the_queue_of_a_study_decides_as_the_replay_does(
    tmp_path_factory, values, rule, reduction, slots, mean
) -> None:
    """The same curves on the same simulated cluster, once through the queue that runs studies, over a real ledger."""
    rungs = [] if rule == "none" else [rung for rung in (reduction**power for power in range(4)) if rung < 9]
    study, ledger = make_study(train={"epochs": 9}), Ledger(tmp_path_factory.mktemp("study"))
    jobs = [search_job(study, 0.01 * (i + 1), i, rungs) for i in range(len(values))]
    curves = dict(zip([job.key for job in jobs], values, strict=True))
    configs = {job.key: job.experiment for job in jobs}
    faults = Faults(mean_seconds=mean, away_seconds=2.0, seed=1)
    expected = replay(curves, rule, reduction=reduction, slots=slots, start_seconds=0.5, faults=faults)
    heard: dict[str, int] = {}

    class Heard(JobQueue):
        def heard(self, key, events):
            heard[key] = max(heard.get(key, 0), len(events) and events[-1]["epoch"] + 1)
            return super().heard(key, events)

    queue = Heard(
        iter(jobs),
        ledger,
        lambda job: TrialSpec(job.key, {}, folder="", stages="", rungs=job.rungs),
        Interrupt(),
        [],
        objective=METRIC if rungs else None,
        reduction=reduction,
        promotes=rule == "promote",
    )
    cluster = Simulated(
        lambda spec: Curve([{"epoch": e, METRIC: value} for e, value in enumerate(curves[spec.key])], 1.0),
        ended=lambda spec: ledger.write_record(spec.key, completed(configs[spec.key], {METRIC: curves[spec.key][-1]})),
        slots=slots,
        start_seconds=0.5,
        faults=faults,
    )
    cluster.run(queue)
    queue.close()
    statuses = [ledger.record(key)["status"] for key in curves]
    assert statuses.count("completed") == expected.finished and set(statuses) <= {"completed", "pruned"}
    assert sum(heard.values()) == expected.epochs and cluster.usage == expected.usage


@pytest.mark.parametrize(
    ("curves", "rule", "settings", "message"),
    [
        ({"a": [1.0], "b": [1.0, 2.0]}, "none", {}, r"lengths \[1, 2\]"),
        ({}, "none", {}, "lengths"),
        ({"a": [1.0]}, "halve", {}, "rule 'halve': must be one of none, stop, promote"),
        ({"a": [1.0]}, "stop", {"reduction": 1}, "reduction=1"),
        ({"a": [1.0]}, "stop", {"nodes": 0}, "of 0 nodes"),
    ],
)
def test_refuses(curves, rule, settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        replay(curves, rule, **settings)
