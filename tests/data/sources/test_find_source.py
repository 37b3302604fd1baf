"""Whether a split is there is told without opening an image."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from divfeat.data import load_source
from divfeat.data.sources import find_source
from divfeat.errors import DataError
from tests.data.conftest import WriteParquet, encode, random_image


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random_image(0)).save(path)


def test_digits_bring_both_splits() -> None:
    find_source("digits", split="test")
    with pytest.raises(DataError, match="'digits' takes nothing after its name"):
        find_source("digits:10", split="test")


def test_folder(tmp_path: Path) -> None:
    put(tmp_path / "train" / "owl" / "0.png")
    find_source(f"folder:{tmp_path}", split="train")
    with pytest.raises(DataError, match="none of the folders test, validation, val to test on"):
        find_source(f"folder:{tmp_path}", split="test")
    put(tmp_path / "val" / "wren" / "0.png")
    with pytest.raises(DataError, match=r"classes that .* lacks: wren"):
        find_source(f"folder:{tmp_path}", split="test")
    (tmp_path / "val" / "wren").rename(tmp_path / "val" / "owl")
    (tmp_path / "val" / "owl" / "0.png").write_bytes(b"no image: never opened here")
    find_source(f"folder:{tmp_path}", split="test")
    put(tmp_path / "train" / "crow" / "0.png")
    with pytest.raises(DataError, match=r"no test images of crow \(1 of 2 classes\): add some"):
        find_source(f"folder:{tmp_path}", split="test")


def test_parquet(tmp_path: Path, write_parquet: WriteParquet) -> None:
    shard = tmp_path / "train-00000-of-00001.parquet"
    write_parquet(shard, [encode(random_image(0))], {"label": [0]}, {"label": ["owl"]})
    find_source(f"parquet:{tmp_path}", split="train")
    with pytest.raises(DataError, match="has no test split"):
        find_source(f"parquet:{tmp_path}", split="test")
    first, second = (tmp_path / f"test-0000{i}-of-00002.parquet" for i in (0, 1))
    write_parquet(first, [b"no image: never opened here"], {"label": [7]}, {"label": ["owl"]})
    with pytest.raises(DataError, match="lacks shard 1 of 2 of 'test'"):
        find_source(f"parquet:{tmp_path}", split="test")
    second.write_bytes(b"no Parquet")
    with pytest.raises(DataError, match=f"{second} cannot be read as Parquet"):
        find_source(f"parquet:{tmp_path}", split="test")
    find_source(f"parquet:{tmp_path}", split="train")
    shutil.copy(first, second)
    find_source(f"parquet:{tmp_path}", split="test")


@pytest.mark.parametrize(
    ("columns", "names", "message"),
    [
        ({"label": [0]}, {"label": ["wren", "owl"]}, "name the classes of 'label' differently"),
        ({"label": [0]}, None, "name the classes of 'label' differently"),
        (
            {"label": [0], "coarse_label": [0]},
            {"label": ["owl", "wren"]},
            "has the columns img, label, coarse_label where",
        ),
        (
            {"fine_label": [0]},
            {"fine_label": ["owl", "wren"]},
            "has the columns img, fine_label where .* has img, label",
        ),
        ({"species": [0]}, None, "no integer label column .*: name one with data.fine_column"),
    ],
)
def test_parquet_test_shards_of_another_kind(
    tmp_path: Path,
    write_parquet: WriteParquet,
    columns: dict[str, list[int]],
    names: dict[str, list[str]] | None,
    message: str,
) -> None:
    blobs = [encode(random_image(0))]
    write_parquet(tmp_path / "train.parquet", blobs, {"label": [0]}, {"label": ["owl", "wren"]})
    write_parquet(tmp_path / "test.parquet", blobs, columns, names)
    with pytest.raises(DataError, match=message):
        find_source(f"parquet:{tmp_path}", split="test")


def test_parquet_columns_that_are_named(tmp_path: Path, write_parquet: WriteParquet) -> None:
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", [encode(random_image(0))], {"species": [0], "kind": [0]})
    with pytest.raises(DataError, match=r"name one with data\.fine_column"):
        find_source(f"parquet:{tmp_path}", split="test")
    find_source(f"parquet:{tmp_path}", split="test", image_column="img", fine_column="species", coarse_column="kind")
    with pytest.raises(DataError, match="no integer label column 'genus'"):
        find_source(f"parquet:{tmp_path}", split="test", fine_column="species", coarse_column="genus")


def test_torchvision(tmp_path: Path) -> None:
    put(tmp_path / "2021_train_mini" / "00000_Animalia_Chordata_Aves_Passeriformes_Paridae_Parus_major" / "0.jpg")
    find_source("torchvision:INaturalist", split="train", root=tmp_path)
    with pytest.raises(DataError, match=r"was not found whole in .*put it there, or set data.download=true"):
        find_source("torchvision:INaturalist", split="test", root=tmp_path)
    with pytest.raises(DataError, match="Did you mean 'CIFAR10'"):
        find_source("torchvision:CIFAR11", split="test", root=tmp_path)


@pytest.mark.parametrize("spec", ["folder:nowhere", "parquet:nowhere", "torchvision:DTD", "made:up"])
def test_finding_refuses_what_loading_refuses(spec: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as loading:
        load_source(spec, split="train", root=tmp_path)
    with pytest.raises(DataError) as finding:
        find_source(spec, split="train", root=tmp_path)
    assert str(finding.value) == str(loading.value)
