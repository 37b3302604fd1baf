"""What the search benchmark makes of its sides' times, and that all of them are asked for the same trainings."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import measure_study
from benchmarks.measure_study import Search, measure, searched
from benchmarks.sides.work import config_of, note, points_of, study_of


def test_no_setting_is_tried_twice_and_both_ways_of_letting_go_that_always_train_are():
    study = study_of(3)
    points = points_of(6)
    assert len({config_of(study, point).key for point in points}) == 6
    assert [point["release"] for point in points] == ["gate", "paper"] * 3
    assert all(config_of(study, point).train.epochs == 3 for point in points)


ROWS = [
    {"key": "a", "started": 10.0, "first": 11.0, "ended": 14.0, "seconds": 3.5, "score": 0.5},
    {"key": "b", "started": 10.5, "first": 11.5, "ended": 15.0, "seconds": 4.5, "score": 0.75},
]


@pytest.fixture
def process(monkeypatch):
    real = subprocess.run

    def replaced(rows, code=0):
        def run(line, **options):
            for row in rows:
                note(Path(line[3]), **row)
            return real([sys.executable, "-c", f"print('words'); raise SystemExit({code})"], **options)

        monkeypatch.setattr(measure_study.subprocess, "run", run)
        times = iter([4.0, 20.0])
        monkeypatch.setattr(measure_study.time, "time", lambda: next(times))

    return replaced


def test_a_side_is_told_by_its_log(process):
    process(ROWS)
    found = searched("any", 2, 1)
    assert found == Search(whole=16.0, trials=5.0, compute=4.0, first=7.0, scores={"a": 0.5, "b": 0.75})


@pytest.mark.parametrize(("rows", "code"), [(ROWS, 1), (ROWS[:1], 0)])
def test_a_side_that_failed_says_what_it_said(process, rows, code):
    process(rows, code)
    with pytest.raises(RuntimeError, match=r"(?s)any: exit code .*words"):
        searched("any", 2, 1)


def test_rows_compare_the_same_round_and_refuse_other_trainings(monkeypatch):
    def made(side, trials, epochs, score=0.5):
        ours = side == "by_divfeat"
        return Search(20.0 if ours else 30.0, 10.5 if ours else 12.0, 10.0, 2.0 if ours else 4.0, {"a": score})

    monkeypatch.setattr(measure_study, "searched", made)
    rows = list(measure(2, small=True))
    assert [round(row.ratio, 3) for row in rows[:4]] == [1.05, 2.0, 1.143, 1.5]
    assert rows[0].met and rows[2].met and {row.ratio for row in rows if row.what.startswith("start-up")} == {0.5}
    assert all(len(row.pairs) == 2 for row in rows)
    monkeypatch.setattr(measure_study, "searched", lambda side, *sizes: made(side, *sizes, score=len(side)))
    with pytest.raises(RuntimeError, match="did not train the same"):
        list(measure(1, small=True))
