"""The arithmetic of benchmark rows, the order of pairs, and the page that shows them."""

import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import table
from benchmarks.__main__ import main, names
from benchmarks.rows import Row, in_turn, machine, paired, read_rows, told, with_processor, write_rows
from divfeat.files import write_text

ROOT = Path(__file__).resolve().parents[2]


def row(sense="times", goal=None, most=None, ours="ours"):
    pairs = [(1.0, 4.0), (2.0, 6.0), (1.0, 20.0)]
    return Row("a thing", ours, "peer", "s", pairs, sense, goal=goal, most=most)


def test_the_ratio_is_the_median_of_the_pairs_not_of_the_sides():
    assert row().ratios == [4.0, 3.0, 20.0]
    assert row().ratio == 4.0  # the medians' own ratio would be 6
    assert row("share").ratio == 0.25


@pytest.mark.parametrize(
    ("sense", "goal", "most", "met"),
    [
        ("times", 4.0, None, True),
        ("times", 4.1, None, False),
        ("share", 0.25, None, True),
        ("share", 0.24, None, False),
        ("share", None, 1.0, True),
        ("share", None, 0.9, False),
        ("share", 0.24, 1.0, False),
        ("times", None, None, None),
    ],
)
def test_a_goal_binds_from_its_own_side(sense, goal, most, met):
    assert row(sense, goal, most).met is met


def test_each_side_goes_first_in_turn_and_the_warm_up_is_not_counted():
    order = []

    def side(name):
        def one():
            order.append(name)
            return float(len(order))

        return one

    pairs = paired(side("o"), side("p"), 3)
    assert "".join(order) == "po" + "op" + "po" + "op"
    assert pairs == [(3.0, 4.0), (6.0, 5.0), (7.0, 8.0)]


def test_processor_time_is_that_of_the_work_and_not_of_waiting():
    kept = []
    assert with_processor(lambda: time.sleep(0.2), kept) >= 0.2
    with_processor(lambda: sum(range(3_000_000)), kept)
    assert len(kept) == 2 and kept[0] < 0.1 and kept[1] > 0


def test_several_sides_take_turns_and_another_one_goes_first_each_round():
    order = []

    def side(name):
        return lambda: order.append(name) or float(len(order))

    found = in_turn([side(name) for name in "abc"], 4, warm_up=False)
    assert "".join(order) == "abc" + "bca" + "cab" + "abc"
    assert found == [[1, 2, 3], [6, 4, 5], [8, 9, 7], [10, 11, 12]]


def test_written_rows_come_back_with_their_ratio_and_machine(tmp_path):
    write_rows("thing", [row(goal=5.0)], machine(), tmp_path)
    (found,) = read_rows(tmp_path)
    assert found["benchmark"] == "thing" and found["machine"]["cores"] >= 1 and found["versions"]["torch"]
    (content,) = found["rows"]
    assert content["ratio"] == 4.0 and content["ratio_range"] == [3.0, 20.0] and content["met"] is False
    assert "GOAL MISSED" in told(row(goal=5.0)) and "**missed**" in table.text([found])


def test_the_pages_show_what_results_hold(tmp_path, monkeypatch):
    for name, place in (("PAGE", "docs/benchmarks.md"), ("README", "README.md")):
        copy = tmp_path / name
        write_text(copy, (ROOT / place).read_text(encoding="utf-8"))
        monkeypatch.setattr(table, name, copy)
    assert table.main() == 0
    for name, place in (("PAGE", "docs/benchmarks.md"), ("README", "README.md")):
        assert (tmp_path / name).read_text(encoding="utf-8") == (ROOT / place).read_text(encoding="utf-8"), (
            f"python -m benchmarks.table rewrites {place}"
        )


def test_the_summary_shows_the_row_that_does_worst_against_its_goal(tmp_path):
    rows = [  # ratios 4: twice, once and a half, and a quarter of what was promised; without a goal; 0.8 of an absolute one
        row(goal=2.0),
        row(ours="the worst", goal=16.0),
        row(ours="a share", sense="share", goal=1.0),
        row(ours="no goal"),
        replace(row(ours="nothing at all", sense="share", goal=1.0), pairs=[(0.0, 4.0)]),
        row(ours="absolute", most=1.25 * row().to_dict()["median_ours"]),
    ]
    write_rows("thing", rows, machine(), tmp_path)
    (found,) = read_rows(tmp_path)
    assert table.worst(found)["ours"] == "the worst"
    assert "| `thing`: " in table.summary(
        [found]
    ) and f"| {sum(each.met for each in rows if each.met is not None)} of 5 |" in table.summary([found])
    write_rows("thing", [row(ours="no goal")], machine(), tmp_path)
    assert table.worst(*read_rows(tmp_path)) is None and "`thing`" not in table.summary(read_rows(tmp_path))


def test_wrong_words_are_told_before_anything_runs(capsys):
    for words, told_ in ((["sturtup"], "no benchmark 'sturtup'"), (["startup", "--small"], "--out")):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 2 and told_ in capsys.readouterr().err


def test_every_benchmark_is_listed_with_a_line_about_it():
    listed = subprocess.run([sys.executable, "-m", "benchmarks"], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = dict(line.split(maxsplit=1) for line in listed.stdout.splitlines())
    assert sorted(lines) == names() and all(re.search(r"\w{3}", text) for text in lines.values())


@pytest.mark.parametrize(
    "name",
    [
        *("nc1", "pipeline", "probe", "resnet32", "simulator", "startup"),
        pytest.param("experiment", marks=pytest.mark.slow),  # an MLflow file and probes
        pytest.param("memory", marks=pytest.mark.slow),  # Ray
        pytest.param("order", marks=pytest.mark.slow),  # a hundred runs in an MLflow file
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("study", "whole_study")),  # Ray too
    ],
)
def test_a_benchmark_runs_small(name, tmp_path):
    assert main([name, "--small", "--out", str(tmp_path)]) == 0
    (found,) = (json.loads(place.read_text()) for place in tmp_path.glob("*.json"))
    assert found["rows"] and all(len(one["pairs"]) >= 1 for one in found["rows"])


def test_a_command_that_only_answers_imports_nothing_heavy():
    from benchmarks.measure_startup import heavy_imports

    assert heavy_imports("studies/tau_search.py", "--help") == []
    assert heavy_imports("-c", "import divfeat, torch") == ["torch"]
