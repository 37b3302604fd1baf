"""FGVC-Aircraft's tree, joined from small annotation files of its form."""

from pathlib import Path

import numpy as np
import pytest

from divfeat.data.images import ImageSet
from divfeat.data.trees import tree_of
from divfeat.errors import ConfigError, DataError
from divfeat.hierarchy.aircraft import FOLDER, LEVELS, aircraft
from tests.data.conftest import random_image
from tests.data.sources.test_torchvision_sets import put

#: Image: variant, family, manufacturer. One name comes on two levels, one on three, and one holds a slash.
TRAIN = {
    "0034309": ("707-320", "Boeing 707", "Boeing"),
    "0034958": ("747-100", "Boeing 747", "Boeing"),
    "1025794": ("747-200", "Boeing 747", "Boeing"),
    "1340192": ("F/A-18", "F/A-18", "McDonnell Douglas"),
    "0056978": ("MD-11", "MD-11", "McDonnell Douglas"),
}
VAL = {"0062765": ("747-100", "Boeing 747", "Boeing"), "0481847": ("Tornado", "Tornado", "Tornado")}
VARIANTS = ("707-320", "747-100", "747-200", "F/A-18", "MD-11", "Tornado")


def annotate(root: Path, split: str, images: dict[str, tuple[str, str, str]]) -> Path:
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for place, level in enumerate(LEVELS):
        rows = list(images.items())[:: 1 if level == "variant" else -1]  # joined by image, not by line
        (folder / f"images_{level}_{split}.txt").write_text("".join(f"{key} {names[place]}\n" for key, names in rows))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    annotate(tmp_path, "train", TRAIN)
    return annotate(tmp_path, "val", VAL)


def images(names: tuple[str, ...], coarse: tuple[str, ...] | None = None) -> ImageSet:
    rows = np.arange(len(names))
    pixels = np.zeros((len(names), 1, 8, 8), np.uint8)
    return ImageSet(pixels, rows, None if coarse is None else rows % len(coarse), names, coarse)


def test_variants_lie_in_families_of_manufacturers(tmp_path: Path, folder: Path) -> None:
    tree = tree_of("aircraft", images(VARIANTS), "fine", tmp_path)
    assert tree.classes == VARIANTS and tree.sizes == [3, 5, 6]
    assert tree.distances()[1].tolist() == [2, 0, 1, 3, 3, 3]
    assert tree.path(3) == "manufacturer McDonnell Douglas > family F/A-18 > F/A-18"
    assert len(set(tree.names)) == len(tree.names)  # none of them needs a path
    assert tree.subtree("family Boeing 747").tolist() == [False, True, True, False, False, False]


def test_families_are_classes_where_they_are_trained(tmp_path: Path, folder: Path, monkeypatch) -> None:
    families = ("Boeing 707", "Boeing 747", "F/A-18", "MD-11", "Tornado")
    monkeypatch.setenv("DIVFEAT_DATA", str(tmp_path))
    tree = tree_of("aircraft", images(VARIANTS[:5], families), "coarse")
    assert tree.classes == families and tree.sizes == [3, 5]


def test_the_labels_are_those_of_the_images_that_torchvision_reads(tmp_path: Path, folder: Path) -> None:
    from divfeat.data import load_source

    everything = TRAIN | VAL
    for place, level in enumerate(LEVELS[:2]):
        (folder / f"images_{level}_trainval.txt").write_text(
            "".join(f"{k} {v[place]}\n" for k, v in everything.items())
        )
    (folder / "variants.txt").write_text("\n".join(VARIANTS))
    (folder / "families.txt").write_text("Boeing 707\nBoeing 747\nF/A-18\nMD-11\nTornado\n")
    for place, key in enumerate(everything):
        put(folder / "images" / f"{key}.jpg", place)
    data = load_source("torchvision:FGVCAircraft", split="train", root=tmp_path)
    assert data.images.shape[1:] == (3, *random_image(0, (12, 9)).shape[:2])
    assert tree_of("aircraft", data, "fine", tmp_path).sizes == [3, 5, 6]
    assert tree_of("aircraft", data, "coarse", tmp_path).sizes == [3, 5]


def test_test_labels_are_not_read(tmp_path: Path, folder: Path) -> None:
    before = aircraft(tmp_path).identity
    annotate(tmp_path, "test", {"9": ("Concorde", "Concorde", "Aerospatiale")})
    assert aircraft(tmp_path).identity == before


@pytest.mark.parametrize(
    ("image", "names", "words"),
    [
        (
            "7",
            ("747-100", "Boeing 707", "Boeing"),
            r"variant '747-100' lies under two .*family, 'Boeing 747' \(image 00",
        ),
        (
            "7",
            ("747-300", "Boeing 747", "Tornado"),
            r"family 'Boeing 747' lies .*'Boeing' .*'Tornado' \(image 7\): mend",
        ),
        ("7", ("Concorde", "", "Boeing"), r"images_family_val.txt, line \d is no image and its family: '7 '"),
    ],
)
def test_what_is_no_tree_is_told(tmp_path: Path, folder: Path, image: str, names, words: str) -> None:
    annotate(tmp_path, "val", VAL | {image: names})
    with pytest.raises(DataError, match=f"data.hierarchy=aircraft: .*{words}"):
        tree_of("aircraft", images(VARIANTS), "fine", tmp_path)


def test_an_image_that_one_level_lacks(tmp_path: Path, folder: Path) -> None:
    path = folder / "images_manufacturer_train.txt"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith("0056978")))
    with pytest.raises(
        DataError, match="image 0056978 has the family 'MD-11' and no manufacturer: images_manufacturer_"
    ):
        aircraft(tmp_path)


def test_missing_files_are_told_with_the_remedy(tmp_path: Path, folder: Path, monkeypatch) -> None:
    (folder / "images_family_val.txt").unlink()
    with pytest.raises(
        DataError, match=r"images_family_val.txt cannot be read .*data.source=torchvision:FGVCAircraft and"
    ):
        tree_of("aircraft", images(VARIANTS), "fine", tmp_path)
    for split in ("train", "val"):
        for level in LEVELS:
            (folder / f"images_{level}_{split}.txt").write_text("")
    with pytest.raises(DataError, match="name no image"):
        aircraft(tmp_path)
    monkeypatch.delenv("DIVFEAT_DATA", raising=False)
    with pytest.raises(ConfigError, match=r"data.hierarchy=aircraft: .*set DIVFEAT_DATA"):
        tree_of("aircraft", images(VARIANTS), "fine")


def test_other_classes_are_told(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match=r"data.hierarchy=aircraft: unknown class 'A380'"):
        tree_of("aircraft", images((*VARIANTS, "A380")), "fine", tmp_path)
