from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from divfeat.data import ImageSet
from divfeat.errors import DataError


def make(**changes: Any) -> ImageSet:
    rng = np.random.default_rng(0)
    fields: dict[str, Any] = {
        "images": rng.integers(0, 256, (6, 3, 4, 5), dtype=np.uint8),
        "fine": np.array([0, 1, 2, 0, 1, 2]),
        "coarse": np.array([0, 0, 1, 0, 0, 1]),
        "fine_names": ("a", "b", "c", "never"),
        "coarse_names": ("x", "y"),
    }
    return ImageSet(**(fields | changes))


def test_reads() -> None:
    data = make()
    assert len(data) == 6
    assert data.image_shape == (3, 4, 5)
    assert data.labels("fine") is data.fine
    assert data.labels("coarse") is data.coarse
    assert (data.num_classes("fine"), data.num_classes("coarse")) == (4, 2)
    assert data.fine_to_coarse.tolist() == [0, 0, 1, -1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((6, 3, 4, 5), dtype=np.float32)}, "uint8"),
        ({"images": np.zeros((6, 4, 5), dtype=np.uint8)}, "N, C, H, W"),
        ({"images": np.zeros((6, 4, 5, 3), dtype=np.uint8)}, "4 channels"),
        ({"images": np.zeros((6, 4, 5, 3), dtype=np.uint8).transpose(0, 3, 1, 2)}, "contiguous"),
        ({"images": np.zeros((0, 3, 4, 5), dtype=np.uint8)}, "empty"),
        ({"fine": np.zeros(6, dtype=np.int32)}, "int64"),
        ({"fine": np.zeros(5, dtype=np.int64)}, "int64"),
        ({"fine": np.array([0, 1, 2, 0, 1, 4])}, r"fine label 4 in row 5 lies outside \[0, 4\)"),
        ({"fine": np.array([0, -1, 2, 0, 1, 2])}, "fine label -1 in row 1"),
        ({"coarse": np.array([0, 0, 2, 0, 0, 1])}, "coarse label 2 in row 2"),
        ({"fine_names": ("a", "b", "b", "d")}, "repeated: 'b'"),
        ({"coarse": None}, "both or neither"),
        ({"coarse_names": None}, "both or neither"),
        ({"coarse": np.array([0, 0, 1, 1, 0, 1])}, "'a' lies under two coarse classes"),
    ],
)
def test_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(**changes)


def test_coarse_where_there_is_none_names_a_remedy() -> None:
    data = make(coarse=None, coarse_names=None)
    for ask in (data.labels, data.num_classes, data.class_names):
        with pytest.raises(DataError, match="no coarse labels: use level 'fine'"):
            ask("coarse")
    with pytest.raises(DataError, match="unknown label level 'middle'"):
        data.labels("middle")  # type: ignore[arg-type]


def test_subset_copies_rows_and_keeps_names() -> None:
    data = make()
    part = data.subset(np.array([4, 0]))
    assert np.array_equal(part.images, data.images[[4, 0]])
    assert part.fine.tolist() == [1, 0]
    assert part.fine_names == data.fine_names
    assert part.fine_to_coarse.tolist() == [0, 0, -1, -1]
    assert not np.shares_memory(part.images, data.images)
    for bad in (np.array([6]), np.array([-1]), np.array([0.5]), np.array([[0]]), np.ones(6, dtype=bool)):
        with pytest.raises(DataError, match="row"):
            data.subset(bad)


def test_hash_depends_on_each_field_and_on_nothing_else() -> None:
    base = make()
    images, coarse = base.images.copy(), np.array([1, 1, 0, 1, 1, 0])
    images[3, 1, 2, 0] ^= 1
    different = [
        base,
        make(images=images),
        make(images=base.images.reshape(6, 3, 5, 4)),
        make(fine=np.array([0, 1, 2, 0, 0, 2])),
        make(coarse=coarse),
        make(coarse=None, coarse_names=None),
        make(fine_names=("a", "b", "c", "d")),
        make(coarse_names=("x", "z")),
    ]
    assert len({data.content_hash for data in different}) == len(different)
    assert make().content_hash == base.content_hash
    # A fixed value: the hash is written into results and must not drift between versions.
    tiny = ImageSet(np.arange(4, dtype=np.uint8).reshape(1, 1, 2, 2), np.array([0]), None, ("a",), None)
    assert tiny.content_hash == "ae64279daf1e99f6b40d3c2494625cb9dc7837110621cbcede5e2735fba7081b"


def test_arrays_are_neither_copied_nor_written_and_pickle_out_of_band() -> None:
    data = make()
    for array in (data.images, data.fine, data.coarse):
        assert array is not None
        array.flags.writeable = False
    frozen = make(images=data.images, fine=data.fine, coarse=data.coarse)
    assert frozen.images is data.images
    expected = frozen.content_hash
    buffers: list[pickle.PickleBuffer] = []
    stream = pickle.dumps(frozen, protocol=5, buffer_callback=buffers.append)
    assert len(stream) < 1500  # the images are not in it
    back = pickle.loads(stream, buffers=[buffer.raw().toreadonly() for buffer in buffers])
    assert np.shares_memory(back.images, data.images)
    assert not back.images.flags.writeable
    assert back.content_hash == expected
    assert back.channel_stats()[0].shape == (3,)


def test_channel_stats_are_the_moments() -> None:
    data = make()
    mean, std = data.channel_stats()
    np.testing.assert_allclose(mean, (data.images / 255.0).mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, (data.images / 255.0).std(axis=(0, 2, 3)), rtol=1e-12)


def test_channel_stats_over_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = make().channel_stats()
    monkeypatch.setattr("divfeat.data.images._CHUNK", 4)
    np.testing.assert_array_equal(make().channel_stats(), expected)
