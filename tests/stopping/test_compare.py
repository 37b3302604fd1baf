"""Rules compared over orders of recorded curves; the page and the figure say what the results say."""

import itertools

import numpy as np
import pytest

from divfeat.cli.early_stopping import COMPARED, main
from divfeat.errors import DataError
from divfeat.files import read_json, write_json
from divfeat.stopping import compare, page
from divfeat.stopping.compare import RULES, Setting, compared, ranks, row, searched, settings
from divfeat.stopping.curves import read_curves
from tests.search.test_replay import saturating


def write(folder, name, curves, **over):
    rows = [{"key": key, "name": f"gate {key}", "values": values} for key, values in curves.items()]
    known = {"format": 1, "objective": "fine_probe", "direction": "maximize", "epochs": 9, "trials": rows}
    write_json(folder / f"{name}.json", known | over)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(compare, "REDUCTIONS", (2, 3))
    monkeypatch.setattr(compare, "SLOTS", (1, 8))
    monkeypatch.setattr(compare, "FIRST_RUNGS", (1,))


def test_every_setting_of_the_issue_is_tried():
    found = {(one.reduction, one.slots) for one in settings()}
    assert found == set(itertools.product((2, 3, 4), (1, 2, 4, 8)))


def test_curves_that_never_cross_have_their_best_found_by_promotion():
    trials = saturating(30, 9, seed=3, noise=0.0)
    found = row(trials, Setting(1, 3, 2), orders=20, scale=100)
    assert found["promote"]["regret"] == 0.0 and found["promote"]["found_best"] == 1.0
    assert found["promote_minus_stop"]["no_worse"] == 1.0
    assert 0 < found["promote"]["epochs"] < 1 and found["promote"]["finished"] >= 1
    assert [one["all"] for one in ranks(trials, 9)] == [1.0, 1.0]
    assert [one["place_of_the_best"] for one in ranks(trials, 9)] == [1, 1]


def test_a_late_starter_is_lost_to_both_and_costs_its_regret():
    trials = {str(trial): [0.5 + trial / 100] * 9 for trial in range(8)} | {"late": [0.0] * 8 + [0.9]}
    found = row(trials, Setting(1, 2, 1), orders=10, scale=100)
    for rule in RULES:
        assert found[rule]["found_best"] < 1 and found[rule]["regret"] > 20
    assert ranks(trials, 9)[0]["place_of_the_best"] == 9


def test_numbers_are_those_of_single_searches():
    trials, setting = saturating(12, 9, seed=1), Setting(1, 3, 2)
    found = row(trials, setting, orders=4, scale=100)
    by_hand = {rule: [searched(trials, rule, setting, order) for order in range(4)] for rule in ("none", *RULES)}
    for rule in RULES:
        runs = by_hand[rule]
        assert found[rule]["regret"] == pytest.approx(100 * np.mean([one.regret for one in runs]))
        assert found[rule]["epochs"] == pytest.approx(np.mean([one.epochs for one in runs]) / (12 * 9))
        passed = [one.usage.seconds / all_of.usage.seconds for one, all_of in zip(runs, by_hand["none"], strict=True)]
        assert found[rule]["wall_clock"] == pytest.approx(np.mean(passed))
    better = [one.value - other.value for one, other in zip(by_hand["promote"], by_hand["stop"], strict=True)]
    both = found["promote_minus_stop"]
    assert both["value"] == pytest.approx(100 * np.mean(better))
    assert both["no_worse"] == np.mean(np.array(better) >= 0)
    assert all(one.epochs == 12 * 9 and one.regret == 0 for one in by_hand["none"])


def test_diverged_trials_are_left_out_and_counted(tmp_path, few):
    write(tmp_path, "a", saturating(6, 9, seed=0) | {"broken": [0.1]})
    found = compared(read_curves(tmp_path / "a.json"), orders=2)
    assert (found["trials"], found["diverged"], len(found["rows"])) == (6, 1, 4)
    write(tmp_path, "b", {"a": [0.1] * 9, "b": [0.1]})
    with pytest.raises(DataError, match="b: 1 trainings came to their end"):
        compared(read_curves(tmp_path / "b.json"), orders=2)


def test_the_command_writes_results_page_and_figure_alike_each_time(tmp_path, few, capsys):
    write(tmp_path, "one", saturating(10, 9, seed=0))
    write(tmp_path, "two", saturating(10, 9, seed=1))
    place = tmp_path / "page.md"
    line = ["compare", "--orders", "3", "--out", str(tmp_path), "--page", str(place)]
    assert main(line) == 1 and "page.md cannot be read" in capsys.readouterr().err
    place.write_text("before\n", encoding="utf-8")
    assert main(line) == 1 and "has no pair of marks" in capsys.readouterr().err
    place.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n", encoding="utf-8")
    assert main(line) == 0
    first, text = read_json(tmp_path / COMPARED), place.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert page.text(first) in text and list(first["sets"]) == ["one", "two"]
    assert (tmp_path / "figures" / "compare.png").stat().st_size > 10_000
    assert main(line) == 0
    assert read_json(tmp_path / COMPARED) == first and place.read_text(encoding="utf-8") == text


def test_without_curves_the_command_says_how_to_make_them(tmp_path, capsys):
    assert main(["compare", "--out", str(tmp_path)]) == 1
    assert "`python studies/early_stopping.py record` makes them" in capsys.readouterr().err


def test_a_setting_is_beaten_by_one_that_is_no_worse_for_less():
    def setting(slots, stop, promote):
        rules = {"stop": stop, "promote": promote}
        return {"slots": slots} | {rule: {"epochs": x, "regret": y} for rule, (x, y) in rules.items()}

    rows = [setting(1, (0.5, 0.2), (0.3, 0.3)), setting(1, (0.6, 0.3), (0.5, 0.1)), setting(8, (0.9, 0.9), (0.9, 0.0))]
    # 0.5 for 0.2 has no equal for less, nor has 0.9 for 0.9 with as many slots; 0.6 for 0.3 has both.
    assert page.beaten(rows, "stop", "promote") == 1
    assert page.beaten(rows, "promote", "stop") == 0
    rows[0]["stop"]["epochs"] = 0.2
    assert page.beaten(rows, "promote", "stop") == 1
