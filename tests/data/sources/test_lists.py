"""List files of ImageNet-LT's form: what they load, and every way in which they and the images can disagree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from divfeat.config import DataConfig
from divfeat.data import load_source
from divfeat.data.prepare import prepare
from divfeat.data.sources import find_source
from divfeat.errors import DataError
from divfeat.validation import build
from tests.data.conftest import random_image

LISTS = {"train_list": "train.txt", "val_list": "val.txt", "test_list": "test.txt"}
#: A tail of 6, 3 and 2 training images, one of validation and two of the test a class, as the files of ImageNet-LT name them.
TRAIN = [(f"train/n{k}/n{k}_{i}.JPEG", k) for k, count in enumerate((6, 3, 2)) for i in range(count)]
VAL = [(f"train/n{k}/n{k}_9.JPEG", k) for k in range(3)]
TEST = [(f"val/ILSVRC2012_val_{i:08d}.JPEG", i % 3) for i in range(6)]


def write(file: Path, lines: list[tuple[str, int]]) -> None:
    file.write_text("".join(f"{path} {label}\n" for path, label in lines))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images under `images`, list files beside it."""
    for seed, (path, _) in enumerate(TRAIN + VAL + TEST):
        place = tmp_path / "images" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random_image(seed, (9, 8))).save(place, "PNG")
    for name, lines in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        write(tmp_path / f"{name}.txt", lines)
    return tmp_path


def load(folder: Path, split: Any = "train", **changes: Any) -> Any:
    return load_source("lists:images", split=split, root=folder, **(LISTS | changes))


def test_images_and_labels_in_the_lists_order(folder: Path) -> None:
    mixed = [TRAIN[i] for i in np.random.default_rng(0).permutation(len(TRAIN))]
    write(folder / "train.txt", mixed)
    data = load(folder)
    assert data.fine.tolist() == [label for _, label in mixed]
    assert data.fine_names == ("0", "1", "2") and data.coarse is None
    expected = [random_image(TRAIN.index(line), (9, 8)) for line in mixed]
    np.testing.assert_array_equal(data.images, np.stack(expected).transpose(0, 3, 1, 2))
    assert load(folder, "val").fine.tolist() == [0, 1, 2]
    assert load(folder, "test").fine.tolist() == [0, 1, 2] * 2
    assert load(folder, image_size=6).image_shape == (3, 6, 6)


def test_spaces_tabs_and_empty_lines(folder: Path) -> None:
    (folder / "images" / "a b.png").write_bytes((folder / "images" / TRAIN[0][0]).read_bytes())
    text = f"a b.png\t0\n\n{TRAIN[6][0]} 1  \n./{TRAIN[9][0]} 2"
    for written in (text.encode(), text.encode("utf-8-sig"), text.replace("\n", "\r\n").encode()):
        (folder / "train.txt").write_bytes(written)
        assert load(folder).fine.tolist() == [0, 1, 2]


def test_lists_are_found_beside_the_images_and_by_their_own_path(folder: Path) -> None:
    (folder / "train.txt").rename(folder / "images" / "train.txt")
    assert len(load(folder)) == len(TRAIN)
    assert len(load(folder, train_list=str(folder / "images" / "train.txt"))) == len(TRAIN)


def test_a_study_on_lists_trains_validates_and_tests_on_its_own_list(folder: Path) -> None:
    settings = {"source": "lists:images", **LISTS}
    search, confirm = (prepare(build(DataConfig, settings), role, root=folder) for role in ("search", "confirm"))
    assert search.class_counts.tolist() == confirm.class_counts.tolist() == [6, 3, 2]
    assert len(search.train) == len(confirm.train) == len(TRAIN)  # nothing is held out
    assert search.evaluation.content_hash == load(folder, "val").content_hash
    assert confirm.evaluation.content_hash == load(folder, "test").content_hash
    assert search.published_hash == confirm.published_hash and search.split_hash != confirm.split_hash
    write(folder / "val.txt", VAL[:2])
    told = "fine class '2' of lists:images has no validation image; add some to data.val_list=val.txt"
    with pytest.raises(DataError, match=told):
        prepare(build(DataConfig, settings), "search", root=folder)
    held = prepare(build(DataConfig, settings | {"val_list": None, "val_per_class": 1}), "search", root=folder)
    assert len(held.evaluation) == 3 and len(held.train) == len(TRAIN) - 3


def test_a_search_opens_no_test_image_and_finding_opens_none(folder: Path) -> None:
    for path, _ in TEST:
        (folder / "images" / path).write_bytes(b"no image: never opened here")
    assert len(load(folder)) == len(TRAIN) and len(load(folder, "val")) == len(VAL)
    find_source("lists:images", split="test", root=folder, **LISTS)
    with pytest.raises(DataError, match=r"val_00000000.JPEG \(line 1 of .*test.txt\) is not a readable image"):
        load(folder, "test")


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        (
            "train",
            ["train/n0/n0_0.JPEG"],
            r"line 1 of .*train.txt is 'train/n0/n0_0.JPEG': write an image's path, a sp",
        ),
        ("train", ["train/n0/n0_0.JPEG 0", "x.png one"], r"line 2 of .*train.txt is 'x.png one'"),
        ("train", ["train/n0/n0_0.JPEG -1"], "line 1 of .*a whole number from 0"),
        ("train", ["train/n0/n0_0.JPEG 1.0"], "line 1 of .*a whole number from 0"),
        ("train", ["train/n0/n0_0.JPEG 12345678901"], "line 1 of "),
        ("train", ["", "  "], r"train.txt lists no image"),
        ("train", ["train/n0/n0_0.JPEG 0", "train/n2/n2_0.JPEG 2"], r"labels up to 2 but no image of class 1"),
        (
            "train",
            ["train/n0/n0_0.JPEG 0", "b.png 1", "train/n0/../n0/n0_0.JPEG 0"],
            "train.txt lists train/n0/n0_0.JPEG twice, in lines 1 and 3",
        ),
        (
            "train",
            ["train/n0/n0_0.JPEG 0", "a/1.png 1", "a/2.png 0", "a/3.png 1", "a/4.png 1"],
            r"names 4 images of 5 that are not below .*images: a/1.png \(line 2\), a/2.png \(line 3\), a/3.png \(line 4\), "
            r"\.\.\.; put them there",
        ),
        ("test", ["val/ILSVRC2012_val_00000000.JPEG 3"], "label 3, but .*train.txt has the classes 0 to 2"),
        ("test", [f"{path} {label}" for path, label in TEST[:2]], "lists no image of 1 classes that .* has .class 2"),
        (
            "test",
            [f"{path} {label}" for path, label in TEST + TRAIN[:1]],
            r"n0_0.JPEG is in line 7 .* line 1 of .*train",
        ),
        (
            "test",
            [f"{path} {label}" for path, label in TEST + VAL[1:]],
            r"n1_9.JPEG is in line 7 .* line 2 of .*val.txt",
        ),
        (
            "val",
            [f"{path} {label}" for path, label in TRAIN],
            r"is in line 1 of .*val.txt and in line 1 of .*train.txt",
        ),
    ],
)
def test_lists_that_cannot_be_used(folder: Path, name: str, lines: list[str], message: str) -> None:
    (folder / f"{name}.txt").write_text("\n".join(lines))
    with pytest.raises(DataError, match=message):
        find_source("lists:images", split=name, root=folder, **LISTS)  # type: ignore[arg-type]
    if "lists no image of" not in message:
        with pytest.raises(DataError, match=message):
            load(folder, name)


@pytest.mark.parametrize(
    ("spec", "changes", "message"),
    [
        ("lists:", {}, "'lists:' names no path"),
        ("lists:nowhere", {}, "'lists:nowhere': there is no folder at"),
        ("lists:images", {"train_list": None}, r"has no train list: name the file with data\.train_list"),
        (
            "lists:images",
            {"train_list": "other.txt"},
            r"data\.train_list='other.txt': there is no such file at other.txt nor",
        ),
        ("lists:images", {"train_list": "images/" + TEST[0][0]}, "cannot be read as a list of images"),
        (
            "lists:images",
            {"fine_column": "label"},
            "data.fine_column='label' has no meaning .*only parquet sources have",
        ),
        ("folder:images", {}, "data.train_list='train.txt', data.val_list=.* only lists sources have list files"),
    ],
)
def test_settings_that_cannot_work(folder: Path, spec: str, changes: dict[str, Any], message: str) -> None:
    (folder / "images" / TEST[0][0]).write_bytes(b"\xff\xfe\x80")
    with pytest.raises(DataError, match=message):
        load_source(spec, split="train", root=folder, **(LISTS | changes))


def test_only_lists_have_a_validation_split(folder: Path) -> None:
    with pytest.raises(DataError, match="unknown split 'val' of 'digits': use one of train, test"):
        load_source("digits", split="val")
    with pytest.raises(DataError, match="has no val list"):
        load(folder, "val", val_list=None)
