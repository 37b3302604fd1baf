import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from divfeat.config import MethodConfig
from divfeat.errors import DataError
from divfeat.report.long_tail import BLOCK, WINNER_ROW, LongTailTable, long_tail_table, main
from divfeat.search import protocol
from divfeat.search.jobs import name_of
from tests.report.studies import Studied, completed, ended

BEGIN, END = BLOCK.begin, BLOCK.end


def record(job):
    if job.phase == "confirm" and job.name == "ce" and job.experiment.seed == 2003:
        return ended(job.experiment, "failed", "no")
    return completed(job.experiment)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two data sets whose studies share some methods; in the second a run of ce was lost."""
    place = tmp_path_factory.mktemp("runs")
    first = Studied(
        place / "one",
        preset="digits-lt",
        data={"boundary": 25},
        protocol={"baselines": ["ce", "ce_etf", "ldam"], "tune": True},
    )
    first.begin().search().tune(
        "ldam", {"margin": 0.3, "scale": 16.0}, {"margin": 0.5, "scale": 30.0}
    ).select().confirm()
    second = Studied(
        place / "two",
        preset="digits",
        data={"train_level": "fine"},
        record=record,
        protocol={"grid_points": 0, "baselines": ["ce", "ce_etf", "focal"]},
    ).all()
    return first, second


@pytest.fixture(scope="module")
def table(runs):
    return long_tail_table([study.ledger.folder for study in runs])


def test_accuracy_is_left_out_where_it_is_balanced_accuracy(table):
    first, second = table.columns
    entries = {
        name: replace(entry, scores={**entry.scores, "accuracy": entry.scores["balanced"] + 1e-6})
        for name, entry in first.entries.items()
    }
    found = LongTailTable((replace(first, entries=entries), second))
    headers = found.markdown.splitlines()[0].replace("\\", "")
    assert "digits-lt: accuracy" not in headers and "digits-lt: balanced" in headers and "digits: accuracy" in headers
    assert cells(found, "| method", "ce") == cells(table, "| method", "ce")[1:]
    said = "Where the test classes have one size, accuracy is balanced accuracy and left out."
    assert said in found.markdown and said not in table.markdown


def points_of(study, name, metric):
    """[S] points straight from the records."""
    method = protocol.confirmed_methods(study.trained, study.winner["winner"], study.tuned)[name]
    made = protocol.confirmation_experiments(study.trained, method, study.winner["strengths"])
    records = [study.ledger.record(config.key) for config in made]
    return np.array([100 * found["metrics"].get(f"test/{metric}", math.nan) for found in records])


def cells(table, heading, method):
    """Of a method's row in the table whose first header is there, after `heading`."""
    text = table.markdown.replace("\\", "")
    text = text[text.index(heading) :]
    (line, *_) = [line for line in text.splitlines() if line.startswith(f"| {method} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def shown(values):
    values = values[np.isfinite(values)]
    return f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"


def test_rows_are_methods_and_columns_data_sets(runs, table):
    assert table.methods == ["ce", "ce_etf", "ldam", "focal", WINNER_ROW]
    assert [column.title for column in table.columns] == ["digits-lt", "digits"]
    for method in ("ce", "ce_etf"):
        found = cells(table, "| method", method)
        for place, study in ((0, runs[0]), (3, runs[1])):
            assert found[place] == shown(points_of(study, method, "accuracy"))
            assert found[place + 1] == shown(points_of(study, method, "accuracy_balanced"))
    winner = cells(table, "| method", WINNER_ROW)
    assert winner[0] == shown(points_of(runs[0], "winner", "accuracy"))
    assert f"the winner is {runs[0].winner['winner']['name']}" in table.markdown


def test_more_studies_than_methods_go_down(runs, table):
    """As the variations of one preset: a row a study, the same cells."""
    first, second = table.columns
    many = LongTailTable((*(replace(first, title=f"digits-lt-{place}") for place in "abcde"), second))
    assert len(many.columns) > len(many.methods)
    header = [cell.strip() for cell in many.markdown.splitlines()[0].replace("\\", "").strip("|").split("|")]
    assert header[:5] == [
        "study",
        "the winner",
        f"{WINNER_ROW}: balanced",
        f"{WINNER_ROW} minus ce_etf",
        "ce_etf: balanced",
    ]
    assert header[5:] == [
        f"{name}{what}" for name in ("ce", "ldam", "focal") for what in (": balanced", " minus ce_etf")
    ]
    for title, column, place in (("digits-lt-c", first, 0), ("digits", second, 3)):
        found = cells(many, "| study", title)
        assert found[0] == column.entries[WINNER_ROW].configuration
        rows = {name: cells(table, "| method", name)[place + 1 : place + 3] for name in table.methods}
        expected = [*rows[WINNER_ROW], rows["ce_etf"][0], *rows["ce"], *rows["ldam"], *rows["focal"]]
        assert found[1:] == expected
    caption = many.markdown.split("\n#### ")[0].replace("\\", "")
    assert "digits-lt-a, digits-lt-b, digits-lt-c, digits-lt-d and digits-lt-e: 5 seeds" in caption


def test_a_method_missing_in_a_study_is_an_empty_cell(table):
    assert cells(table, "| method", "ldam")[3:] == ["", "", ""] and cells(table, "| method", "focal")[:3] == [
        "",
        "",
        "",
    ]
    assert cells(table, "| method", "ldam")[0] and cells(table, "| method", "focal")[3]


def test_paired_differences_to_the_reference(runs, table):
    study = runs[0]
    critical = stats.t.ppf(1 - 0.05 / (2 * 3), 4)  # winner, ce and ldam against ce_etf
    for name in ("winner", "ce", "ldam"):
        gain = points_of(study, name, "accuracy_balanced") - points_of(study, "ce_etf", "accuracy_balanced")
        half = critical * gain.std(ddof=1) / math.sqrt(5)
        row = WINNER_ROW if name == "winner" else name
        text = f"{gain.mean():+.2f} [{gain.mean() - half:+.2f}, {gain.mean() + half:+.2f}]".replace("-", "−")
        assert cells(table, "| method", row)[2] == text
        assert table.columns[0].entries[row].gain.low == pytest.approx(gain.mean() - half)
    assert cells(table, "| method", "ce_etf")[2] == ""
    assert table.columns[1].entries["ce"].gain.verdict == "no verdict"  # a seed was lost


def test_what_thresholds_do_in_each_study_whose_classes_form_groups(runs, table):
    """Winner against CE+ETF, the same without cones; a level for 3 baselines and 6 groups."""
    study = runs[0]
    found = cells(table, "#### What thresholds do", "digits-lt")
    winner = MethodConfig.model_validate(study.winner["winner"]["method"])
    groups = ["balanced", "major", "minor", "medium", "few"]
    assert f"| study | winner | minus | {' | '.join(groups)} |" in table.markdown
    assert found[:2] == [name_of(winner), "ce_etf"]
    for group, told in zip(groups, found[2:], strict=True):
        differences = points_of(study, "winner", f"accuracy_{group}") - points_of(study, "ce_etf", f"accuracy_{group}")
        width = stats.t.ppf(1 - 0.05 / 2 / 3 / len(groups), len(differences) - 1) * stats.sem(differences)
        expected = [differences.mean(), differences.mean() - width, differences.mean() + width]
        assert [float(v) for v in re.findall(r"[+-]?[\d.]+", told.replace("−", "-"))] == pytest.approx(
            expected, abs=0.006
        )
    part = table.markdown[table.markdown.index("#### What") : table.markdown.index("#### digits-lt")]
    assert "| digits |" not in part  # classes of one size


def test_groups_trials_and_sizes_of_each_data_set(runs, table):
    found = cells(table, "#### digits-lt", "ldam")
    told = "" if runs[0].tuned["ldam"] == MethodConfig(name="ldam") else name_of(runs[0].tuned["ldam"])
    groups = ["major", "minor", "medium", "few"]
    assert found == [
        told,
        *(shown(points_of(runs[0], "ldam", f"accuracy_{group}")) for group in groups),
        "5",
        "5 of 5",
        "2",
        "1234",
        "8",
    ]
    assert cells(table, "#### digits-lt", WINNER_ROW)[-5:] == ["5", "5 of 5", "7", "1234", "8"]
    assert cells(table, "#### digits-lt", "ce")[-3:] == ["–", "1234", "8"]
    assert cells(table, "#### digits\n", "ce") == [
        "",
        "4",
        "0 of 4",
        "–",
        "1234",
        "8",
    ]  # classes of one size form no groups
    for study in runs:
        assert f"Study {study.config.identity}, commit abc, seeds 2000 to 2004." in table.markdown


def test_numbers_with_what_produced_them(runs, table):
    found = json.loads(json.dumps(table.to_dict(), allow_nan=False))
    one, two = found["data"]
    assert (one["config_hash"], two["config_hash"]) == tuple(study.config.identity for study in runs)
    assert one["seeds"] == [2000, 2001, 2002, 2003, 2004] and one["provenance"]["commit"] == "abc"
    assert one["methods"]["ldam"]["scores"]["minor"] == pytest.approx(points_of(runs[0], "ldam", "accuracy_minor"))
    assert two["methods"]["ce"]["scores"]["accuracy"][3] is None
    assert str(runs[0].ledger.folder.parent) not in json.dumps(found)


def test_a_recipe_under_its_published_row_says_so(tmp_path):
    Studied(tmp_path / "s", preset="digits-lt", protocol={"published_ce": 99.0}).all()
    made = long_tail_table([tmp_path / "s"])
    assert re.search(r"no verdict: with \d\d\.\d\d % on test ce_no_projector lies", made.markdown.replace("\\", ""))
    assert {e.gain.verdict for e in made.columns[0].entries.values() if e.gain} == {"no verdict"}
    assert made.to_dict()["data"][0]["no_verdict"]


def test_studies_of_one_preset_are_told_apart(tmp_path, runs):
    Studied(tmp_path / "other", preset="digits-lt", protocol={"baselines": ["ce"]}).all()
    made = long_tail_table([runs[0].ledger.folder, tmp_path / "other"])
    assert [column.title for column in made.columns] == ["one", "other"]
    assert made.columns[1].entries["ce"].gain is None  # CE+ETF was not confirmed there


def test_the_command_rebuilds_a_block_and_writes_both_files(tmp_path, runs, table, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n\nbefore\n\n{BEGIN}\nold\n{END}\n\nafter\n", encoding="utf-8")
    line = [*(str(study.ledger.folder) for study in runs), "--readme", str(readme), "--out", str(tmp_path / "out")]
    assert main(line) == 0
    once = readme.read_text(encoding="utf-8")
    first = table.markdown.split("\n#### ")[0].strip()
    overview = f"{first}\n\nBy groups of classes, with provenance: [out/long_tail.md](out/long_tail.md)."
    assert first.startswith("| method") and WINNER_ROW in first
    assert once == f"# Title\n\nbefore\n\n{BEGIN}\n\n{overview}\n\n{END}\n\nafter\n"
    assert main(line) == 0 and readme.read_text(encoding="utf-8") == once
    assert (tmp_path / "out" / "long_tail.md").read_text(encoding="utf-8") == table.markdown + "\n"
    assert json.loads((tmp_path / "out" / "long_tail.json").read_text(encoding="utf-8")) == table.to_dict()
    assert table.markdown in capsys.readouterr().out
    readme.write_text(once.replace("| ce_etf |", "| typed in by hand |"), encoding="utf-8")
    assert main(["--readme", str(readme), "--out", str(tmp_path / "out")]) == 0  # from the written table alone
    assert readme.read_text(encoding="utf-8") == once


@pytest.mark.parametrize("text", ["", BEGIN, f"{END} {BEGIN}", f"{BEGIN} {BEGIN} {END}"])
def test_a_text_without_both_marks_in_order_is_left_alone(text):
    with pytest.raises(DataError, match="once each, in this order"):
        BLOCK.rebuilt(text, "table")


def test_what_cannot_be_a_column_is_refused(tmp_path, runs, capsys):
    folder = runs[0].ledger.folder
    Studied(tmp_path / "begun", preset="digits-lt").begin()
    for folders, message in (
        ([], "at least one study"),
        ([folder, folder], "is given twice"),
        ([tmp_path / "begun"], "has confirmed nothing yet"),
        ([tmp_path / "none"], "holds no study"),
    ):
        with pytest.raises(DataError, match=message):
            long_tail_table(folders)
    out = ["--out", str(tmp_path / "out")]
    assert main([str(tmp_path / "none"), *out]) == 1 and "error: " in capsys.readouterr().err
    assert main([str(folder), "--readme", str(tmp_path / "no.md"), *out]) == 1
    assert "there is no such file" in capsys.readouterr().err
    (tmp_path / "README.md").write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    assert main(["--readme", str(tmp_path / "README.md"), *out]) == 1
    assert "give the studies" in capsys.readouterr().err
    assert main(out) == 1 and "or --readme" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
