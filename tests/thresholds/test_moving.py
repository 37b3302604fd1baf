"""Thresholds that move: quantiles against numpy, what a class without samples keeps, and a whole training."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divfeat import experiment
from divfeat.config import ExperimentConfig, MethodConfig, ThresholdSpec
from divfeat.losses import RELEASES, ConeGate, Hinge, theorem_tau_minus
from divfeat.methods import build_method, canonical
from divfeat.search.jobs import name_of
from divfeat.thresholds import DEFAULT_HIGH, MovingThresholds, ThresholdContext, family_named, resolve
from divfeat.thresholds.moving import BINS, quantile_angles
from divfeat.validation import build

QUICK = settings(max_examples=40, deadline=None)
WIDTH = math.pi / BINS
CONTEXT = ThresholdContext(torch.tensor([40, 20, 10]), boundary=15)


def counted(angles: list[float]) -> torch.Tensor:
    """[1, BINS] of one class's angles."""
    return torch.bincount(torch.tensor([min(int(a / WIDTH), BINS - 1) for a in angles]), minlength=BINS)[None].float()


@QUICK
@given(st.lists(st.floats(0, math.pi), min_size=1, max_size=200), st.floats(0, 1))
def test_quantiles_against_their_definition(angles: list[float], share: float) -> None:
    """Up to the width of a bin: at least the share lies within the angle, and less than it short of that."""
    found = quantile_angles(counted(angles), share).item()
    assert 0 <= found <= math.pi
    inside = np.sort(np.asarray(angles))
    assert (inside <= found + WIDTH + 1e-9).mean() >= share - 1e-9
    assert (inside < found - WIDTH - 1e-9).mean() <= share


def test_quantiles_of_each_class_apart() -> None:
    counts = torch.zeros(3, BINS)
    counts[0, 40:60], counts[2, 100] = 3, 8
    found = quantile_angles(counts, 0.5)
    assert found.tolist() == pytest.approx([50 * WIDTH, 0.0, 100.5 * WIDTH])
    assert quantile_angles(counts, 0.0).tolist() == [0.0] * 3
    assert quantile_angles(counts, 1.0).tolist() == pytest.approx([60 * WIDTH, 0.0, 101 * WIDTH])


def test_no_cone_before_the_first_epoch_and_none_wider_than_the_box() -> None:
    spec = {"family": "quantile", "share": 0.9}
    assert not resolve(spec, CONTEXT).any()
    counts = torch.zeros(3, BINS)
    counts[:, BINS // 2 + 20] = 5
    wide = ThresholdContext(CONTEXT.class_counts, own_angles=counts)
    assert resolve(spec, wide).tolist() == [DEFAULT_HIGH] * 3
    assert not resolve({"family": "quantile", "share": 0.0}, wide).any()


def moving(share: float = 0.5) -> tuple[MovingThresholds, list[torch.Tensor]]:
    placed: list[torch.Tensor] = []
    family = family_named("quantile")
    return MovingThresholds(family, {"share": share}, CONTEXT, lambda tau: placed.append(tau.clone())), placed


def batch(seed: int, labels: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    axes = 2 * torch.randn(8, 3, generator=source)
    of = torch.tensor(labels)
    return axes.T[of] + torch.randn(len(labels), 8, generator=source), of, axes


def test_what_is_counted_against_a_loop() -> None:
    found, _ = moving()
    features, labels, axes = batch(0, [0, 1, 2, 2, 0, 1] * 5)
    found.observe(features, labels, axes)
    found.observe(features, labels, axes)
    expected = torch.zeros(3, BINS)
    for feature, label in zip(features, labels, strict=True):
        cosine = float(feature @ axes[:, label] / feature.norm() / axes[:, label].norm())
        expected[label, int(math.acos(cosine) / WIDTH)] += 2
    assert torch.equal(found.counts, expected)


def test_an_epoch_moves_them_and_a_class_without_samples_keeps_its_own() -> None:
    found, placed = moving()
    kept = found.tau_plus
    features, labels, axes = batch(0, [0, 1, 2] * 20)
    found.observe(features, labels, axes)
    found.follow(1)
    first = found.tau_plus.clone()
    assert (first > 0).all() and torch.equal(placed[-1], first) and not found.counts.any()
    features, labels, axes = batch(1, [0, 2] * 20)
    found.observe(features, labels, axes)
    found.follow(1)
    assert (found.tau_plus == first).tolist() == [False, True, False]
    assert found.tau_plus is kept  # what the experiment measures with
    assert found.metrics() == {
        "train/tau_plus_mean": pytest.approx(float(kept.mean())),
        "train/tau_plus_low": float(kept.min()),
        "train/tau_plus_high": float(kept.max()),
    }


def test_a_checkpoint_holds_angles_and_counts() -> None:
    found, _ = moving()
    found.observe(*batch(0, [0, 1, 2] * 20))
    found.follow(1)
    found.observe(*batch(1, [0, 1, 2] * 3))
    for rank in (0, 1):
        again, placed = moving()
        again.load(found.state(1), rank)
        assert torch.equal(again.tau_plus, found.tau_plus) and torch.equal(placed[-1], found.tau_plus)
        assert torch.equal(again.counts, found.counts if rank == 0 else torch.zeros(3, BINS))


# --- in a method and a training -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", RELEASES)
def test_the_loss_takes_over_what_moved(release: Any) -> None:
    """Its buffers afterwards are those of the same angles given from the start."""
    spec = ThresholdSpec(family="quantile", angles={"share": 0.5})
    built = build_method(MethodConfig(thresholds=spec, release=release), 8, CONTEXT, seed=3)
    assert built.moving is not None and built.tau_plus is built.moving.tau_plus
    features, labels, _ = batch(0, [0, 1, 2] * 20)
    built.moving.observe(features, labels, built.head.axes)
    built.moving.follow(1)
    (cone,) = [module for module in built.objective.modules() if isinstance(module, (Hinge, ConeGate))]
    assert torch.equal(cone.tau_plus, built.tau_plus) and (built.tau_plus > 0).all()
    if release == "theorem":
        assert torch.equal(cone.tau_minus, theorem_tau_minus(built.head.axes, built.tau_plus))
    angles = {f"tau_{k}": value for k, value in enumerate(built.tau_plus.tolist())}
    fixed = MethodConfig(thresholds=ThresholdSpec(family="each_3", angles=angles), release=release)
    other = build_method(fixed, 8, CONTEXT, seed=3)
    assert other.moving is None
    logits = features @ built.head.axes.float()
    assert torch.equal(built.objective(features, logits, labels), other.objective(features, logits, labels))


def config(share: float, release: str = "gate") -> ExperimentConfig:
    return build(
        ExperimentConfig,
        {
            "data": {"source": "digits", "imbalance": 4, "n_max": 60, "val_per_class": 4, "boundary": 30},
            "model": {"backbone": "digits_cnn"},
            "train": {"epochs": 8, "batch_size": 32, "lr": 0.05},
            "method": {"thresholds": {"family": "quantile", "angles": {"share": share}}, "release": release},
            "probe": {"strengths": [0.01]},
        },
    )


def test_a_training_lets_go_of_the_share_that_was_asked_for() -> None:
    found = experiment.run(config(0.5))
    rows = found.history
    assert rows[0]["train/tau_plus_high"] == rows[0]["train/inside_cone"] == 0
    assert all(row["train/tau_plus_low"] > 0 for row in rows[1:])
    inside = [row["train/inside_cone"] for row in rows[2:]]
    assert 0.3 < sum(inside) / len(inside) < 0.75  # the angles are those of the epoch before
    angles = [row["tau_plus"] for row in found.per_class]
    assert len(set(angles)) == 10
    assert min(angles) == rows[-1]["train/tau_plus_low"] and max(angles) == rows[-1]["train/tau_plus_high"]


def test_a_share_of_nothing_is_ce_etf() -> None:
    spec = ThresholdSpec(family="quantile", angles={"share": 0.0})
    assert canonical(MethodConfig(thresholds=spec)) == MethodConfig(name="ce_etf")
    assert (
        name_of(MethodConfig(thresholds=ThresholdSpec(family="quantile", angles={"share": 0.5}))) == "paper share 0.50"
    )
    moved = experiment.run(config(0.0))
    etf = experiment.run(config(0.0).model_copy(update={"method": MethodConfig(name="ce_etf")}))
    assert moved.metrics["train/loss"] == etf.metrics["train/loss"]
