"""Every method of long tails and every way to place cones, run to the end on real images: a tail of CIFAR-10, and one of the 100
classes of tin100. Small enough for two cores; the methods in two stages go on from one training of CE."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from divfeat.config import ExperimentConfig
from divfeat.data.prepare import PreparedData, prepare
from divfeat.experiment import ExperimentResult, run
from divfeat.losses import RELEASES
from divfeat.methods import METHODS, epochs_of
from divfeat.objectives import EPOCH_METRICS, OBJECTIVES, OF_TREES
from divfeat.settings import merge
from divfeat.thresholds import FAMILIES, family_named
from divfeat.validation import build
from tests.test_experiment import SEARCH_METRICS

pytestmark = pytest.mark.slow

#: 676 images, classes of 200 to 10: three of many, four of medium and three of few images.
CIFAR: dict[str, Any] = {
    "data": {"source": "parquet:cifar10", "imbalance": 20, "n_max": 200, "boundary": 40, "val_per_class": 60},
    "model": {"backbone": "compact", "projector_dim": 32},
    "train": {"epochs": 8, "batch_size": 32, "lr": 0.05, "warmup_epochs": 1, "augment": "crop_flip"},
    "probe": {"strengths": [0.1], "standardize": True},
}
#: 2,986 images, classes of 105 to 3; 128 features, since 100 axes of a simplex need 99.
TIN100: dict[str, Any] = {
    "data": {"source": "parquet:tin100", "imbalance": 30, "n_max": 105, "boundary": 40, "val_per_class": 10},
    "model": {"backbone": "compact", "projector_dim": None},
    "train": {"epochs": 5},
}

#: Those over a tree: tests/test_tree_methods_on_images.py.
PLAIN = [name for name, method in METHODS.items() if not method.tree]
TWO_STAGES = [name for name in PLAIN if METHODS[name].parts.second != "none"]
ONE_STAGE = [name for name in PLAIN if name not in TWO_STAGES and not METHODS[name].hinge]
#: Shorter than published, as the first stage is.
SHORTER = {name: {"second_epochs": 4} for name in ("crt", "lws", "oltr")}
#: What is made for classes of few images and shows after these few epochs.
FOR_MINOR = [
    *("resampling", "class_balanced", "logit_adjustment", "balanced_softmax", "ce_etf_la"),
    *("crt", "lws", "ncm", "post_hoc_la", "oltr"),
]

#: Wide enough that features reach their cones in these epochs.
WIDE: dict[str, dict[str, float]] = {
    "global": {"tau": 1.0},
    "major_minor": {"tau_major": 0.8, "tau_minor": 1.1},
    "free_boundary": {"tau_major": 0.8, "tau_minor": 1.1, "minor_share": 0.3},
    "count_curve": {"tau_head": 0.8, "tau_tail": 1.1},
    "bent_curve": {"tau_head": 0.8, "tau_tail": 1.1, "bend": 0.5},
    "groups": {"tau_many": 0.8, "tau_medium": 1.0, "tau_few": 1.1},
    "per_class": {"tau_head": 0.8, "tau_tail": 1.1, "jump": 0.1, "wave_1": 0.1, "wave_2": -0.1},
    "each_10": {f"tau_{k}": 0.8 + 0.03 * k for k in range(10)},
    "quantile": {"share": 0.5},
}
#: `theorem` diverges at angles as wide (docs/status.md), and changes training at any: it clamps the negatives too.
NARROW = {
    family: {name: value if name in ("minor_share", "bend") else 0.3 * value for name, value in given.items()}
    for family, given in WIDE.items()
}
#: Quantiles of an untrained network's angles are wide cones, at which `theorem` diverges whatever their share, at a tenth of the
#: learning rate too. It must come to its end all the same; clipped, so that the norms stay finite on every machine.
NEVER_LEARNS = ("theorem", "quantile")
GENTLE = {"lr": 0.005, "clip_norm": 1.0}
CONES = [("hinge_ce", release, family) for release in RELEASES for family in WIDE] + [
    ("hinge_la", release, family)
    for release in RELEASES
    for family in WIDE
    if release == "gate" or family == "major_minor"
]

Trained = Callable[..., ExperimentResult]


@pytest.fixture(scope="module")
def cifar(real_data: Path) -> PreparedData:
    return prepare(configured(CIFAR).data, "search", root=real_data)


@pytest.fixture(scope="module")
def trained(cifar: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A method's run on CIFAR-10, once; all share one folder of first stages."""
    stages = tmp_path_factory.mktemp("stages")

    @lru_cache
    def result(name: str) -> ExperimentResult:
        if name in TWO_STAGES:
            result("ce")
        return run(configured(CIFAR, method={"name": name, **SHORTER.get(name, {})}), cifar, stages=stages)

    return result


def configured(*changes: dict[str, Any], **settings: Any) -> ExperimentConfig:
    merged: dict[str, Any] = CIFAR
    for change in (*changes, settings):
        merged = merge(merged, change)
    return build(ExperimentConfig, merged)


def hinged(name: str, release: str, family: str) -> dict[str, Any]:
    angles = NARROW[family] if release == "theorem" else WIDE[family]
    return {"name": name, "release": release, "thresholds": {"family": family, "angles": angles}}


def check(result: ExperimentResult, config: ExperimentConfig) -> None:
    """Every metric is there and finite, of the last epoch; groups of classes make up the whole."""
    metrics = result.metrics
    assert metrics.keys() >= SEARCH_METRICS | {
        one.validation for name, one in OBJECTIVES.items() if name not in OF_TREES
    }
    assert [name for name, value in metrics.items() if not math.isfinite(value)] == []
    epochs = config.train.epochs
    assert [row["epoch"] for row in result.history] == list(range(epochs_of(config.method, epochs)))
    assert result.provenance["epoch_policy"] == "last"
    assert result.history[epochs - 1].keys() >= set(EPOCH_METRICS)
    last = {name: value for name, value in result.history[-1].items() if name.startswith(("train/", "second/"))}
    assert last.items() <= metrics.items()
    rows = result.per_class
    accuracy = {row["train_images"]: [] for row in rows}
    for row in rows:
        accuracy[row["train_images"]].append(row["accuracy"])
    boundary = config.data.boundary
    for group, inside in {
        "balanced": lambda count: True,
        "minor": lambda count: count <= boundary,
        "major": lambda count: count > boundary,
        "many": lambda count: count > 100,
        "medium": lambda count: 20 <= count <= 100,
        "few": lambda count: count < 20,
    }.items():
        found = [value for count, values in accuracy.items() if inside(count) for value in values]
        assert metrics[f"val/accuracy_{group}"] == pytest.approx(sum(found) / len(found))


@pytest.mark.parametrize("name", [*ONE_STAGE, *TWO_STAGES])
def test_every_method_learns_a_long_tail_of_real_images(name: str, trained: Trained) -> None:
    result = trained(name)
    check(result, configured(method={"name": name, **SHORTER.get(name, {})}))
    assert result.metrics["val/accuracy_balanced"] > 0.17  # of ten classes; 600 images have a standard error below 0.02
    assert result.metrics["probe/fine_top1"] > 0.17


@pytest.mark.parametrize("name", FOR_MINOR)
def test_what_is_made_for_minor_classes_helps_them(name: str, trained: Trained) -> None:
    plain = trained("ce").metrics["val/accuracy_minor"]
    assert trained(name).metrics["val/accuracy_minor"] > plain + 0.05


@pytest.mark.parametrize("name", TWO_STAGES)
def test_a_second_stage_goes_on_from_the_one_training_of_ce(name: str, trained: Trained) -> None:
    """Read back with its clock: it was not trained again."""
    first, both = trained("ce").history, trained(name).history
    assert both[: len(first)] == first


def test_every_method_and_family_is_run_here() -> None:
    assert {*ONE_STAGE, *TWO_STAGES, *(name for name, _, _ in CONES)} == set(PLAIN)
    assert {"none", *WIDE} == {*FAMILIES, "each_10"}


@pytest.mark.parametrize(("name", "release", "family"), CONES)
def test_every_family_of_cones_learns_a_long_tail_of_real_images(
    name: str, release: str, family: str, cifar: PreparedData, trained: Trained
) -> None:
    lost = (release, family) == NEVER_LEARNS
    config = configured(method=hinged(name, release, family), train=GENTLE if lost else {})
    result = run(config, cifar)
    check(result, config)
    assert lost or result.metrics["val/accuracy_balanced"] > 0.17
    # The cones took part: the same method without them ends elsewhere.
    without = trained({"hinge_ce": "ce_etf", "hinge_la": "ce_etf_la"}[name])
    assert result.metrics["train/loss"] != without.metrics["train/loss"]
    angles = [row["tau_plus"] for row in result.per_class]
    assert all(0 < angle < math.pi / 2 for angle in angles)
    assert (len(set(angles)) > 1) is family_named(family).varies
    if release != "theorem":
        assert result.metrics["cone/occupancy"] > 0.01


@pytest.mark.parametrize("closed", ["closed_first", "closed_last"])
def test_cones_that_open_late_or_close_early_are_open_in_between(closed: str, cifar: PreparedData) -> None:
    """Half of the epochs train as with no cones, the other half as with them; both halves learn."""
    cones = hinged("hinge_la", "gate", "major_minor")
    runs = [configured(method=cones | {closed: share}) for share in (0.0, 0.5)]
    always, half = ([row["train/loss"] for row in run(config, cifar).history] for config in runs)
    without = [row["train/loss"] for row in run(configured(method={"name": "ce_etf_la"}), cifar).history]
    middle = len(half) // 2
    first, others = (without, always) if closed == "closed_first" else (always, without)
    assert half[:middle] == first[:middle] and half[middle:] != others[middle:]
    assert half[-1] < half[0]


def test_a_confirmation_reads_the_real_test_images(real_data: Path) -> None:
    config = configured(method=hinged("hinge_la", "gate", "major_minor"), role="confirm")
    result = run(config, root=real_data)
    assert result.provenance["evaluation_images"] == 10_000
    names = {f"test/accuracy_{group}" for group in ("balanced", "major", "minor", "many", "medium", "few")}
    assert result.metrics.keys() >= {"test/accuracy", "test/fine_top1"} | names
    assert not any(name.startswith("val/") for name in result.metrics)
    assert result.metrics["test/accuracy"] == pytest.approx(result.metrics["test/accuracy_balanced"])
    assert result.metrics["test/accuracy_balanced"] > 0.17


# --- 100 classes --------------------------------------------------------------------------------------------------------

HUNDRED: dict[str, dict[str, Any]] = {
    "ce_etf": {"name": "ce_etf"},
    "hinge_la": hinged("hinge_la", "gate", "major_minor"),
    "ldam_drw": {"name": "ldam_drw"},
    "crt": {"name": "crt", "second_epochs": 3},
}


@pytest.fixture(scope="module")
def tin100(real_data: Path) -> PreparedData:
    return prepare(configured(TIN100).data, "search", root=real_data)


@pytest.mark.parametrize("name", HUNDRED)
def test_a_hundred_classes(name: str, tin100: PreparedData) -> None:
    config = configured(TIN100, method=HUNDRED[name])
    result = run(config, tin100)
    check(result, config)
    assert len(result.per_class) == 100
    assert result.metrics["val/accuracy_balanced"] > 0.03  # of a hundred classes
