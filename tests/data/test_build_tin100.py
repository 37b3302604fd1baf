"""studies/build_tin100.py on a small made archive of the same form."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from divfeat.data import load_source
from divfeat.errors import DataError
from tests.data.conftest import random_image


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).parents[2] / "studies" / "build_tin100.py"
    spec = importlib.util.spec_from_file_location("build_tin100", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["build_tin100"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def archive(script: ModuleType, tmp_path: Path) -> Path:
    """Two training images and one of validation a class, and a class that is not among the 100."""
    root = tmp_path / "tiny-imagenet-200"
    (root / "val" / "images").mkdir(parents=True)
    words, annotations = ["n00000000\tentity", "n99999999\tsomething else"], []
    wnids = [entry.wnid for entry in script.classes()]
    for number, wnid in enumerate([*wnids[::-1], "n99999999"]):
        folder = root / "train" / wnid / "images"
        folder.mkdir(parents=True)
        for i in (0, 10):
            Image.fromarray(random_image(number * 20 + i, (64, 64))).save(folder / f"{wnid}_{i}.JPEG")
        Image.fromarray(random_image(number, (64, 64))[:, :, 0]).save(root / "val" / "images" / f"val_{number}.JPEG")
        annotations.append(f"val_{number}.JPEG\t{wnid}\t0\t0\t62\t62")
    words += [f"{entry.wnid}\tother word, {entry.name.replace('_', ' ')}" for entry in script.classes()]
    (root / "words.txt").write_text("\n".join(words) + "\n")
    (root / "val" / "val_annotations.txt").write_text("\n".join(annotations) + "\n")
    return root


def build(script: ModuleType, archive: Path, out: Path, **changes: object) -> None:
    script.build(archive, out, **({"train_per_class": 2, "test_per_class": 1} | changes))


def test_the_table(script: ModuleType) -> None:
    classes = script.classes()
    assert len(classes) == len({entry.wnid for entry in classes}) == len({entry.name for entry in classes}) == 100
    assert Counter(Counter(entry.coarse for entry in classes).values()) == {5: 20}
    assert len({entry.middle for entry in classes}) == 8
    assert len({entry.top for entry in classes}) == 3
    tree = script.hierarchy()
    assert sum(len(leaves) for top in tree.values() for middle in top.values() for leaves in middle.values()) == 100


def test_a_build_loads(script: ModuleType, archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(script, archive, out)
    train, test = (load_source(f"parquet:{out}", split=split) for split in ("train", "test"))
    assert train.images.shape == (200, 3, 32, 32)
    assert np.bincount(train.fine).tolist() == [2] * 100
    assert np.bincount(test.fine).tolist() == [1] * 100
    assert train.fine_names == tuple(entry.name for entry in script.classes())
    assert test.coarse_names == tuple(sorted({entry.coarse for entry in script.classes()}))
    names = train.class_names("coarse")
    assert [names[k] for k in train.fine_to_coarse] == [entry.coarse for entry in script.classes()]
    assert json.loads((out / "hierarchy.json").read_text()) == script.hierarchy()


def test_pixels_labels_and_shuffle(script: ModuleType, archive: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    out = tmp_path / "out"
    build(script, archive, out, resample="box")
    table = pq.read_table(out / "train-00000-of-00001.parquet")
    paths = [row["path"] for row in table.column("img").to_pylist()]
    assert len(set(paths)) == 200
    assert paths != sorted(paths)
    labels = {entry.wnid: k for k, entry in enumerate(script.classes())}
    assert table.column("fine_label").to_pylist() == [labels[path.split("_")[0]] for path in paths]
    data = load_source(f"parquet:{out}", split="train")
    with Image.open(archive / "train" / paths[0].split("_")[0] / "images" / paths[0]) as image:
        wanted = np.asarray(image.reduce(2), dtype=int).transpose(2, 0, 1)
    assert np.abs(data.images[0] - wanted).mean() < 12  # JPEG loss on noise; another image is some 25 away
    assert np.abs(data.images[1] - wanted).mean() > 18
    # Rebuilding gives the same; another filter other images, and the comparison says so.
    build(script, archive, tmp_path / "again", resample="box")
    build(script, archive, tmp_path / "other", resample="lanczos")
    again, other = (load_source(f"parquet:{tmp_path / name}", split="train") for name in ("again", "other"))
    assert again.content_hash == data.content_hash != other.content_hash
    assert "content hash equal, 100.0% of images identical, mean |difference| 0.000" in script.compare(data, again)
    assert "class names equal, labels in row order equal, content hash DIFFER, 0.0%" in script.compare(data, other)
    assert "shapes differ" in script.compare(data, data.subset(np.arange(3)))


def test_refuses_what_is_not_the_archive(script: ModuleType, archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"n01629819.*: 2 images where 500 are due"):
        script.build(archive, out)
    with pytest.raises(DataError, match=r"val_annotations.txt, class .*: 1 images where 50 are due"):
        build(script, archive, out, test_per_class=50)
    words = archive / "words.txt"
    text = words.read_text()
    words.write_text(text.replace("other word, koala", "wombat"))
    with pytest.raises(DataError, match="n01882714 is 'wombat', not 'koala'"):
        build(script, archive, out)
    words.unlink()
    with pytest.raises(DataError, match=r"words\.txt cannot be read"):
        build(script, archive, out)
    words.write_text(text)
    first = next((archive / "train" / "n01882714" / "images").iterdir())
    first.write_bytes(b"broken")
    with pytest.raises(DataError, match=f"{first} is not a readable image"):
        build(script, archive, out)


def test_command(
    script: ModuleType,
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = str(tmp_path / "out")
    assert script.main([str(archive), out]) == 1
    assert "500 are due" in capsys.readouterr().err
    real = script.build
    monkeypatch.setattr(script, "build", lambda *a, **k: real(*a, **k, train_per_class=2, test_per_class=1))
    assert script.main([str(archive), out, "--compare", out]) == 0
    printed = capsys.readouterr().out
    assert f"train: 200 images, content hash {load_source(f'parquet:{out}', split='train').content_hash}" in printed
    assert "100.0% of images identical" in printed


def test_an_unwritable_out_is_one_message(
    script: ModuleType,
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = script.build
    monkeypatch.setattr(script, "build", lambda *a, **k: real(*a, **k, train_per_class=2, test_per_class=1))
    (tmp_path / "file").write_text("mine")
    assert script.main([str(archive), str(tmp_path / "file" / "out")]) == 1
    assert f"error: {tmp_path / 'file' / 'out'} cannot be written" in capsys.readouterr().err
    (tmp_path / "out" / "train-00000-of-00001.parquet").mkdir(parents=True)
    assert script.main([str(archive), str(tmp_path / "out")]) == 1
    assert "out cannot be written" in capsys.readouterr().err


def test_the_table_is_that_of_the_real_images(script: ModuleType, real_data: Path) -> None:
    """Names, tree, ids (from the file names), row order and JPEG settings of the copy at hand."""
    import io
    import random

    import pyarrow.parquet as pq

    folder = real_data / "tin100"
    assert json.loads((folder / "hierarchy.json").read_text()) == script.hierarchy()
    ids = [entry.wnid for entry in script.classes()]
    for split, seed in (("train", 0), ("test", 1)):
        table = pq.read_table(folder / f"{split}-00000-of-00001.parquet")
        images = table.column("img").combine_chunks()
        paths, labels = images.field("path").to_pylist(), table.column("fine_label").to_pylist()
        features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        assert features["fine_label"]["names"] == [entry.name for entry in script.classes()]
        order = sorted(paths)
        random.Random(seed).shuffle(order)
        assert paths == order
        if split == "train":
            assert all(path.split("_")[0] == ids[label] for path, label in zip(paths, labels, strict=True))
        original = Image.open(io.BytesIO(images.field("bytes")[0].as_py()))
        buffer = io.BytesIO()
        original.save(buffer, "JPEG", quality=script.QUALITY, subsampling=0)
        again = Image.open(io.BytesIO(buffer.getvalue()))
        assert original.size == (script.SIZE, script.SIZE)
        assert (original.quantization, original.layer) == (again.quantization, again.layer)
