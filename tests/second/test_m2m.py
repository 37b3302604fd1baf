"""M2m: the translation image by image, who is translated, and when."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from divfeat.config import MethodConfig
from divfeat.data.augment import Augment
from divfeat.data.batches import Batch
from divfeat.methods import parts_of
from divfeat.pretrain import Learner
from divfeat.second.m2m import MajorToMinor, SwitchedBatches, first_epoch
from divfeat.second.translation import Translation, acceptance
from tests.second.samples import config, data, first_stage


def translation(**changes: Any) -> Translation:
    made = config(method={"name": "m2m"})
    first, other = first_stage(made, seed=0), first_stage(made, seed=1)
    options = {"beta": 0.9, "gamma": 0.0, "weight": 0.5, "start": 2, "seed": 7}
    options["augment"] = Augment("none", seed=3)
    options |= changes
    counts = torch.tensor(np.bincount(data().train_labels))
    return Translation(
        first.learner.requires_grad_(False), other.learner, data().train.images, data().train_labels, counts, **options
    )


def batch(rows: Any = None) -> Batch:
    rows = torch.arange(len(data().train)) if rows is None else rows
    images = torch.tensor(data().train.images)[rows]
    labels = torch.tensor(data().train_labels)[rows]
    return Batch(images, labels, rows, len(rows), rows)


def naive_translation(
    g: Learner, f: Learner, image: torch.Tensor, own: int, target: int, weight: float
) -> torch.Tensor:
    """Ten steps of length 0.1 of one image down -log p_g(target) + weight f_own."""
    for _ in range(10):
        image = image.clone().requires_grad_()
        log_p = torch.log_softmax(g(image[None])[1][0], 0)[target]
        (-log_p + weight * f(image[None])[1][0, own]).backward()
        gradient = image.grad
        length = math.sqrt(sum(float(value) ** 2 for value in gradient.flatten()))
        image = (image.detach() - 0.1 * gradient / length).clamp(0, 1)
    return image.detach()


def test_the_translation_against_a_loop_over_images() -> None:
    made = translation()
    images = torch.tensor(data().train.images[:6]).float() / 255
    own, target = torch.tensor(data().train_labels[:6]), torch.tensor([9, 8, 9, 7, 9, 8])
    made.second.train()
    found = made.translate(images, own, target)
    assert made.second.training and not found.requires_grad
    assert all(value.grad is None for value in made.second.parameters())
    made.second.eval()
    for i in range(6):
        expected = naive_translation(made.first, made.second, images[i], int(own[i]), int(target[i]), 0.5)
        torch.testing.assert_close(found[i], expected, rtol=0, atol=2e-4)
        assert 0.3 < float((found[i] - images[i]).norm()) <= 1.01
    before, after = (made.first(x)[1].log_softmax(1).gather(1, target[:, None]).mean() for x in (images, found))
    assert after > before + 0.1


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999])
def test_acceptance_against_the_formula(beta: float) -> None:
    counts = [50, 20, 20, 3]
    found = acceptance(torch.tensor(counts), beta)
    for target in range(4):
        for seed in range(4):
            surplus = max(0, counts[seed] - counts[target])
            assert float(found[target, seed]) == pytest.approx(1 - beta**surplus if surplus else 0.0)


def test_who_is_translated_and_from_what() -> None:
    """Over many draws: targets by 1 - n_k / max n, seeds' classes by 1 - beta^(n_j - n_k), their images alike."""
    made, counts = translation(beta=0.97), np.bincount(data().train_labels)
    target, many = 6, 20_000
    places, classes, rows = made.seeds(torch.full((many,), target), torch.arange(many), 3)
    assert len(places) / many == pytest.approx(1 - counts[target] / counts.max(), abs=0.02)
    odds = np.array([1 - 0.97 ** max(0, n - counts[target]) for n in counts])
    shares = np.bincount(classes.numpy(), minlength=10) / len(classes)
    assert shares == pytest.approx(odds / odds.sum(), abs=0.02)
    assert np.array_equal(data().train_labels[rows.numpy()], classes.numpy())
    drawn = np.bincount(rows.numpy()[classes.numpy() == 0])
    assert len(drawn[drawn > 0]) == counts[0]  # every image of the class has its turn
    assert drawn[drawn > 0].max() < 2 * drawn[drawn > 0].mean()


def test_the_largest_class_is_never_replaced() -> None:
    places, classes, _ = translation().seeds(torch.zeros(500, dtype=torch.int64), torch.arange(500), 3)
    assert len(places) == len(classes) == 0


def test_images_stay_unless_the_first_network_is_convinced() -> None:
    made, wanted = translation(), batch()
    plain = wanted.images.float() / 255

    def changed(gamma: float) -> torch.Tensor:
        found = translation(gamma=gamma)(wanted.images, wanted, 2)
        assert found.dtype == torch.float32 and 0 <= float(found.min()) <= float(found.max()) <= 1
        return (found != plain).flatten(1).any(1)

    everything = changed(0.0)
    moved = made(wanted.images, wanted, 2)[everything]
    chances = made.first(moved)[1].softmax(1).gather(1, wanted.labels[everything].unsqueeze(1)).squeeze(1)
    middle = float(chances.median()) - 1e-4
    assert not everything[wanted.labels == 0].any()
    assert torch.equal(changed(middle)[everything], chances >= middle)
    assert int(changed(0.9999).sum()) == 0 < int((chances < middle).sum())


def test_the_coin_keeps_seeds_of_classes_hardly_larger() -> None:
    """With gamma 0 a target is replaced with the probability of its seed's class."""
    wanted = batch()
    made = translation(beta=0.97)
    replaced = targets = expected = 0.0
    for epoch in range(2, 8):
        found = made(wanted.images, wanted, epoch)
        replaced += int((found != wanted.images.float() / 255).flatten(1).any(1).sum())
        places, classes, _ = made.seeds(wanted.labels, wanted.draw, epoch)
        targets += len(places)
        expected += float(made.accepted[wanted.labels[places], classes].sum())
    assert 0.3 * targets < expected < 0.95 * targets
    assert replaced == pytest.approx(expected, rel=0.12)


def test_replaced_images_are_translated_seeds() -> None:
    made, wanted = translation(), batch()
    found = made(wanted.images, wanted, 2)
    places, classes, rows = made.seeds(wanted.labels, wanted.draw, 2)
    started = made.jolted(torch.tensor(data().train.images)[rows].float() / 255, wanted.draw[places], 2)
    jumps = (started - torch.tensor(data().train.images)[rows].float() / 255).flatten(1).norm(dim=1)
    assert float(jumps.max()) <= 0.5 + 1e-5 and float(jumps.min()) > 0.2  # clipped at black
    moved = made.translate(started, classes, wanted.labels[places])
    replaced = (found[places] != wanted.images[places].float() / 255).flatten(1).any(1)
    assert replaced.any()
    torch.testing.assert_close(found[places][replaced], moved[replaced])


def test_nothing_hangs_on_the_batch_or_on_earlier_draws() -> None:
    """Another batch with the same draws gets the same images: worker count and resume change nothing."""
    whole, half = batch(), batch(torch.arange(1, len(data().train), 2))
    found = translation()(whole.images, whole, 3)
    torch.testing.assert_close(found[1::2], translation()(half.images, half, 3), rtol=0, atol=1e-4)
    other = translation()(whole.images, whole, 4)
    assert not torch.equal(found, other)


def test_before_the_start_nothing_is_touched() -> None:
    made = batch()
    assert translation()(made.images, made, 1) is made.images


@pytest.mark.parametrize(
    ("start", "epochs", "first"),
    [(0.8, 200, 160), (0.8, 10, 8), (0.8, 6, 5), (0.0, 3, 0), (0.7, 10, 7), (0.29, 100, 29)],
)
def test_the_first_epoch_is_the_first_whose_share_is_over(start: float, epochs: int, first: int) -> None:
    parts = parts_of(MethodConfig(name="m2m", m2m_start=start))
    assert first_epoch(parts, epochs) == first


def test_classes_are_sampled_alike_from_the_start_on() -> None:
    first = first_stage(config(method={"name": "m2m"}))
    settings = first.config.train
    natural, balanced = first.batches(settings), first.batches(settings.model_copy(update={"sampling": "balanced"}))
    made = SwitchedBatches(natural, balanced, 2)
    assert made.steps_per_epoch == natural.steps_per_epoch == balanced.steps_per_epoch
    for epoch, expected in ((1, natural), (2, balanced)):
        for ours, theirs in zip(made.epoch(epoch, 1), expected.epoch(epoch, 1), strict=True):
            assert torch.equal(ours.draw, theirs.draw)


def test_a_second_network_learns_and_the_first_stays() -> None:
    made = config(method={"name": "m2m", "m2m_start": 0.5, "m2m_gamma": 0.1})
    before = {name: value.clone() for name, value in first_stage(made).learner.state_dict().items()}
    first, seeds = first_stage(made), []

    def fresh(seed: int) -> Any:
        seeds.append(seed)
        return first.fresh(seed)

    learner, trained = MajorToMinor().run(replace(first, fresh=fresh))
    assert len(seeds) == 1 and seeds[0] != made.seed  # else f would go the way of g once more
    assert all(torch.equal(before[name], value) for name, value in first.learner.state_dict().items())
    assert len(trained.history) == 5
    assert trained.history[1]["train/loss"] < trained.history[0]["train/loss"]
    start = first.fresh(first.seed("network"))[0].state_dict()
    assert not torch.equal(start["extractor.projector.weight"], learner.state_dict()["extractor.projector.weight"])
    assert not torch.equal(start["extractor.projector.weight"], before["extractor.projector.weight"])
