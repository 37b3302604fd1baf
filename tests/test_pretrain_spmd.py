"""Two gloo processes against one: training, resume, feature extraction and a whole experiment."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from divfeat import experiment
from divfeat.config import ExperimentConfig, MethodConfig, ThresholdSpec, TrainConfig
from divfeat.data.batches import Batches
from divfeat.data.images import ImageSet
from divfeat.data.sources import load_source
from divfeat.features import FeatureSet, extract
from divfeat.hierarchy import Hierarchy
from divfeat.losses import Objective
from divfeat.methods import build_method, parts_of
from divfeat.models import build_extractor
from divfeat.pretrain import Learner, train
from divfeat.thresholds import ThresholdContext
from divfeat.validation import build
from tests.interruption import Cut, Killed

pytestmark = pytest.mark.slow

WORLD = 2
#: Only the order of additions differs between world sizes. float64 shows that nothing else does; in float32 the same
#: rounding grows over the steps.
TOLERANCE = {torch.float64: {"rtol": 0, "atol": 1e-13}, torch.float32: {"rtol": 0, "atol": 2e-5}}
CASES = {
    "paper": (MethodConfig(release="paper", thresholds=ThresholdSpec(family="global", angles={"tau": 0.9})), {}),
    "gate, clipped": (
        MethodConfig(release="gate", thresholds=ThresholdSpec(family="global", angles={"tau": 1.2})),
        {"clip_norm": 0.5},
    ),
    "moving": (MethodConfig(release="theorem", thresholds=ThresholdSpec(family="quantile", angles={"share": 0.6})), {}),
    "learned classifier": (MethodConfig(name="ce_smooth"), {}),
    # At LDAM's scale of 30 float32 rounding grows past the bound; float64 does not mind.
    "cosines, margins, late weights": (MethodConfig(name="ldam_drw", scale=4, class_balanced=0.9, deferred=0.4), {}),
    "batch norm of features, dot regression": (MethodConfig(name="etf_dr"), {}),
    "weighted": (MethodConfig(name="ce"), {"class_weights": torch.linspace(0.1, 4, 10, dtype=torch.float64)}),
    "sampled, augmented": (MethodConfig(name="ce"), {"sampling": "balanced", "augment": "randaugment", "cutout": 2}),
    # Not hafeature, whose pairs are those of a worker's share.
    "every level, rates of their own": (
        MethodConfig(name="ce", levels="flamingo"),
        {"backbone_lr": 0.5, "neck_lr": 2.0},
    ),
    "type II, cones on a hierarchy-aware frame": (
        MethodConfig(name="hinge_haf", release="gate", thresholds=ThresholdSpec(family="global", angles={"tau": 0.9})),
        # Five batch norms in a row make much of float32 rounding, which grows past the bound in three epochs.
        {"epochs": 1},
    ),
    "mixed": (
        MethodConfig(release="gate", thresholds=ThresholdSpec(family="global", angles={"tau": 0.9})),
        {"mixup": 0.5, "cutmix": 1.0, "class_weights": torch.linspace(0.1, 4, 10, dtype=torch.float64)},
    ),
}


def settings(**changes: Any) -> TrainConfig:
    base = {"epochs": 3, "batch_size": 41, "lr": 0.05, "augment": "crop_flip"}
    return TrainConfig(**{**base, **changes})


def digits(n: int = 130) -> ImageSet:
    """By default 4 steps of 33, 33, 32 and 32 images, so that ranks hold unequal shares."""
    return whole_digits().subset(np.arange(n))


@lru_cache
def whole_digits() -> ImageSet:
    return load_source("digits", split="train")


def fit(
    name: str, dtype: torch.dtype, images: ImageSet, cut: tuple[int, int] | None = None, **options: Any
) -> tuple[Learner, list[dict[str, float]]]:
    """Train one case on however many ranks there are."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    rank = dist.get_rank() if dist.is_initialized() else 0
    method, changes = CASES[name]
    weights = changes.get("class_weights")
    changes = {key: value for key, value in changes.items() if key != "class_weights"}
    parts = parts_of(method)
    extractor = build_extractor(
        "digits_cnn", image_shape=(1, 8, 8), projector_dim=16, neck=parts.neck, feature_norm=parts.feature_norm
    )
    tree = Hierarchy.from_table([(str(digit // 2), f"digit {digit}") for digit in range(10)])
    context = ThresholdContext(torch.as_tensor(np.bincount(images.fine)), hierarchy=tree)
    built = build_method(method, 16, context, seed=1)
    learner = Learner(extractor, built.head).to(dtype)
    train_config = settings(**changes)
    batches: Any = Batches(
        images.images,
        images.fine,
        batch_size=41,
        seed=2,
        sampling=train_config.sampling,
        paired=train_config.mixes,
        rank=rank,
        world=world,
    )
    if cut is not None:
        batches = Cut(batches, cut)
    result = train(
        learner,
        built.objective if weights is None else Objective(class_weights=weights.to(dtype)),
        batches,
        train_config,
        seed=3,
        tau_plus=built.tau_plus,
        moving=built.moving,
        **options,
    )
    return learner, result.history


def cut_short(name: str, dtype: torch.dtype, images: ImageSet, path: Path) -> None:
    """Leave a checkpoint in the middle of the second epoch."""
    with pytest.raises(Killed):
        fit(name, dtype, images, checkpoint=path, checkpoint_seconds=0, cut=(1, 2))


def extracted(learner: Learner) -> dict[str, FeatureSet]:
    """Features of sets of several sizes; with one image a rank goes without."""
    return {f"{n} images": extract(learner, digits(n), batch_size=20) for n in (1, 2, 45)}


def config() -> ExperimentConfig:
    return build(
        ExperimentConfig,
        {
            "data": {"source": "digits", "train_level": "coarse", "train_size": 120, "val_per_class": 4},
            "model": {"backbone": "digits_cnn"},
            "train": {"epochs": 2, "batch_size": 40, "lr": 0.05},
            "method": {"thresholds": {"family": "global", "angles": {"tau": 1.0}}},
            "probe": {"strengths": [0.01, 0.1]},
        },
    )


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    try:
        images = digits()
        results: dict[str, Any] = {}
        for name in CASES:
            for dtype in TOLERANCE:
                learner, history = fit(name, dtype, images)
                results[name, dtype] = {"state": learner.state_dict(), "history": history}
        # A preemption in the middle of an epoch, then a resume, both on two ranks.
        resumed = {}
        for name in ("paper", "moving"):
            path = Path(folder) / f"{name}.pt"
            cut_short(name, torch.float32, images, path)
            dist.barrier()
            resumed[name], history = fit(name, torch.float32, images, checkpoint=path)
            results["resumed", name] = {"state": resumed[name].state_dict(), "history": history}
            # And over worlds: two ranks begin what one process is to end, and end what one began.
            cut_short(name, torch.float64, images, Path(folder) / f"{name} of two.pt")
            dist.barrier()
            learner, history = fit(name, torch.float64, images, checkpoint=Path(folder) / f"{name} of one.pt")
            results["grown", name] = {"state": learner.state_dict(), "history": history}
        for n, found in extracted(resumed["paper"]).items():
            results[n] = {"before": found.before, "after": found.after, "logits": found.logits, "fine": found.fine}
        run = experiment.run(config(), rungs=[1], stages=Path(folder) / "stages")
        results["run"] = {"metrics": run.metrics, "history": run.history, "provenance": run.provenance}
        torch.save(results, f"{folder}/{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gloo")


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[Any, Any]]:
    for name in ("paper", "moving"):
        cut_short(name, torch.float64, digits(), folder / f"{name} of one.pt")
    mp.spawn(worker, args=(str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_train_to_the_weights_of_one_process(
    ranks: list[dict[Any, Any]], name: str, dtype: torch.dtype
) -> None:
    learner, history = fit(name, dtype, digits())
    neck = parts_of(CASES[name][0]).neck
    start = build_extractor("digits_cnn", image_shape=(1, 8, 8), projector_dim=16, neck=neck).state_dict()
    for rank in ranks:
        found = rank[name, dtype]
        assert list(found["state"]) == list(learner.state_dict())
        for key, value in learner.state_dict().items():
            torch.testing.assert_close(found["state"][key], value, **TOLERANCE[dtype])
        for row, expected in zip(found["history"], history, strict=True):
            assert row == pytest.approx(expected, rel=1e-6 if dtype == torch.float64 else 1e-4)
    weight = "projector.weight" if neck == "linear" else "projector.layers.0.weight"
    moved = learner.state_dict()[f"extractor.{weight}"] - start[weight].to(dtype)
    assert moved.abs().max() > 500 * TOLERANCE[dtype]["atol"]  # the bound is far below what training changed


@pytest.mark.parametrize("name", CASES)
def test_both_ranks_end_with_the_same_bits(ranks: list[dict[Any, Any]], name: str) -> None:
    first, second = (rank[name, torch.float32] for rank in ranks)
    assert first["history"] == second["history"]
    assert all(torch.equal(value, second["state"][key]) for key, value in first["state"].items())


@pytest.mark.parametrize("name", ["paper", "moving"])
def test_a_resume_in_the_middle_of_an_epoch_is_bit_equal_on_two_ranks(ranks: list[dict[Any, Any]], name: str) -> None:
    for rank in ranks:
        whole, resumed = rank[name, torch.float32], rank["resumed", name]
        assert all(torch.equal(value, resumed["state"][key]) for key, value in whole["state"].items())
        assert resumed["history"] == whole["history"]  # the checkpoint holds the sums of both ranks, once


@pytest.mark.parametrize("name", ["paper", "moving"])
def test_a_training_goes_on_over_fewer_or_more_ranks(ranks: list[dict[Any, Any]], folder: Path, name: str) -> None:
    whole, history = fit(name, torch.float64, digits())
    shrunk, curve = fit(name, torch.float64, digits(), checkpoint=folder / f"{name} of two.pt")
    for state, found in (
        (shrunk.state_dict(), curve),
        *((rank["grown", name]["state"], rank["grown", name]["history"]) for rank in ranks),
    ):
        for row, expected in zip(found, history, strict=True):
            assert row == pytest.approx(expected, rel=1e-6)
        for key, value in whole.state_dict().items():
            torch.testing.assert_close(state[key], value, **TOLERANCE[torch.float64])


@pytest.mark.parametrize("n", [1, 2, 45])
def test_two_ranks_extract_the_features_of_one_process(ranks: list[dict[Any, Any]], n: int) -> None:
    learner, _ = fit("paper", torch.float32, digits())
    learner.load_state_dict(ranks[0]["resumed", "paper"]["state"])
    expected = extract(learner, digits(n), batch_size=20)
    for rank in ranks:
        found = rank[f"{n} images"]
        assert torch.equal(found["fine"], expected.fine)
        for tap in ("before", "after", "logits"):
            assert found[tap].shape[0] == n and found[tap].abs().max() > 0
            # In evaluation an image's features depend on it alone; only the products' blocking differs.
            torch.testing.assert_close(found[tap], getattr(expected, tap), rtol=1e-5, atol=1e-5)


def test_an_experiment_on_two_ranks_is_that_of_one(ranks: list[dict[Any, Any]]) -> None:
    alone = experiment.run(config(), rungs=[1])
    first, second = (rank["run"] for rank in ranks)
    assert first["metrics"].keys() == alone.metrics.keys()
    for key in ("train/loss", "train/feature_norm", "collapse/nc1", "collapse/numerical_rank"):
        assert first["metrics"][key] == pytest.approx(alone.metrics[key], rel=1e-3)
    for key in ("val/accuracy", "probe/fine_top1", "probe/unseen_top1"):  # 40 images: at most one on the other side
        assert first["metrics"][key] == pytest.approx(alone.metrics[key], abs=0.0251)
    assert first["history"][0].keys() == alone.history[0].keys() >= {"probe/fine_top1", "followed/collapse/nc1"}
    assert (first["provenance"]["workers"], alone.provenance["workers"]) == (2, 1)
    for key in ("key", "split_hash", "train_images", "parameter_count", "feature_dim"):
        assert first["provenance"][key] == alone.provenance[key]
    # The other rank trained along and measured nothing.
    assert set(second["metrics"]) == {key for key in second["history"][-1] if key.startswith("train/")}
    assert second["metrics"]["train/loss"] == first["metrics"]["train/loss"]
