"""The training loop against a plain one, its schedules, its checkpoints, and what it refuses."""

import copy
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from divfeat import pretrain
from divfeat.config import MethodConfig, ThresholdSpec, TrainConfig
from divfeat.data.augment import Augment
from divfeat.data.batches import Batch, Batches
from divfeat.data.mix import Mix
from divfeat.errors import ConfigError, DataError, NonFiniteError
from divfeat.losses import RELEASES, Objective
from divfeat.methods import BuiltMethod, build_method, parts_of
from divfeat.models import build_extractor
from divfeat.pretrain import Learner, TrainResult, learning_rate, train
from divfeat.thresholds import ThresholdContext
from tests.interruption import Cut, Killed

CLASSES, N, BATCH = 4, 86, 24  # 4 steps of 22, 22, 21 and 21 images
STEPS = 4
PRETRAIN_SEED = 5


def pictures(n: int = N) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, 1, 8, 8]: one random pattern a class under noise, easy but not at once."""
    rng = np.random.default_rng(0)
    labels = (np.arange(n) % CLASSES).astype(np.int64)
    patterns = rng.integers(60, 196, (CLASSES, 1, 8, 8))
    return np.clip(patterns[labels] + rng.normal(0, 50, (n, 1, 8, 8)), 0, 255).astype(np.uint8), labels


def batches(**settings: Any) -> Batches:
    return Batches(*pictures(), batch_size=BATCH, seed=3, **settings)


def method(name: str = "hinge_ce", release: str = "paper", tau: float = 0.9) -> MethodConfig:
    thresholds = ThresholdSpec(family="global", angles={"tau": tau}) if name == "hinge_ce" else ThresholdSpec()
    return MethodConfig(name=name, release=release, thresholds=thresholds)  # type: ignore[arg-type]


def build(config: MethodConfig | None = None, seed: int = 0) -> tuple[Learner, BuiltMethod]:
    config = config or method()
    norm = parts_of(config).feature_norm
    extractor = build_extractor("digits_cnn", image_shape=(1, 8, 8), projector_dim=16, feature_norm=norm, seed=seed)
    built = build_method(config, 16, ThresholdContext(torch.full((CLASSES,), N // CLASSES)), seed=1)
    return Learner(extractor, built.head), built


def settings(**changes: Any) -> TrainConfig:
    base = {"epochs": 3, "batch_size": BATCH, "lr": 0.05, "augment": "crop_flip", "warmup_epochs": 0.5}
    return TrainConfig(**{**base, **changes})


def fit(learner: Learner, built: BuiltMethod, config: TrainConfig, **options: Any) -> TrainResult:
    return train(
        learner,
        built.objective,
        Cut(batches(), options.pop("cut")) if "cut" in options else options.pop("batches", None) or batches(),
        config,
        seed=PRETRAIN_SEED,
        tau_plus=built.tau_plus,
        moving=built.moving,
        **options,
    )


def fresh(config: TrainConfig, name: MethodConfig | None = None, **options: Any) -> tuple[Learner, TrainResult]:
    learner, built = build(name)
    return learner, fit(learner, built, config, **options)


def same(a: Any, b: Any) -> bool:
    """Bit for bit, through mappings and lists."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


# --- learning rates ---------------------------------------------------------------------------------------------------


def naive_rate(config: TrainConfig, step: int, per_epoch: int) -> float:
    """In units of epochs, from the definitions."""
    warm, time = round(config.warmup_epochs * per_epoch), step
    if time < warm:
        return config.lr * (time + 1) / warm
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "step":
        rate = config.lr
        for share in config.milestones:
            if step / (config.epochs * per_epoch) >= share:
                rate *= config.step_factor
        return rate
    done = (step - warm) / (config.epochs * per_epoch - warm)
    return config.lr * (1 + math.cos(math.pi * done)) / 2


@given(
    schedule=st.sampled_from(["cosine", "step", "constant"]),
    epochs=st.integers(1, 12),
    per_epoch=st.integers(1, 9),
    warmup=st.sampled_from([0.0, 0.5, 0.9, 2.0]),
    lr=st.floats(1e-3, 2),
)
def test_schedules_against_their_formulas(schedule: Any, epochs: int, per_epoch: int, warmup: float, lr: float) -> None:
    if warmup >= epochs:
        warmup = 0.0
    config = TrainConfig(epochs=epochs, lr=lr, schedule=schedule, warmup_epochs=warmup, milestones=(0.25, 0.5, 0.75))
    found = [learning_rate(config, step, per_epoch) for step in range(epochs * per_epoch)]
    assert found == pytest.approx([naive_rate(config, step, per_epoch) for step in range(len(found))], rel=1e-12)
    assert all(0 < rate <= lr * (1 + 1e-12) for rate in found)


def test_schedules_at_their_landmarks() -> None:
    cosine = TrainConfig(epochs=10, lr=0.4, schedule="cosine")
    assert learning_rate(cosine, 0, 10) == 0.4
    assert learning_rate(cosine, 50, 10) == pytest.approx(0.2)
    assert learning_rate(cosine, 100, 10) == pytest.approx(0, abs=1e-15)
    warm = TrainConfig(epochs=10, lr=0.4, warmup_epochs=1)
    assert [learning_rate(warm, step, 4) for step in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    stairs = TrainConfig(epochs=8, lr=1.0, schedule="step", milestones=(0.5, 0.75), step_factor=0.1)
    assert [learning_rate(stairs, step, 1) for step in range(8)] == pytest.approx([1] * 4 + [0.1] * 2 + [0.01] * 2)


def test_the_optimizer_gets_the_schedule() -> None:
    seen: list[float] = []
    _, result = fresh(settings(), on_epoch=lambda epoch, metrics, learner: seen.append(metrics["train/lr"]))
    last_steps = [learning_rate(settings(), epoch * STEPS + STEPS - 1, STEPS) for epoch in range(3)]
    assert seen == last_steps == [row["train/lr"] for row in result.history]


# --- the loop itself ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ce", "hinge_ce", "logit_adjustment"])
def test_against_a_plain_loop(name: str) -> None:
    """Mean over the global batch, SGD with Nesterov momentum and decay of every parameter, augmentation by epoch."""
    config = settings(channels_last=False, clip_norm=0.5)
    learner, built = build(method(name))
    reference = copy.deepcopy(learner)
    fit(learner, built, config)
    optimizer = torch.optim.SGD(
        reference.parameters(), lr=1.0, momentum=config.momentum, nesterov=True, weight_decay=config.weight_decay
    )
    augment, step = Augment("crop_flip", seed=PRETRAIN_SEED), 0
    reference.train()
    for epoch in range(config.epochs):
        for batch in batches().epoch(epoch):
            features = reference.extractor(augment(batch.images, epoch, batch.index)).after
            logits = reference.head.score(features)
            loss = built.objective(features, logits, batch.labels).mean()
            optimizer.param_groups[0]["lr"] = naive_rate(config, step, STEPS)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
            optimizer.step()
            step += 1
    for key, value in reference.state_dict().items():
        torch.testing.assert_close(learner.state_dict()[key], value, rtol=1e-4, atol=1e-6)


def test_backbone_and_neck_learn_at_their_own_multiples_of_the_rate() -> None:
    """One step without momentum is the gradient times the rate: the moves of each part, over those at multiples of 1."""

    def moved(**multiples: float) -> dict[str, Tensor]:
        learner, built = build(method("ce"))
        before = {name: value.clone() for name, value in learner.state_dict().items()}
        plain = {"momentum": 0, "nesterov": False, "weight_decay": 0, "warmup_epochs": 0, "schedule": "constant"}
        whole = Batches(*pictures(), batch_size=N, seed=3)
        config = settings(epochs=1, batch_size=N, augment="none", **plain, **multiples)
        (row,) = fit(learner, built, config, batches=whole).history
        assert row["train/lr"] == pytest.approx(config.lr)
        return {name: value - before[name] for name, value in learner.named_parameters()}

    even, uneven = moved(), moved(backbone_lr=0.1, neck_lr=0.5)
    for name, move in uneven.items():
        multiple = 0.1 if "backbone" in name else 0.5 if "projector" in name else 1.0
        torch.testing.assert_close(move, multiple * even[name], rtol=1e-3, atol=1e-6)
    assert {name.split(".")[1] for name in even} >= {"backbone", "projector", "linear"}


def test_metrics_of_an_epoch_against_their_definitions() -> None:
    """At a vanishing learning rate and one step an epoch, a forward pass afterwards sees what the step saw."""
    learner, built = build(method(tau=1.3))
    whole = Batches(*pictures(), batch_size=N, seed=3)
    config = settings(epochs=1, lr=1e-30, weight_decay=0, warmup_epochs=0, augment="none", batch_size=N)
    (row,) = fit(learner, built, config, batches=whole).history
    images, labels = (torch.from_numpy(array) for array in pictures())
    with torch.no_grad():
        features, logits, *_ = learner.train()(images)
        losses = built.objective(features, logits, labels)
    axes = learner.head.axes
    loss = hits = positive = negative = inside = norm = plain = taken = 0.0
    for i, y in enumerate(labels.tolist()):
        u = features[i].double()
        cosines = [float(u @ axes[:, k] / u.norm() / axes[:, k].norm()) for k in range(CLASSES)]
        loss += float(losses[i])
        hits += int(logits[i].argmax()) == y
        positive += cosines[y]
        negative += sum(cosines[k] for k in range(CLASSES) if k != y) / (CLASSES - 1)
        inside += cosines[y] > math.cos(1.3)
        norm += float(u.norm())
        scores = logits[i].double()
        own = math.log(sum(math.exp(float(score - scores[y])) for score in scores))
        plain += own
        taken += own if cosines[y] > math.cos(1.3) else 0.0
    expected = {
        "train/loss": loss,
        "train/accuracy": hits,
        "train/positive_cosine": positive,
        "train/negative_cosine": negative,
        "train/inside_cone": inside,
        "train/feature_norm": norm,
        "train/cross_entropy": plain,
        "train/cross_entropy_inside": taken,
    }
    assert 0 < taken < plain
    assert 0 < inside < N
    assert {key: row[key] * N for key in expected} == pytest.approx(expected, rel=1e-5, abs=1e-4)


def test_training_learns_and_reports_every_epoch() -> None:
    calls: list[tuple[int, float]] = []
    _, result = fresh(
        settings(epochs=8, augment="none"),
        on_epoch=lambda epoch, metrics, learner: calls.append((epoch, metrics["train/loss"])),
    )
    assert calls == [(epoch, row["train/loss"]) for epoch, row in enumerate(result.history)]
    assert len(calls) == 8
    assert result.history[-1]["train/accuracy"] > 0.9 > result.history[0]["train/accuracy"]
    assert result.images == 8 * N and result.seconds > 0 and result.resumed_at is None
    assert all(math.isfinite(value) for row in result.history for value in row.values())


def test_the_same_seed_gives_the_same_weights() -> None:
    first, again = fresh(settings()), fresh(settings())
    assert same(first[0].state_dict(), again[0].state_dict())
    assert first[1].history == again[1].history


def test_an_observer_may_leave_the_network_in_evaluation_mode() -> None:
    plain, watched = fresh(settings()), fresh(settings(), on_epoch=lambda epoch, metrics, learner: learner.eval())
    assert same(plain[0].state_dict(), watched[0].state_dict())


def test_the_frame_is_untouched() -> None:
    learner, built = build()
    before = copy.deepcopy(learner.head.state_dict()), copy.deepcopy(built.objective.state_dict())
    start = copy.deepcopy(learner.extractor.state_dict())
    fit(learner, built, settings(weight_decay=0.1))
    assert same(before, (learner.head.state_dict(), built.objective.state_dict()))
    assert not same(start, learner.extractor.state_dict())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("release", ["paper", "theorem", "gate"])
def test_without_cones_hinge_ce_trains_to_the_same_bits_as_ce_etf(precision: str, release: str) -> None:
    config = settings(epochs=2, precision=precision)
    etf, etf_result = fresh(config, method("ce_etf"))
    hinge, hinge_result = fresh(config, method("hinge_ce", release, tau=0.0))
    assert same(etf.state_dict(), hinge.state_dict())
    assert etf_result.history == hinge_result.history


def test_class_weights_give_the_weighted_mean_over_the_batch() -> None:
    """One step of one batch against torch's own weighted cross-entropy."""
    weights = torch.tensor([0.2, 1.0, 3.0, 5.0])
    plain = {"epochs": 1, "momentum": 0, "nesterov": False, "weight_decay": 0, "warmup_epochs": 0, "augment": "none"}
    learner, built = build(method("ce"))
    reference, _ = build(method("ce"))
    whole = Batches(*pictures(), batch_size=N, seed=3)
    config = settings(**plain, batch_size=N, schedule="constant", channels_last=False)
    train(learner, Objective(class_weights=weights), whole, config, seed=0, tau_plus=built.tau_plus)
    images, labels = (torch.from_numpy(array) for array in pictures())
    logits = reference.train()(images).logits
    nn.functional.cross_entropy(logits, labels, weight=weights).backward()
    for (name, ours), theirs in zip(learner.named_parameters(), reference.parameters(), strict=True):
        assert theirs.grad is not None
        torch.testing.assert_close(ours, theirs - config.lr * theirs.grad, rtol=0, atol=2e-6, msg=name)


def test_deferred_weights_train_as_without_them_until_their_epoch() -> None:
    """Of 4 epochs at a constant rate the share 0.5 leaves two unweighted."""
    config = settings(epochs=4, schedule="constant")
    uneven = torch.tensor([0.2, 1.0, 3.0, 5.0])
    rows = {}
    for name, objective in (
        ("never", Objective()),
        ("late", Objective(class_weights=uneven, deferred=0.5)),
        ("always", Objective(class_weights=uneven)),
    ):
        learner, built = build(method("ce"))
        rows[name] = train(learner, objective, batches(), config, seed=0, tau_plus=built.tau_plus).history
    assert rows["late"][:2] == rows["never"][:2]
    assert rows["late"][2]["train/loss"] != rows["never"][2]["train/loss"]
    assert rows["always"][0]["train/loss"] != rows["never"][0]["train/loss"]


@pytest.mark.parametrize("release", RELEASES)
def test_cones_train_as_without_them_until_they_open_and_as_ever_until_they_close(release: str) -> None:
    """Of 4 epochs at a constant rate two have open cones, the last or the first."""
    config = settings(epochs=4, schedule="constant")
    cones = {"name": "hinge_ce", "thresholds": {"family": "global", "angles": {"tau": 1.4}}, "release": release}
    rows = {}
    for name, how in (
        ("never", {"name": "ce_etf"}),
        ("late", cones | {"closed_first": 0.5}),
        ("early", cones | {"closed_last": 0.5}),
        ("always", cones),
    ):
        rows[name] = [row["train/loss"] for row in fresh(config, MethodConfig.model_validate(how))[1].history]
    assert rows["late"][:2] == rows["never"][:2] and rows["late"][2] != rows["never"][2]
    assert rows["early"][:2] == rows["always"][:2] and rows["early"][2] != rows["always"][2]
    assert rows["always"][0] != rows["never"][0]


@pytest.mark.parametrize(
    "name", ["focal", "class_balanced", "ldam", "ldam_drw", "logit_adjustment", "etf_dr", "hinge_la"]
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_part_learns_in_both_precisions(name: str, precision: str) -> None:
    learner, result = fresh(settings(epochs=12, augment="none", precision=precision), MethodConfig(name=name))
    assert result.history[-1]["train/accuracy"] > 0.8 > result.history[0]["train/accuracy"]
    assert {value.dtype for value in learner.parameters()} == {torch.float32}
    features, logits, *_ = learner(torch.from_numpy(pictures()[0]))
    assert features.dtype == logits.dtype == torch.float32
    if learner.head.length is not None:
        torch.testing.assert_close(features.norm(dim=1), torch.full((N,), learner.head.length))


@pytest.mark.parametrize("alphas", [{"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.2, 1.0, 3.0, 5.0])])
def test_mixed_images_have_the_mean_of_two_losses(alphas: dict[str, float], weights: Tensor | None) -> None:
    """One step of one batch against cross-entropy with the mixed labels as probabilities."""
    plain = {"epochs": 1, "momentum": 0, "nesterov": False, "weight_decay": 0, "warmup_epochs": 0, "augment": "none"}
    learner, built = build(method("ce"))
    reference, _ = build(method("ce"))
    whole = Batches(*pictures(), batch_size=N, seed=3, paired=True)
    config = settings(**plain, **alphas, batch_size=N, schedule="constant", channels_last=False)
    train(learner, Objective(class_weights=weights), whole, config, seed=7, tau_plus=built.tau_plus)
    batch = next(whole.epoch(0))
    images, targets = Mix(config.mixup, config.cutmix, seed=7)(batch.images, batch, 0)
    assert targets.others is not None and targets.share is not None
    logits = reference.train()(images).logits
    soft = nn.functional.one_hot(targets.labels, CLASSES) * targets.share[:, None]
    soft = soft + nn.functional.one_hot(targets.others, CLASSES) * (1 - targets.share)[:, None]
    soft = soft if weights is None else soft * weights
    (-(soft * logits.log_softmax(1)).sum() / soft.sum()).backward()
    for (name, ours), theirs in zip(learner.named_parameters(), reference.parameters(), strict=True):
        assert theirs.grad is not None
        torch.testing.assert_close(ours, theirs - config.lr * theirs.grad, rtol=0, atol=2e-6, msg=name)


def test_statistics_of_mixed_images_go_by_the_heavier_label() -> None:
    learner, built = build(method("ce"))
    whole = Batches(*pictures(), batch_size=N, seed=3, paired=True)
    config = settings(epochs=1, batch_size=N, augment="none", warmup_epochs=0, mixup=1.0)
    logits = build(method("ce"))[0].train()(Mix(1.0, 0.0, seed=7)(*_first(whole))[0]).logits
    targets = Mix(1.0, 0.0, seed=7)(*_first(whole))[1]
    result = train(learner, built.objective, whole, config, seed=7, tau_plus=built.tau_plus)
    assert result.history[0]["train/accuracy"] == pytest.approx(
        float((logits.argmax(1) == targets.main).double().mean())
    )


def _first(batches: Batches) -> tuple[Tensor, Batch, int]:
    batch = next(batches.epoch(0))
    return batch.images, batch, 0


def test_mixing_needs_pairs() -> None:
    with pytest.raises(ConfigError, match="need a stream that pairs images"):
        fresh(settings(mixup=1.0))


RECIPES: dict[str, dict[str, Any]] = {
    "balanced": {"sampling": "balanced"},
    "autoaugment, cutout": {"augment": "autoaugment", "cutout": 4},
    "randaugment, square root": {"augment": "randaugment", "sampling": "square_root"},
    "mixup and cutmix, balanced": {"mixup": 0.5, "cutmix": 1.0, "sampling": "balanced"},
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_resumes_bit_for_bit(tmp_path: Path, recipe: str) -> None:
    config = settings(**RECIPES[recipe])
    whole, part, again = (
        batches(sampling=config.sampling, paired=config.mixes),
        batches(sampling=config.sampling, paired=config.mixes),
        batches(sampling=config.sampling, paired=config.mixes),
    )
    expected, result = fresh(config, batches=whole)
    with pytest.raises(Killed):
        fresh(config, batches=Cut(part, (1, 2)), checkpoint=tmp_path / "c.pt", checkpoint_seconds=0)
    learner, resumed = fresh(config, batches=again, checkpoint=tmp_path / "c.pt")
    assert resumed.resumed_at == (1, 2)
    assert same(expected.state_dict(), learner.state_dict())
    assert resumed.history == result.history
    assert not same(expected.state_dict(), fresh(settings())[0].state_dict())  # the recipe does something


def test_cutout_takes_the_mean_of_the_training_images() -> None:
    """What the network normalises to 0, as the published code has it: the square moves no channel's mean away."""
    extractor = build_extractor("digits_cnn", image_shape=(1, 8, 8), projector_dim=16, mean=[0.3], std=[0.2])
    built = build_method(method("ce"), 16, ThresholdContext(torch.full((CLASSES,), N // CLASSES)), seed=1)
    learner, seen = Learner(extractor, built.head), []
    learner.register_forward_pre_hook(lambda module, images: seen.append(images[0].clone()))
    white = np.full((N, 1, 8, 8), 255, dtype=np.uint8)
    whole = Batches(white, pictures()[1], batch_size=BATCH, seed=3)
    config = settings(epochs=1, augment="none", cutout=4)
    train(learner, built.objective, whole, config, seed=0, tau_plus=built.tau_plus)
    assert set(torch.cat(seen).unique().tolist()) == {round(0.3 * 255), 255}


def test_clipping_bounds_the_step() -> None:
    """Without momentum and decay one step moves the parameters by lr times the clipped norm."""
    plain = {
        "epochs": 1,
        "momentum": 0,
        "nesterov": False,
        "weight_decay": 0,
        "warmup_epochs": 0,
        "schedule": "constant",
    }
    moved = {}
    for clip in (None, 0.01, 1e6):
        learner, built = build()
        before = [parameter.detach().clone() for parameter in learner.parameters()]
        config = settings(**plain, clip_norm=clip, batch_size=N)
        fit(learner, built, config, batches=Batches(*pictures(), batch_size=N, seed=3))
        change = [(a.detach() - b).norm() for a, b in zip(learner.parameters(), before, strict=True)]
        moved[clip] = float(torch.stack(change).norm()) / config.lr
    assert moved[0.01] == pytest.approx(0.01, rel=1e-3)
    assert moved[1e6] == moved[None] > 0.02


def test_bfloat16_trains_float32_weights_with_float32_logits() -> None:
    learner, result = fresh(settings(epochs=8, augment="none", precision="bfloat16"))
    assert {value.dtype for value in learner.parameters()} == {torch.float32}
    assert result.history[-1]["train/accuracy"] > 0.9
    with torch.autocast("cpu", dtype=torch.bfloat16):
        images = torch.from_numpy(pictures()[0])
        assert learner.extractor(images).after.dtype == torch.bfloat16  # the network does run in half precision
        features, logits, *_ = learner(images)
    assert features.dtype == logits.dtype == torch.float32
    plain, _ = fresh(settings(epochs=8, augment="none"))
    assert not same(plain.state_dict(), learner.state_dict())


def test_memory_formats_agree() -> None:
    last, first = fresh(settings(channels_last=True)), fresh(settings(channels_last=False))
    for (key, a), b in zip(last[0].state_dict().items(), first[0].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")
    kernels = [parameter for parameter in last[0].parameters() if parameter.ndim == 4 and parameter.shape[1] > 1]
    assert kernels and all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


@pytest.mark.slow
def test_compiled_training_agrees_with_eager() -> None:
    eager, compiled = fresh(settings()), fresh(settings(compile=True))
    assert list(eager[0].state_dict()) == list(compiled[0].state_dict())  # no "_orig_mod." in what is saved
    for a, b in zip(eager[0].state_dict().values(), compiled[0].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


# --- divergence ---------------------------------------------------------------------------------------------------------


class NaNAfter(Objective):
    """Turns one loss into NaN or infinity at a given call."""

    def __init__(self, call: int, value: float) -> None:
        super().__init__()
        self.at, self.value, self.calls = call, value, 0

    def forward(self, *given: Any) -> Tensor:
        self.calls += 1
        losses = super().forward(*given)
        return (
            losses + torch.where(torch.arange(len(losses)) == 1, self.value, 0.0) if self.calls == self.at else losses
        )


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("call", [1, 3, STEPS + 1])
def test_a_loss_that_is_no_number_stops_training_at_once(tmp_path: Path, call: int, value: float) -> None:
    learner, built = build()
    objective = NaNAfter(call, value)
    epoch, step = divmod(call - 1, STEPS)
    with pytest.raises(NonFiniteError, match=rf"NaN or infinite in epoch {epoch}, step {step + 1}; a lower train.lr"):
        train(learner, objective, batches(), settings(), seed=0, tau_plus=built.tau_plus, checkpoint=tmp_path / "c.pt")
    assert objective.calls == call
    assert not (tmp_path / "c.pt").exists()  # nothing to resume into


def test_a_learning_rate_that_diverges_is_told() -> None:
    with pytest.raises(NonFiniteError, match="a lower train"):
        fresh(settings(epochs=20, lr=1e6, warmup_epochs=0))


# --- resume ---------------------------------------------------------------------------------------------------------------


def interrupted(config: TrainConfig, checkpoint: Path, at: tuple[int, int] | int, **options: Any) -> None:
    """Train until a kill in the middle of an epoch (epoch, step), or before an epoch's end is told to anybody."""

    def kill(epoch: int, metrics: Mapping[str, float], learner: Learner) -> None:
        if epoch == at:
            raise Killed

    how: dict[str, Any] = {"cut": at} if isinstance(at, tuple) else {"on_epoch": kill}
    with pytest.raises(Killed):
        fresh(config, checkpoint=checkpoint, checkpoint_seconds=0, **how, **options)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("at", [1, 2, (0, 1), (1, 2), (1, STEPS), (2, 3)])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    tmp_path: Path, at: tuple[int, int] | int, channels_last: bool
) -> None:
    config = settings(channels_last=channels_last)
    whole, whole_result = fresh(config, checkpoint=tmp_path / "whole.pt")
    interrupted(config, tmp_path / "part.pt", at)
    learner, built = build(seed=99)  # other weights: all of the state has to come from the checkpoint
    result = fit(learner, built, config, checkpoint=tmp_path / "part.pt")
    assert result.resumed_at == (at if isinstance(at, tuple) else (at, STEPS))
    assert same(whole.state_dict(), learner.state_dict())
    assert result.history == whole_result.history
    saved, expected = (torch.load(tmp_path / name, weights_only=True) for name in ("part.pt", "whole.pt"))
    assert len(expected["optimizer"]["state"]) == len(list(whole.parameters()))
    assert same(saved["optimizer"], expected["optimizer"])
    assert (saved["epoch"], saved["step"]) == (3, 0)
    assert result.images == whole_result.images == 3 * N  # what the killed process did counts too
    assert result.seconds > 0 and saved["seconds"] == result.seconds


@pytest.mark.parametrize("at", [1, (1, 2), (2, 3)])
@pytest.mark.parametrize(
    "how",
    [
        {"name": "ldam_drw", "class_balanced": 0.9, "deferred": 0.5},
        {"name": "etf_dr"},
        {"thresholds": {"family": "global", "angles": {"tau": 1.4}}, "closed_first": 0.5},
        {"thresholds": {"family": "global", "angles": {"tau": 1.4}}, "release": "gate", "closed_last": 0.5},
    ],
)
def test_what_changes_in_the_middle_of_training_resumes_bit_for_bit(
    tmp_path: Path, how: dict[str, Any], at: tuple[int, int] | int
) -> None:
    """Class weights that start at epoch 2 of 3; a batch norm behind the projector; cones closed at first, or at last."""
    made = MethodConfig.model_validate(how)
    whole, whole_result = fresh(settings(), made)
    interrupted(settings(), tmp_path / "part.pt", at, name=made)
    learner, built = build(made, seed=99)
    result = fit(learner, built, settings(), checkpoint=tmp_path / "part.pt")
    assert same(whole.state_dict(), learner.state_dict())
    assert result.history == whole_result.history


@pytest.mark.parametrize("release", ["gate", "theorem"])
@pytest.mark.parametrize("at", [1, (0, 1), (1, 2), (1, STEPS)])
def test_thresholds_that_move_go_on_as_they_were(tmp_path: Path, at: tuple[int, int] | int, release: Any) -> None:
    config = settings()
    moves = MethodConfig(release=release, thresholds=ThresholdSpec(family="quantile", angles={"share": 0.6}))
    whole, built = build(moves)
    expected = fit(whole, built, config)
    assert expected.history[1]["train/tau_plus_mean"] != expected.history[2]["train/tau_plus_mean"]
    interrupted(config, tmp_path / "part.pt", at, name=moves)
    learner, again = build(moves)
    result = fit(learner, again, config, checkpoint=tmp_path / "part.pt")
    assert result.history == expected.history
    assert same(whole.state_dict(), learner.state_dict())
    assert same(built.objective.state_dict(), again.objective.state_dict())
    assert torch.equal(built.tau_plus, again.tau_plus)
    third, read = build(moves)  # a finished training is measured with the angles that it ended with
    fit(third, read, config, checkpoint=tmp_path / "part.pt")
    assert torch.equal(built.tau_plus, read.tau_plus)


class Wobbly(nn.Module):
    """A projector that draws from torch's own generator, as dropout does."""

    def __init__(self, projector: nn.Module) -> None:
        super().__init__()
        self.projector = projector

    def forward(self, features: Tensor) -> Tensor:
        return nn.functional.dropout(self.projector(features), 0.3, self.training)


@pytest.mark.parametrize(
    "changes", [{}, {"precision": "bfloat16"}, {"schedule": "step", "warmup_epochs": 0}, {"clip_norm": 0.1}]
)
def test_a_resume_restores_generators_and_every_kind_of_setting(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = settings(**changes)

    def wobbly() -> tuple[Learner, BuiltMethod]:
        learner, built = build()
        learner.extractor.projector = Wobbly(learner.extractor.projector)
        return learner, built

    torch.manual_seed(7)
    whole, built = wobbly()
    expected = fit(whole, built, config)
    torch.manual_seed(7)
    part, built = wobbly()
    with pytest.raises(Killed):
        fit(part, built, config, checkpoint=tmp_path / "c.pt", checkpoint_seconds=0, cut=(1, 2))
    torch.manual_seed(123)
    learner, built = wobbly()
    result = fit(learner, built, config, checkpoint=tmp_path / "c.pt")
    assert same(whole.state_dict(), learner.state_dict())
    assert result.history == expected.history


def test_several_interruptions_and_what_observers_added(tmp_path: Path) -> None:
    """Observers write into an epoch's metrics (collapse, objectives): these survive a resume with the rest."""

    def observe(epoch: int, metrics: Mapping[str, float], learner: Learner) -> None:
        assert isinstance(metrics, dict)
        metrics["seen"] = float(epoch)

    path = tmp_path / "c.pt"
    whole, _ = fresh(settings(), on_epoch=observe)
    for stop in ((0, 3), (1, 1), (1, 3), (2, 4)):
        interrupted(settings(), path, stop, on_epoch=observe)
    learner, result = fresh(settings(), checkpoint=path, on_epoch=observe)
    assert same(whole.state_dict(), learner.state_dict())
    assert [row["seen"] for row in result.history] == [0.0, 1.0, 2.0]


def test_a_finished_run_is_read_back_without_training(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    learner, result = fresh(settings(), checkpoint=path)
    again, read = fresh(settings(), checkpoint=path, on_epoch=lambda *call: pytest.fail("no epoch is left to train"))
    assert same(learner.state_dict(), again.state_dict())
    assert read.history == result.history and read.images == result.images and read.resumed_at == (3, 0)


def test_checkpoints_come_by_the_clock_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[tuple[int, int]] = []
    real = pretrain._State.save

    def save(state: Any, *args: Any) -> None:
        saved.append((state.epoch, state.step))
        real(state, *args)

    monkeypatch.setattr(pretrain._State, "save", save)
    fresh(settings(), checkpoint=tmp_path / "a.pt", checkpoint_seconds=0)
    assert saved == [(epoch, step) for epoch in range(3) for step in range(1, STEPS + 1)] + [(3, 0)]
    saved.clear()
    fresh(settings(), checkpoint=tmp_path / "b.pt", checkpoint_seconds=1e9)
    assert saved == [(3, 0)]


def test_checkpoints_come_after_chosen_epochs_before_anybody_hears_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[Any] = []
    real = pretrain._State.save

    def save(state: Any, *args: Any) -> None:
        happened.append((state.epoch, state.step))
        real(state, *args)

    def told(epoch: int, metrics: Mapping[str, float], learner: Learner) -> None:
        happened.append(f"told of {epoch}")

    monkeypatch.setattr(pretrain._State, "save", save)
    how: dict[str, Any] = {"checkpoint_seconds": 1e9, "checkpoint_after": (2, 7)}
    whole, expected = fresh(settings(), checkpoint=tmp_path / "a.pt", on_epoch=told, **how)
    assert happened == ["told of 0", (1, STEPS), "told of 1", "told of 2", (3, 0)]

    def stop(epoch: int, metrics: Mapping[str, float], learner: Learner) -> None:
        if epoch == 1:
            raise Killed

    with pytest.raises(Killed):
        fresh(settings(), checkpoint=tmp_path / "b.pt", on_epoch=stop, **how)
    happened.clear()
    learner, result = fresh(settings(), checkpoint=tmp_path / "b.pt", on_epoch=told, **how)
    assert result.resumed_at == (1, STEPS) and happened[0] == "told of 1"
    assert same(whole.state_dict(), learner.state_dict()) and result.history == expected.history


@pytest.mark.parametrize("steps", [1, 4, 20, 45])
def test_an_accelerator_is_looked_at_now_and_then_and_at_the_end_of_every_epoch(steps: int) -> None:
    def looked(device: str) -> list[int]:
        return [step for step in range(1, steps + 1) if pretrain._looked_at(step, steps, torch.device(device))]

    assert looked("cpu") == list(range(1, steps + 1))
    assert looked("cuda") == sorted({*range(20, steps + 1, 20), steps})


def test_a_checkpoint_of_other_images_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    interrupted(settings(), path, (1, 2), data="these")
    with pytest.raises(
        DataError, match=r"c.pt was written by another training configuration, on other images or with another tree"
    ):
        fresh(settings(), checkpoint=path, data="those")


def test_a_checkpoint_from_before_a_setting_existed_is_taken_up(tmp_path: Path) -> None:
    """What a new setting is at its default is what the older version did."""
    path = tmp_path / "c.pt"
    interrupted(settings(), path, (1, 2))
    old = {
        "epochs",
        "batch_size",
        "lr",
        "momentum",
        "nesterov",
        "weight_decay",
        "schedule",
        "milestones",
        "step_factor",
    }
    old |= {"warmup_epochs", "clip_norm", "augment", "precision", "channels_last", "compile"}
    assert torch.load(path, weights_only=True)["guard"]["train"].keys() == old
    assert same(fresh(settings())[0].state_dict(), fresh(settings(), checkpoint=path)[0].state_dict())


@pytest.mark.parametrize("change", [{"lr": 0.06}, {"epochs": 4}, {"augment": "none"}, {"precision": "bfloat16"}])
def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "c.pt"
    interrupted(settings(), path, (1, 2))
    with pytest.raises(
        DataError, match=r"c.pt was written by another training configuration, on other images .*; remove it"
    ):
        fresh(settings(**change), checkpoint=path)


def test_a_checkpoint_of_another_number_of_steps_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    interrupted(settings(), path, (1, 2))
    with pytest.raises(DataError, match="another training configuration"):
        fresh(settings(), checkpoint=path, batches=Batches(*pictures(40), batch_size=BATCH, seed=3))


@pytest.mark.parametrize("where", ["save", "fsync", "replace"])
def test_a_kill_while_saving_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    path = tmp_path / "c.pt"
    interrupted(settings(), path, (0, 3))
    before = path.read_bytes()

    def killed(*args: Any) -> None:
        if where == "save":
            args[1].write(b"half a checkpoint")
        raise Killed

    owner = pretrain.torch if where == "save" else os
    monkeypatch.setattr(owner, where, killed)
    with pytest.raises(Killed):
        fresh(settings(), checkpoint=path, checkpoint_seconds=0)
    monkeypatch.undo()
    assert path.read_bytes() == before
    learner, result = fresh(settings(), checkpoint=path)
    assert result.resumed_at == (0, 3)
    assert same(fresh(settings())[0].state_dict(), learner.state_dict())


def test_checkpoints_hold_no_code(tmp_path: Path) -> None:
    """`weights_only` refuses everything but tensors and plain values."""
    path = tmp_path / "c.pt"
    interrupted(settings(), path, (1, 2))
    payload = torch.load(path, weights_only=True)
    assert set(payload) >= {"guard", "learner", "optimizer", "epoch", "step", "history", "sums", "rng"}
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]
