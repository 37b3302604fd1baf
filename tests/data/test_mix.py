"""mixup and CutMix against loops and torchvision, their keys, and the pairs that a stream makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from torchvision.transforms import v2

from divfeat.data import Batch, Batches, Mix, Targets
from divfeat.data import mix as module
from divfeat.data.keyed import keyed_bits, stream_key
from divfeat.errors import ConfigError


def stream(count: int, **changes: Any) -> Batches:
    images = np.random.default_rng(0).integers(0, 256, (count, 3, 6, 5), dtype=np.uint8)
    labels = np.arange(count, dtype=np.int64) * 7 % 10
    return Batches(images, labels, **({"batch_size": 8, "seed": 0, "paired": True} | changes))


# --- pairs ------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.integers(4, 200),
    st.integers(2, 64),
    st.integers(1, 4),
    st.integers(0, 50),
    st.sampled_from(["natural", "balanced"]),
)
def test_pairs_do_not_depend_on_the_world(count: int, size: int, world: int, epoch: int, sampling: Any) -> None:
    assume(count // -(-count // size) >= world)
    how: dict[str, Any] = {"batch_size": size, "sampling": sampling}
    alone = list(stream(count, **how).epoch(epoch))
    ranks = [list(stream(count, **how, rank=rank, world=world).epoch(epoch)) for rank in range(world)]
    for step, whole in enumerate(alone):
        assert whole.partner is not None
        assert sorted(whole.partner.tolist()) == list(range(len(whole.draw)))  # a permutation of the global batch
        own, others = [], []
        for rank in ranks:
            part = rank[step]
            assert part.partner is not None
            own.append(part.draw[: len(part.partner)])
            others.append(part.draw[part.partner])
            assert len(part.draw) == len(set(part.draw.tolist())) <= 2 * len(part.partner)  # each image once
            assert len(part.images) == len(part.labels) == len(part.index) == len(part.draw)
            assert part.global_size == len(whole.draw)
        assert torch.equal(torch.cat(own), whole.draw)
        assert torch.equal(torch.cat(others), whole.draw[whole.partner])


def test_pairs_change_nothing_else_and_follow_seed_and_epoch() -> None:
    for plain, paired in zip(stream(50, paired=False).epoch(1), stream(50).epoch(1), strict=True):
        assert plain.partner is None
        assert all(torch.equal(a, b) for a, b in zip(plain[:3], paired[:3], strict=True))
    found = [
        tuple(int(place) for batch in stream(64, batch_size=16, seed=seed).epoch(epoch) for place in batch.partner)
        for seed in range(3)
        for epoch in range(3)
    ]
    assert len(set(found)) == 9
    rest = list(stream(50).epoch(1, start_step=3))
    for a, b in zip(list(stream(50).epoch(1))[3:], rest, strict=True):
        assert torch.equal(a.partner, b.partner) and torch.equal(a.draw, b.draw)


# --- mixing -----------------------------------------------------------------------------------------------------------


def naive(alphas: tuple[float, float], seed: int, epoch: int, batch: Batch) -> tuple[np.ndarray, list[float]]:
    """One image at a time, from the papers."""

    def draw(name: str, i: int, high: int) -> int:
        return int(keyed_bits(stream_key(seed, f"mix/{name}", epoch), torch.tensor([i]))[0]) % high

    assert batch.partner is not None
    images, shares = [], []
    _, _, height, width = batch.images.shape
    for place, partner in enumerate(batch.partner.tolist()):
        own, other = batch.images[place].numpy(), batch.images[partner].numpy()
        i = int(batch.draw[place])
        cut = alphas[1] > 0 and (alphas[0] == 0 or draw("kind", i, 2) == 1)
        alpha = alphas[1] if cut else alphas[0]
        weight = float(stats.beta(alpha, alpha).ppf((draw("weight", i, 4096) + 0.5) / 4096))
        if not cut:
            images.append(np.rint(weight * own + (1 - weight) * other).astype(np.uint8))
            shares.append(weight)
            continue
        half_h, half_w = int(0.5 * np.sqrt(1 - weight) * height), int(0.5 * np.sqrt(1 - weight) * width)
        row, column = draw("row", i, height), draw("column", i, width)
        top, bottom = max(0, row - half_h), min(height, row + half_h)
        left, right = max(0, column - half_w), min(width, column + half_w)
        mixed = own.copy()
        mixed[:, top:bottom, left:right] = other[:, top:bottom, left:right]
        images.append(mixed)
        shares.append(1 - (bottom - top) * (right - left) / (height * width))
    return np.stack(images), shares


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([(1.0, 0.0), (0.2, 0.0), (0.0, 1.0), (0.0, 0.4), (0.8, 1.0)]),
    st.integers(0, 2**40),
    st.integers(0, 300),
    st.integers(1, 2),
)
def test_equals_a_loop_over_images(alphas: tuple[float, float], seed: int, epoch: int, world: int) -> None:
    for batch in stream(40, batch_size=20, world=world).epoch(epoch):
        assert batch.partner is not None
        before = batch.images.clone()
        images, targets = Mix(*alphas, seed=seed)(batch.images, batch, epoch)
        expected, shares = naive(alphas, seed, epoch, batch)
        np.testing.assert_array_equal(images.numpy(), expected)
        assert targets.others is not None and targets.share is not None
        assert targets.share.tolist() == pytest.approx(shares, abs=1e-6)
        assert torch.equal(targets.labels, batch.labels[: len(images)])
        assert torch.equal(targets.others, batch.labels[batch.partner])
        assert torch.equal(batch.images, before)
        main = [y if s >= 0.5 else z for y, z, s in zip(*(part.tolist() for part in targets), strict=True)]
        assert targets.main.tolist() == main


def rolled(count: int = 12) -> Batch:
    """A batch in which each image's partner is the one before it, as torchvision pairs them."""
    batch = next(stream(count, batch_size=count).epoch(0))
    return batch._replace(partner=torch.arange(count).roll(1))


def test_mixup_is_torchvisions() -> None:
    batch = rolled()
    images, targets = Mix(1.0, 0.0, seed=0)(batch.images, batch, 0)
    assert targets.share is not None
    for i, weight in enumerate(targets.share.tolist()):
        params = {"lam": weight, "labels": batch.labels, "batch_size": len(images)}
        theirs = v2.MixUp(num_classes=10).transform(batch.images.float(), params)
        assert (images[i] - theirs[i]).abs().max() <= 0.5 + 1e-4  # ours is rounded
        label = v2.MixUp(num_classes=10).transform(batch.labels, params)[i]
        ours = torch.zeros(10)
        ours[targets.labels[i]] += weight
        ours[targets.others[i]] += 1 - weight  # type: ignore[index]
        torch.testing.assert_close(ours, label)


def test_cutmix_is_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weight and centre give torchvision's box, pixels and share."""
    batch, mix = rolled(), Mix(0.0, 1.0, seed=0)
    images, targets = mix(batch.images, batch, 0)
    assert targets.share is not None
    for i, draw in enumerate(batch.draw):
        column, row = (int(mix._draw(name, 0, draw, size)) for name, size in (("column", 5), ("row", 6)))
        weight = float(mix._weights(mix._cutmix, 0, draw[None]))  # type: ignore[arg-type]
        theirs = v2.CutMix(num_classes=10)
        drawn = iter([torch.tensor([column]), torch.tensor([row])])
        monkeypatch.setattr(torch, "randint", lambda *args, drawn=drawn, **kwargs: next(drawn))
        monkeypatch.setattr(theirs._dist, "sample", lambda shape, weight=weight: torch.tensor(weight).double())
        params = theirs.make_params([batch.images]) | {"labels": batch.labels, "batch_size": len(images)}
        monkeypatch.undo()
        assert float(targets.share[i]) == pytest.approx(params["lam_adjusted"])
        assert torch.equal(images[i], theirs.transform(batch.images, params)[i])


@pytest.mark.parametrize("alphas", [(1.0, 0.0), (0.0, 1.0), (0.3, 0.7)])
def test_two_ranks_mix_what_one_process_mixes(alphas: tuple[float, float]) -> None:
    for step, whole in enumerate(stream(60, batch_size=21).epoch(4)):
        expected, targets = Mix(*alphas, seed=3)(whole.images, whole, 4)
        parts = []
        for rank in range(2):
            batch = list(stream(60, batch_size=21, rank=rank, world=2).epoch(4))[step]
            parts.append(Mix(*alphas, seed=3)(batch.images, batch, 4))
        assert torch.equal(torch.cat([images for images, _ in parts]), expected)
        for name, value in targets._asdict().items():
            assert torch.equal(torch.cat([getattr(part, name) for _, part in parts]), value), name


def test_off_leaves_the_batch_alone() -> None:
    for world in (1, 2):
        batch = next(stream(40, batch_size=20, world=world).epoch(0))
        images, targets = Mix(0.0, 0.0, seed=0)(batch.images, batch, 0)
        share = 20 // world
        assert torch.equal(images, batch.images[:share])
        assert torch.equal(targets.labels, batch.labels[:share])
        assert targets.others is None and targets.share is None
        assert torch.equal(targets.main, targets.labels)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 4.0])
def test_weights_follow_their_distribution(alpha: float) -> None:
    table = module._beta_quantiles(alpha)
    assert bool(torch.isfinite(table).all()) and 0 <= table.min() <= table.max() <= 1
    torch.testing.assert_close(table + table.flip(0), torch.ones_like(table), rtol=0, atol=1e-9)
    mix = Mix(alpha, 0.0, seed=0)
    drawn = mix._weights(table, 0, torch.arange(20_000)).numpy()
    assert stats.kstest(drawn, stats.beta(alpha, alpha).cdf).statistic < 0.015
    both = Mix(alpha, alpha, seed=0)
    assert 9_600 < int(both._draw("kind", 0, torch.arange(20_000), 2).sum()) < 10_400  # sd 71
    epochs = [mix._weights(table, epoch, torch.arange(1000)).numpy() for epoch in (0, 1)]
    assert abs(np.corrcoef(*epochs)[0, 1]) < 0.1


def test_refuses() -> None:
    with pytest.raises(ConfigError, match=r"mixup=-1.0, cutmix=0: an alpha must be positive, or 0"):
        Mix(-1.0, 0, seed=0)
    batch = next(stream(20, paired=False).epoch(0))
    with pytest.raises(ConfigError, match=r"need a stream that pairs images: Batches\(..., paired=True\)"):
        Mix(1.0, 0.0, seed=0)(batch.images, batch, 0)


def test_targets_without_a_mix_are_their_labels() -> None:
    labels = torch.arange(3)
    assert Targets(labels).main is labels


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("alphas", [(1.0, 0.0), (0.0, 1.0), (0.3, 0.7)])
def test_gpu_mixes_the_same(alphas: tuple[float, float]) -> None:
    here, there = next(stream(200, batch_size=100).epoch(1)), next(stream(200, batch_size=100, device="cuda").epoch(1))
    expected, targets = Mix(*alphas, seed=7)(here.images, here, 1)
    images, found = Mix(*alphas, seed=7, device="cuda")(there.images, there, 1)
    assert torch.equal(images.cpu(), expected)
    for a, b in zip(targets, found, strict=True):
        assert torch.equal(a, b.cpu())
