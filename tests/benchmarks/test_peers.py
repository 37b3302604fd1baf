"""That each benchmark's peer does the same work, and that its own side is what it says."""

import pickle

import numpy as np
import pytest
import torch

from benchmarks.canonical import ResNet32
from benchmarks.loader import Cutout, Pictures, recipe
from benchmarks.made import CLASSES, images, prepared
from benchmarks.measure_experiment import batches_of, cases
from benchmarks.measure_memory import OwnCopy
from benchmarks.measure_resnet32 import config_of
from divfeat.config import DataConfig
from divfeat.experiment import build


def test_the_scripts_network_is_ours() -> None:
    """The same numbers in the same layers give the same logits; only how the shortcut takes every second pixel differs."""
    data = prepared(20, 20)
    learner, _ = build(config_of(data, 1), data)
    script = ResNet32(CLASSES)
    ours, theirs = learner.state_dict(), script.state_dict()
    own = [value for name, value in ours.items() if name not in ("extractor.mean", "extractor.std")]
    assert [value.shape for value in own] == [value.shape for value in theirs.values()]
    script.load_state_dict(dict(zip(theirs, own, strict=True)))
    batch = torch.tensor(data.train.images)
    logits = learner(batch)[1]
    torch.testing.assert_close(script(learner.extractor.normalise(batch)), logits, rtol=1e-4, atol=1e-4)


def test_the_bare_loop_takes_the_steps_of_an_epoch() -> None:
    for _, config, data in cases(True):
        batches = batches_of(config, data)
        assert len(batches) == -(-len(data.train) // config.train.batch_size)
        assert sum(len(labels) for _, labels in batches) == len(data.train)
        learner, _ = build(config, data)
        whole = learner.extractor.normalise(torch.tensor(data.train.images)).double().sum()
        torch.testing.assert_close(sum(part.double().sum() for part, _ in batches), whole)


def test_made_images_are_the_same_again_and_their_classes_apart() -> None:
    one, again, other = images(40, (3, 8, 8)), images(40, (3, 8, 8)), images(40, (3, 8, 8), seed=1)
    assert one.content_hash == again.content_hash != other.content_hash
    means = np.stack([one.images[one.fine == k].mean(0) for k in range(CLASSES)]).reshape(CLASSES, -1)
    nearest = ((other.images.reshape(40, 1, -1) - means) ** 2).sum(-1).argmin(1)
    assert (nearest == other.fine).mean() > 0.9
    assert prepared(20, 20).config == DataConfig(source="made", val_per_class=2)


def test_an_own_copy_is_the_same_data() -> None:
    found = pickle.loads(pickle.dumps(OwnCopy(30, 20)))
    assert found.train.content_hash == prepared(30, 20).train.content_hash


def test_the_loader_gives_what_normalisation_gives() -> None:
    data = images(3)
    plain = recipe([0.5, 0.4, 0.3], [0.2, 0.2, 0.1]).transforms[-2:]  # without crop and flip
    picture = Pictures(data, lambda image: plain[1](plain[0](image)))[2]
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.2, 0.1])
    expected = (data.images[2] / 255 - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(picture[0].numpy(), expected, rtol=0, atol=1e-5)
    assert picture[1] == data.fine[2]


@pytest.mark.parametrize("seed", range(5))
def test_a_square_is_cut_out_over_the_border_too(seed: int) -> None:
    torch.manual_seed(seed)
    gone = Cutout(8)(torch.ones(3, 32, 32)) == 0
    rows, columns = gone[0].any(1).sum(), gone[0].any(0).sum()
    assert torch.equal(gone[0], gone[2]) and gone[0].sum() == rows * columns
    assert 4 <= rows <= 8 and 4 <= columns <= 8
