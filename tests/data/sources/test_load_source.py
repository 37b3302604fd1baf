from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from divfeat.data import index_hash, load_source
from divfeat.errors import DataError


@pytest.mark.parametrize(
    ("spec", "changes", "message"),
    [
        ("digit", {}, "'digit': unknown data source 'digit'. Did you mean 'digits'"),
        ("hdf5:x", {}, "Known: digits, torchvision, parquet, folder"),
        ("digits:all", {}, "takes nothing after its name"),
        ("digits", {"split": "val"}, "unknown split 'val'"),
        (
            "digits",
            {"fine_column": "label"},
            "data.fine_column='label' has no meaning .*only parquet sources have columns",
        ),
        ("parquet", {}, "names no path"),
        ("folder:", {}, "names no path"),
    ],
)
def test_refuses(spec: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_source(spec, **({"split": "train"} | changes))


def test_digits() -> None:
    from sklearn.datasets import load_digits

    train, test = load_source("digits", split="train"), load_source("digits", split="test")
    raw = load_digits()
    assert train.image_shape == (1, 8, 8)
    assert (len(train), len(test)) == (1438, 359)
    assert np.array_equal(np.unique(train.images), np.rint(np.arange(17) * 255 / 16))
    assert train.coarse_names == ("0-1", "2-3", "4-5", "6-7", "8-9")
    assert np.array_equal(train.labels("coarse"), train.fine // 2)
    # Together the splits are the whole set, once each.
    ours = sorted(
        bytes([y]) + x.tobytes() for part in (train, test) for x, y in zip(part.images, part.fine, strict=True)
    )
    whole = np.rint(raw.images * 255 / 16).astype(np.uint8)
    assert ours == sorted(bytes([y]) + x.tobytes() for x, y in zip(whole, raw.target, strict=True))
    share = np.bincount(test.fine) / np.bincount(raw.target)
    assert (np.abs(share - 0.2) < 0.005).all()
    # The test split must never move.
    assert index_hash(test.fine) == "6fe16fd1cb696dadca2b59c6ddb98732176cd1f4c6c8470531907e7cc3f5a73f"


def test_digits_at_another_size() -> None:
    assert load_source("digits", split="test", image_size=16).image_shape == (1, 16, 16)


def test_importing_the_room_imports_no_image_library() -> None:
    code = (
        "import sys, divfeat.data; "
        "print([m for m in ('PIL', 'pyarrow', 'torchvision', 'sklearn', 'ray', 'mlflow', 'optuna', 'matplotlib')"
        " if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_real_cifar10(real_data: Path) -> None:
    test = load_source("parquet:cifar10", split="test", root=real_data)
    assert test.images.shape == (10_000, 3, 32, 32)
    assert test.fine_names[:2] == ("airplane", "automobile")
    assert test.coarse is None
    assert np.bincount(test.fine).tolist() == [1000] * 10


@pytest.mark.slow
def test_real_cifar10_training_split(real_data: Path) -> None:
    from divfeat.data import long_tail_split

    train = load_source("parquet:cifar10", split="train", root=real_data)
    assert np.bincount(train.fine).tolist() == [5000] * 10
    np.testing.assert_allclose(train.channel_stats()[0], [0.4914, 0.4822, 0.4465], atol=2e-3)
    np.testing.assert_allclose(train.channel_stats()[1], [0.2470, 0.2435, 0.2616], atol=3e-3)
    split = long_tail_split(train.fine, 100, 250)
    assert len(split.published) == 12_406
    assert split.borrowed.tolist() == [250] + [0] * 9


def test_real_tin100(real_data: Path, tmp_path: Path) -> None:
    import json

    test = load_source("parquet:tin100", split="test", root=real_data)
    assert test.images.shape == (5000, 3, 32, 32)
    assert np.bincount(test.fine).tolist() == [50] * 100
    assert np.bincount(test.labels("coarse")).tolist() == [250] * 20
    tree = json.loads((real_data / "tin100" / "hierarchy.json").read_text())
    parents = {
        fine: coarse
        for middle in tree.values()
        for top in middle.values()
        for coarse, leaves in top.items()
        for fine in leaves
    }
    names = test.class_names("coarse")
    assert {name: names[test.fine_to_coarse[k]] for k, name in enumerate(test.fine_names)} == parents
