"""Against torchvision's own classes, on tiny made copies of the files they read."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from divfeat.data import load_source
from divfeat.data.sources import find_source
from divfeat.data.sources.cifar100 import CIFAR100_SUPERCLASSES
from divfeat.data.sources.torchvision_sets import TORCHVISION_SETS
from divfeat.errors import DataError
from tests.data.conftest import random_image

# CIFAR-100's coarse label of each alphabetical fine label, as distributed with the set: independent of our table.
COARSE_OF_FINE = [
    *(4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7),
    *(6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10),
    *(16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16),
    *(12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13),
]


def test_superclasses_are_the_published_partition() -> None:
    fine = [name for group in CIFAR100_SUPERCLASSES.values() for name in group]
    assert len(CIFAR100_SUPERCLASSES) == 20
    assert {len(group) for group in CIFAR100_SUPERCLASSES.values()} == {5}
    assert len(set(fine)) == 100
    order = {name: i for i, group in enumerate(CIFAR100_SUPERCLASSES.values()) for name in group}
    assert [order[name] for name in sorted(fine)] == COARSE_OF_FINE
    assert list(CIFAR100_SUPERCLASSES) == sorted(CIFAR100_SUPERCLASSES)


def write_cifar(folder: Path, cls: Any, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images a class in each split, in the pickles that torchvision reads; its checksum test is switched off."""
    base = folder / cls.base_folder
    base.mkdir(parents=True)
    key = "fine_labels" if cls is CIFAR100 else "labels"
    rng = np.random.default_rng(0)
    for file, _ in cls.train_list + cls.test_list:
        data = rng.integers(0, 256, (2 * len(names), 3 * 32 * 32), dtype=np.uint8)
        (base / file).write_bytes(pickle.dumps({"data": data, key: list(range(len(names))) * 2}))
    (base / cls.meta["filename"]).write_bytes(pickle.dumps({cls.meta["key"]: names}))
    monkeypatch.setattr(cls, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda path, md5=None: Path(path).is_file())


def test_cifar100_gets_its_superclasses_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = sorted(name for group in CIFAR100_SUPERCLASSES.values() for name in group)
    write_cifar(tmp_path, CIFAR100, names, monkeypatch)
    data = load_source("torchvision:CIFAR100", split="train", root=tmp_path)
    assert data.images.shape == (200, 3, 32, 32)
    assert data.fine_to_coarse.tolist() == COARSE_OF_FINE
    raw = CIFAR100(str(tmp_path), train=True)
    np.testing.assert_array_equal(data.images.transpose(0, 2, 3, 1), raw.data)
    assert data.fine.tolist() == raw.targets


def test_cifar10_and_its_test_split_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path, CIFAR10, list("abcdefghij"), monkeypatch)
    (tmp_path / CIFAR10.base_folder / "test_batch").write_bytes(b"broken")
    monkeypatch.setenv("DIVFEAT_DATA", str(tmp_path))
    train = load_source("torchvision:CIFAR10", split="train", image_size=8)
    assert train.images.shape == (100, 3, 8, 8)
    assert train.coarse is None
    with pytest.raises(DataError, match=r"CIFAR10' was not found whole in .*UnpicklingError.*put it there"):
        load_source("torchvision:CIFAR10", split="test")


@pytest.mark.parametrize("damaged", [b"", b"broken", b"{}", pickle.dumps({"data": []}), pickle.dumps([])[:-1]])
def test_a_damaged_pickle_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bytes) -> None:
    write_cifar(tmp_path, CIFAR10, list("abcdefghij"), monkeypatch)
    (tmp_path / CIFAR10.base_folder / "data_batch_3").write_bytes(damaged)
    with pytest.raises(DataError, match="CIFAR10' was not found whole"):
        load_source("torchvision:CIFAR10", split="train", root=tmp_path)


@pytest.mark.parametrize("damaged", [b"", b"\0\0\x08\x03" + bytes(6), b"\0\0\x08\x03" + bytes([0, 0, 0, 9] * 3)])
def test_a_damaged_array_is_told(tmp_path: Path, damaged: bytes) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (raw / f"{part}-{kind}-ubyte").write_bytes(damaged)
    with pytest.raises(DataError, match="MNIST' was not found whole"):
        load_source("torchvision:MNIST", split="train", root=tmp_path)


@pytest.mark.parametrize("text", ["", "{", '{"pie": ["pie/1"]'])
def test_a_damaged_list_is_told(tmp_path: Path, text: str) -> None:
    base = tmp_path / "food-101"
    (base / "images").mkdir(parents=True)
    (base / "meta").mkdir()
    (base / "meta" / "train.json").write_text('{"pie": ["pie/1"]}')
    (base / "meta" / "test.json").write_text(text)
    put(base / "images" / "pie" / "1.jpg", 0)
    assert len(load_source("torchvision:Food101", split="train", root=tmp_path)) == 1
    for ask in (load_source, find_source):
        with pytest.raises(DataError, match="Food101' was not found whole"):
            ask("torchvision:Food101", split="test", root=tmp_path)


def put(path: Path, seed: int, size: tuple[int, int] = (12, 9)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random_image(seed, size)).save(path)


def test_aircraft_has_families(tmp_path: Path) -> None:
    data = tmp_path / "fgvc-aircraft-2013b" / "data"
    for i in range(5):
        put(data / "images" / f"{i}.jpg", i)
    (data / "variants.txt").write_text("707-320\n747-100\n747-200\n")
    (data / "families.txt").write_text("Boeing 707\nBoeing 747\n")
    (data / "images_variant_trainval.txt").write_text("0 747-200\n1 707-320\n2 747-100\n")
    (data / "images_family_trainval.txt").write_text("2 Boeing 747\n1 Boeing 707\n0 Boeing 747\n")  # in another order
    (data / "images_variant_test.txt").write_text("3 747-100\n4 707-320\n")
    (data / "images_family_test.txt").write_text("3 Boeing 747\n4 Boeing 707\n")
    train = load_source("torchvision:FGVCAircraft", split="train", root=tmp_path, image_size=6)
    assert train.images.shape == (3, 3, 6, 6)
    assert train.fine_names == ("707-320", "747-100", "747-200")
    assert train.fine.tolist() == [2, 0, 1]
    assert train.fine_to_coarse.tolist() == [0, 1, 1]
    assert load_source("torchvision:FGVCAircraft", split="test", root=tmp_path, image_size=6).fine.tolist() == [1, 0]
    cut = load_source("torchvision:FGVCAircraft", split="train", root=tmp_path, crop_bottom=2)
    whole = load_source("torchvision:FGVCAircraft", split="train", root=tmp_path)
    np.testing.assert_array_equal(cut.images, whole.images[:, :, :-2])
    put(data / "images" / "1.jpg", 1, (20, 9))
    with pytest.raises(
        DataError, match=r"image 1 of torchvision:FGVCAircraft \(train\) in .* is 20 x 9.*set image_size"
    ):
        load_source("torchvision:FGVCAircraft", split="train", root=tmp_path)


def test_flowers_join_their_train_and_val_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat

    base = tmp_path / "flowers-102"
    for i in range(1, 7):
        put(base / "jpg" / f"image_{i:05d}.jpg", i)
    savemat(base / "imagelabels.mat", {"labels": np.array([[1, 2, 102, 1, 2, 3]])})
    savemat(base / "setid.mat", {"trnid": np.array([[1, 3]]), "valid": np.array([[2, 5]]), "tstid": np.array([[4, 6]])})
    monkeypatch.setattr(torchvision.datasets.Flowers102, "_check_integrity", lambda self: True)
    assert load_source("torchvision:Flowers102", split="train", root=tmp_path, image_size=4).fine.tolist() == [
        0,
        101,
        1,
        1,
    ]
    test = load_source("torchvision:Flowers102", split="test", root=tmp_path, image_size=4)
    assert test.fine.tolist() == [0, 2]
    assert test.num_classes("fine") == 102


def test_pets(tmp_path: Path) -> None:
    base = tmp_path / "oxford-iiit-pet"
    for name in ("Abyssinian_1", "beagle_2", "beagle_3"):
        put(base / "images" / f"{name}.jpg", 0)
    (base / "annotations").mkdir()
    (base / "annotations" / "trainval.txt").write_text("Abyssinian_1 1 1 1\nbeagle_2 2 2 1\n")
    (base / "annotations" / "test.txt").write_text("beagle_3 2 2 1\nAbyssinian_1 1 1 1\n")
    data = load_source("torchvision:OxfordIIITPet", split="test", root=tmp_path, image_size=4)
    assert data.fine_names == ("Abyssinian", "Beagle")
    assert data.fine.tolist() == [1, 0]


def test_inaturalist_has_orders(tmp_path: Path) -> None:
    folders = [
        "00000_Animalia_Chordata_Aves_Passeriformes_Paridae_Parus_major",
        "00001_Animalia_Chordata_Aves_Anseriformes_Anatidae_Anas_crecca",
        "00002_Animalia_Chordata_Aves_Passeriformes_Corvidae_Pica_pica",
    ]
    for i, name in enumerate(folders):
        put(tmp_path / "2021_train_mini" / name / "0.jpg", i)
    data = load_source("torchvision:INaturalist", split="train", root=tmp_path, image_size=4)
    assert data.fine_names == tuple(folders)
    names = data.class_names("coarse")
    assert [names[k] for k in data.fine_to_coarse] == ["Passeriformes", "Anseriformes", "Passeriformes"]


def test_names_of_several_words_and_repeated_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ImageNet names classes by tuples of synonyms, and two of them begin with 'crane'."""

    class Fake:
        def __init__(self, root: str, split: str) -> None:
            assert split == "train"
            self.targets = [2, 0, 1]
            self.classes = [("crane", "bird"), ("owl",), ("crane",)]
            self.wnids = ["n1", "n2", "n3"]

        def __len__(self) -> int:
            return 3

        def __getitem__(self, i: int) -> tuple[Image.Image, int]:
            return Image.fromarray(random_image(i)), self.targets[i]

    monkeypatch.setattr(torchvision.datasets, "ImageNet", Fake)
    data = load_source("torchvision:ImageNet", split="train", root=tmp_path)
    assert data.fine_names == ("crane (n1)", "owl", "crane (n3)")
    assert data.fine.tolist() == [2, 0, 1]


def test_every_listed_set_exists() -> None:
    assert all(hasattr(torchvision.datasets, name) for name in TORCHVISION_SETS)


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100", "FGVCAircraft", "Food101", "MNIST", "ImageNet", "INaturalist"])
def test_missing_data_names_the_folder_and_the_remedy(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"torchvision:{name}' was not found whole in {tmp_path}.*put it there"):
        load_source(f"torchvision:{name}", split="train", root=tmp_path)
    assert not any(tmp_path.iterdir())  # nothing was fetched


def test_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"unknown torchvision set 'CIFAR1000'. Did you mean 'CIFAR100'"):
        load_source("torchvision:CIFAR1000", split="train", root=tmp_path)
    with pytest.raises(DataError, match=r"does not exist: correct DIVFEAT_DATA or root, or set data.download=true"):
        load_source("torchvision:CIFAR10", split="train", root=tmp_path / "nowhere")
    monkeypatch.delenv("DIVFEAT_DATA", raising=False)
    with pytest.raises(DataError, match="set DIVFEAT_DATA"):
        load_source("torchvision:CIFAR10", split="train")


def test_download_only_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def fake(self: Any, root: str, train: bool = True, transform: Any = None, target_transform: Any = None,
             download: bool = False) -> None:  # fmt: skip
        asked.append(download)
        raise RuntimeError("Dataset not found or corrupted")

    monkeypatch.setattr(CIFAR10, "__init__", fake)
    for download in (False, True):
        with pytest.raises(DataError, match="not found whole"):
            load_source("torchvision:CIFAR10", split="train", root=tmp_path, download=download)
    assert asked == [False, True]
