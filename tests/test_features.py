"""Feature extraction: order, precision, mode, and ranks without images. Two real ranks: test_pretrain_spmd.py."""

import copy

import numpy as np
import pytest
import torch

from divfeat import features as module
from divfeat.config import MethodConfig
from divfeat.data.images import ImageSet
from divfeat.features import extract
from divfeat.methods import build_method
from divfeat.models import build_extractor
from divfeat.pretrain import Learner
from divfeat.thresholds import ThresholdContext


def images(n: int, shape: tuple[int, int, int] = (1, 8, 8)) -> ImageSet:
    rng = np.random.default_rng(0)
    fine = (np.arange(n) % 4).astype(np.int64)
    pixels = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
    return ImageSet(pixels, fine, fine // 2, tuple("abcd"), ("ab", "cd"))


def learner(name: str = "ce_etf", backbone: str = "digits_cnn", shape: tuple[int, int, int] = (1, 8, 8)) -> Learner:
    extractor = build_extractor(backbone, image_shape=shape, projector=name != "ce_no_projector")
    built = build_method(MethodConfig(name=name), extractor.feature_dim, ThresholdContext(torch.full((4,), 9)), seed=0)
    made = Learner(extractor, built.head)
    made.train()
    with torch.no_grad():  # running statistics of its own, so that the mode matters
        made(torch.randint(0, 256, (32, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)))
    return made


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_one_row_an_image_in_order_whatever_the_batches(batch_size: int, channels_last: bool) -> None:
    net, data = learner(), images(23)
    found = extract(net, data, batch_size=batch_size, channels_last=channels_last)
    net.eval()
    for i in range(23):
        with torch.no_grad():
            taps = net.extractor(torch.from_numpy(data.images[i : i + 1]))
            logits = net.head(taps).logits
        for row, alone in ((found.before[i], taps.before), (found.after[i], taps.after), (found.logits[i], logits)):
            torch.testing.assert_close(row, alone[0], rtol=1e-5, atol=1e-5)
    assert found.fine.tolist() == data.fine.tolist()
    assert data.coarse is not None and found.coarse is not None
    assert found.coarse.tolist() == data.coarse.tolist()


@pytest.mark.parametrize("backbone", ["digits_cnn", "resnet8"])
def test_few_images_at_a_time_give_the_bits_of_the_whole_batch(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (1, 8, 8) if backbone == "digits_cnn" else (3, 16, 16)
    net, data = learner(backbone=backbone, shape=shape), images(131, shape)
    passed = []
    net.extractor.backbone.register_forward_pre_hook(lambda module, given: passed.append(len(given[0])))
    found = extract(net, data)
    assert passed == [128, 3]
    monkeypatch.setattr(module, "_CPU_IMAGES", 512)
    whole = extract(net, data)
    assert passed[2:] == [131]
    for tap in ("before", "after", "logits"):
        assert torch.equal(getattr(found, tap), getattr(whole, tap))


@pytest.mark.parametrize("training", [True, False])
def test_it_evaluates_and_leaves_the_network_as_it_was(training: bool) -> None:
    net = learner().train(training)
    state = copy.deepcopy(net.state_dict())
    first, again = extract(net, images(20)), extract(net, images(20))
    assert net.training is training and net.extractor.training is training
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())  # no statistic moved
    assert torch.equal(first.after, again.after)
    assert not first.after.requires_grad


def test_features_are_float32_even_under_autocast() -> None:
    net = learner()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = extract(net, images(5))
    assert found.before.dtype == found.after.dtype == found.logits.dtype == torch.float32


def test_without_a_projector_the_taps_are_one_tensor() -> None:
    bare, whole = extract(learner("ce_no_projector"), images(5)), extract(learner("ce"), images(5))
    assert bare.after is bare.before
    assert whole.after is not whole.before


def test_a_set_without_coarse_labels() -> None:
    data = images(5)
    found = extract(learner(), ImageSet(data.images, data.fine, None, data.fine_names, None))
    assert found.coarse is None


@pytest.mark.parametrize("backbone", ["digits_cnn", "compact", "resnet8", "resnet18", "wrn10_1"])
def test_a_rank_without_images_takes_part(monkeypatch: pytest.MonkeyPatch, backbone: str) -> None:
    """Rank 0 of 3 gets none of one image, but must bring tensors of the right width to the gathering."""
    gathered: list[torch.Size] = []
    monkeypatch.setattr(module.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(module.dist, "get_world_size", lambda: 3)
    monkeypatch.setattr(module.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(module.dist, "all_reduce", lambda tensor: gathered.append(tensor.shape))
    net = learner(backbone=backbone, shape=(3, 32, 32))
    found = extract(net, images(1, (3, 32, 32)))
    assert gathered == [(1, net.extractor.backbone_dim), (1, net.extractor.feature_dim), (1, 4)]
    assert found.after.abs().max() == 0  # the share of the others comes by the reduction
