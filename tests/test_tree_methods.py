"""Methods over a tree: what each name combines, frames by name, refusals, and each run to the end on a few digits."""

import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from divfeat.axes import frame_of
from divfeat.config import ExperimentConfig, MethodConfig, ThresholdSpec
from divfeat.data.prepare import PreparedData, prepare
from divfeat.errors import ConfigError, DataError
from divfeat.experiment import ExperimentResult, class_context, run
from divfeat.experiment import build as assembled
from divfeat.frames import class_mean_frame, hierarchy_similarity, orthonormal_frame, simplex_etf
from divfeat.hierarchy import Hierarchy
from divfeat.losses import RELEASES, ConeGate, CosineToFrame, Hinge
from divfeat.losses.objective import Step
from divfeat.methods import METHODS, OFF, build_method, canonical, parts_of
from divfeat.metrics import lowest_risk
from divfeat.models import HiddenLayer, Taps
from divfeat.parts import Parts
from divfeat.settings import merge
from divfeat.stages import stage_key
from divfeat.thresholds import ThresholdContext
from divfeat.validation import build

TREE = Hierarchy.from_nested({"a": {"b": ["x", "y"], "c": ["z"]}, "d": ["u", "v"]})
COUNTS = torch.tensor([90, 70, 50, 30, 10])
CONTEXT = ThresholdContext(COUNTS, hierarchy=TREE)
DIM = 12
ON_TREES = [name for name, method in METHODS.items() if method.tree]


def made(name: str, context: ThresholdContext = CONTEXT, **settings: Any) -> Any:
    return build_method(MethodConfig(name=name, **settings), DIM, context, seed=4)


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(40, DIM, generator=source), torch.arange(40) % 5


# --- the table ----------------------------------------------------------------------------------------------------------


def test_the_rows_of_the_slides_and_the_others() -> None:
    """Table 6: CE; with the transformation layer; on the frame; with the cosine loss. Numbers: methods.md 3.3 and 3.6."""
    assert METHODS["ce_no_projector"].structure == (False, False, False)
    two = {"neck": "transformation"}
    frame = two | {"frame": "hierarchy", "gamma": 2.0}
    expected = {
        "ce_type2": ((True, False, False), two),
        "haframe_ce": ((True, True, False), frame),
        "haframe": ((True, True, False), frame | {"cosine": 0.4}),
        "hinge_haf": ((True, True, True), frame | {"cosine": 0.4}),
        "crm": ((False, False, False), {"second": "crm"}),
        "crm_type2": ((True, False, False), two | {"second": "crm"}),
        "flamingo": ((False, False, False), {"levels": "flamingo"}),
        "flamingo_type2": ((True, False, False), two | {"levels": "flamingo"}),
        "hafeature": ((False, False, False), {"levels": "hafeature", "pair_margin": 3.0}),
        "hafeature_type2": ((True, False, False), two | {"levels": "hafeature", "pair_margin": 3.0}),
        "tree_soft_labels": ((False, False, False), {"soft_labels": 10.0}),
        "hierarchical_ce": ((False, False, False), {"hierarchical_ce": 0.1}),
    }
    assert {name: (METHODS[name].structure, METHODS[name].parts.other_than(OFF)) for name in ON_TREES} == expected


@pytest.mark.parametrize("name", ON_TREES)
def test_every_name_is_built_and_stands_for_itself(name: str) -> None:
    built = made(name)
    features, labels = batch()
    outputs = built.head(Taps(features, features))
    assert built.head.axes.shape == (DIM, 5) and outputs.logits.shape == (40, 5)
    assert bool(list(built.head.parameters())) == (not METHODS[name].frame)
    losses = built.objective(outputs.features, outputs.logits, labels, 0.0, outputs.coarse, outputs.penalty)
    assert losses.shape == (40,) and bool(losses.isfinite().all())
    assert canonical(MethodConfig(name=name)).name == ("haframe" if name == "hinge_haf" else name)
    assert list(built.objective.parameters()) == []


def test_spellings_of_one_training() -> None:
    def plain(**given: Any) -> MethodConfig:
        return canonical(MethodConfig(**given))

    assert plain(name="haframe", cosine=0) == plain(name="haframe_ce") == MethodConfig(name="haframe_ce")
    assert plain(name="crm", neck="transformation") == MethodConfig(name="crm_type2")
    assert plain(name="flamingo", neck="transformation") == MethodConfig(name="flamingo_type2")
    assert plain(name="ce_type2", neck="linear") == MethodConfig(name="ce")
    assert plain(name="ce_no_projector", soft_labels=10) == MethodConfig(name="tree_soft_labels")
    assert plain(name="haframe", frame="simplex") == plain(name="ce_etf", neck="transformation", cosine=0.4)
    assert plain(name="hafeature", levels="none") == MethodConfig(name="ce_no_projector")
    given = MethodConfig(name="ce_etf", frame="hierarchy", gamma=3.0, s_min="grid")
    assert parts_of(plain(**given.model_dump())) == parts_of(given)


def test_crm_goes_on_from_the_training_of_the_plain_network() -> None:
    crm, plain = (stage_key(config(method={"name": name})) for name in ("crm", "ce_no_projector"))
    assert crm == plain != stage_key(config(method={"name": "crm_type2"}))


# --- frames -------------------------------------------------------------------------------------------------------------


def test_frames_by_name() -> None:
    def gram(**parts: Any) -> torch.Tensor:
        context = ThresholdContext(COUNTS, hierarchy=TREE, class_means=means)
        frame = frame_of("m", Parts(**parts), DIM, context, seed=3)
        assert frame.shape == (DIM, 5)
        return frame.T @ frame

    means = torch.randn(5, 20, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(gram(frame="hierarchy", gamma=2.0), hierarchy_similarity(TREE, 2.0), atol=1e-9)
    assert torch.allclose(
        gram(frame="hierarchy", gamma=2.0, s_min="grid"), hierarchy_similarity(TREE, 2.0, "grid"), atol=1e-9
    )
    assert torch.allclose(
        gram(frame="hierarchy", gamma=2.0, s_min=0.1), hierarchy_similarity(TREE, 2.0, 0.1), atol=1e-9
    )
    assert torch.allclose(gram(frame="orthonormal"), torch.eye(5, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(gram(), 1.25 * torch.eye(5, dtype=torch.float64) - 0.25, atol=1e-12)
    centred = (means - means.mean(0)).double()
    for i in range(5):
        for j in range(5):
            cosine = float(centred[i] @ centred[j] / centred[i].norm() / centred[j].norm())
            assert float(gram(frame="class_means")[i, j]) == pytest.approx(cosine, abs=1e-6)
    etf = simplex_etf(5, DIM, generator=torch.Generator().manual_seed(3))
    assert torch.equal(frame_of("m", OFF, DIM, CONTEXT, seed=3), etf)  # as it was before frames had names


def test_frames_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"5 classes do not get axes at right angles in dim=4.*at least 5"):
        orthonormal_frame(5, 4)
    means = torch.eye(5)
    with pytest.raises(ConfigError, match=r"span 4 dimensions and do not fit in dim=3.*at least 4"):
        class_mean_frame(means, 3)
    class_mean_frame(means, 4)
    with pytest.raises(ConfigError, match=r"means of classes 1 and 3 lie in one direction"):
        class_mean_frame(torch.stack([means[0], means[1], means[2], means[1]]), 4)
    with pytest.raises(ConfigError, match=r"class 2 has no training images"):
        class_mean_frame(torch.cat([means[:2], torch.full((1, 5), torch.nan)]), 4)
    with pytest.raises(ConfigError, match=r"mean of class 0 is that of all classes"):
        class_mean_frame(torch.tensor([[1.0, 1.0], [0.0, 2.0], [2.0, 0.0]]), 4)
    with pytest.raises(ConfigError, match=r"at gamma=2 their frame has rank 4.*at least 4"):
        build_method(MethodConfig(name="haframe"), 3, CONTEXT, seed=0)
    with pytest.raises(ConfigError, match=r"s_min=-0.9 .* must lie in \[-0\.\d+, 1\)"):
        made("haframe", s_min=-0.9)


def test_class_means_are_those_of_the_training_images() -> None:
    data = prepared()
    found = class_context(data, 50, means=True).class_means
    assert found is not None
    for k in range(10):
        rows = [data.train.images[i].astype(float).ravel() for i in range(len(data.train)) if data.train_labels[i] == k]
        np.testing.assert_allclose(found[k], sum(rows) / len(rows))
    assert class_context(data, 50).class_means is None and class_context(data, 50).hierarchy is data.hierarchy


# --- the cosine loss among cones ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", RELEASES)
def test_cones_let_go_of_the_cosine_loss_too(release: str) -> None:
    """Inside its cone a sample has no part of it; outside it has all of it; closed cones are as none."""
    tau = 0.6
    spec = ThresholdSpec(family="global", angles={"tau": tau})
    built = made("hinge_haf", thresholds=spec, release=release, closed_first=0.5, cosine=0.7)
    frame = built.head.axes
    assert isinstance(built.objective.criterion, CosineToFrame)
    labels = torch.arange(10) % 5
    noise = torch.randn(10, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    features = frame.T[labels] + torch.linspace(0.02, 0.6, 10)[:, None].double() * noise
    cosines = nn.functional.normalize(features, dim=1) @ frame
    inside = cosines[torch.arange(10), labels] > math.cos(tau)
    assert 0 < int(inside.sum()) < 10
    part = (cosines - (frame.T @ frame)[labels]).square().sum(1)
    logits = features @ frame
    plain = made("hinge_haf", thresholds=spec, release=release, cosine=0)
    hinged = plain.objective(features, logits, labels, 0.9)
    expected = 0.3 * hinged + 0.7 * part * ~inside
    found = built.objective(features, logits, labels, 0.9)
    torch.testing.assert_close(found, torch.where(inside & (release == "gate"), 0.0, expected))
    closed = built.objective(features, logits, labels, 0.2)
    entropy = nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(closed, 0.3 * entropy + 0.7 * part)
    with_cone = [module for module in built.objective.modules() if isinstance(module, (Hinge, ConeGate))]
    assert len(with_cone) == 1  # one place for thresholds that move


def test_alpha_in_time() -> None:
    frame = simplex_etf(5, DIM)
    features, labels = batch()
    logits = features @ frame.float()

    def at(schedule: str, progress: float | None) -> torch.Tensor:
        return CosineToFrame(frame, 0.8, schedule=schedule)(features, labels, logits, Step(progress=progress))

    def constant(alpha: float) -> torch.Tensor:
        return CosineToFrame(frame, alpha)(features, labels, logits)

    for progress in (0.0, 0.25, 0.75):
        torch.testing.assert_close(at("rising", progress), constant(0.8 * progress))
        torch.testing.assert_close(at("falling", progress), constant(0.8 * (1 - progress)))
        torch.testing.assert_close(at("constant", progress), constant(0.8))
    torch.testing.assert_close(at("rising", None), constant(0.8))
    with pytest.raises(ConfigError, match="unknown schedule of the cosine loss 'linear'"):
        CosineToFrame(frame, 0.5, schedule="linear")
    assert made("haframe", cosine_schedule="rising").objective.criterion.schedule == "rising"


# --- refused ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("ce", {"frame": "hierarchy", "gamma": 2}, r"method.frame=hierarchy is of frozen axes.*'ce' are learned: use haframe"),
        ("ce", {"cosine": 0.4}, r"method.cosine=0.4 is of frozen axes"),
        ("ce_etf", {"frame": "hierarchy"}, r"how fast cosines fall with distance: set method.gamma"),
        ("ce_etf", {"gamma": 2}, r"method.gamma=2.0 is of the hierarchy-aware frame.*set method.frame=hierarchy"),
        ("ce_etf", {"s_min": 0.1}, r"method.s_min=0.1 is of the hierarchy-aware frame"),
        ("haframe_ce", {"cosine_schedule": "rising"}, r"cosine_schedule='rising' is of the cosine loss.*set method.cosine"),
        ("flamingo", {"pair_margin": 1}, r"pair_margin=1.0 is of hafeature.*levels='flamingo'"),
        ("haframe", {"soft_labels": 5}, r"method.cosine=0.4 and method.soft_labels=5.0 are two losses"),
        ("flamingo", {"focal": 1}, r"method.focal=1.0 and method.levels=flamingo are two losses"),
        ("tree_soft_labels", {"label_smoothing": 0.1}, r"label_smoothing=0.1 has no place in the loss that method.soft_labels"),
        ("haframe", {"levels": "flamingo"}, r"levels='flamingo' learns a classifier.*axes of 'haframe' are frozen"),
        ("ce", {"levels": "hafeature"}, r"says nothing of its pairs: set method.pair_margin too \(published: 3\)"),
        ("flamingo", {"scale": 16}, r"method.scale=16.0 is of a cosine classifier.*set method.scale=0"),
        ("hafeature", {"second": "crt"}, r"second='crt' is not offered after .*'hafeature'.*use crm, post_hoc or ncm"),
        ("etf_dr", {"second": "crm"}, r"second='crm' weighs the probabilities of a softmax"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_told(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parts_of(MethodConfig(name=name, **settings))


def test_without_a_tree_the_setting_is_named() -> None:
    without = ThresholdContext(COUNTS)
    for name in ("haframe", "flamingo", "hafeature", "tree_soft_labels", "hierarchical_ce"):
        with pytest.raises(
            ConfigError, match=rf"'{name}' \(method\..*\) needs a tree of the classes: set data.hierarchy"
        ):
            made(name, without)
    made("ce_type2", without)
    with pytest.raises(ConfigError, match=r"'crm' \(method.second='crm'\) needs a tree of the classes"):
        prepare_and_build(method={"name": "crm"}, data={"hierarchy": None})


@pytest.mark.parametrize("name", ["crm", "crm_type2", "flamingo", "flamingo_type2", "hierarchical_ce"])
def test_cross_entropy_by_another_name_is_told(name: str) -> None:
    """Before anything is trained: where all classes are at one distance these have nothing to say."""
    with pytest.raises(ConfigError, match=rf"'{name}' \(method\..*\) is cross-entropy by another name.*data.hierarchy"):
        prepare_and_build(method={"name": name}, data={"hierarchy": "flat"})


@pytest.mark.parametrize("name", ["haframe", "hinge_haf", "hafeature", "tree_soft_labels"])
def test_a_flat_tree_where_it_means_something(name: str) -> None:
    prepare_and_build(method={"name": name}, data={"hierarchy": "flat"})


def test_a_rising_weight_needs_a_second_epoch() -> None:
    settings: dict[str, Any] = {"method": {"name": "haframe", "cosine_schedule": "rising"}}
    with pytest.raises(ConfigError, match=r"cosine_schedule='rising' begins at 0, and train.epochs=1 leaves no epoch"):
        prepare_and_build(**settings, train={"epochs": 1})
    prepare_and_build(**settings, train={"epochs": 2})


# --- run on digits --------------------------------------------------------------------------------------------------------

BASE: dict[str, Any] = {
    "data": {"source": "digits", "train_size": 300, "val_per_class": 8, "hierarchy": "coarse"},
    "model": {"backbone": "digits_cnn"},
    "train": {"epochs": 3, "batch_size": 30, "lr": 0.05},
    "probe": {"strengths": [0.1]},
}


def config(**settings: Any) -> ExperimentConfig:
    return build(ExperimentConfig, merge(BASE, settings))


def prepare_and_build(**settings: Any) -> None:
    made = config(**settings)
    assembled(made, prepare(made.data, "search"))


@lru_cache
def prepared() -> PreparedData:
    return prepare(config().data, "search")


@lru_cache
def result(name: str) -> ExperimentResult:
    return run(config(method={"name": name}), prepared())


@pytest.mark.parametrize("name", [name for name in ON_TREES if name != "hinge_haf"])
def test_every_name_runs_to_its_end(name: str) -> None:
    found = result(name)
    metrics = found.metrics
    assert metrics["train/accuracy"] > 0.3
    mistakes = {"val/mistake_severity", "val/level_1_accuracy", "collapse/nc1_level_1", "collapse/cophenetic"}
    assert metrics.keys() >= mistakes | {f"val/hierarchical_distance_{k}" for k in (1, 5)}
    assert 1 <= metrics["val/mistake_severity"] <= 2
    angular = {"collapse/angular", "collapse/angular_std", "collapse/angular_std_signed"}
    angular |= {"collapse/self_duality", "collapse/self_duality_squared"}
    assert METHODS[name].frame == (metrics.keys() >= angular)
    if METHODS[name].frame:
        means = torch.stack(
            [found.features["train"].after[found.features["train"].fine == k].mean(0) for k in range(10)]
        )
        gap = [
            abs(float(nn.functional.cosine_similarity(means[i], means[j], dim=0) - found.axes[:, i] @ found.axes[:, j]))
            for i in range(10)
            for j in range(i)
        ]
        assert metrics["collapse/angular"] == pytest.approx(sum(gap) / len(gap), abs=1e-5)
        assert "followed/collapse/angular" in found.history[-1]
    assert found.provenance["feature_dim"] == (10 if METHODS[name].parts.neck == "transformation" else 64)
    assert all(math.isfinite(value) for value in metrics.values())


def test_the_plain_network_of_larger_images_is_that_of_the_methods_without_a_projector() -> None:
    neck = {"plain_neck": "elu", "hidden_units": 20}
    for name in ON_TREES:
        method = METHODS[name]
        extractor = assembled(config(method={"name": name}, model=neck), prepared())[0].extractor
        assert isinstance(extractor.projector, HiddenLayer) == (not method.projector and method.parts.neck == "linear")
        assert extractor.feature_dim == (10 if method.parts.neck == "transformation" else 20)
    plain = assembled(config(method={"name": "ce"}, model=neck), prepared())[0].extractor
    assert isinstance(plain.projector, nn.Linear) and plain.feature_dim == 64
    found = run(config(method={"name": "flamingo"}, model=neck), prepared())
    assert found.metrics["train/accuracy"] > 0.3 and found.provenance["feature_dim"] == 20
    images = torch.from_numpy(prepared().evaluation.images)
    torch.testing.assert_close(found.features["val"].before, found.extractor(images).before)


def test_a_checkpoint_is_not_taken_up_with_another_tree(tmp_path: Path) -> None:
    """The file that the configuration names may have changed since."""
    path, stages = tmp_path / "tree.json", tmp_path / "stages"
    path.write_text(json.dumps({"low": list("01234"), "high": list("56789")}))
    made = config(method={"name": "flamingo"}, data={"hierarchy": str(path)})

    def kill(epoch: int, metrics: Any) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(made, None, kill, stages=stages, checkpoint_seconds=0.0)
    path.write_text(json.dumps({"low": list("01235"), "high": list("46789")}))
    with pytest.raises(
        DataError, match=r"on other images or with another tree of the classes.*remove it to start afresh"
    ):
        run(made, None, stages=stages)
    path.write_text(json.dumps({"low": list("01234"), "high": list("56789")}))
    epochs: list[int] = []
    run(made, None, lambda epoch, metrics: epochs.append(epoch), stages=stages)
    assert epochs == [1, 2]


def test_crm_ranks_what_the_plain_network_knows() -> None:
    plain, crm = result("ce_no_projector"), result("crm")
    tree = prepared().hierarchy
    assert tree is not None
    assert torch.equal(plain.features["val"].after, crm.features["val"].after)
    expected = lowest_risk(plain.features["val"].logits, tree).float()
    torch.testing.assert_close(crm.features["val"].logits, expected)
    assert crm.metrics["val/hierarchical_distance_5"] <= plain.metrics["val/hierarchical_distance_5"]
    assert "val/calibration_error" not in crm.metrics and "val/calibration_error" in plain.metrics


@pytest.mark.parametrize("release", RELEASES)
def test_cones_on_a_hierarchy_aware_frame_change_the_training(release: str) -> None:
    cone = {"thresholds": {"family": "global", "angles": {"tau": 0.5}}, "release": release}
    found = run(config(method={"name": "hinge_haf", **cone}), prepared())
    assert found.metrics["cone/occupancy"] > 0
    assert found.metrics["train/loss"] != result("haframe").metrics["train/loss"]
    assert all(math.isfinite(value) for value in found.metrics.values())


def test_rungs_measure_what_a_search_follows() -> None:
    found = run(config(method={"name": "haframe"}, train={"schedule": "constant"}), prepared(), rungs=[1])
    measured = found.history[0]
    assert {
        f"val/{name}" for name in ("mistake_severity", "hierarchical_distance_1", "hierarchical_distance_5")
    } <= set(measured)
    shorter = run(config(method={"name": "haframe"}, train={"epochs": 1, "schedule": "constant"}), prepared())
    assert measured["val/mistake_severity"] == pytest.approx(shorter.metrics["val/mistake_severity"], rel=1e-6)


def test_a_tree_from_a_file_gives_another_training_than_the_sets_own(tmp_path: Path) -> None:
    names = list(prepared().class_names)
    path = tmp_path / "tree.json"
    path.write_text(json.dumps({"low": names[:5], "high": {"even": names[6::2], "odd": names[5::2]}}))
    other = run(config(method={"name": "haframe"}, data={"hierarchy": str(path)}))
    assert other.metrics["train/loss"] != result("haframe").metrics["train/loss"]
    assert other.provenance["split_hash"] != result("haframe").provenance["split_hash"]
    assert {"collapse/nc1_level_1", "collapse/nc1_level_2"} <= other.metrics.keys()
