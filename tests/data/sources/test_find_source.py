"""Whether a split is there is told without opening an image."""

from __future__ import annotations

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


def test_parquet(tmp_path: Path, write_parquet: WriteParquet) -> None:
    shard = tmp_path / "train-00000-of-00001.parquet"
    write_parquet(shard, [encode(random_image(0))], {"label": [0]}, {"label": ["owl"]})
    find_source(f"parquet:{tmp_path}", split="train")
    with pytest.raises(DataError, match="has no test split"):
        find_source(f"parquet:{tmp_path}", split="test")
    (tmp_path / "test-00000-of-00002.parquet").write_bytes(b"no Parquet: never opened here")
    with pytest.raises(DataError, match="lacks shard 1 of 2 of 'test'"):
        find_source(f"parquet:{tmp_path}", split="test")
    (tmp_path / "test-00001-of-00002.parquet").write_bytes(b"")
    find_source(f"parquet:{tmp_path}", split="test")


def test_torchvision(tmp_path: Path) -> None:
    put(tmp_path / "2021_train_mini" / "00000_Animalia_Chordata_Aves_Passeriformes_Paridae_Parus_major" / "0.jpg")
    find_source("torchvision:INaturalist", split="train", root=tmp_path)
    with pytest.raises(DataError, match=r"was not found whole in .*put it there, or allow download"):
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
