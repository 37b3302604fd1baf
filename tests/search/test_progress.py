import io

import pytest
from rich.console import Console

from divfeat import record as records
from divfeat.config import MethodConfig
from divfeat.objectives import OBJECTIVES
from divfeat.search import progress as module
from divfeat.search.jobs import Job, experiment
from divfeat.search.progress import Progress, clock
from tests.search.samples import METRIC, completed, curve, make_study, search_job

STUDY = make_study()
JOBS = [search_job(STUDY, 0.1 * (i + 1), i) for i in range(6)]


@pytest.fixture
def now(monkeypatch):
    """A clock that the test turns."""
    seconds = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: seconds[0])
    return seconds


def make(**options):
    settings = {"plan": {"noise": 2, "search": 4}, "objective": OBJECTIVES["fine_probe"], "concurrent": 2, "epochs": 20}
    text = io.StringIO()
    return Progress(**(settings | options), console=Console(file=text, width=100)), text


def run(progress, now, job, seconds, value=0.5, fresh=True):
    progress.started(job)
    now[0] += seconds
    record = completed(job.experiment, {METRIC: value})
    if value is None:
        record = records.ended("failed", job.experiment, "nan", "nan", [])
    progress.finished(job, record, fresh)


def shown(progress):
    text = io.StringIO()
    Console(file=text, width=120).print(progress.table())
    return text.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "?"), (0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3599.4, "59 min 59 s"),
        (3600, "1 h 00 min"), (7265, "2 h 01 min"), (100000, "27 h 46 min"),
    ],
)  # fmt: skip
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_the_time_left_follows_the_runs_finished_here(now):
    progress, _ = make()
    assert progress.seconds_left() is None
    assert "starting" in shown(progress)
    run(progress, now, JOBS[0], 10.0)
    assert progress.seconds_left() == 5 * 10 / 2
    run(progress, now, JOBS[1], 30.0, fresh=False)  # found on disk: says nothing about the time a run takes
    assert progress.seconds_left() == 4 * 10 / 2
    progress.phase = "search"
    run(progress, now, JOBS[2], 30.0)
    assert progress.seconds_left() == 3 * 20 / 2
    for job in JOBS[3:]:
        run(progress, now, job, 1.0)
    assert progress.seconds_left() == 0
    progress.done["noise"] = 5  # more than planned, never a negative rest
    assert progress.seconds_left() == 0


def test_the_table_tells_phases_failures_best_and_what_runs(now):
    progress, _ = make()
    run(progress, now, JOBS[0], 1.0, value=0.99)  # not a trial of the search: no best yet
    run(progress, now, JOBS[1], 1.0, value=None)
    assert "best" not in shown(progress)
    progress.phase = "search"
    run(progress, now, JOBS[2], 1.0, value=0.5)
    run(progress, now, JOBS[3], 1.0, value=0.75)
    run(progress, now, JOBS[4], 1.0, value=0.7)
    progress.started(JOBS[5])
    progress.heard(JOBS[5], curve([0.1, 0.2, 0.3]))
    text = shown(progress)
    noise, search = (next(line for line in text.splitlines() if name in line) for name in ("noise", "search"))
    assert "2/2" in noise
    assert noise.split("│")[3].strip() == "1"
    assert "3/4" in search
    assert f"best 75.00 % ({JOBS[3].name})" in search
    assert f"{JOBS[5].name} 3/20" in search
    assert search.split("│")[3].strip() == ""


def test_trials_at_a_rung_are_counted_and_their_wait_is_no_time_of_a_run(now):
    progress, text = make(plan={"search": 3}, concurrent=1)
    with progress:
        for job in JOBS[:2]:
            progress.started(job)
            now[0] += 4.0
            progress.paused(job)
        assert "2 at a rung" in shown(progress)
        now[0] += 100.0
        progress.started(JOBS[0])
        assert f"{JOBS[0].name} 0/20, 1 at a rung" in shown(progress)
        progress.heard(JOBS[0], curve([0.1]))
        assert text.getvalue().splitlines()[-1] == "search: 0 of 3 runs done, 1 at a rung"
        now[0] += 6.0
        progress.finished(JOBS[0], completed(JOBS[0].experiment, {METRIC: 0.5}), True)
        now[0] += 100.0
        ended = records.ended("pruned", JOBS[1].experiment, "stopped after 1 epochs", "pruned", [])
        progress.finished(JOBS[1], ended, True)
        assert progress.durations == [10.0, 4.0] and "rung" not in shown(progress)
        progress.paused(JOBS[2])  # of an earlier session
        progress.stopped(JOBS[2])
        assert "rung" not in shown(progress)


@pytest.mark.parametrize(("name", "epochs"), [("ce", 20), ("ncm", 20), ("crt", 30), ("m2m", 40), ("oltr", 80)])
def test_epochs_of_both_stages_are_counted(name, epochs):
    progress, _ = make()
    job = Job(experiment(STUDY, MethodConfig(name=name), 0), "select", name)
    progress.started(job)
    progress.heard(job, curve([0.1] * 7))
    assert f"{name} 7/{epochs}" in shown(progress)


def test_without_a_terminal_a_line_comes_now_and_then(now):
    progress, text = make()
    with progress:
        progress.phase = "search"
        for _ in range(100):
            progress.started(JOBS[0])
            now[0] += 1.0
            progress.heard(JOBS[0], curve([0.1]))
    lines = text.getvalue().splitlines()
    assert 6 <= len(lines) <= 8  # a line every fifteen seconds
    assert lines[0] == "search: 0 of 6 runs done"
    progress.last_line = 0.0
    run(progress, now, JOBS[0], 5.0)
    assert "search: 1 of 6 runs done, best 50.00 %" in text.getvalue()
    assert text.getvalue().splitlines()[-1].endswith("left")


def test_in_a_terminal_the_table_is_live(now):
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100)
    progress = Progress({"search": 3}, OBJECTIVES["fine_probe"], 1, 20, console)
    with progress:
        run(progress, now, JOBS[0], 1.0)
    assert "1/3" in text.getvalue()
    assert "runs done" not in text.getvalue()


def test_the_best_in_its_own_direction_among_what_is_feasible(now):
    least = OBJECTIVES["log_norm"]
    progress, _ = make(objective=least, feasible=lambda record: record["metrics"]["cone/occupancy"] < 0.5)
    progress.phase = "search"
    for job, value, occupancy in zip(JOBS, (3.0, 2.5, 1.0, 2.75), (0.1, 0.1, 0.9, 0.1), strict=False):
        metrics = {least.validation: value, "cone/occupancy": occupancy}
        progress.finished(job, completed(job.experiment, metrics), True)
    assert progress.best == (2.5, JOBS[1].name)
    assert "best 2.50 (" in shown(progress) and "%" not in shown(progress)


def test_in_a_notebook_one_output_is_replaced_now_and_then(now, monkeypatch):
    """A cell that grew by a line an epoch would be all there is to see."""
    import IPython.display

    class Shown:
        def update(self, table):
            tables.append(table)

    made, tables, printed = [], [], []
    monkeypatch.setattr(IPython.display, "display", lambda table, display_id: made.append(table) or Shown())
    console = Console(force_jupyter=True, width=100)
    monkeypatch.setattr(console, "print", lambda *words, **look: printed.append(words))
    progress = Progress({"search": 6}, OBJECTIVES["fine_probe"], 1, 20, console)
    with progress:
        progress.phase = "search"
        progress.started(JOBS[0])
        for _ in range(100):
            now[0] += 0.1
            progress.heard(JOBS[0], curve([0.1]))
        assert len(made) == 1 and 9 <= len(tables) <= 11 and not printed
        run(progress, now, JOBS[0], 0.1)
    text = io.StringIO()
    Console(file=text, width=120).print(tables[-1])
    assert "1/6" in text.getvalue()  # the last word is never older than the end
