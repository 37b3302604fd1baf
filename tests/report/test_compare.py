"""Studies beside each other, against the ledgers' own files and intervals computed anew."""

import html
import json
import math
import shutil

import numpy as np
import pytest
from scipy import stats

from divfeat.errors import DataError
from divfeat.files import read_json, write_json
from divfeat.report.compare import compare_studies, write_comparison
from divfeat.report.document import blocks_to_markdown
from tests.report.studies import Studied, completed, ended, noise

BASELINES = ("ce", "ce_etf", "hinge_fixed")
SMALL = {"grid_points": 0, "baselines": list(BASELINES)}


def record(split="one", test="one", commit="abc" * 14, shift=0.0, lost=()):
    """A record of other images, of another commit, a little better in all but `ce_etf`; some seeds of ce lost."""

    def make(job):
        if job.phase == "confirm" and job.name == "ce" and job.experiment.seed in lost:
            return ended(job.experiment, "failed", "no")
        made = completed(job.experiment)
        made["provenance"] |= {
            "split_hash": f"{split} {job.experiment.role}",
            "evaluation_hash": test,
            "commit": commit,
        }
        if shift and job.phase == "confirm" and job.name != "ce_etf":
            made["metrics"]["test/fine_top1"] += shift * (1 + 0.2 * noise(f"{job.key} shifted"))
        return made

    return make


def studied(folder, *, born=0.0, done=True, **settings):
    """A study of its own birth, run to the end."""
    protocol = SMALL | settings.pop("protocol", {})
    study = Studied(folder, protocol=protocol, **settings)
    write_json(folder / "study.json", read_json(folder / "study.json") | {"created": born})
    if done:
        study.all()
        study.ledger.write_phase("done", {})
    return study


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Of one set of images: a study, the same by a later commit, one with longer trainings; and a long tail."""
    place = tmp_path_factory.mktemp("runs")
    return {
        "first": studied(place / "first", record=record()),
        "again": studied(place / "again", born=1.0, record=record(commit="def" * 14, shift=0.02)),
        "long": studied(place / "long", train={"epochs": 77}, record=record()),
        "tail": studied(place / "tail", preset="digits-lt", record=record("two", "two")),
    }


@pytest.fixture(scope="module")
def found(runs):
    return compare_studies([study.ledger.folder for study in runs.values()])


def text_of(found):
    return html.unescape(blocks_to_markdown(found.blocks({})).replace("\\", ""))


def table(found, heading, corner):
    """Rows of the first table after `heading` whose corner is `corner`, by their first cell."""
    text = text_of(found)
    text = text[text.index(f"{heading}\n") :]
    lines = text[text.index(f"| {corner} |") :].split("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return rows[0], {row[0]: row[1:] for row in rows[2:]}


def shown(values):
    return f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"


def with_interval(differences, alpha):
    half = stats.t.ppf(1 - alpha / 2, len(differences) - 1) * differences.std(ddof=1) / math.sqrt(len(differences))
    mean, low, high = (
        "0.00" if round(value, 2) == 0 else f"{value:+.2f}".replace("-", "−")
        for value in (differences.mean(), differences.mean() - half, differences.mean() + half)
    )
    return f"{mean} [{low}, {high}]"


# --- what they are, what won --------------------------------------------------------------------------------------------------


def test_what_each_study_is(runs, found):
    text = text_of(found)
    assert "All of them: seeds 2000 to 2004; trials 7; " in text and "; state finished." in text
    header, rows = table(found, "## The studies", "study")
    assert header[:7] == ["study", "preset", "data", "split", "objective", "epochs", "commit"]
    epochs = str(runs["first"].config.train.epochs)
    assert rows["again"][:6] == ["digits", "digits, coarse labels", "one conf", "fine_probe", epochs, "defdefde"]
    assert rows["long"][4:6] == ["77", "abcabcab"]
    assert rows["digits-lt"][:4] == ["digits-lt", "digits, fine labels, imbalance 20", "two conf", "balanced"]


def test_when_it_ran_is_read_from_the_runs(tmp_path):
    for name, ends in (("a", 1_000_000.0 + 60), ("b", 1_000_000.0 + 86_400)):
        study = studied(
            tmp_path / name, born=len(name + str(ends)), done=False, train={"epochs": int(ends) % 7 + 3}
        ).begin()
        for key in study.ledger.started():
            folder = study.ledger.run_folder(key)
            write_json(folder / "start.json", read_json(folder / "start.json") | {"time": 1_000_000.0})
            write_json(folder / "record.json", read_json(folder / "record.json") | {"finished": ends})
    _, rows = table(compare_studies([tmp_path / "a", tmp_path / "b"]), "## The studies", "study")
    assert rows["a"][-1] == "1970-01-12 13:46 to 13:47" and rows["b"][-1] == "1970-01-12 13:46 to 1970-01-13 13:46"


def test_winners_with_angles_in_degrees_and_fractions_of_pi(runs, found):
    header, rows = table(found, "## Winners", "study")
    assert header[1:] == ["method", "letting go", "thresholds", "objective", "validation", "test"]
    study = runs["first"]
    winner = study.winner["winner"]
    angle = winner["method"]["thresholds"]["angles"]["tau"]
    assert rows["first"][:3] == ["hinge_ce", winner["method"]["release"], f"tau {math.degrees(angle):.1f}° (0.344π)"]
    assert rows["first"][3] == "fine-probe accuracy (%)"
    assert rows["first"][4] == shown(100 * np.array(winner["values"][0]))
    assert rows["first"][5] == shown(study.confirmed("winner"))
    assert rows["digits-lt"][3] == "balanced accuracy (%)"
    assert rows["digits-lt"][5] == shown(runs["tail"].confirmed("winner", "balanced"))


def test_a_winner_without_cones_is_named_and_is_its_own_baseline(tmp_path, runs):
    def flat(job):
        made = record("three")(job)
        if job.phase in ("noise", "search", "select") and job.experiment.method.name == "ce_etf":
            made["metrics"]["probe/fine_top1"] = 0.99
        return made

    studied(tmp_path / "flat", record=flat)
    found = compare_studies([runs["tail"].ledger.folder, tmp_path / "flat"])
    _, rows = table(found, "## Winners", "study")
    assert rows["digits"][:3] == ["ce_etf", "any", "none (τ⁺ = 0)"]
    _, rows = table(found, "## Winner minus baselines", "winner minus")
    assert rows["ce_etf"][1] == "is the winner" != rows["ce_etf"][0]


# --- against the baselines ----------------------------------------------------------------------------------------------------


def test_rows_are_methods_and_columns_studies_each_with_its_objective(runs, found):
    header, rows = table(found, "## Every method", "method")
    measures = [*["fine-probe accuracy (%)"] * 3, "balanced accuracy (%)"]
    titles = ["first", "again", "long", "digits-lt"]
    assert header[1:] == [f"{title}: {measure}" for title, measure in zip(titles, measures, strict=True)]
    assert list(rows) == [*BASELINES, "winner"]
    for name in rows:
        expected = [shown(runs[study].confirmed(name)) for study in ("first", "again", "long")]
        assert rows[name] == [*expected, shown(runs["tail"].confirmed(name, "balanced"))]


def test_the_winners_differences_hold_together_within_a_study(runs, found):
    header, rows = table(found, "## Winner minus baselines", "study")  # four studies, three baselines
    assert header[1:] == [f"winner minus {name}" for name in BASELINES]
    titles = [*(f"{name}: fine-probe accuracy" for name in ("first", "again", "long")), "digits-lt: balanced accuracy"]
    assert list(rows) == titles
    judged = set()
    for title, study, objective in zip(titles, runs.values(), [*["fine_probe"] * 3, "balanced"], strict=True):
        for name, cell in zip(BASELINES, rows[title], strict=True):
            differences = study.confirmed("winner", objective) - study.confirmed(name, objective)
            told, verdict = cell.rsplit("] ", 1)
            assert f"{told}]" == with_interval(differences, 0.05 / 3)
            judged.add(verdict)
    assert judged & {"better", "worse"}  # else the words would not be tested


def test_more_studies_than_methods_go_down(tmp_path, runs):
    one = studied(tmp_path / "one", record=record(), protocol={"baselines": ["ce"]})
    two = studied(tmp_path / "two", record=record(), protocol={"baselines": ["ce"]}, train={"epochs": 71})
    three = studied(tmp_path / "three", record=record(), protocol={"baselines": ["ce"]}, train={"epochs": 72})
    found = compare_studies([study.ledger.folder for study in (one, two, three)])
    header, rows = table(found, "## Every method", "study")
    assert header == ["study", "ce", "winner"]
    assert rows["two: fine-probe accuracy (%)"] == [shown(two.confirmed("ce")), shown(two.confirmed("winner"))]
    header, rows = table(found, "## Winner minus baselines", "study")
    assert header == ["study", "winner minus ce"] and len(rows) == 3


# --- the same images ------------------------------------------------------------------------------------------------------------


def test_differences_of_studies_of_the_same_images_hold_together(runs, found):
    """Two pairs of four methods each; `again` repeats `first` by another commit."""
    assert [(pair.study, pair.reference) for pair in found.pairs.pairs] == [("again", "first"), ("long", "first")]
    assert "the intervals of all 8 of this section hold together at 95 % (Bonferroni)" in text_of(found)
    first, verdicts = runs["first"], set()
    for title in ("again", "long"):
        _, rows = table(found, f"### {title} minus first", "method")
        for name in ("winner", *BASELINES):
            differences = runs[title].confirmed(name) - first.confirmed(name)
            (row,) = [cells for method, cells in rows.items() if method.split(" ")[0] == name]
            assert row[:3] == [shown(first.confirmed(name)), shown(runs[title].confirmed(name)), "5"]
            if title == "again" and name == "ce_etf":
                assert row[3:] == ["0.00", "the same score in every seed"]
            else:
                assert row[3] == with_interval(differences, 0.05 / 8)
                verdicts.add(row[4])
    assert "better" in verdicts and len(verdicts) > 1
    assert "ce_etf: the same score in every seed (the very same experiments, run twice)." in text_of(found)


def test_what_was_changed_is_told_line_by_line(runs, found):
    again, long = found.pairs.pairs
    assert again.changes == ("commit: 'abcabcab' -> 'defdefde'",)
    epochs = runs["first"].config.train.epochs
    frozen = [runs[name].trained.train.lr for name in ("first", "long")]  # calibrated anew for other epochs
    assert frozen[0] != frozen[1]
    assert long.changes == (f"train.epochs: {epochs} -> 77", f"frozen.lr: {frozen[0]} -> {frozen[1]}")
    assert all(one.repeated for one in again.methods) and not any(one.repeated for one in long.methods)
    assert "What differs (first -> again):\n\n```\ncommit: 'abcabcab' -> 'defdefde'\n```" in text_of(found)


def test_trials_and_winners_that_differ_are_changes(tmp_path):
    studied(tmp_path / "short", record=record(), done=False).begin().search((0.0, 20.0, 40.0)).select().confirm()
    studied(tmp_path / "more", born=1.0, record=record())
    (pair,) = compare_studies([tmp_path / "short", tmp_path / "more"]).pairs.pairs
    assert pair.changes[0] == "trials: 3 -> 7" and pair.changes[1].startswith("winner: ") and " -> " in pair.changes[1]
    assert {one.method: one.repeated for one in pair.methods} == {"winner": False} | dict.fromkeys(BASELINES, True)


def test_why_a_study_is_held_against_none(tmp_path, runs):
    studied(tmp_path / "other", preset="digits-lt", record=record(), train={"epochs": 70})
    studied(tmp_path / "train", record=record("three"), train={"epochs": 71})
    studied(tmp_path / "begun", record=record(), train={"epochs": 72}, done=False).begin()
    names = [
        runs["first"].ledger.folder,
        *(tmp_path / name for name in ("other", "train", "begun")),
        runs["tail"].ledger.folder,
    ]
    found = compare_studies(names)
    assert not found.pairs.pairs and math.isnan(found.pairs.level)
    unpaired = found.pairs.unpaired
    assert (
        unpaired["other"]
        == "the same images as first, but another objective, and different objectives are not compared"
    )
    assert unpaired["train"] == "the same test images as first and other, but other training images"
    assert unpaired["begun"].startswith("no run of its confirmation has finished")
    assert unpaired["tail"] == "no study given before it was tested on the same images"
    assert f"Held against no other study: tail ({unpaired['tail']})." in text_of(found)


def test_seeds_that_do_not_pair(tmp_path, runs):
    """Another seed of the study has other seeds throughout; more of them share the first five."""
    studied(tmp_path / "seeds", record=record(), seed=1)
    studied(tmp_path / "more", record=record(), protocol={"confirm_seeds": 7})
    found = compare_studies([runs["first"].ledger.folder, tmp_path / "seeds", tmp_path / "more"])
    apart, shared = found.pairs.pairs
    assert {one.why_not for one in apart.methods} == {"no seed in common (2000 to 2004, and 12000 to 12004)"}
    assert all(one.comparison is None for one in apart.methods)
    _, rows = table(found, "### seeds minus first", "method")
    assert rows["ce"][2:] == ["0", "–", "no seed in common (2000 to 2004, and 12000 to 12004)"]
    assert found.pairs.count == 4  # what cannot be shown shares no error
    assert {one.comparison.seeds for one in shared.methods} == {(2000, 2001, 2002, 2003, 2004)}


def test_a_lost_run_takes_the_verdict_with_it(tmp_path, runs):
    studied(tmp_path / "lost", record=record(lost=(2003,)), train={"epochs": 70})
    found = compare_studies([runs["first"].ledger.folder, tmp_path / "lost"])
    _, rows = table(found, "### lost minus first", "method")
    assert rows["ce"][2] == "4" and rows["ce"][4] == "no verdict: no score in one of the two for seed 2003"
    assert rows["ce_etf"][4] in ("better", "worse", "equivalent", "not shown")
    _, rows = table(found, "## What is missing", "study")
    assert "ce, seed 2003: failed (no)" in rows["lost"][0]


def test_a_method_of_one_study_alone_is_named(tmp_path, runs):
    studied(tmp_path / "fewer", record=record(), protocol={"baselines": ["ce", "ce_no_projector"]})
    found = compare_studies([runs["first"].ledger.folder, tmp_path / "fewer"])
    said = "Confirmed in one of the two alone, so not compared: ce_etf (first), hinge_fixed (first) and ce_no_projector (fewer)."
    assert said in text_of(found)
    assert (
        "protocol.baselines: ['ce', 'ce_etf', 'hinge_fixed'] -> ['ce', 'ce_no_projector']"
        in found.pairs.pairs[0].changes
    )


def test_geometry_is_higher_or_lower_and_has_columns_of_its_own(tmp_path):
    both = {"search": {"objectives": ["fine_probe", "nc1"]}}
    one = studied(tmp_path / "one", record=record(), **both)
    two = studied(tmp_path / "two", record=record(), train={"epochs": 70}, **both)
    found = compare_studies([tmp_path / "one", tmp_path / "two"])
    header, rows = table(found, "## Every method", "method")
    assert header[1:] == ["one: fine-probe accuracy (%)", "one: NC1", "two: fine-probe accuracy (%)", "two: NC1"]
    values = one.confirmed("ce", "nc1")
    assert rows["ce"][1] == f"{values.mean():.4f} ± {values.std(ddof=1):.4f}"
    (pair,) = found.pairs.pairs
    of_nc1 = {m.method: m for m in pair.methods if m.objective == "nc1"}
    differences = two.confirmed("ce", "nc1") - one.confirmed("ce", "nc1")
    assert of_nc1["ce"].comparison.mean == pytest.approx(differences.mean())
    assert {m.comparison.verdict for m in of_nc1.values()} <= {"higher", "lower", "not shown"}
    assert "NC1 on training images" in text_of(found)


# --- features, what is missing -------------------------------------------------------------------------------------------------


def test_features_of_winner_and_ce(runs, found):
    text = text_of(found)
    lines = text[text.index("| study | method | NC1 |") :].splitlines()[2:10]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[:2] for row in rows] == [
        [s, m] for s in ("first", "again", "long", "digits-lt") for m in ("winner", "ce")
    ]
    nc1 = 0.2 + runs["first"].confirmed("ce").mean() / 100
    assert rows[1][2:] == [f"{nc1:.3g}", f"{5 * (nc1 - 0.2):.2f}", "–", "70.0", "99.95", "0 of 5"]
    assert rows[0][4] == "90.0" and rows[0][-1] == "5 of 5"


def test_unfinished_studies_are_compared_as_far_as_they_are(tmp_path, runs):
    studied(tmp_path / "begun", record=record(), train={"epochs": 72}, done=False)
    studied(tmp_path / "selected", record=record(), train={"epochs": 73}, done=False).begin().search().select()
    found = compare_studies([runs["first"].ledger.folder, tmp_path / "begun", tmp_path / "selected"])
    _, rows = table(found, "## Winners", "study")
    assert rows["begun"] == ["none yet", *["–"] * 5]
    assert rows["selected"][0] == "hinge_ce" and rows["selected"][4] != "–" and rows["selected"][5] == "–"
    _, rows = table(found, "## The studies", "study")
    assert rows["begun"][-1] == rows["selected"][-1] == "not finished" and rows["first"][-1] == "finished"
    text = text_of(found)
    missing = text[text.index("## What is missing") :]
    assert "| begun | No winner is frozen yet" in missing and "| selected | Without a score (confirmation)" in missing
    assert "| first |" not in missing
    with_all, _ = table(found, "## Every method", "method")
    assert with_all == ["method", "first: fine-probe accuracy (%)"]


# --- files -------------------------------------------------------------------------------------------------------------------


def test_what_is_written_is_the_same_again_and_names_no_folder(tmp_path, runs):
    folders = [study.ledger.folder for study in runs.values()]
    found, plots = write_comparison(folders, tmp_path / "out")
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("comparison.*")}
    assert set(first) == {"comparison.md", "comparison.json"}
    names = {"winner_minus_baselines.png", "same_images.png", "trials_by_threshold.png"}
    assert (
        {path.name for path in (tmp_path / "out" / "figures").iterdir()}
        == names
        == {p.path.name for p in plots.values()}
    )
    text = first["comparison.md"].decode()
    assert text.startswith("# Comparison of 4 studies\n")
    assert all(f"](figures/{name})" in text for name in names)
    for content in first.values():
        assert str(tmp_path) not in content.decode() and str(folders[0].parent) not in content.decode()
    assert read_json(tmp_path / "out" / "comparison.json") == json.loads(json.dumps(found.to_dict(), allow_nan=False))
    write_comparison(folders, tmp_path / "again")
    assert {name: (tmp_path / "again" / name).read_bytes() for name in first} == first


def test_figures_that_no_longer_apply_go_and_others_stay(tmp_path, runs):
    write_comparison([runs["first"].ledger.folder, runs["again"].ledger.folder], tmp_path)
    (tmp_path / "figures" / "mine.png").write_bytes(b"")
    studied(tmp_path / "one", preset="digits-lt", record=record("x", "x"), train={"epochs": 70})
    write_comparison([runs["tail"].ledger.folder, tmp_path / "one"], tmp_path)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"winner_minus_baselines.png", "mine.png"}


def test_numbers_with_what_produced_them(runs, found):
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [one["title"] for one in content["studies"]] == ["first", "again", "long", "digits-lt"]
    assert content["studies"][2]["result"]["config_hash"] == runs["long"].config.identity
    (ce,) = [one for one in content["pairs"][1]["methods"] if one["method"] == "ce"]
    differences = runs["long"].confirmed("ce") - runs["first"].confirmed("ce")
    assert ce["difference"]["differences"] == pytest.approx(differences) and ce["objective"] == "fine_probe"
    assert content["differences_of_pairs"] == 8 and content["level_of_all_pairs"] == pytest.approx(0.95)


def test_studies_of_one_name_are_told_apart(tmp_path):
    for place, epochs in (("a", 70), ("b", 71)):
        studied(tmp_path / place / "same", record=record(), train={"epochs": epochs}, done=False)
    assert [title for title, _ in compare_studies([tmp_path / "a" / "same", tmp_path / "b" / "same"]).studies] == [
        "same #1",
        "same #2",
    ]


def test_what_cannot_be_compared_is_refused(tmp_path, runs):
    folder = runs["first"].ledger.folder
    shutil.copytree(folder, tmp_path / "copy")
    for folders, message in (
        ([], "two studies or more, and none is given"),
        ([folder], f"{folder} is one; add another study's folder"),
        ([folder, folder], "is given twice; give each study once"),
        ([folder, folder / ".." / "first"], "is given twice"),
        ([folder, tmp_path / "copy"], f"copy is a copy of {folder}.*leave one out"),
        ([folder, tmp_path], "holds no study.*give the folder"),
    ):
        with pytest.raises(DataError, match=message):
            write_comparison(folders, tmp_path / "out")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match=r"--out: the comparison's folder .*give a folder that can"):
        write_comparison([folder, runs["again"].ledger.folder], tmp_path / "file" / "out")
    assert not (tmp_path / "out").exists()
