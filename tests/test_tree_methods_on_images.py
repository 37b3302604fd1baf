"""Every method over a tree, run to the end on real images: CIFAR-10 and its two levels, and the four levels of tin100."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from divfeat.config import ExperimentConfig
from divfeat.data.prepare import PreparedData, prepare
from divfeat.experiment import ExperimentResult, run
from divfeat.hierarchy import Hierarchy, shipped
from divfeat.losses import RELEASES
from divfeat.methods import METHODS
from divfeat.settings import merge
from divfeat.validation import build

pytestmark = pytest.mark.slow

#: 1,000 images of ten classes, animals and vehicles.
CIFAR: dict[str, Any] = {
    "data": {"source": "parquet:cifar10", "hierarchy": "cifar10", "train_size": 1000, "val_per_class": 60},
    "model": {"backbone": "compact"},
    "train": {"epochs": 6, "batch_size": 32, "lr": 0.05, "warmup_epochs": 1, "augment": "crop_flip"},
    "probe": {"strengths": [0.1], "standardize": True},
}
#: 2,000 images of 100 classes in a tree of 3, 8, 20 and 100.
TIN100: dict[str, Any] = {
    "data": {"source": "parquet:tin100", "hierarchy": "tin100/hierarchy.json", "train_size": 2000, "val_per_class": 10},
    "train": {"epochs": 5},
}
ON_TREES = [name for name, method in METHODS.items() if method.tree and not method.hinge]
#: One of each head, frame and loss.
DEEP = ["haframe", "flamingo", "hafeature_type2", "crm", "tree_soft_labels", "hierarchical_ce"]

Trained = Callable[..., ExperimentResult]


def configured(*changes: dict[str, Any], **settings: Any) -> ExperimentConfig:
    merged: dict[str, Any] = CIFAR
    for change in (*changes, settings):
        merged = merge(merged, change)
    return build(ExperimentConfig, merged)


@pytest.fixture(scope="module")
def cifar(real_data: Path) -> PreparedData:
    return prepare(configured().data, "search", root=real_data)


@pytest.fixture(scope="module")
def tin100(real_data: Path) -> PreparedData:
    return prepare(configured(TIN100).data, "search", root=real_data)


@pytest.fixture(scope="module")
def trained(cifar: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    stages = tmp_path_factory.mktemp("stages")

    @lru_cache
    def result(name: str) -> ExperimentResult:
        return run(configured(method={"name": name}), cifar, stages=stages)

    return result


def check(result: ExperimentResult, tree: Hierarchy) -> None:
    """Every metric is there and finite; those of mistakes are what the kept predictions say, image by image."""
    metrics, found = result.metrics, result.correct
    assert [name for name, value in metrics.items() if not math.isfinite(value)] == []
    distances = tree.distances().numpy()[found["label"], found["predicted"]]
    assert metrics["val/accuracy"] == pytest.approx(np.mean(distances == 0))
    assert metrics["val/mistake_severity"] == pytest.approx(np.mean(distances[distances > 0]))
    assert metrics["val/hierarchical_distance_1"] == pytest.approx(np.mean(distances))
    by_level = [metrics[f"val/level_{level}_accuracy"] for level in range(1, len(tree.sizes))]
    assert by_level == sorted(by_level, reverse=True) and by_level[-1] >= metrics["val/accuracy"]
    for level, groups in enumerate(tree.levels()[:-1].numpy(), 1):
        same = groups[found["label"]] == groups[found["predicted"]]
        assert metrics[f"val/level_{level}_accuracy"] == pytest.approx(np.mean(same))


@pytest.mark.parametrize("name", ON_TREES)
def test_every_method_learns_real_images_and_their_tree(name: str, trained: Trained) -> None:
    result = trained(name)
    check(result, shipped("cifar10").aligned([row["name"] for row in result.per_class]))
    assert result.metrics["val/accuracy"] > 0.2  # of ten classes; 600 images have a standard error below 0.02
    assert result.metrics["val/level_1_accuracy"] > 0.65  # animals from vehicles, which six to four do not tell
    assert result.metrics["probe/fine_top1"] > 0.2


@pytest.mark.parametrize("name", DEEP)
def test_a_tree_of_four_levels(name: str, tin100: PreparedData) -> None:
    result = run(configured(TIN100, method={"name": name}), tin100)
    assert tin100.hierarchy is not None
    check(result, tin100.hierarchy)
    # Of 100 classes and 1,000 images: chance is 1 % and, over the tree, a severity of about 3.6.
    assert result.metrics["val/accuracy"] > 0.02
    assert result.metrics["val/mistake_severity"] < 3.5
    assert {f"collapse/nc1_level_{level}" for level in (1, 2, 3)} <= result.metrics.keys()


@pytest.mark.parametrize("release", RELEASES)
def test_cones_around_hierarchy_aware_axes(release: str, cifar: PreparedData, trained: Trained) -> None:
    """Angles for animals and vehicles apart. `theorem` needs cones that reach no other axis."""
    taus = (0.3, 0.4) if release == "theorem" else (1.1, 1.3)
    cones = {"family": "subtrees_2", "angles": dict(zip(("tau_0", "tau_1"), taus, strict=True))}
    result = run(configured(method={"name": "hinge_haf", "release": release, "thresholds": cones}), cifar)
    without = trained("haframe")
    angles = {row["name"]: row["tau_plus"] for row in result.per_class}
    assert sorted(set(angles.values())) == list(taus)
    assert angles["cat"] == angles["frog"] != angles["truck"] == angles["ship"]
    assert release == "theorem" or result.metrics["cone/occupancy"] > 0
    assert result.metrics["train/loss"] != without.metrics["train/loss"]
    assert all(math.isfinite(value) for value in result.metrics.values())


def test_the_angles_between_class_means_are_kept(trained: Trained) -> None:
    """Not that they come to the frame: that takes longer than these few epochs."""
    drawn = trained("haframe")
    means = torch.stack([drawn.features["train"].after[drawn.features["train"].fine == k].mean(0) for k in range(10)])
    cosines = nn.functional.normalize(means, dim=1) @ nn.functional.normalize(means, dim=1).T
    np.testing.assert_allclose(drawn.angles["means"], cosines.numpy(), atol=1e-4)


def test_frames_by_name_on_images(cifar: PreparedData) -> None:
    for frame in ("orthonormal", "class_means"):
        result = run(configured(method={"name": "ce_etf", "frame": frame}), cifar)
        assert result.metrics["val/accuracy"] > 0.2
        gram = result.axes.T @ result.axes
        off = gram - torch.diag(gram.diagonal())
        assert (float(off.abs().max()) < 1e-9) is (frame == "orthonormal")


def test_every_method_over_a_tree_is_run_here() -> None:
    assert {*ON_TREES, "hinge_haf"} == {name for name, method in METHODS.items() if method.tree}
    assert {METHODS[name].parts.levels for name in DEEP} == {"none", "flamingo", "hafeature"}
