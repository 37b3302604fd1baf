"""What results/curves and the pages say of each other: recorded by the lines they name, compared again alike."""

import math
import shlex
from pathlib import Path

import pytest

from divfeat.cli.early_stopping import COMPARED, parser
from divfeat.cli.flags import configure
from divfeat.files import read_json
from divfeat.objectives import OBJECTIVES
from divfeat.stopping import page
from divfeat.stopping.compare import Setting, ranks, row, settings
from divfeat.stopping.curves import drawn, read_curves

ROOT = Path(__file__).resolve().parents[2]
CURVES = {path.stem: path for path in sorted((ROOT / "results" / "curves").glob("*.json")) if path.name != COMPARED}
FOUND = read_json(ROOT / "results" / "curves" / COMPARED)
PAGE = (ROOT / "docs" / "early-stopping.md").read_text(encoding="utf-8")


def test_the_page_shows_what_the_comparison_found():
    assert page.between(PAGE, page.text(FOUND)) == PAGE, "python studies/early_stopping.py compare rewrites it"
    assert set(FOUND["sets"]) == set(CURVES) and len(CURVES) >= 2


@pytest.mark.parametrize("name", CURVES)
def test_curves_are_of_the_line_that_made_them(name):
    found = read_json(CURVES[name])
    words = shlex.split(found["command"])[2:]
    given = parser().parse_args(words)
    assert given.step == "record"
    asked, given.trials = given.trials, None
    study = configure(given)[0]
    assert study.identity == found["identity"] and study.train.epochs == found["epochs"]
    keys = [row["key"] for row in found["trials"]]
    assert keys == [job.key for job in drawn(study, asked)][: len(keys)]  # the first of the draws, none picked
    assert len({row["split_hash"] for row in found["trials"]}) == 1
    assert all(row["commit"] and not row["commit"].endswith("-dirty") for row in found["trials"])
    assert all(len(row["values"]) == found["epochs"] for row in found["trials"] if row["error"] is None)


@pytest.mark.parametrize("name", CURVES)
def test_a_cell_of_the_comparison_comes_out_again(name):
    curves, known = read_curves(CURVES[name]), FOUND["sets"][name]
    assert [(one["first_rung"], one["reduction"], one["slots"]) for one in known["rows"]] == [
        (one.first_rung, one.reduction, one.slots) for one in settings()
    ]
    trials, scale = curves.finished, OBJECTIVES[curves.objective].scale
    again = row(trials, Setting(1, 3, 4), FOUND["orders"], scale)
    (shown,) = [one for one in known["rows"] if (one["first_rung"], one["reduction"], one["slots"]) == (1, 3, 4)]
    for part in ("stop", "promote", "promote_minus_stop"):
        assert shown[part] == pytest.approx(again[part])
    assert known["ranks"] == [
        {field: pytest.approx(value) for field, value in one.items()} for one in ranks(trials, curves.epochs)
    ]
    assert all(math.isfinite(one["all"]) for one in known["ranks"])


def test_the_readme_says_what_the_comparison_found():
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    rows = [row for found in FOUND["sets"].values() for row in found["rows"]]
    fewer, kept = (sum(map(holds, rows)) for holds in (page.spends_less, page.no_worse))
    assert f"promotion trained fewer epochs than stop-only in {fewer} of {len(rows)} simulated settings" in text
    assert f"its winner was no worse in {kept} of them" in text
    beaten = sum(page.beaten(found["rows"], "stop", "promote") for found in FOUND["sets"].values())
    assert f"{beaten} of {len(rows)} settings of stop-only are beaten by another setting of promotion" in text


def test_what_the_page_says_in_words():
    digits = FOUND["sets"]["digits"]["rows"]
    cheapest = min(one["stop"]["epochs"] for one in digits)
    for one in digits:
        if (one["first_rung"], one["reduction"]) == (3, 3):
            assert one["promote"]["found_best"] == 1.0 and one["promote"]["epochs"] < cheapest
    for found in FOUND["sets"].values():
        assert page.beaten(found["rows"], "stop", "promote") == len(found["rows"])
        assert page.beaten(found["rows"], "promote", "stop") < len(found["rows"])
        assert abs(found["ranks"][0]["best_third"]) < 0.25
