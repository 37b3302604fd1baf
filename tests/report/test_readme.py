"""Figures drawn anew from results/ alone: those of the README to the last pixel, any of them with its gaps and in order."""

import re
import shutil
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from divfeat.errors import DataError
from divfeat.report.build import build_report
from divfeat.report.drawing import Drawing
from divfeat.report.readme import images, main, redraw
from tests.report.studies import Studied

ROOT = Path(__file__).resolve().parents[2]
PINNED = re.search(r"^matplotlib==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_every_figure_of_the_readme_is_drawn_anew_from_results_to_the_last_pixel(tmp_path):
    shown = images(ROOT / "README.md")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(shown) == len({*re.findall(r"[\w./-]+\.(?:png|svg|jpe?g)", text)}) >= 2  # however it is shown
    assert all(path.parts[0] == "results" for path in shown)
    written = redraw(ROOT / "README.md", tmp_path)
    assert written == [tmp_path / name for name in shown]
    if PINNED is None or metadata.version("matplotlib") != PINNED[1]:
        pytest.skip("pixels are those of the matplotlib in constraints.txt")
    for name in shown:
        np.testing.assert_array_equal(pixels(tmp_path / name), pixels(ROOT / name))


@pytest.mark.slow
def test_a_published_figure_is_drawn_anew_without_its_study(tmp_path):
    Studied(tmp_path / "s", preset="digits-lt").all()
    build_report(tmp_path / "s", publish=tmp_path / "shown")
    assert not list((tmp_path / "s").rglob("group_tradeoff.json"))
    shutil.rmtree(tmp_path / "s")
    page = tmp_path / "shown" / "page.md"
    page.write_text("![trials](figures/group_tradeoff.png)\n", encoding="utf-8")
    before = pixels(tmp_path / "shown" / "figures" / "group_tradeoff.png")
    (tmp_path / "shown" / "figures" / "group_tradeoff.png").unlink()
    assert main([str(page)]) == 0
    np.testing.assert_array_equal(pixels(tmp_path / "shown" / "figures" / "group_tradeoff.png"), before)


def test_order_and_gaps_survive(tmp_path):
    given = {
        "trials": {"z": ([80.0, np.nan], np.array([10.0, 20.0])), "a": ([70.0], [30.0])},
        "means": {"m": ([60.0], [40.0])},
        "sizes": (4, 6),
    }
    before = Drawing("group_tradeoff", given)(tmp_path / "before.png")
    Drawing("group_tradeoff", given).save(tmp_path / "kept.json")
    kept = Drawing.load(tmp_path / "kept.json")
    assert list(kept.arguments["trials"]) == ["z", "a"] and kept.arguments["trials"]["z"][0] == [80.0, None]
    assert kept(tmp_path / "after.png") == before
    np.testing.assert_array_equal(pixels(tmp_path / "after.png"), pixels(tmp_path / "before.png"))


def test_an_image_that_nothing_makes_is_told(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("![a](results/x/figures/a.png)", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.json holds no figure's data"):
        redraw(page)
    (tmp_path / "results/x/figures").mkdir(parents=True)
    (tmp_path / "results/x/figures/a.json").write_text('{"figure": "save", "arguments": {}}', encoding="utf-8")
    assert main([str(page)]) == 1 and "--publish" in capsys.readouterr().err
