from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from divfeat.data import Batches, BatchStream
from divfeat.data import batches as module
from divfeat.errors import ConfigError, DataError


def arrays(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images that carry their row number, and labels that can be told from it."""
    rows = np.arange(count)
    images = np.stack([rows // 256, rows % 256], axis=1).astype(np.uint8).reshape(count, 1, 1, 2)
    return images, rows * 7 % 10


def stream(count: int, **changes: Any) -> Batches:
    return Batches(*arrays(count), **({"batch_size": 8, "seed": 0} | changes))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 64), st.integers(1, 5), st.integers(0, 50), st.integers(0, 1000))
def test_an_epoch_is_a_partition_whatever_the_world(count: int, size: int, world: int, epoch: int, seed: int) -> None:
    steps = -(-count // size)
    assume(count // steps >= world)
    alone = list(stream(count, batch_size=size, seed=seed).epoch(epoch))
    ranks = [list(stream(count, batch_size=size, seed=seed, rank=r, world=world).epoch(epoch)) for r in range(world)]
    assert len(alone) == steps == stream(count, batch_size=size).steps_per_epoch
    assert sorted(torch.cat([batch.index for batch in alone]).tolist()) == list(range(count))
    sizes = {len(batch.index) for batch in alone}
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1
    for step, whole in enumerate(alone):
        parts = [batches[step] for batches in ranks]
        assert torch.equal(torch.cat([part.index for part in parts]), whole.index)
        assert {part.global_size for part in parts} == {len(whole.index)} == {whole.global_size}
        shares = [len(part.index) for part in parts]
        assert min(shares) >= 1
        assert max(shares) - min(shares) <= 1


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 200), st.integers(1, 40), st.integers(0, 9), st.data())
def test_resume_continues_the_same_epoch(count: int, size: int, epoch: int, data: st.DataObject) -> None:
    batches = stream(count, batch_size=size)
    step = data.draw(st.integers(0, batches.steps_per_epoch))
    whole, rest = list(batches.epoch(epoch)), list(stream(count, batch_size=size).epoch(epoch, start_step=step))
    assert len(rest) == len(whole) - step
    for a, b in zip(rest, whole[step:], strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))


@pytest.mark.parametrize("sampling", ["natural", "balanced", "square_root"])
def test_images_labels_and_index_belong_together(sampling: str) -> None:
    images, labels = arrays(1000)
    for batch in stream(1000, batch_size=64, sampling=sampling).epoch(3):
        assert torch.equal(batch.index, batch.draw % 1000)
        assert torch.equal(batch.images, torch.from_numpy(images)[batch.index])
        assert torch.equal(batch.labels, torch.from_numpy(labels)[batch.index])
        assert (batch.images.dtype, batch.labels.dtype, batch.index.dtype) == (torch.uint8, torch.int64, torch.int64)


def test_order_depends_on_seed_and_epoch_only() -> None:
    base = stream(500).order(0)
    assert torch.equal(stream(500, batch_size=3, world=2, rank=1).order(0), base)
    orders = {tuple(stream(500, seed=s).order(e).tolist()) for s in range(4) for e in range(4)}
    assert len(orders) == 16
    first = np.array([int(stream(20, seed=s).order(0)[0]) for s in range(2000)])
    assert 60 < np.bincount(first, minlength=20).min() <= np.bincount(first, minlength=20).max() < 150  # 100, sd 10


def test_a_natural_draw_is_its_row() -> None:
    assert all(torch.equal(batch.draw, batch.index) for batch in stream(100).epoch(2))


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 200), st.integers(4, 40), st.integers(1, 4), st.integers(0, 50), st.data())
def test_sampled_batches_do_not_depend_on_the_world_or_a_resume(
    count: int, size: int, world: int, epoch: int, data: st.DataObject
) -> None:
    assume(count // -(-count // size) >= world)
    how: dict[str, Any] = {"batch_size": size, "sampling": data.draw(st.sampled_from(["balanced", "square_root"]))}
    alone = list(stream(count, **how).epoch(epoch))
    ranks = [list(stream(count, **how, rank=rank, world=world).epoch(epoch)) for rank in range(world)]
    for step, whole in enumerate(alone):
        for a, b in zip(whole[:3], zip(*(rank[step][:3] for rank in ranks), strict=True), strict=True):
            assert torch.equal(a, torch.cat(b))
        assert torch.equal(whole.draw, torch.cat([rank[step].draw for rank in ranks]))
    drawn = torch.cat([batch.draw for batch in alone])
    assert len(drawn) == len(set(drawn.tolist())) == count
    step = data.draw(st.integers(0, len(alone)))
    rest = torch.cat([*(batch.draw for batch in stream(count, **how).epoch(epoch, step)), drawn[:0]])
    assert torch.equal(rest, drawn[count - len(rest) :])


def test_balanced_batches_mix_the_classes() -> None:
    """The order is shuffled over the whole epoch, not class after class."""
    labels = np.repeat(np.arange(4), [700, 200, 70, 30])
    batches = Batches(np.zeros((1000, 1, 1, 1), dtype=np.uint8), labels, batch_size=100, seed=0, sampling="balanced")
    for batch in batches.epoch(0):
        assert (torch.bincount(batch.labels, minlength=4) > 10).all()  # 25 each, sd 4


def test_batches_are_of_one_size() -> None:
    assert [len(batch.index) for batch in stream(21).epoch(0)] == [7, 7, 7]  # not 8, 8, 5


def test_read_only_arrays_give_no_warning_and_stay_untouched() -> None:
    images, labels = arrays(40)
    images.flags.writeable = labels.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for batch in Batches(images, labels, batch_size=16, seed=0).epoch(0):
            batch.images.zero_()
    assert np.array_equal(images, arrays(40)[0])


def test_images_stay_on_a_gpu_of_whose_free_memory_they_take_less_than_a_quarter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (400, 1000))
    assert module.fits_on(torch.device("cuda"), 99)
    assert not module.fits_on(torch.device("cuda:1"), 100)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: pytest.fail("asked a GPU"))
    assert not module.fits_on(torch.device("cpu"), 1)


def test_images_on_the_device_give_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = arrays(40)
    images.flags.writeable = labels.flags.writeable = False
    gathered = list(Batches(images, labels, batch_size=16, seed=0, rank=1, world=2).epoch(1))
    asked: list[int] = []
    monkeypatch.setattr(module, "fits_on", lambda device, size: asked.append(size) or True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resident = Batches(images, labels, batch_size=16, seed=0, rank=1, world=2)
    assert asked == [80]  # bytes
    assert isinstance(resident._images, torch.Tensor)
    for a, b in zip(gathered, resident.epoch(1), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))


def test_is_a_batch_stream() -> None:
    batches: BatchStream = stream(10)
    assert batches.steps_per_epoch == 2


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"batch_size": 0}, ConfigError, "batch_size=0"),
        ({"rank": 2, "world": 2}, ConfigError, "rank=2"),
        ({"world": 0}, ConfigError, "world=0"),
        ({"sampling": "uniform"}, ConfigError, "unknown sampling 'uniform'. Known: natural, square_root, balanced"),
        ({"batch_size": 3, "world": 4}, ConfigError, "too few for 4 workers"),
    ],
)
def test_refuses(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        stream(20, **changes)


def test_refuses_unequal_lengths_and_steps_that_do_not_exist() -> None:
    for count in (20, 0):
        with pytest.raises(DataError, match=f"{count} images and {max(count - 1, 0)} labels"):
            Batches(arrays(20)[0][:count], arrays(20)[1][: max(count - 1, 0)], batch_size=4, seed=0)
    assert list(stream(20).epoch(0, start_step=3)) == []
    for epoch, step in ((0, 4), (0, -1), (-1, 0)):
        with pytest.raises(ConfigError, match="steps 0 to 3"):
            stream(20).epoch(epoch, step)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_gets_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    resident = stream(100, batch_size=16, device="cuda").epoch(2)
    monkeypatch.setattr(module, "fits_on", lambda device, size: False)
    copied = stream(100, batch_size=16, device="cuda").epoch(2)
    for a, b, c in zip(stream(100, batch_size=16).epoch(2), copied, resident, strict=True):
        for x, y, z in zip(a[:3], b[:3], c[:3], strict=True):
            assert y.is_cuda
            assert z.is_cuda
            assert torch.equal(x, y.cpu())
            assert torch.equal(x, z.cpu())
