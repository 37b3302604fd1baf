"""One experiment end to end on a few digits: metrics, roles, stages, rungs, and the pieces against plain loops."""

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from divfeat import experiment, scoring
from divfeat.config import ExperimentConfig
from divfeat.data import prepare as prepare_module
from divfeat.data.prepare import PreparedData, prepare
from divfeat.errors import ConfigError, DataError, NonFiniteError
from divfeat.experiment import ExperimentResult, run
from divfeat.features import FeatureSet
from divfeat.losses import RELEASES
from divfeat.methods import METHODS
from divfeat.objectives import EPOCH_METRICS, OBJECTIVES, OF_TREES
from divfeat.parts import OFF
from divfeat.scoring import classifier_scores, unseen_probe
from divfeat.seeding import stream_seed
from divfeat.settings import merge
from divfeat.stages import stage_key
from divfeat.validation import build

BASE: dict[str, Any] = {
    "data": {"source": "digits", "train_level": "coarse", "train_size": 250, "val_per_class": 8, "boundary": 49},
    "model": {"backbone": "digits_cnn"},
    "train": {"epochs": 2, "batch_size": 50, "lr": 0.05},
    "probe": {"strengths": [0.01, 0.1]},
}
CONE = {"thresholds": {"family": "global", "angles": {"tau": 1.0}}}
CONFIRM = {"role": "confirm", "probe": {"strengths": [0.1]}}


def config(*changes: dict[str, Any], **settings: Any) -> ExperimentConfig:
    merged = BASE
    for change in (*changes, settings):
        merged = merge(merged, change)
    return build(ExperimentConfig, merged)


@lru_cache
def prepared(role: Any = "search") -> PreparedData:
    return prepare(config().data, role)


@lru_cache
def baseline() -> ExperimentResult:
    """The search run that several tests look at: HingeCE by the gate, coarse labels, fine probe."""
    return run(config(method={**CONE, "release": "gate"}), prepared())


@lru_cache
def confirmation() -> ExperimentResult:
    return run(config(CONFIRM, method=CONE), prepared("confirm"))


def stable(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """A history without the clock."""
    return [{key: value for key, value in row.items() if key != "time"} for row in history]


# --- every method -------------------------------------------------------------------------------------------------------

SEARCH_METRICS = {
    "train/loss",
    "train/accuracy",
    "train/accuracy_eval",
    "val/accuracy",
    "val/accuracy_balanced",
    "val/accuracy_minor",
    "val/accuracy_major",
    "val/calibration_error",
    "probe/fine_top1",
    "probe/fine_mean_class",
    "probe/strength",
    "probe/unseen_top1",
    "probe/fine_top1_before",
    "probe/fine_mean_class_before",
    "probe/strength_before",
    "probe/unseen_top1_before",
    "collapse/nc1",
    "collapse/nc2",
    "collapse/nc3",
    "collapse/nc4",
    "collapse/cdnv",
    "collapse/numerical_rank",
    "cone/positive_cosine",
    "cone/negative_cosine",
    "cone/occupancy",
    "feature/norm",
}
#: Objectives that these digits have: about 50 images a class make no class of many or few.
FOLLOWED = [one for name, one in OBJECTIVES.items() if name not in ("many", "medium", "few", *OF_TREES)]
#: Those over a tree run in tests/test_tree_methods.py.
PLAIN = [name for name, method in METHODS.items() if not method.tree]
HINGED = [name for name in PLAIN if METHODS[name].hinge]
TWO_STAGES = [name for name in PLAIN if METHODS[name].parts.second != "none"]
EVERY_METHOD = [(name, "paper") for name in PLAIN if name not in TWO_STAGES] + [
    (name, way) for name in HINGED for way in RELEASES[1:]
]


@pytest.mark.parametrize(("name", "release"), EVERY_METHOD)
def test_every_method_gives_every_metric(name: str, release: str) -> None:
    settings = {"name": name, "release": release, **(CONE if name in HINGED else {})}
    result = run(config(method=settings), prepared())
    assert result.metrics.keys() >= SEARCH_METRICS
    assert all(math.isfinite(value) for value in result.metrics.values())
    assert result.metrics.keys() >= {one.validation for one in FOLLOWED}
    for key, value in result.metrics.items():
        if "accuracy" in key or "top1" in key or "occupancy" in key:
            assert 0 <= value <= 1, key
    assert result.metrics["train/accuracy"] > 0.3  # of five classes: it learns
    assert result.metrics["probe/fine_top1"] > 0.3  # of ten
    assert not any(key.startswith("test/") for key in result.metrics)


@pytest.mark.parametrize(
    ("name", "train"),
    [("mixup", {"mixup": 1.0}), ("resampling", {"sampling": "balanced"}), ("mixup", {"mixup": 1.0, "cutmix": 0.5})],
)
def test_what_a_method_replaces_in_train_is_as_if_train_had_it(name: str, train: dict[str, Any]) -> None:
    """Bit for bit; and the method's value goes before the study's."""
    study = {part: value for part, value in train.items() if part == "cutmix"} | {
        "mixup": 0.0 if name != "mixup" else 0.1
    }
    by_name = run(config(method={"name": name}, train=study), prepared())
    by_train = run(config(method={"name": "ce"}, train=train), prepared())
    plain = run(config(method={"name": "ce"}, train=study), prepared())
    assert stable(by_name.history) == stable(by_train.history) != stable(plain.history)
    assert by_name.metrics == by_train.metrics
    assert torch.equal(by_name.features["train"].after, by_train.features["train"].after)


@pytest.mark.slow
@pytest.mark.parametrize("name", TWO_STAGES)
def test_every_method_in_two_stages_learns_a_long_tail(name: str) -> None:
    tail = {"train_level": "fine", "train_size": None, "imbalance": 10, "n_max": 60, "boundary": 20}
    shorter = {"second_epochs": 4} if "second_epochs" in METHODS[name].parts.other_than(OFF) else {}
    result = run(config(data=tail, method={"name": name, **shorter}, train={"epochs": 6, "lr": 0.1}))
    assert result.metrics.keys() >= SEARCH_METRICS
    assert all(math.isfinite(value) for value in result.metrics.values())
    assert result.metrics["val/accuracy_balanced"] > 0.3  # of ten classes
    trained = {"crt": 4, "lws": 4, "oltr": 4, "m2m": 6}.get(name, 0)
    assert [row["epoch"] for row in result.history] == list(range(6 + trained))
    assert ["train/loss" in row for row in result.history] == [True] * 6 + [False] * trained
    assert ["second/loss" in row for row in result.history] == [False] * 6 + [True] * trained
    assert ("second/loss" in result.metrics) is bool(trained)
    found = result.features["train"]
    means = torch.stack([found.after[found.fine == k].double().mean(0) for k in range(10)])
    agreed = torch.cdist(found.after.double(), means).argmin(1) == found.logits.argmax(1)
    assert result.metrics["collapse/nc4"] == pytest.approx(float(agreed.double().mean()))


def test_an_epoch_has_every_metric_that_can_stop_a_training() -> None:
    assert baseline().history[0].keys() >= set(EPOCH_METRICS)


def test_a_long_tail_with_parts_combined() -> None:
    """Cones, cosines, margins, a prior and late weights in one training, on uneven classes."""
    tail = {"train_level": "fine", "train_size": None, "imbalance": 10, "n_max": 60, "boundary": 20}
    late = {"class_balanced": 0.9999, "deferred": 0.5}
    method = {**CONE, "release": "gate", "scale": 30, "margin": 0.5, "logit_adjustment": 1, **late}
    result = run(config(data=tail, method=method, train={"epochs": 8, "lr": 0.02}))
    assert all(math.isfinite(value) for value in result.metrics.values())
    assert result.metrics["val/accuracy_balanced"] > 0.3  # of ten classes
    scored = result.features["val"]
    cosines = torch.nn.functional.normalize(scored.after, dim=1) @ result.axes.float()
    torch.testing.assert_close(scored.logits, 30 * cosines)  # neither margin nor prior nor hinge


def test_dot_regression_is_measured_on_the_features_that_meet_its_axes() -> None:
    """The batch norm ends the extractor: axes, probes and the extractor that is kept see the same features."""
    result = run(config(method={"name": "etf_dr"}), prepared())
    assert result.extractor.feature_norm is not None
    scored = result.features["val"]
    cosines = torch.nn.functional.normalize(scored.after, dim=1) @ result.axes.float()
    torch.testing.assert_close(scored.logits, cosines)
    assert float(scored.after.norm(dim=1).std()) > 0.01  # kept at the length they have
    assert result.provenance["parameter_count"] == baseline().provenance["parameter_count"] + 2 * scored.after.shape[1]


def test_coarse_to_fine_on_digits() -> None:
    """Trained on digit // 2, probed on the digit: labels, names and counts are the right level's everywhere."""
    result, data = baseline(), prepared()
    assert result.correct["label"].tolist() == (result.correct["fine"] // 2).tolist()
    assert result.features["train"].logits.shape == (250, 5)
    assert [row["name"] for row in result.per_class] == ["0-1", "2-3", "4-5", "6-7", "8-9"]
    assert [row["train_images"] for row in result.per_class] == np.bincount(data.train.coarse).tolist()
    assert result.axes.shape[1] == 5
    fine = run(config(data={"train_level": "fine"}), prepare(config(data={"train_level": "fine"}).data, "search"))
    assert fine.features["train"].logits.shape == (250, 10)
    assert len(fine.per_class) == 10


def test_rows_of_the_classes_hold_the_geometry_of_the_training_features() -> None:
    result, rows = baseline(), baseline().per_class
    size = np.array([row["train_images"] for row in rows])
    for name, metric in (("positive_cosine", "cone/positive_cosine"), ("feature_norm", "feature/norm")):
        values = np.array([row[name] for row in rows])
        assert float((size * values).sum() / size.sum()) == pytest.approx(result.metrics[metric])
        assert values.std() > 0
    for name in ("cdnv", "numerical_rank"):
        assert np.mean([row[name] for row in rows]) == pytest.approx(result.metrics[f"collapse/{name}"])
    assert not any("fewer than 2" in note for note in result.notes)


def test_a_class_of_one_image_has_no_spread_and_a_note_says_so() -> None:
    tail = {
        "train_size": None,
        "imbalance": 40,
        "n_max": 40,
        "boundary": 20,
        "val_per_class": 10,
        "train_level": "fine",
    }
    result = run(config(data=tail, train={"epochs": 1}, method={"name": "ce"}))
    single = [row for row in result.per_class if row["train_images"] == 1]
    assert len(single) == 2
    assert all(math.isnan(row["cdnv"]) and math.isnan(row["numerical_rank"]) for row in single)
    assert all(row["feature_norm"] > 0 for row in single)
    (note,) = [note for note in result.notes if "fewer than 2" in note]
    assert note.startswith("2 classes have fewer than 2 training images")


@pytest.mark.parametrize(("epochs", "started"), [(1, False), (2, True)])
def test_a_note_says_that_late_class_weights_never_started(epochs: int, started: bool) -> None:
    method = {"name": "ldam_drw", "class_balanced": 0.9, "deferred": 0.5}
    result = run(config(train={"epochs": epochs}, method=method), prepared())
    found = [note for note in result.notes if "never started" in note]
    assert found == (
        []
        if started
        else [
            "method.deferred=0.5 lies beyond the last epoch of train.epochs=1: the class weights of 'ldam_drw' never started"
        ]
    )
    plain = run(
        config(train={"epochs": epochs}, method={**method, "name": "class_balanced", "deferred": 0}), prepared()
    )
    assert not any("never started" in note for note in plain.notes)


def test_without_a_projector_both_taps_are_one() -> None:
    result = run(config(method={"name": "ce_no_projector"}), prepared())
    found = result.features["val"]
    assert found.before is found.after  # one tensor, and one probe fitted
    for key in ("fine_top1", "strength", "unseen_top1"):
        assert result.metrics[f"probe/{key}"] == result.metrics[f"probe/{key}_before"]
    both = baseline().features["val"]
    assert both.before is not both.after


@pytest.mark.parametrize(
    "recipe",
    [
        {"sampling": "balanced", "augment": "autoaugment", "cutout": 4},
        {"sampling": "square_root", "augment": "randaugment", "mixup": 0.2, "cutmix": 1.0},
    ],
)
def test_every_recipe_trains_on_a_tail(recipe: dict[str, Any]) -> None:
    tail = {
        "train_size": None,
        "imbalance": 20,
        "n_max": 60,
        "boundary": 30,
        "val_per_class": 10,
        "train_level": "fine",
    }
    made = config(train=recipe, data=tail, method={"name": "ce"})
    result = run(made)
    assert all(math.isfinite(value) for value in result.metrics.values())
    assert result.metrics.keys() >= {f"val/accuracy_{name}" for name in ("major", "minor", "medium", "few")}
    assert "val/accuracy_many" not in result.metrics  # no class has above 100 images
    assert result.provenance["published_hash"] == prepare(made.data, "confirm").published_hash


# --- what the numbers are -------------------------------------------------------------------------------------------------


def test_scores_are_the_shares_of_the_correct_arrays() -> None:
    result = baseline()
    correct, metrics = result.correct, result.metrics
    assert metrics["val/accuracy"] == pytest.approx(correct["accuracy"].mean())
    assert metrics["probe/fine_top1"] == pytest.approx(correct["fine_probe"].mean())
    assert len(correct["fine"]) == len(correct["fine_probe"]) == 80
    predictions = result.features["val"].logits.argmax(1).numpy()
    assert np.array_equal(correct["accuracy"], predictions == correct["label"])


def test_rows_a_class_against_loops() -> None:
    result = baseline()
    train, labels = result.features["train"], prepared().train_labels
    for k, row in enumerate(result.per_class):
        mine = np.flatnonzero(labels == k)
        axis = result.axes[:, k].double()
        cosines = [float(train.after[i].double() @ axis / train.after[i].double().norm() / axis.norm()) for i in mine]
        assert row["class"] == k
        assert row["positive_cosine"] == pytest.approx(np.mean(cosines), abs=1e-6)
        assert row["feature_norm"] == pytest.approx(np.mean([float(train.after[i].norm()) for i in mine]), rel=1e-6)
        assert row["accuracy"] == pytest.approx(result.correct["accuracy"][result.correct["label"] == k].mean())
        assert row["tau_plus"] == 1.0


def test_provenance_names_what_made_the_numbers() -> None:
    result, data = baseline(), prepared()
    found = result.provenance
    made = config(method={**CONE, "release": "gate"})
    assert found["key"] == made.key and found["split_hash"] == data.split_hash
    assert (found["train_images"], found["evaluation_images"]) == (250, 80)
    assert found["parameter_count"] == sum(value.numel() for value in result.extractor.parameters())
    assert found["feature_dim"] == result.extractor.feature_dim == result.axes.shape[0]
    assert found["epoch_policy"] == "last" and found["workers"] == 1 and found["terminal_phase"] is False
    assert found["images_per_second"] > 0 and torch.__version__.startswith(found["versions"]["torch"])
    assert result.notes[0] == data.note


@pytest.mark.parametrize(("epochs", "reached"), [(1, False), (40, True)])
def test_the_terminal_phase_is_told(epochs: int, reached: bool) -> None:
    result = run(config(train={"epochs": epochs, "lr": 0.1}, data={"train_size": 60}), None)
    assert result.provenance["terminal_phase"] is reached
    assert (result.metrics["train/accuracy_eval"] == 1.0) is reached


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("rungs", [(), (1,)])
def test_what_the_last_step_broke_is_a_divergence_of_this_run(release: str, rungs: tuple[int, ...]) -> None:
    """The loss is looked at before the step: weights that the last one threw away show only in the features."""
    one_step = {"epochs": 1 + len(rungs), "batch_size": 250, "lr": 1e30, "schedule": "constant"}
    with pytest.raises(NonFiniteError, match="became NaN or infinite"):
        run(config(train=one_step, method={**CONE, "release": release}), prepared(), rungs=rungs)


def test_nc4_is_of_the_classifier_as_it_is_bias_and_all() -> None:
    result = run(config(method={"name": "ce"}, train={"lr": 0.5}), prepared())
    found = result.features["train"]
    labels = found.labels("coarse")
    means = torch.stack([found.after[labels == k].double().mean(0) for k in range(5)])
    nearest = torch.cdist(found.after.double(), means).argmin(1)
    assert result.metrics["collapse/nc4"] == pytest.approx(float((nearest == found.logits.argmax(1)).double().mean()))


def test_history_follows_collapse_at_log_spaced_epochs() -> None:
    calls: list[int] = []
    result = run(
        config(train={"epochs": 5}), prepared(), on_epoch=lambda epoch, metrics: calls.append(metrics["epoch"])
    )
    assert calls == [0, 1, 2, 3, 4]
    followed = [row["epoch"] + 1 for row in result.history if "followed/collapse/nc1" in row]
    assert followed == [1, 2, 4, 5]
    # The set is smaller than the subset followed, so the last measurement is the final one.
    assert result.history[-1]["followed/collapse/nc1"] == pytest.approx(result.metrics["collapse/nc1"], rel=1e-9)
    assert result.metrics["train/loss"] == result.history[-1]["train/loss"]


# --- seeds ----------------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits() -> None:
    torch.manual_seed(123)  # no global stream matters
    again = run(config(method={**CONE, "release": "gate"}), prepared())
    first = baseline()
    assert again.metrics == first.metrics
    assert stable(again.history) == stable(first.history)
    assert again.per_class == first.per_class
    assert all(np.array_equal(again.correct[key], first.correct[key]) for key in first.correct)


def test_another_seed_gives_other_numbers() -> None:
    other = run(config(method={**CONE, "release": "gate"}, seed=1), prepared())
    for key in ("train/loss", "collapse/nc1", "cone/positive_cosine", "feature/norm"):
        assert other.metrics[key] != baseline().metrics[key]
    assert other.provenance["split_hash"] == baseline().provenance["split_hash"]  # the split has a seed of its own


def test_components_draw_from_their_own_streams() -> None:
    """Methods at one seed start from the same backbone and see the same order; the frame is one more stream."""
    data = prepared()
    learners = {name: experiment.build(config(method={"name": name}), data)[0] for name in ("ce", "ce_etf", "hinge_ce")}
    states = {name: learner.extractor.state_dict() for name, learner in learners.items()}
    for name in ("ce_etf", "hinge_ce"):
        assert all(torch.equal(states["ce"][key], states[name][key]) for key in states["ce"])
    assert torch.equal(learners["ce_etf"].head.axes, learners["hinge_ce"].head.axes)
    bare = experiment.build(config(method={"name": "ce_no_projector"}), data)[0].extractor.state_dict()
    assert all(torch.equal(bare[key], states["ce"][key]) for key in bare)
    other = experiment.build(config(method={"name": "ce_etf"}, seed=1), data)[0]
    assert not torch.equal(other.head.axes, learners["ce_etf"].head.axes)
    drawn = [name for name, _ in other.extractor.named_parameters() if name.endswith("0.weight") or "projector" in name]
    assert len(drawn) >= 3
    assert not any(torch.equal(other.extractor.state_dict()[name], states["ce"][name]) for name in drawn)


# --- roles ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The splits that are read from disk, in order."""
    splits: list[str] = []
    real = prepare_module.load_source

    def recorded(*args: Any, **kwargs: Any) -> Any:
        splits.append(kwargs["split"])
        return real(*args, **kwargs)

    monkeypatch.setattr(prepare_module, "load_source", recorded)
    return splits


def test_a_search_never_reads_the_test_set(opened: list[str]) -> None:
    run(config(), rungs=[1])
    assert opened == ["train"]


def test_a_confirmation_reads_the_test_set_once(opened: list[str]) -> None:
    result = run(config(CONFIRM))
    assert opened == ["train", "test"]
    assert set(result.features) == {"train", "test"}


def test_a_confirmation_scores_the_test_set_with_what_was_frozen() -> None:
    metrics = confirmation().metrics
    assert metrics.keys() >= {one.test for one in FOLLOWED}
    assert not any(key.startswith("val/") for key in metrics)
    assert {key for key in metrics if key.startswith("probe/")} == {"probe/strength", "probe/strength_before"}
    assert metrics["probe/strength"] == metrics["probe/strength_before"] == 0.1
    assert all(math.isfinite(value) for value in metrics.values())
    assert len(confirmation().correct["fine"]) == 359
    assert metrics["test/fine_top1"] == pytest.approx(confirmation().correct["fine_probe"].mean())


def test_each_tap_has_its_own_frozen_strength() -> None:
    result = run(config(CONFIRM, probe={"strengths_before": [0.01]}), prepared("confirm"))
    assert result.metrics["probe/strength"] == 0.1
    assert result.metrics["probe/strength_before"] == 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probe": {"strengths": None}}, r"a confirmation selects nothing: give probe.strengths=\[x\]"),
        ({"probe": {"strengths": [0.1, 1.0]}}, r"one value instead of probe.strengths=\[0.1, 1.0\]"),
        ({"probe": {"strengths_before": [0.1, 1.0]}}, r"one value instead of probe.strengths_before=\[0.1, 1.0\]"),
    ],
)
def test_a_confirmation_that_would_choose_is_refused(opened: list[str], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(config(CONFIRM, change))
    assert opened == []  # before anything is loaded or trained


def test_a_confirmation_with_rungs_is_refused(opened: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"a confirmation has no rungs.*rungs=\[1\]"):
        run(config(CONFIRM), rungs=[1])
    assert opened == []


def test_data_of_another_role_or_configuration_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="data were prepared for 'confirm' of another configuration than this 'search'"
    ):
        run(config(), prepared("confirm"))
    with pytest.raises(ConfigError, match="of another configuration"):
        run(config(data={"seed": 5}), prepared())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"train": {"cutout": 10}}, ConfigError, "train.cutout=10 is more than the images' 8 x 8 pixels"),
        ({"method": {**CONE, "closed_first": 0.6}}, ConfigError, "closed_first=0.6 and method.closed_last=0 leave none of "
                                                                 "train.epochs=2 in which the cones are open"),
        ({"method": {**CONE, "closed_first": 0.4, "closed_last": 0.4}, "train": {"epochs": 3}}, ConfigError,
         "leave none of train.epochs=3"),
        ({"model": {"backbone": "digits_cn"}}, ConfigError, "Did you mean 'digits_cnn'"),
        ({"model": {"options": {"width": 2}}}, ConfigError, "digits_cnn.*takes no options"),
        ({"model": {"projector_dim": 3}}, ConfigError, "dim=3"),
        ({"method": {"name": "hinge"}}, ConfigError, "unknown method"),
        ({"method": {"name": "ce", "margin": 0.5}}, ConfigError, "measured in cosines"),
        ({"method": {"name": "ce", "loss": "dot_regression"}}, ConfigError, "needs frozen axes"),
        ({"model": {"options": {"feature_norm": True}}}, ConfigError, "set method.feature_norm"),
        ({"method": {"thresholds": {"family": "major_minor", "angles": {"tau_major": 0, "tau_minor": 1}}},
          "data": {"boundary": 5}}, ConfigError, "no class is minor"),
        ({"data": {"source": "digit"}}, DataError, "Did you mean 'digits'"),
        ({"train": {"lr": 1e9, "epochs": 30}}, NonFiniteError, "a lower train"),
    ],
)  # fmt: skip
def test_mistakes_end_in_an_error_of_their_kind(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run(config(change))


# --- stages and rungs -------------------------------------------------------------------------------------------------------


def test_experiments_that_differ_in_their_probe_share_the_training(tmp_path: Path) -> None:
    one, other = config(), config(probe={"strengths": [1.0], "standardize": True})
    assert one.key != other.key and stage_key(one) == stage_key(other)
    first = run(one, prepared(), stages=tmp_path)
    assert [folder.name for folder in tmp_path.iterdir()] == [stage_key(one)]
    second = run(other, prepared(), stages=tmp_path)
    assert second.history == first.history  # read back, clock and all
    assert second.metrics["probe/strength"] == 1.0
    assert torch.equal(first.features["val"].after, second.features["val"].after)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"train": {"lr": 0.06}},
        {"method": CONE},
        {"method": {"name": "ce"}},
        {"data": {"seed": 1}},
        {"model": {"projector_dim": 32}},
        CONFIRM,
    ],
)
def test_everything_else_has_a_stage_of_its_own(change: dict[str, Any]) -> None:
    assert stage_key(config(change)) != stage_key(config())


def test_a_killed_run_goes_on_from_its_stage(tmp_path: Path) -> None:
    made = config(train={"epochs": 3}, method=CONE)

    def kill(epoch: int, metrics: Any) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(made, prepared(), kill, stages=tmp_path, checkpoint_seconds=0.0)
    epochs: list[int] = []
    resumed = run(made, prepared(), lambda epoch, metrics: epochs.append(epoch), stages=tmp_path)
    assert epochs == [1, 2]
    whole = run(made, prepared())
    assert resumed.metrics == whole.metrics
    assert stable(resumed.history) == stable(whole.history)


def test_a_rung_reports_what_a_run_of_that_length_reports() -> None:
    """At a constant learning rate three epochs start like one, so the first rung has a shorter run as its reference."""
    constant = {"schedule": "constant"}
    objectives = {one.validation for one in FOLLOWED}
    seen: dict[int, dict[str, float]] = {}
    long = run(
        config(train={**constant, "epochs": 3}, method=CONE),
        prepared(),
        lambda epoch, metrics: seen.update({epoch + 1: dict(metrics)}),
        rungs=[1, 2, 3],
    )
    assert {finished for finished, metrics in seen.items() if objectives <= metrics.keys()} == {1, 2}
    assert stable(list(seen.values())) == stable(long.history)
    assert not objectives & seen[3].keys()  # the end is measured in full anyway
    short = {epochs: run(config(train={**constant, "epochs": epochs}, method=CONE), prepared()) for epochs in (1, 2)}
    assert {key: seen[1][key] for key in objectives} == {key: short[1].metrics[key] for key in objectives}
    for key in objectives - {"probe/fine_top1"}:
        assert seen[2][key] == short[2].metrics[key]
    # The second rung's probe starts from the first one's: the same solution, but for its tolerance.
    assert seen[2]["probe/fine_top1"] == pytest.approx(short[2].metrics["probe/fine_top1"], abs=1.01 / 80)


def test_rungs_do_not_disturb_the_training() -> None:
    plain = run(config(method=CONE), prepared())
    watched = run(config(method=CONE), prepared(), rungs=[1])
    assert watched.metrics == plain.metrics


def test_a_probe_by_sgd_goes_through_every_step() -> None:
    made = config(probe={"solver": "sgd", "strengths": None})
    result = run(made, prepared(), rungs=[1])
    assert result.metrics["probe/strength"] == 0.0
    assert result.metrics["probe/fine_top1"] > 0.3
    assert "probe/fine_top1" in result.history[0]
    penalised = run(config(probe={"solver": "sgd", "strengths": [0.5]}), prepared())
    assert penalised.metrics["probe/strength"] == 0.5


# --- pieces against plain loops -----------------------------------------------------------------------------------------------


def naive_unseen(features: torch.Tensor, labels: torch.Tensor, strength: float, seed: int) -> float:
    """Sort a random order by class, deal it out in turn, and let scikit-learn predict each half from the other."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(stream_seed(seed, "unseen"))).tolist()
    dealt = [row for k in range(int(labels.max()) + 1) for row in order if labels[row] == k]
    halves = [[row for place, row in enumerate(dealt) if place % 2 == parity] for parity in (0, 1)]
    x, y = features.double().numpy(), labels.numpy()
    hits = 0
    for fit, score in (halves, halves[::-1]):
        probe = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=10_000).fit(x[fit], y[fit])
        hits += int((probe.predict(x[score]) == y[score]).sum())
    return hits / len(labels)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("counts", [[10, 10, 10], [7, 12, 3], [5, 2, 9]])
def test_unseen_probe_against_scikit_learn(counts: list[int], seed: int) -> None:
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    noise = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(seed + 10))
    features = noise + 1.5 * torch.nn.functional.one_hot(labels, 4)
    found = unseen_probe(features, labels, 0.3, config(seed=seed))
    assert found == pytest.approx(naive_unseen(features, labels, 0.3, seed))
    assert found < 1


@pytest.mark.parametrize("probe", [{}, {"solver": "sgd", "standardize": True}])
def test_unseen_probe_uses_the_solver_and_the_strength_given(
    monkeypatch: pytest.MonkeyPatch, probe: dict[str, Any]
) -> None:
    asked: list[tuple[Any, ...]] = []
    real = scoring.linear_probe

    def recorded(*args: Any, **kwargs: Any) -> Any:
        asked.append((kwargs["solver"], kwargs["strengths"], kwargs["standardize"], args[1]))
        return real(*args, **kwargs)

    monkeypatch.setattr(scoring, "linear_probe", recorded)
    labels = torch.arange(20) % 2
    unseen_probe(torch.eye(2)[labels], labels, 0.3, config(probe=probe))
    assert asked == [(probe.get("solver", "lbfgs"), [0.3], "standardize" in probe, None)] * 2


def test_unseen_probe_survives_a_class_of_one() -> None:
    labels = torch.tensor([0] * 6 + [1] * 6 + [2])
    features = torch.eye(3)[labels] + 0.01 * torch.arange(39).reshape(13, 3)
    assert unseen_probe(features, labels, 0.1, config()) <= 12 / 13


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.one_of(st.integers(1, 200), st.sampled_from([19, 20, 100, 101])), min_size=2, max_size=6),
    boundary=st.integers(0, 100),
    pairs=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=30),
)
def test_classifier_scores_against_a_loop(counts: list[int], boundary: int, pairs: list[tuple[int, int]]) -> None:
    classes = len(counts)
    predictions, labels = (torch.tensor([pair[i] % classes for pair in pairs]) for i in (0, 1))
    data = PreparedData.__new__(PreparedData)
    object.__setattr__(data, "class_counts", np.array(counts))
    found = classifier_scores(predictions, labels, data, boundary)
    by_class = {}
    for k in sorted(set(labels.tolist())):
        mine = [p for p, y in zip(predictions.tolist(), labels.tolist(), strict=True) if y == k]
        by_class[k] = sum(p == k for p in mine) / len(mine)
    hits = [p == y for p, y in zip(predictions.tolist(), labels.tolist(), strict=True)]
    expected = {"accuracy": np.mean(hits), "accuracy_balanced": np.mean(list(by_class.values()))}
    groups: dict[str, list[int]] = {}
    for k, count in enumerate(counts):
        groups.setdefault("minor" if count <= boundary else "major", []).append(k)
        groups.setdefault("many" if count > 100 else "few" if count < 20 else "medium", []).append(k)
    for name, group in groups.items():
        if len(group) < classes:
            scores = [by_class[k] for k in group if k in by_class]
            expected[f"accuracy_{name}"] = np.mean(scores) if scores else math.nan
    assert found == pytest.approx(expected, nan_ok=True)


def test_labels_by_level() -> None:
    found = FeatureSet(*(torch.zeros(2, 1),) * 3, fine=torch.tensor([3, 2]), coarse=torch.tensor([1, 1]))
    assert found.labels("fine").tolist() == [3, 2]
    assert found.labels("coarse").tolist() == [1, 1]
