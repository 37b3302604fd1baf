from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from divfeat.data import load_source
from divfeat.errors import DataError
from tests.data.conftest import WriteParquet, encode, random_image

NAMES = {"fine_label": ["cat", "dog", "car"], "coarse_label": ["animal", "thing"]}
COLUMNS = {"fine_label": [0, 1, 2, 1, 0], "coarse_label": [0, 0, 1, 0, 0]}
BLOBS = [encode(random_image(i)) for i in range(5)]


@pytest.fixture
def hub(tmp_path: Path, write_parquet: WriteParquet) -> Path:
    """Two training shards and one of test, as the hub exports them."""
    folder = tmp_path / "sets" / "pets"
    write_parquet(folder / "data" / "train-00000-of-00002.parquet", BLOBS, COLUMNS, NAMES)
    write_parquet(folder / "data" / "train-00001-of-00002.parquet", BLOBS[::-1], COLUMNS, NAMES)
    write_parquet(
        folder / "data" / "test-00000-of-00001.parquet", BLOBS[:3], {k: v[:3] for k, v in COLUMNS.items()}, NAMES
    )
    return folder


def load(path: object, split: str = "train", **changes: Any) -> Any:
    return load_source(f"parquet:{path}", split=split, **changes)  # type: ignore[arg-type]


def test_hub_layout(hub: Path) -> None:
    train, test = load(hub), load(hub, "test")
    expected = np.stack([random_image(i) for i in [0, 1, 2, 3, 4, 4, 3, 2, 1, 0]]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(train.images, expected)
    assert train.fine.tolist() == COLUMNS["fine_label"] * 2
    assert train.labels("coarse").tolist() == COLUMNS["coarse_label"] * 2
    assert (train.fine_names, train.coarse_names) == (("cat", "dog", "car"), ("animal", "thing"))
    assert len(test) == 3
    assert load(hub, image_size=12).image_shape == (3, 12, 12)


def test_training_never_opens_the_test_shards(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (hub / "data" / "test-00000-of-00001.parquet").write_bytes(b"no Parquet at all")
    opened: list[str] = []
    real = pq.ParquetFile

    def spy(source: Any, *args: Any, **kwargs: Any) -> Any:
        opened.append(Path(source).name)
        return real(source, *args, **kwargs)

    monkeypatch.setattr(pq, "ParquetFile", spy)
    assert len(load(hub)) == 10
    assert set(opened) == {"train-00000-of-00002.parquet", "train-00001-of-00002.parquet"}
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        load(hub, "test")


def test_relative_paths_come_from_here_then_from_the_root(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = hub.parent
    monkeypatch.delenv("DIVFEAT_DATA", raising=False)
    monkeypatch.chdir(root)
    assert len(load("pets")) == 10
    monkeypatch.chdir(root.parent)
    with pytest.raises(DataError, match=r"no Parquet file or folder at .*pets.* or set DIVFEAT_DATA"):
        load("pets")
    monkeypatch.setenv("DIVFEAT_DATA", str(root))
    assert len(load("pets")) == 10
    assert len(load("pets/data/train-*.parquet")) == 10
    with pytest.raises(DataError, match=r"no Parquet file or folder at .*none nor .*sets/none"):
        load("none")
    assert len(load("pets", root=root)) == 10


def test_patterns_and_single_files(hub: Path, tmp_path: Path, write_parquet: WriteParquet) -> None:
    assert len(load(hub / "data" / "t*.parquet", "test")) == 3
    assert len(load(hub / "data" / "test-00000-of-00001.parquet", "test")) == 3
    with pytest.raises(DataError, match=r"has no train split.*give the folder"):
        load(hub / "data" / "test-00000-of-00001.parquet")
    with pytest.raises(DataError, match="lacks shard 1 of 2 of 'train'"):
        load(hub / "data" / "train-00000-of-00002.parquet")
    plain = write_parquet(tmp_path / "birds.parquet", BLOBS, COLUMNS, NAMES)
    assert len(load(plain)) == 5
    with pytest.raises(DataError, match="has no test split"):
        load(plain, "test")


def test_split_folders_and_validation(tmp_path: Path, write_parquet: WriteParquet) -> None:
    write_parquet(tmp_path / "train" / "0000.parquet", BLOBS, COLUMNS, NAMES)
    write_parquet(
        tmp_path / "validation" / "0000.parquet", BLOBS[:2], {"fine_label": [2, 1], "coarse_label": [1, 0]}, NAMES
    )
    assert len(load(tmp_path)) == 5
    assert load(tmp_path, "test").fine.tolist() == [2, 1]
    write_parquet(tmp_path / "test" / "0000.parquet", BLOBS[:1], {"fine_label": [0], "coarse_label": [0]}, NAMES)
    assert load(tmp_path, "test").fine.tolist() == [0]
    # A word that only begins like a split is none.
    (tmp_path / "train" / "0000.parquet").rename(tmp_path / "trainee.parquet")
    with pytest.raises(DataError, match="has no train split"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("cifar10-train", "cifar10-test"),
        ("birds_train-00000-of-00001", "birds_test-00000-of-00001"),
        ("birds.Train", "birds.Validation"),
        ("train-of-birds", "test-on-train"),  # the first word counts
        ("pretrain_train", "contest_test"),  # and it is a whole word
    ],
)
def test_the_split_is_a_word_of_the_name(tmp_path: Path, write_parquet: WriteParquet, train: str, test: str) -> None:
    write_parquet(tmp_path / f"{train}.parquet", BLOBS, COLUMNS, NAMES)
    write_parquet(tmp_path / f"{test}.parquet", BLOBS[:2], {k: v[:2] for k, v in COLUMNS.items()}, NAMES)
    assert (len(load(tmp_path)), len(load(tmp_path, "test"))) == (5, 2)


def test_shards_that_name_no_split(tmp_path: Path, write_parquet: WriteParquet) -> None:
    """One export is all for training; of several, one may be the test split under a name of its own."""
    for i in range(2):
        write_parquet(tmp_path / f"birds-0000{i}-of-00002.parquet", BLOBS, COLUMNS, NAMES)
    assert len(load(tmp_path)) == 10
    write_parquet(tmp_path / "birds_eval.parquet", BLOBS, COLUMNS, NAMES)
    with pytest.raises(DataError, match=r"has no train split: shards must have 'train' in their names.*birds_eval"):
        load(tmp_path)


def test_fallbacks(tmp_path: Path, write_parquet: WriteParquet) -> None:
    """No metadata: the column is found by type, classes are numbers, and the training labels say how many."""
    write_parquet(tmp_path / "train.parquet", BLOBS, {"label": [0, 3, 2, 1, 0]}, image_column="picture")
    write_parquet(tmp_path / "test.parquet", BLOBS[:2], {"label": [1, 0]}, image_column="picture")
    for split in ("train", "test"):
        data = load(tmp_path, split)
        assert data.fine_names == ("0", "1", "2", "3")
        assert data.coarse_names is None
    table = pq.read_table(tmp_path / "train.parquet")
    for odd in (b"not json", b"[1]", b'{"info": {"features": {"label": {"_type": "Value"}}}}', b'{"info": null}'):
        pq.write_table(table.replace_schema_metadata({b"huggingface": odd}), tmp_path / "train.parquet")
        assert load(tmp_path).fine_names == ("0", "1", "2", "3")


def test_columns_can_be_named(tmp_path: Path, write_parquet: WriteParquet) -> None:
    path = tmp_path / "train.parquet"
    columns = {"species": [0, 1, 2, 1, 0], "kind": [0, 0, 1, 0, 0]}
    write_parquet(path, BLOBS, columns, {"species": ["a", "b", "c"]}, image_column="photo")
    table = pq.read_table(path)
    pq.write_table(table.append_column("thumb", table.column("photo")), path)
    with pytest.raises(DataError, match=r"2 image columns.*name one with data\.image_column"):
        load(path)
    with pytest.raises(
        DataError, match=r"no integer label column fine_label or label; its columns are photo \(struct\), species"
    ):
        load(path, image_column="thumb")
    data = load(path, image_column="thumb", fine_column="species", coarse_column="kind")
    assert data.fine_names == ("a", "b", "c")
    assert data.coarse_names == ("0", "1")
    with pytest.raises(DataError, match="no integer label column 'genus'"):
        load(path, image_column="thumb", fine_column="genus")
    with pytest.raises(DataError, match="no image column 'species'"):
        load(path, image_column="species", fine_column="species")


@pytest.mark.parametrize(
    ("columns", "names", "message"),
    [
        ({"label": ["a", "b", "c", "d", "e"]}, None, "no integer label column"),
        ({"label": [0, 1, None, 1, 0]}, None, "row 2 of .* has no label"),
        ({"label": [0, 1, 2, 1, 0]}, {"label": ["a", "b"]}, r"row 2 of .* has label 2, outside \[0, 2\)"),
        ({"label": [0, 1, -1, -1, 0]}, {"label": ["a", "b"]}, r"row 2 of .* has label -1.*2 such rows"),
        ({"fine_label": [0, 1, 2, 1, 0], "coarse_label": [0, 0, 1, 1, 0]}, NAMES, "'dog' lies under two coarse"),
        ({"label": [0, 1, 2, 1, 0]}, {"label": ["a", "a", "b"]}, "repeated: 'a'"),
    ],
)
def test_bad_labels(
    tmp_path: Path,
    write_parquet: WriteParquet,
    columns: dict[str, Any],
    names: dict[str, list[str]] | None,
    message: str,
) -> None:
    write_parquet(tmp_path / "train.parquet", BLOBS, columns, names)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_labels_are_checked_before_images_are_decoded(
    tmp_path: Path, write_parquet: WriteParquet, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(tmp_path / "train.parquet", BLOBS, {"label": [0, 1, 9, 1, 0]}, {"label": ["a", "b"]})
    monkeypatch.setattr("divfeat.data.sources.parquet.decode_images", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(DataError, match="label 9"):
        load(tmp_path)


def test_bad_images(tmp_path: Path, write_parquet: WriteParquet) -> None:
    labels = {"label": [0, 1, 2, 1, 0]}
    first = write_parquet(tmp_path / "train-00000-of-00002.parquet", BLOBS, labels)
    second = tmp_path / "train-00001-of-00002.parquet"
    write_parquet(second, [*BLOBS[:3], BLOBS[3][:40], BLOBS[4]], labels)
    with pytest.raises(DataError, match=f"row 3 of {second} is not a readable image"):
        load(tmp_path)
    write_parquet(second, [BLOBS[0], None, *BLOBS[2:]], labels)
    with pytest.raises(DataError, match=f"row 1 of {second} has no image bytes"):
        load(tmp_path)
    write_parquet(second, [encode(random_image(0, (9, 6))), *BLOBS[1:]], labels)
    with pytest.raises(
        DataError, match=f"row 0 of {second} is 9 x 6 pixels but row 0 of {first} is 6 x 6: set image_size"
    ):
        load(tmp_path)
    assert load(tmp_path, image_size=6).image_shape == (3, 6, 6)


def test_bad_sets(tmp_path: Path, write_parquet: WriteParquet) -> None:
    tmp_path.joinpath("empty").mkdir()
    with pytest.raises(DataError, match=r"holds no \.parquet file"):
        load(tmp_path / "empty")
    write_parquet(tmp_path / "none" / "train.parquet", [], {"label": pa.array([], pa.int64())})
    with pytest.raises(DataError, match=r"the train split in .* has no rows"):
        load(tmp_path / "none")
    two = tmp_path / "two"
    write_parquet(two / "a" / "train.parquet", BLOBS, COLUMNS)
    write_parquet(two / "b" / "train.parquet", BLOBS, COLUMNS)
    with pytest.raises(DataError, match="several folders"):
        load(two)
    mixed = tmp_path / "mixed"
    write_parquet(mixed / "train-00000-of-00002.parquet", BLOBS, COLUMNS, NAMES)
    write_parquet(mixed / "train-00001-of-00002.parquet", BLOBS, COLUMNS, NAMES | {"fine_label": ["dog", "cat", "car"]})
    with pytest.raises(DataError, match="name the classes of 'fine_label' differently"):
        load(mixed)
    write_parquet(mixed / "train-00001-of-00002.parquet", BLOBS, {"label": COLUMNS["fine_label"]})
    with pytest.raises(DataError, match="lacks the column 'coarse_label'"):
        load(mixed)
    write_parquet(mixed / "train-00000-of-00001.parquet", BLOBS, COLUMNS, NAMES)
    with pytest.raises(DataError, match="several exports of one split"):
        load(mixed)
    tmp_path.joinpath("no_image").mkdir()
    pq.write_table(pa.table({"label": [1]}), tmp_path / "no_image" / "train.parquet")
    with pytest.raises(DataError, match=r"has no image columns .* its columns are label \(int64\)"):
        load(tmp_path / "no_image")


def test_metadata_of_the_hub_is_read_as_written(hub: Path) -> None:
    """The fixture's metadata is what the hub writes: a ClassLabel feature with its names."""
    metadata = pq.read_schema(hub / "data" / "test-00000-of-00001.parquet").metadata[b"huggingface"]
    assert json.loads(metadata)["info"]["features"]["fine_label"] == {
        "names": ["cat", "dog", "car"],
        "_type": "ClassLabel",
    }
