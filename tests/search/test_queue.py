import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from divfeat import record as records
from divfeat.cluster.faults import Fault
from divfeat.config import MethodConfig
from divfeat.errors import StorageLostError
from divfeat.files import write_json
from divfeat.search.interrupt import Interrupt, TooManyFailuresError
from divfeat.search.jobs import Job, experiment
from divfeat.search.ledger import Ledger
from divfeat.search.queue import JobQueue
from divfeat.stages import stage_key
from tests.search.samples import METRIC, completed, curve, make_study, search_job

STUDY = make_study(train={"epochs": 4})
GONE = Fault("node", "spot instance taken back")
JOBS = [search_job(STUDY, 0.1 * (i + 1), i, (1, 2)) for i in range(6)]
CONFIRM = Job(experiment(STUDY, MethodConfig(name="ce"), 2000, "confirm"), "confirm", "ce")


class Witness:
    """A follower that writes down what it hears."""

    def __init__(self):
        self.calls = []

    def started(self, job):
        self.calls.append(("started", job.key, job.number))

    def heard(self, job, events):
        self.calls.append(("heard", job.key, [event["epoch"] for event in events]))

    def finished(self, job, record, fresh):
        self.calls.append(("finished", job.key, job.number, record["status"], fresh))

    def paused(self, job):
        self.calls.append(("paused", job.key))

    def stopped(self, job):
        self.calls.append(("stopped", job.key))

    def of(self, kind):
        return [call[1:] for call in self.calls if call[0] == kind]


class Room:
    """A queue over a real ledger, with all that hangs on it."""

    def __init__(self, folder, jobs, **options):
        self.ledger, self.interrupt, self.witness, self.told = Ledger(Path(folder)), Interrupt(), Witness(), []
        self.queue = JobQueue(
            iter(jobs),
            self.ledger,
            lambda job: job,
            self.interrupt,
            [self.witness],
            on_record=lambda job, record: self.told.append((job.number, record["status"])),
            **options,
        )

    def succeed(self, job):
        self.ledger.write_record(job.key, completed(job.experiment, {METRIC: 0.5}))
        self.queue.ended(job.key, None)

    def fail(self, job, kind="nan", error="training loss became nan"):
        self.ledger.write_record(job.key, records.ended("failed", job.experiment, error, kind, []))
        self.queue.ended(job.key, None)


@pytest.fixture
def room(tmp_path):
    return lambda jobs=JOBS, **options: Room(tmp_path, jobs, **options)


# --- any order of events ------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    order=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    done=st.sets(st.integers(0, 5)),
    concurrent=st.integers(1, 4),
    data=st.data(),
)
def test_every_key_runs_once_and_every_job_ends_once(order, done, concurrent, data):
    """Jobs with repeated keys, some finished in an earlier session, executed in any interleaving with any outcome."""
    jobs = [Job(JOBS[i].experiment, "search", f"job {n}", n, (1, 2)) for n, i in enumerate(order)]
    with tempfile.TemporaryDirectory() as folder:
        room = Room(folder, jobs, objective=METRIC, max_failed_share=1.0)
        for i in done:
            room.ledger.write_record(JOBS[i].key, completed(JOBS[i].experiment, {METRIC: 0.9}))
        old = {JOBS[i].key for i in done}
        ran, outcomes, running, epochs = Counter(), {}, {}, Counter()
        while True:
            spec = room.queue.next() if len(running) < concurrent else None
            if spec is not None:
                assert spec.key not in running
                ran[spec.key] += 1
                running[spec.key] = spec
                continue
            if not running:
                break
            key = data.draw(st.sampled_from(sorted(running)))
            outcome = data.draw(st.sampled_from(["epoch", "epoch", "complete", "fail", "lost"]))
            if outcome == "epoch" and epochs[key] < 3:
                event = {**curve([0.0] * 4)[epochs[key]], METRIC: data.draw(st.sampled_from([0.1, 0.5, 0.7]))}
                epochs[key] += 1
                room.ledger.event(key, event)
                if not room.queue.heard(key, [event]):
                    continue
                outcome = "pruned"
            elif outcome == "epoch":
                outcome = "complete"
            job = running.pop(key)
            outcomes[key] = {"complete": "completed", "fail": "failed", "lost": "failed"}.get(outcome, outcome)
            if outcome == "complete":
                room.succeed(job)
            elif outcome == "fail":
                room.fail(job)
            else:
                room.queue.ended(key, GONE if outcome == "lost" else None)
        keys = {job.key for job in jobs}
        assert ran == Counter(keys - old)
        expected = outcomes | dict.fromkeys(keys & old, "completed")
        assert {key: room.ledger.record(key)["status"] for key in keys} == expected
        assert sorted(room.told) == [(job.number, expected[job.key]) for job in jobs]
        finished = room.witness.of("finished")
        assert Counter(number for _, number, _, _ in finished) == Counter(job.number for job in jobs)
        assert Counter(key for key, _, _, fresh in finished if fresh) == ran
        assert [key for key, _ in room.witness.of("started")] == list(
            dict.fromkeys(j.key for j in jobs if j.key in ran)
        )
        assert (
            set(room.ledger.started()) == keys
        )  # also what an earlier session, or a study it was forked from, finished
        assert room.queue.running == {}
        assert room.queue.statuses == expected
        for key in ran:
            found = room.ledger.record(key)
            if found["status"] == "pruned":
                assert [row["epoch"] for row in found["history"]] == list(range(epochs[key]))


# --- one at a time ------------------------------------------------------------------------------------------------------


def test_jobs_are_made_only_when_asked_for(room):
    """A proposal depends on what finished before it."""
    made = []

    def lazily():
        for job in JOBS:
            made.append(job.number)
            yield job

    opened = room(lazily())
    assert made == []
    opened.queue.next()
    opened.queue.next()
    assert made == [0, 1]


def test_a_launch_is_noted_before_the_trial_is_handed_out(room):
    opened = room()
    spec = opened.queue.next()
    info = opened.ledger.started()[spec.key]
    assert {name: info[name] for name in ("phase", "name", "seed", "number")} == {
        "phase": "search",
        "name": JOBS[0].name,
        "seed": 0,
        "number": 0,
    }
    assert opened.ledger.record(spec.key) is None
    assert opened.ledger.test_reads() == []


def test_a_confirmation_is_a_read_of_the_test_set(room):
    opened = room([JOBS[0], CONFIRM])
    opened.queue.next()
    opened.queue.next()
    (read,) = opened.ledger.test_reads()
    assert (read["key"], read["why"]) == (CONFIRM.key, "ce, seed 2000")


def test_a_finished_confirmation_is_not_read_again(room):
    opened = room([CONFIRM])
    opened.ledger.write_record(CONFIRM.key, completed(CONFIRM.experiment, {}))
    assert opened.queue.next() is None
    assert opened.ledger.test_reads() == []
    assert opened.witness.of("finished") == [(CONFIRM.key, None, "completed", False)]


def test_no_word_to_followers_without_epochs(room):
    opened = room()
    job = opened.queue.next()
    assert opened.queue.heard(job.key, []) is False
    assert opened.witness.of("heard") == []
    opened.queue.heard(job.key, curve([0.1, 0.2]))
    assert opened.witness.of("heard") == [(job.key, [0, 1])]


def test_only_rungs_with_the_objective_are_compared(room):
    opened = room(objective=METRIC, reduction=2)
    best, worse = opened.queue.next(), opened.queue.next()
    opened.queue.heard(best.key, curve([0.9, 0.9, 0.9]))
    assert not opened.queue.heard(worse.key, [{"epoch": 0, "time": 0}])
    assert not opened.queue.heard(worse.key, curve([0.0] * 4)[2:])
    assert opened.queue.heard(worse.key, curve([0.0, 0.1])[1:])
    assert opened.queue.referee.halving.table == {1: {best.key: 0.9}, 2: {best.key: 0.9, worse.key: 0.1}}
    assert opened.queue.heard(worse.key, [])  # what was decided stays decided


def test_a_trial_that_finished_before_the_stop_arrived_is_complete(room):
    opened = room(objective=METRIC, reduction=2)
    best, worse = opened.queue.next(), opened.queue.next()
    opened.queue.heard(best.key, curve([0.9]))
    assert opened.queue.heard(worse.key, curve([0.1]))
    opened.succeed(worse)
    assert opened.ledger.record(worse.key)["status"] == "completed"


def test_lost_for_good_is_a_failure_of_the_infrastructure(room):
    opened = room()
    for lost in (GONE, None):  # without a record although nothing stops: nobody may forget it
        job = opened.queue.next()
        opened.ledger.event(job.key, curve([0.1])[0])
        opened.queue.ended(job.key, lost)
        found = opened.ledger.record(job.key)
        assert (found["status"], found["error_kind"]) == ("failed", "infrastructure")
        assert found["history"] == curve([0.1])
        assert found["config"] == job.experiment.to_dict()
    assert opened.told == [(0, "failed"), (1, "failed")]


def test_who_is_killed_for_memory_again_and_again_has_done_it_itself(room):
    opened = room()
    job = opened.queue.next()
    opened.queue.ended(job.key, Fault("memory", "killed under memory pressure"))
    found = opened.ledger.record(job.key)
    assert found["error_kind"] == "memory" and "memory pressure" in found["error"]


def test_losses_are_noted_beside_the_run_and_held_against_nobody(room):
    opened = room()
    job = opened.queue.next()
    opened.queue.lost(job.key, GONE, again=True)
    opened.queue.lost(job.key, Fault("worker", "died"), again=True)
    assert [(row["kind"], row["cause"]) for row in opened.ledger.faults(job.key)] == [
        ("node", GONE.cause),
        ("worker", "died"),
    ]
    opened.succeed(job)
    assert opened.ledger.record(job.key)["status"] == "completed" and not opened.queue.errors


def test_storage_that_is_lost_stops_everything_and_gives_nobody_a_record(room):
    opened = room()
    first, second = opened.queue.next(), opened.queue.next()
    opened.queue.ended(first.key, Fault("storage", "No space left on device"))
    assert isinstance(opened.queue.fatal, StorageLostError) and "No space left" in str(opened.queue.fatal)
    assert opened.queue.stopping()
    opened.queue.ended(second.key, None)
    assert opened.ledger.record(first.key) is None and opened.ledger.record(second.key) is None
    assert opened.told == []
    again = Room(opened.ledger.folder, JOBS)
    assert again.queue.next().key == first.key


@pytest.mark.parametrize("kinds", ["ffff", "fffsf", "sssssssssffff", "sssssssssfsfffsff"])
def test_too_many_failures_in_a_row_end_the_phase_and_name_the_common_cause(tmp_path, kinds):
    jobs = [search_job(STUDY, 0.01 * (i + 1), i) for i in range(len(kinds))]
    opened = Room(tmp_path, jobs, max_failed_share=1.0, max_failed_in_row=4)
    for number, kind in enumerate(kinds):
        job = opened.queue.next()
        opened.fail(job) if kind == "f" else opened.succeed(job)
        in_row = "ffff" in kinds[: number + 1]
        assert opened.queue.stopping() is in_row
    if in_row:
        assert isinstance(opened.queue.fatal, TooManyFailuresError)
        cause = records.cause_of(opened.ledger.record(jobs[-1].key))
        assert "4 runs of the phase 'search' failed in a row" in str(opened.queue.fatal) and cause in str(
            opened.queue.fatal
        )


@pytest.mark.parametrize("lost", [None, GONE])
def test_stopping_starts_nothing_and_leaves_no_record(room, lost):
    opened = room()
    running = opened.queue.next()
    assert not opened.queue.stopping()
    opened.interrupt.signal = "SIGTERM"
    assert opened.queue.stopping()
    opened.queue.ended(running.key, lost)
    assert opened.ledger.record(running.key) is None
    assert opened.told == []
    again = Room(opened.ledger.folder, JOBS)
    assert again.queue.next().key == running.key


def test_what_finished_while_stopping_is_kept(room):
    opened = room()
    running = opened.queue.next()
    opened.interrupt.signal = "SIGINT"
    opened.succeed(running)
    assert opened.told == [(0, "completed")]


def test_no_more_aliases_are_taken_once_it_stops(room):
    def jobs():
        yield JOBS[0]
        while True:
            opened.interrupt.signal = "SIGINT"
            yield JOBS[0]

    opened = room(jobs())
    opened.queue.next()
    assert opened.queue.next() is None


# --- pausing at rungs ---------------------------------------------------------------------------------------------------


def promoting(room, jobs=JOBS, **options):
    return room(jobs, objective=METRIC, reduction=2, promotes=True, **options)


def reach(opened, job, values):
    """Tell all epochs; returns whether it gave its place up."""
    for event in curve(values)[-1:]:
        opened.ledger.event(job.key, event)
        if opened.queue.heard(job.key, [event]):
            opened.queue.ended(job.key, None)
            return True
    return False


def test_a_pause_is_told_and_noted_until_the_trial_goes_on_or_ends(room):
    opened = promoting(room, JOBS[:2])
    worse, best = opened.queue.next(), opened.queue.next()
    assert reach(opened, worse, [0.1]) and opened.ledger.paused(worse.key)
    assert opened.witness.of("paused") == [(worse.key,)] and opened.told == []
    assert not reach(opened, best, [0.9])  # the best of two: it goes on without leaving its place
    assert reach(opened, best, [0.9, 0.9])
    assert opened.queue.next() is best  # nobody is left, and none was trained to the end
    assert opened.ledger.paused(worse.key) and not opened.ledger.paused(best.key)
    opened.succeed(best)
    assert opened.queue.next() is None
    opened.queue.close()
    assert not opened.ledger.paused(worse.key)
    assert opened.told == [(1, "completed"), (0, "pruned")] and opened.witness.of("stopped") == []
    assert opened.ledger.record(worse.key)["error"] == "stopped after 1 epochs"


def test_who_waits_when_the_study_stops_goes_on_later_and_waits_again(room):
    opened = promoting(room, JOBS[:3])
    first, second = opened.queue.next(), opened.queue.next()
    assert reach(opened, first, [0.1])
    opened.interrupt.signal = "SIGTERM"
    opened.queue.close()
    assert {key for (key,) in opened.witness.of("stopped")} == {first.key, second.key}
    assert opened.ledger.record(first.key) is None
    again = promoting(room, JOBS[:3], table={1: {first.key: 0.1}})
    assert again.queue.next() is second and again.witness.of("paused") == [(first.key,)]
    assert again.ledger.paused(first.key)


def test_a_rung_that_is_told_again_pauses_nobody_twice(room):
    """A trial that takes up its checkpoint at a rung measures the objective there again."""
    opened = promoting(room, JOBS[:2])
    job, other = opened.queue.next(), opened.queue.next()
    assert reach(opened, job, [0.5]) and reach(opened, other, [0.1])
    assert opened.queue.next() is job
    assert not reach(opened, job, [0.5]) and reach(opened, job, [0.5, 0.5])


# --- a first stage that several share ------------------------------------------------------------------------------------


def two_stages(name, seed=0, **settings):
    method = MethodConfig.model_validate({"name": name, **settings})
    return Job(experiment(STUDY, method, seed), "select", name)


SHARING = [two_stages(name, seed) for seed in (1000, 1001) for name in ("ce", "crt", "tau_norm", "ncm")]


def test_another_job_goes_first_while_a_first_stage_is_trained(room):
    ce, crt, tau = SHARING[:3]
    opened = room([crt, ce, tau, JOBS[0]], held=9)
    assert opened.queue.next() is crt and not opened.queue.waiting
    assert opened.queue.next() is JOBS[0]
    assert opened.queue.next() is None and opened.queue.waiting
    assert opened.witness.of("started") == [(crt.key, None), (JOBS[0].key, 0)]
    opened.succeed(crt)
    assert opened.queue.next() is ce
    assert opened.queue.next() is None and opened.queue.waiting
    opened.fail(ce)  # also a first stage that failed is nobody's any more
    assert opened.queue.next() is tau
    assert opened.queue.next() is None and not opened.queue.waiting


def test_a_finished_first_stage_serves_several_at_a_time(room):
    ce, crt, tau = SHARING[:3]
    opened = room([crt, ce, tau], held=9)
    assert opened.queue.next() is crt
    assert opened.queue.next() is None
    write_json(opened.ledger.stages / stage_key(crt.experiment) / "done.json", {})
    assert [opened.queue.next(), opened.queue.next()] == [ce, tau]
    assert not opened.queue.waiting


def test_jobs_made_from_results_are_not_made_before_their_turn(room):
    asked = []

    def jobs():
        for job in SHARING[:4]:
            asked.append(job)
            yield job

    opened = room(jobs())
    assert opened.queue.next() is SHARING[0]
    for _ in range(3):
        assert opened.queue.next() is None and opened.queue.waiting
    assert asked == SHARING[:2]
    opened.succeed(SHARING[0])
    assert opened.queue.next() is SHARING[1]
    assert opened.queue.next() is None
    assert asked == SHARING[:3]


@settings(max_examples=40, deadline=None)
@given(order=st.permutations(range(8)), concurrent=st.integers(1, 4), held=st.sampled_from([1, 9]), data=st.data())
def test_no_two_train_one_first_stage_and_all_run(order, concurrent, held, data):
    jobs = [SHARING[i] for i in order] + JOBS[:2]
    with tempfile.TemporaryDirectory() as folder:
        room, running = Room(folder, jobs, held=held), {}
        done = set()
        while True:
            job = room.queue.next() if len(running) < concurrent else None
            if job is not None:
                stages = [stage_key(other.experiment) for other in running.values()]
                assert stage_key(job.experiment) not in set(stages) - done
                running[job.key] = job
                continue
            if not running:
                break
            job = running[data.draw(st.sampled_from(sorted(running)))]
            stage = stage_key(job.experiment)
            if stage not in done and data.draw(st.booleans()):
                write_json(room.ledger.stages / stage / "done.json", {})
                done.add(stage)
                continue
            room.succeed(running.pop(job.key))
        assert not room.queue.waiting
        assert {key for key, _ in room.witness.of("started")} == {job.key for job in jobs}
        assert len(room.told) == len(jobs)


@pytest.mark.parametrize("shares", [False, True])
def test_what_was_pruned_leaves_its_first_stage_to_others(room, shares):
    opened = room(objective=METRIC, reduction=2, shares=lambda job: shares)
    best, worse = opened.queue.next(), opened.queue.next()
    folder = opened.ledger.stages / stage_key(worse.experiment)
    write_json(folder / "done.json", {})
    opened.queue.heard(best.key, curve([0.9]))
    assert opened.queue.heard(worse.key, curve([0.1]))
    opened.queue.ended(worse.key, None)
    assert folder.exists() is shares


# --- failures -----------------------------------------------------------------------------------------------------------


def test_too_many_failures_end_the_phase_with_the_common_cause(room):
    opened = room()
    jobs = [opened.queue.next() for _ in range(6)]
    opened.fail(jobs[0], error="Traceback\n  somewhere\nRuntimeError: cuDNN")
    opened.fail(jobs[1], error="odd")
    opened.fail(jobs[2], error="elsewhere\nRuntimeError: cuDNN\n")
    assert not opened.queue.stopping()  # three say nothing yet
    opened.fail(jobs[3], error="RuntimeError: cuDNN")
    assert opened.queue.stopping()
    assert isinstance(opened.queue.fatal, TooManyFailuresError)
    assert str(opened.queue.fatal) == "4 of 4 runs of the phase 'search' failed, 3 of them with: RuntimeError: cuDNN"


@pytest.mark.parametrize(("share", "fatal"), [(0.5, False), (0.49, True), (1.0, False)])
def test_the_share_itself_is_allowed(room, share, fatal):
    opened = room(max_failed_share=share)
    jobs = [opened.queue.next() for _ in range(4)]
    for job in jobs[:2]:
        opened.succeed(job)
    for job in jobs[2:]:
        opened.fail(job)
    assert opened.queue.stopping() is fatal


def test_successes_after_failures_do_not_end_anything(room):
    opened = room()
    jobs = [opened.queue.next() for _ in range(6)]
    for job in jobs[:3]:
        opened.fail(job)
    for job in jobs[3:]:
        opened.succeed(job)
    assert not opened.queue.stopping()


def test_pruned_is_no_failure(room):
    opened = room(objective=METRIC, reduction=2)
    jobs = [opened.queue.next() for _ in range(6)]
    opened.queue.heard(jobs[0].key, curve([0.9]))
    for worse, job in enumerate(jobs[1:]):
        assert opened.queue.heard(job.key, curve([0.5 - 0.1 * worse]))
        opened.queue.ended(job.key, None)
    assert Counter(opened.queue.statuses.values()) == {"pruned": 5}
    assert not opened.queue.stopping()


def test_a_bad_configuration_is_fatal_at_once(room):
    opened = room()
    opened.fail(opened.queue.next(), kind="config", error="more classes than dim + 1")
    assert opened.queue.stopping()
    assert str(opened.queue.fatal) == f"{JOBS[0].name} cannot run: more classes than dim + 1"


def test_a_failure_without_a_message_is_still_a_failure(room):
    opened = room()
    opened.fail(opened.queue.next(), error="")
    assert opened.queue.errors == {"nan": 1}
