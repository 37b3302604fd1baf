from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from divfeat.data import load_source
from divfeat.errors import DataError
from tests.data.conftest import random_image


def put(path: Path, seed: int = 0, size: tuple[int, int] = (6, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random_image(seed, size)).save(path)


def load(path: Path, split: str = "train", **changes: Any) -> Any:
    return load_source(f"folder:{path}", split=split, **changes)  # type: ignore[arg-type]


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    for seed, name in enumerate(("train/wren/b.png", "train/wren/a.PNG", "train/owl/x.png", "test/owl/t.png")):
        put(tmp_path / name, seed)
    (tmp_path / "train" / "owl" / "notes.txt").write_text("no image")
    (tmp_path / "train" / ".cache").mkdir()
    return tmp_path


def test_one_level(flat: Path) -> None:
    data = load(flat)
    assert data.fine_names == ("owl", "wren")
    assert data.fine.tolist() == [0, 1, 1]
    assert data.coarse is None
    expected = np.stack([random_image(seed) for seed in (2, 1, 0)]).transpose(0, 3, 1, 2)  # by class, then by file name
    np.testing.assert_array_equal(data.images, expected)
    test = load(flat, "test")
    assert test.fine_names == ("owl", "wren")  # named by the training split, though it has no wren
    assert test.fine.tolist() == [0]


def test_two_levels(tmp_path: Path) -> None:
    for seed, name in enumerate(("thing/car", "animal/wren", "animal/owl", "thing/bus")):
        put(tmp_path / "train" / name / "0.jpg", seed)
    data = load(tmp_path)
    assert data.coarse_names == ("animal", "thing")
    assert data.fine_names == ("owl", "wren", "bus", "car")
    assert data.labels("coarse").tolist() == [0, 0, 1, 1]
    put(tmp_path / "train" / "thing" / "owl" / "0.jpg")
    assert load(tmp_path).fine_names == ("animal/owl", "animal/wren", "thing/bus", "thing/car", "thing/owl")


def test_relative_to_the_root(flat: Path) -> None:
    assert len(load_source(f"folder:{flat.name}", split="train", root=flat.parent)) == 3


def test_training_never_looks_into_the_test_folder(flat: Path) -> None:
    (flat / "test" / "owl" / "t.png").write_bytes(b"broken")
    (flat / "test" / "unknown").mkdir()
    assert len(load(flat)) == 3
    with pytest.raises(DataError, match="unknown holds no image"):
        load(flat, "test")


def test_refuses(flat: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder at"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match="has no folder 'train'"):
        load(flat / "train")
    put(flat / "test" / "swan" / "0.png")
    with pytest.raises(DataError, match=r"has classes that .* lacks: swan"):
        load(flat, "test")
    put(flat / "train" / "crow" / "0.png", size=(7, 6))
    with pytest.raises(DataError, match="set image_size"):
        load(flat)
    assert load(flat, image_size=5).image_shape == (3, 5, 5)
    (flat / "train" / "owl" / "x.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"owl/x\.png is not a readable image"):
        load(flat, image_size=5)
    put(flat / "train" / "bird" / "kiwi" / "0.png")
    with pytest.raises(DataError, match="use one depth"):
        load(flat)


@pytest.mark.parametrize(
    ("loose", "beside"),
    [
        ("train/0.png", "train/owl/0.png"),
        ("train/animal/0.jpg", "train/animal/owl/0.png"),
        ("train/animal/owl/0.png", "train/animal/owl/deeper/0.png"),
    ],
)
def test_images_beside_folders_are_refused(tmp_path: Path, loose: str, beside: str) -> None:
    put(tmp_path / beside)
    put(tmp_path / loose)
    (tmp_path / "train" / "README.md").write_text("no image")
    with pytest.raises(DataError, match=f"{loose} lies beside the folders of {tmp_path / Path(loose).parent}"):
        load(tmp_path)


def test_a_third_level_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "train" / "animal" / "bird" / "owl" / "0.png")
    with pytest.raises(DataError, match=r"bird holds folders of its own: arrange it as <coarse>/<fine>/<image>"):
        load(tmp_path)


def test_no_classes_and_no_test(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="holds no class folder"):
        load(tmp_path)
    put(tmp_path / "train" / "owl" / "0.png")
    with pytest.raises(DataError, match="none of the folders test, validation, val"):
        load(tmp_path, "test")
