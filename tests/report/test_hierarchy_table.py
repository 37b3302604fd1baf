"""The tables over a tree against plain loops over the records and scipy's intervals."""

import json
import math
import re

import numpy as np
import pytest
from scipy import stats

from divfeat.errors import DataError
from divfeat.report.arrays import half_width_of
from divfeat.report.columns import WINNER_ROW
from divfeat.report.hierarchy import BLOCK, REFERENCE, hierarchy_table, main, write_table
from divfeat.search import protocol
from divfeat.search.jobs import name_of
from tests.report.studies import Studied, completed, ended, noise

BASELINES = ["ce_no_projector", "crm", "haframe_ce", "haframe"]
#: As the first table shows them: head, metric, percent, digits.
MISTAKES = [
    ("accuracy", "test/accuracy", True, 2),
    ("level 1", "test/level_1_accuracy", True, 2),
    ("level 2", "test/level_2_accuracy", True, 2),
    ("level 10", "test/level_10_accuracy", True, 2),
    ("severity", "test/mistake_severity", False, 3),
    ("distance at 1", "test/hierarchical_distance_1", False, 3),
    ("distance at 5", "test/hierarchical_distance_5", False, 3),
    ("angular collapse", "collapse/angular", False, 4),
    ("fine probe", "test/fine_top1", True, 2),
    ("unseen probe", "test/unseen_top1", True, 2),
]
FEATURES = [
    ("self-duality", "collapse/self_duality", False, 4),
    ("NC1", "collapse/nc1", False, 4),
    ("NC1 level 1", "collapse/nc1_level_1", False, 4),
    ("NC1 level 2", "collapse/nc1_level_2", False, 4),
]


def record(job):
    """With a tree's metrics; a run of crm was lost, haframe makes no mistake in two, frames alone have angles."""
    config = job.experiment
    if job.phase == "confirm" and job.name == "crm" and config.seed == 2003:
        return ended(config, "failed", "no room")
    made = completed(config)
    part, wobble = "val" if config.role == "search" else "test", noise(config.key)
    found = made["metrics"]
    found |= {f"{part}/level_{level}_accuracy": 0.9 + wobble / level / 50 for level in (10, 2, 1)}
    found |= {f"{part}/hierarchical_distance_{k}": k / 10 + wobble / 100 for k in (1, 5)}
    found[f"{part}/mistake_severity"] = 1.4 + wobble / 10
    found |= {f"collapse/nc1_level_{level}": level + wobble for level in (1, 2)}
    if config.method.name in ("haframe", "haframe_ce", "hinge_haf"):
        found |= {"collapse/angular": 0.1 + wobble / 100, "collapse/self_duality": 0.3 + wobble / 100}
    if job.phase == "confirm" and job.name == "haframe" and config.seed < 2002:
        found[f"{part}/mistake_severity"] = math.nan
    return made


def studied(folder, **settings):
    rules = {"baselines": BASELINES, **settings.pop("protocol", {})}
    return Studied(folder, preset="digits-hierarchy", record=settings.pop("record", record), protocol=rules, **settings)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    made = studied(tmp_path_factory.mktemp("runs") / "one", protocol={"tune": True})
    made.begin().search().tune("haframe", {"gamma": 2.0, "cosine": 0.4}, {"gamma": 3.0, "cosine": 0.6})
    return made.select().confirm()


@pytest.fixture(scope="module")
def table(study):
    return hierarchy_table([study.ledger.folder])


def recorded(study, name, metric, percent):
    """[S] straight from the records."""
    method = protocol.confirmed_methods(study.trained, study.winner["winner"], study.tuned)[name]
    made = protocol.confirmation_experiments(study.trained, method, study.winner["strengths"])
    values = [study.ledger.record(config.key)["metrics"].get(metric) for config in made]  # a ledger has no NaN
    return (100 if percent else 1) * np.array([math.nan if value is None else value for value in values])


def known(values):
    return [float(value) for value in values if not math.isnan(value)]


def shown(values, digits):
    """Mean and scipy's interval, as a cell."""
    values = known(values)
    if not values:
        return "–"
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    sd = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    low, high = stats.t.interval(0.95, len(values) - 1, mean, sd / math.sqrt(len(values)))
    return f"{mean:.{digits}f} ± {(high - low) / 2:.{digits}f}"


def tables(text):
    """The tables of a text: rows of cells each, heads first."""
    parts = re.findall(r"(?:^\|.*\n)+", text.replace("\\", "") + "\n", re.M)
    lines = [[line for line in part.splitlines() if not re.match(r"\| :?---", line)] for part in parts]
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in some] for some in lines]


def row(rows, name):
    (found,) = [one for one in rows if one[0] == name]
    return found[1:]


ROWS = [(name, WINNER_ROW if name == "winner" else name) for name in (*BASELINES, "winner")]


def test_mistakes_and_probes_of_every_row(study, table):
    first, _, _ = tables(table.markdown)
    assert first[0] == ["method", "seeds", *(head for head, *_ in MISTAKES)]
    assert [one[0] for one in first[1:]] == [*BASELINES, WINNER_ROW]
    for name, title in ROWS:
        expected = [shown(recorded(study, name, metric, percent), digits) for _, metric, percent, digits in MISTAKES]
        assert row(first, title) == ["4" if name == "crm" else "5", *expected]
    severity = row(first, "haframe")[5]
    assert "±" in severity and severity == shown(recorded(study, "haframe", "test/mistake_severity", False)[2:], 3)
    assert row(first, "crm")[8] == "–"  # no frozen axes


def test_collapse_and_settings_of_every_row(study, table):
    _, _, last = tables(table.markdown)
    assert last[0] == [
        "method", "configuration", *(head for head, *_ in FEATURES), "terminal phase", "trials", "parameters", "feature dim.",
    ]  # fmt: skip
    methods = protocol.confirmed_methods(study.trained, study.winner["winner"], study.tuned)
    tried = {"winner": str(len(study.ledger.proposals())), "haframe": "2"}
    for name, title in ROWS:
        told = name_of(methods[name])
        expected = [shown(recorded(study, name, metric, percent), digits) for _, metric, percent, digits in FEATURES]
        ended_well = "4 of 4" if name == "crm" else "5 of 5"
        assert row(last, title) == [
            "" if told == name else told, *expected, ended_well, tried.get(name, "–"), "1234", "8",
        ]  # fmt: skip
    assert row(last, WINNER_ROW)[0] == study.winner["winner"]["name"]


def test_paired_differences_hold_together_over_rows_and_measures(study, table):
    _, second, _ = tables(table.markdown)
    assert second[0] == ["method", f"accuracy minus {REFERENCE}", f"severity minus {REFERENCE}"]
    assert [one[0] for one in second[1:]] == [*BASELINES[1:], WINNER_ROW]
    for name, title in ROWS[1:]:
        for place, (metric, percent, digits) in enumerate(
            [("test/accuracy", True, 2), ("test/mistake_severity", False, 3)]
        ):
            pairs = recorded(study, name, metric, percent) - recorded(study, REFERENCE, metric, percent)
            gain = np.array(known(pairs))
            half = stats.t.ppf(1 - 0.05 / 2 / 4 / 2, len(gain) - 1) * stats.sem(gain)
            numbers = re.findall(r"[+−]?[\d.]+", row(second, title)[place])
            expected = [gain.mean(), gain.mean() - half, gain.mean() + half]
            assert [float(value.replace("−", "-")) for value in numbers] == pytest.approx(
                expected, abs=0.51 * 10**-digits
            )
    gains = table.sections[0].gains
    assert gains["test/accuracy"]["crm"].verdict == gains["test/mistake_severity"]["haframe"].verdict == "no verdict"
    assert gains["test/mistake_severity"]["winner"].verdict in ("higher", "lower", "not shown")  # it is no score
    assert "hold together at 95 %" in table.markdown


def test_what_is_missing_is_said(table):
    text = table.markdown.replace("\\", "")
    assert "Without a score: crm, seed 2003: failed (no room)." in text
    assert "Without a mistake, and so without a severity: haframe in 2 of 5 runs." in text


def test_one_seed_has_a_mean_alone_and_none_a_dash(tmp_path):
    def lost(job):
        gone = {"crm": range(2001, 2005), "haframe": range(2000, 2005)}.get(job.name, ())
        if job.phase == "confirm" and job.experiment.seed in gone:
            return ended(job.experiment, "failed", "no")
        return record(job)

    made = studied(tmp_path / "s", record=lost).all()
    first, second, last = tables(hierarchy_table([tmp_path / "s"]).markdown)
    (alone,) = known(recorded(made, "crm", "test/accuracy", True))
    assert row(first, "crm")[:2] == ["1", f"{alone:.2f}"]
    assert row(first, "haframe") == ["0", *["–"] * len(MISTAKES)]
    assert re.fullmatch(r"[+−]?[\d.]+", row(second, "crm")[0]) and row(second, "haframe") == ["–", "–"]
    assert row(last, "haframe")[-4:] == ["0 of 0", "–", "–", "–"]


def test_half_widths_are_those_of_scipy():
    values = np.array([3.0, math.nan, 4.5, 9.0, -2.0])
    low, high = stats.t.interval(0.9, 3, 3.625, stats.sem([3.0, 4.5, 9.0, -2.0]))
    assert half_width_of(values, 0.9) == pytest.approx((high - low) / 2)
    assert math.isnan(half_width_of(values[:2])) and math.isnan(half_width_of(values[1:2]))


def test_without_the_reference_there_are_no_differences(tmp_path):
    studied(tmp_path / "s", protocol={"baselines": ["crm"]}).all()
    made = hierarchy_table([tmp_path / "s"])
    assert len(tables(made.markdown)) == 2
    assert "No differences: ce_no_projector is none of the rows." in made.markdown.replace("\\", "")
    assert made.to_dict()["data"][0]["methods"]["crm"]["minus_reference"] == {
        "test/accuracy": None,
        "test/mistake_severity": None,
    }


def test_a_recipe_under_its_published_row_says_so(tmp_path):
    studied(tmp_path / "s", protocol={"published_ce": 99.0}).all()
    made = hierarchy_table([tmp_path / "s"])
    assert re.search(r"No verdict: with \d\d\.\d\d % on test ce_no_projector lies", made.markdown.replace("\\", ""))
    (section,) = made.sections
    assert {one.verdict for some in section.gains.values() for one in some.values()} == {"no verdict"}


def test_numbers_with_what_produced_them(study, table):
    (found,) = json.loads(json.dumps(table.to_dict(), allow_nan=False))["data"]
    assert (found["config_hash"], found["hierarchy"], found["title"]) == (
        study.config.identity,
        "coarse",
        "digits-hierarchy",
    )
    assert found["seeds"] == [2000, 2001, 2002, 2003, 2004] and found["provenance"]["commit"] == "abc"
    assert found["command"].startswith("python studies/tau_search.py --preset digits-hierarchy ")
    assert found["command"] in table.markdown
    assert f"Tree coarse; study {study.config.identity}, commit abc, seeds 2000 to 2004." in table.markdown
    crm = found["methods"]["crm"]
    assert (crm["finished"], crm["gaps"]) == (4, ["crm, seed 2003: failed (no room)"])
    assert crm["minus_reference"]["test/accuracy"]["name"] == REFERENCE
    for name, title in ROWS:
        entry = found["methods"][title]["metrics"]
        assert set(entry) == set(found["metrics"]) == {metric for _, metric, *_ in MISTAKES + FEATURES}
        for _, metric, percent, _ in MISTAKES + FEATURES:
            values = recorded(study, name, metric, percent)
            one = entry[metric]
            assert found["metrics"][metric]["unit"] == ("percent" if percent else "number")
            assert [math.nan if value is None else value for value in one["values"]] == pytest.approx(
                values, nan_ok=True
            )
            if left := known(values):
                assert (one["mean"], one["sd"]) == pytest.approx((np.mean(left), np.std(left, ddof=1)))
                width = stats.t.ppf(0.975, len(left) - 1) * stats.sem(left)
                assert one["half_width"] == pytest.approx(width)
            else:
                assert one["mean"] is one["sd"] is one["half_width"] is None
    assert str(study.ledger.folder.parent) not in json.dumps(found)


def test_the_command_writes_both_files_and_the_same_again(tmp_path, study, table, capsys):
    other = studied(tmp_path / "other", seed=1).all()
    line = [str(one.ledger.folder) for one in (study, other)]
    assert main([*line, "--out", str(tmp_path / "a")]) == 0
    said = capsys.readouterr().out
    assert main([*line, "--out", str(tmp_path / "b")]) == 0
    for name in ("hierarchy.md", "hierarchy.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    text = (tmp_path / "a" / "hierarchy.md").read_text(encoding="utf-8")
    assert text == said and re.findall(r"^## (.*)$", text, re.M) == ["one", "other"]
    assert text.partition("## one")[2].startswith(table.markdown.partition("## digits-hierarchy")[2])


def test_what_cannot_be_a_section_is_refused(tmp_path, study, capsys):
    folder = study.ledger.folder
    Studied(tmp_path / "flat", preset="digits").all()
    studied(tmp_path / "begun").begin()
    for folders, message in (
        ([], "a table over a tree needs the folder of at least one study"),
        ([folder, folder], "is given twice"),
        ([tmp_path / "begun"], "has confirmed nothing yet"),
        ([folder, tmp_path / "flat"], "flat has no tree of its classes: its data.hierarchy is not set"),
        ([tmp_path / "none"], "holds no study"),
    ):
        with pytest.raises(DataError, match=message):
            hierarchy_table(folders)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="cannot be written"):
        write_table([folder], tmp_path / "file")
    assert main([str(tmp_path / "flat"), "--out", str(tmp_path / "out")]) == 1
    assert "error: " in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_page_shows_the_first_table_between_its_marks(study, table, tmp_path):
    page = tmp_path / "README.md"
    page.write_text(f"before\n\n{BLOCK.begin}\nold\n{BLOCK.end}\n\nafter\n", encoding="utf-8")
    write_table([study.ledger.folder], tmp_path / "out", page)
    once = page.read_text(encoding="utf-8")
    first = table.markdown.split("\n\n| method | accuracy minus")[0].partition("\n## ")[2].partition("\n\n")[2]
    assert first.partition("\n\n")[0] in once and "| winner of the search |" in once
    assert (
        once.startswith("before\n\n") and once.endswith("after\n") and "[out/hierarchy.md](out/hierarchy.md)." in once
    )
    write_table([study.ledger.folder], tmp_path / "out", page)
    assert page.read_text(encoding="utf-8") == once
    page.write_text("no marks", encoding="utf-8")
    with pytest.raises(DataError, match=r"--readme .*: the text needs the lines <!-- hierarchy-table:begin -->"):
        write_table([study.ledger.folder], tmp_path / "new", page)
    assert not (tmp_path / "new").exists() or not list((tmp_path / "new").iterdir())
