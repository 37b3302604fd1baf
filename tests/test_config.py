"""Configurations: what is refused and how, presets, --set, precedence, and what the hashes see."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from divfeat import config as module
from divfeat.config import ExperimentConfig, MethodConfig, ModelConfig, ProbeConfig, ThresholdSpec, deciding
from divfeat.errors import ConfigError, unknown
from divfeat.methods import parts_of
from divfeat.objectives import OBJECTIVES, OF_TREES
from divfeat.search.jobs import baseline
from divfeat.second import SECONDS
from divfeat.settings import load_file, load_preset, make_configs, merge, parse_assignments, preset_names
from divfeat.study_config import AshaConfig, ExecutionConfig, SearchConfig, StopConfig, StudyConfig
from divfeat.validation import build, digest
from tests.search.samples import as_first_shipped

STUDY: dict[str, Any] = {
    "data": {"source": "digits", "val_per_class": 20},
    "model": {"backbone": "digits_cnn"},
    "train": {"epochs": 20},
}
EXPERIMENT: dict[str, Any] = dict(STUDY)


def study(**settings: Any) -> StudyConfig:
    return build(StudyConfig, merge(STUDY, settings))


def experiment(**settings: Any) -> ExperimentConfig:
    return build(ExperimentConfig, merge(EXPERIMENT, settings))


def refusal(*assignments: str) -> str:
    """The message for these assignments over the digits preset."""
    with pytest.raises(ConfigError) as caught:
        make_configs("digits", overrides=parse_assignments(assignments))
    return str(caught.value)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.epocs=3", "unknown setting 'train.epocs'. Did you mean 'train.epochs'? Known: epochs, batch_size"),
        ("trian.epochs=3", "unknown setting 'trian'. Did you mean 'train'?"),
        (
            "search.asha.first_rnug=3",
            "unknown setting 'search.asha.first_rnug'. Did you mean 'search.asha.first_rung'?",
        ),
        (
            "search.constraints=[{metrc: major, at_least: 1}]",
            "unknown setting 'search.constraints.0.metrc'. Did you mean 'search.constraints.0.metric'?",
        ),
        ("execution.trails=3", "unknown setting 'execution.trails'. Did you mean 'execution.trials'?"),
        ("zzz=3", "unknown setting 'zzz'. Known: preset, data"),
        ("imbalance=10", "unknown setting 'imbalance'. Did you mean 'data.imbalance'? Known: preset, data"),
        ("method.focal=1", "unknown setting 'method'. Did you mean 'search.method'?"),
        ("options=3", "unknown setting 'options'. Did you mean 'model.options'?"),
        ("train.imbalance=10", "unknown setting 'train.imbalance'. Known: epochs"),
    ],
)
def test_unknown_keys_name_the_closest(assignment: str, message: str) -> None:
    assert message in refusal(assignment)


@pytest.mark.parametrize(
    ("assignment", "parts"),
    [
        ("train.epochs=many", ["train.epochs='many'", "integer"]),
        ("train.epochs=1.5", ["train.epochs=1.5", "integer"]),
        ("train.epochs=[1, 2]", ["train.epochs=[1, 2]", "integer"]),
        ("train.lr=fast", ["train.lr='fast'", "number"]),
        ("train.lr=nan", ["train.lr=nan", "finite"]),
        ("train.nesterov=perhaps", ["train.nesterov='perhaps'", "boolean"]),
        ("train.schedule=cosin", ["train.schedule='cosin'", "'cosine', 'step' or 'constant'"]),
        ("data.source=3", ["data.source=3", "string"]),
        ("data.tail=linear", ["data.tail='linear'", "'exponential' or 'step'"]),
        ("train=3", ["train=3", "a mapping of settings, as in {a: 1}"]),
        ("search.own=closed_first", ["search.own='closed_first'", "a list, as in [a, b] (parts of it whose values"]),
        (
            "search.constraints=[major]",
            ["search.constraints.0='major'", "a mapping of settings", "that the winner keeps"],
        ),
        (
            "protocol.baselines=[{name: ce}]",
            ["protocol.baselines.0={'name': 'ce'}", "string (names of methods, hinge_fixed"],
        ),
        ("model.options=[1]", ["model.options=[1]", "a mapping, as in {a: 1} (passed to the backbone)"]),
        ("search.releases=[gate, papre]", ["search.releases.1='papre'", "'paper', 'theorem' or 'gate'"]),
        ("execution.trials=all", ["execution.trials='all'", "integer"]),
    ],
)
def test_wrong_types_name_key_value_and_what_is_expected(assignment: str, parts: list[str]) -> None:
    message = refusal(assignment)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("assignment", "parts"),
    [
        ("train.epochs=0", ["train.epochs=0", "greater than or equal to 1"]),
        ("train.batch_size=1", ["train.batch_size=1"]),
        ("train.lr=0", ["train.lr=0", "greater than 0"]),
        ("train.momentum=1", ["train.momentum=1", "less than 1"]),
        ("train.weight_decay=-1", ["train.weight_decay=-1"]),
        ("train.clip_norm=0", ["train.clip_norm=0"]),
        ("train.mixup=-0.1", ["train.mixup=-0.1"]),
        ("train.cutmix=-1", ["train.cutmix=-1"]),
        ("train.cutout=7", ["train.cutout=7", "multiple of 2"]),
        ("train.augment=cutout", ["train.augment='cutout'", "'autoaugment' or 'randaugment'"]),
        ("train.sampling=random", ["train.sampling='random'", "'natural', 'balanced' or 'square_root'"]),
        ("data.image_size=4", ["data.image_size=4"]),
        (
            "data.imbalance=0.5",
            ["data.imbalance=0.5", "greater than or equal to 1 (long tail: largest over smallest class"],
        ),
        ("data.expected_split=abc", ["data.expected_split='abc'", "should match pattern"]),
        ("seed=-1", ["seed=-1"]),
        ("protocol.confirm_seeds=1", ["protocol.confirm_seeds=1"]),
        ("protocol.published_ce=0.62", ["protocol.published_ce=0.62", "greater than or equal to 1 (percent on test"]),
        ("protocol.alpha=1", ["protocol.alpha=1"]),
        ("execution.trials=0", ["execution.trials=0"]),
        ("execution.max_failed_share=1.5", ["execution.max_failed_share=1.5"]),
        ("execution.name=a/b", ["execution.name='a/b'"]),
    ],
)
def test_out_of_range_values_are_named(assignment: str, parts: list[str]) -> None:
    message = refusal(assignment)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["data.val_fraction=0.1"], "exactly one of val_per_class and val_fraction"),
        (["data.val_per_class=null"], "exactly one of val_per_class and val_fraction"),
        (["data.imbalance=10", "data.train_size=100"], "imbalance and train_size exclude each other"),
        (["data.n_max=100"], "n_max belongs to a long tail"),
        (["data.tail=step"], "tail='step' belongs to a long tail; set imbalance too"),
        (["data.val_list=val.txt"], "exactly one of val_per_class and val_fraction (or val_list"),
        (["data.val_per_class=null", "data.val_list=v", "data.imbalance=9"], "give val_per_class, not val_list"),
        (["model.hidden_units=300"], "model: hidden_units=300 belongs to plain_neck=elu; set that too"),
        (
            ["model.weights_hash=0123456789abcdef"],
            "model: weights_hash=0123456789abcdef is of no file: set weights too",
        ),
        (["train.momentum=0"], "nesterov needs momentum > 0"),
        (["train.epochs=5", "train.warmup_epochs=5"], "warmup_epochs=5.0 must be shorter than epochs=5"),
        (["train.milestones=[0.7, 0.5]"], "milestones=[0.7, 0.5] must be increasing"),
        (["train.milestones=[0.5, 1.0]"], "milestones=[0.5, 1.0]"),
        (["search.objectives=[]"], "give one, or two different ones"),
        (["search.objectives=[accuracy, accuracy]"], "give one, or two different ones"),
        (["search.objectives=[accuarcy]"], "unknown objective 'accuarcy'. Did you mean 'accuracy'?"),
        (["search.family=globl"], "unknown threshold family 'globl'"),
        (["search.family=each_K"], "each_K with the number of classes as K, e.g. each_10"),
        (["search.releases=[]"], "releases=[]: give at least one"),
        (["search.releases=[gate, gate]"], "none twice"),
        (["search.low=1.2", "search.high=1.0"], "search.low=1.2 must lie below search.high=1.0"),
        (["search.high=65"], "65 degrees would be 1.1345"),
        (["search.objectives=[accuracy, balanced]", "search.asha={}"], "asha compares trials by one number"),
        (["search.promote=true"], "promote=true says how asha goes on"),
        (["search.promote=true", "search.asha={}", "search.sampler=gp"], "promote=true with sampler 'gp'"),
        (["search.objectives=[accuracy, balanced]", "search.sampler=cmaes"], "'cmaes' handles one objective"),
        (
            ["search.constraints=[{metric: majr, at_least: 70}]"],
            "unknown metric of a constraint 'majr'. Did you mean 'major'?",
        ),
        (["search.constraints=[{metric: major}]"], "'major': give exactly one of at_least and at_most"),
        (["search.constraints=[{metric: major, at_least: 1, at_most: 2}]"], "give exactly one of at_least and at_most"),
        (["search.constraints=[{metric: major, at_least: -1, than: ce}]"], "than='ce': only ce_etf is measured before"),
        (["search.constraints=[{metric: major, at_least: 0.7}]"], "0.7 would be 0.7 %; bounds of a share are percent"),
        (["search.constraints=[{metric: major, at_least: -1}]"], "-1 would be -1 %"),
        (
            ["search.constraints=[{metric: major, at_least: 101, than: ce_etf}]"],
            "constraint on 'major': no two shares differ by 101 points",
        ),
        (
            ["search.constraints=[{metric: nc1, at_most: 1}, {metric: nc1, at_least: 1.5}]"],
            "no trial keeps both 'nc1 >= 1.5' and 'nc1 <= 1'; change one of the bounds",
        ),
        (
            ["search.constraints=[{metric: nc1, at_most: 1}, {metric: nc1, at_most: 1.0}]"],
            "constraints: give none twice",
        ),
        (
            ["search.constraints=[{metric: nc1, at_most: 1}]", "search.asha={}"],
            "asha compares trials by the objective alone",
        ),
        (
            ["search.constraints=[{metric: nc1, at_most: 1}]", "search.sampler=cmaes"],
            "'cmaes' ignores constraints; use tpe",
        ),
        (["search.stop=[{metric: train/norm, above: 1}]"], "unknown metric of an epoch 'train/norm'"),
        (["search.stop=[{metric: train/loss}]"], "stop on 'train/loss': give exactly one of above and below"),
        (["search.stop=[{metric: train/loss, above: 1, below: 0}]"], "give exactly one of above and below"),
        (["search.asha={first_rung: 20}", "train.epochs=20"], "first_rung=20 must be below train.epochs=20"),
        (["protocol.published_ce=70", "protocol.baselines=[ce_etf]"], "published_ce=70 is compared with CE's accuracy"),
        (["protocol.grid_points=7"], "protocol.grid_points=7: the as-good rule needs at least 8, or 0"),
        (["probe.strengths=[]"], "strengths=[]: give at least one weight decay"),
        (["probe.strengths=[0.1, -1]"], "strengths=[0.1, -1.0] must be positive"),
        (["probe.strengths=[0]"], "strengths=[0.0] must be positive (0 only with solver 'sgd')"),
        (["probe.strengths_before=[0]"], "strengths_before=[0.0]"),
    ],
)
def test_settings_at_odds_with_each_other(assignments: list[str], message: str) -> None:
    assert message in refusal(*assignments)


def test_all_problems_come_in_one_message() -> None:
    message = refusal("train.epochs=0", "train.lrr=1", "data.val_per_class=-1")
    assert len(message.splitlines()) == 3
    assert all(part in message for part in ("train.epochs=0", "train.lrr", "data.val_per_class=-1"))


def test_missing_settings_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        build(StudyConfig, {"data": {"val_per_class": 3}, "model": {}})
    assert set(str(caught.value).splitlines()) == {
        "setting data.source is missing",
        "setting model.backbone is missing",
        "setting train is missing",
    }


@pytest.mark.parametrize("name", ["backbone", "image_shape", "projector", "projector_dim", "mean", "std", "seed"])
def test_options_of_the_backbone_cannot_reach_past_it(name: str) -> None:
    """`experiment.build` passes options beside these by keyword: a collision would be a TypeError in every trial."""
    message = refusal(f"model.options.{name}=1")
    assert f"model.options: '{name}' is no option of a backbone" in message
    assert ModelConfig(backbone="x", options={"width": 2, "stem": "small", "flag": True}).options == {
        "width": 2,
        "stem": "small",
        "flag": True,
    }


def test_sgd_probes_may_go_without_a_penalty() -> None:
    assert ProbeConfig(solver="sgd", strengths=(0.0, 0.1)).strengths == (0.0, 0.1)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"family": "global"}, "method.thresholds: threshold family 'global' lacks tau"),
        ({"family": "global", "angles": {"tau": 40}}, "40 degrees would be 0.6981"),
        ({"family": "nope"}, "unknown threshold family 'nope'"),
    ],
)
def test_thresholds_are_checked_when_written_down(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        experiment(method={"thresholds": spec})
    assert message in str(caught.value)
    valid = ThresholdSpec(family="global", angles={"tau": 0.5})
    assert valid.spec() == {"family": "global", "tau": 0.5}


def test_a_configuration_is_frozen() -> None:
    made = experiment()
    with pytest.raises(ValueError, match="frozen"):
        made.seed = 3  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        made.train.lr = 3.0  # type: ignore[misc]


# --- presets ------------------------------------------------------------------------------------------------------------


def test_there_are_presets() -> None:
    assert {"digits", "digits-lt"} <= set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_validates_and_explains_itself(name: str) -> None:
    made, execution, about = make_configs(name)
    assert made.preset == name
    assert f"--preset {name}" in about or name == "digits"
    assert execution.trials >= 8
    for objective in made.search.objectives:
        assert objective in OBJECTIVES
    again = build(StudyConfig, json.loads(json.dumps(made.to_dict())))
    assert again == made and again.identity == made.identity


@pytest.mark.parametrize("name", preset_names())
def test_the_network_of_every_preset_can_be_built(name: str) -> None:
    from divfeat.models.registry import entry_named

    made, _, _ = make_configs(name)
    assert set(made.model.options) <= set(entry_named(made.model.backbone).options())


@pytest.mark.parametrize("name", ["cifar10-lt", "cifar100-lt", "tin100-lt"])
def test_long_tail_presets_hold_the_published_recipe(name: str) -> None:
    """Cao et al. 2019: 200 epochs of 128, plain momentum, weight decay 2e-4, 0.1 / 100 at 160 and / 100 again at 180."""
    from divfeat.pretrain import learning_rate

    made = make_configs(name)[0]
    train = made.train
    assert (train.epochs, train.batch_size, train.weight_decay, train.nesterov) == (200, 128, 2e-4, False)
    rates = [learning_rate(train, epoch * 85, 85) for epoch in (4, 5, 159, 160, 179, 180, 199)]
    assert rates == pytest.approx([0.1 * (4 * 85 + 1) / 425, 0.1, 0.1, 1e-3, 1e-3, 1e-5, 1e-5])
    assert (made.model.backbone, made.data.imbalance, made.data.tail) == ("resnet32", 100, "exponential")
    assert made.data.val_per_class == (250 if name == "cifar10-lt" else 20)
    assert not made.protocol.learning_rates and not made.protocol.weight_decays  # the recipe is not searched
    # At 50 images CIFAR10-LT has one minor class, so there the boundary is searched too.
    assert (made.data.boundary, made.search.family) == (50, "free_boundary" if name == "cifar10-lt" else "major_minor")


def test_hierarchy_presets_hold_the_published_recipe() -> None:
    """HAFrame's released code: 100 epochs of 64, plain momentum, 0.1 at the head and a tenth of it in the backbone."""
    found = {}
    for name, neck, numbers in (("cifar100", 0.1, (2, 0.4)), ("aircraft", 1.0, (1, 0.5))):
        made = found[name] = make_configs(f"{name}-hierarchy")[0]
        train = made.train
        assert (train.epochs, train.batch_size, train.lr, train.nesterov, train.weight_decay) == (
            100,
            64,
            0.1,
            False,
            5e-4,
        )
        assert (train.backbone_lr, train.neck_lr, train.schedule, train.augment) == (0.1, neck, "cosine", "crop_flip")
        assert (made.search.method.name, made.search.method.gamma, made.search.method.cosine) == ("hinge_haf", *numbers)
        assert made.data.hierarchy == name and not made.protocol.learning_rates
        # HAFrame stands among the baselines at the numbers of its own set.
        assert parts_of(baseline("haframe", made)) == parts_of(baseline("no_cones", made))
        assert parts_of(baseline("haframe_ce", made)).gamma == numbers[0]
        assert {"haframe", "haframe_ce"} <= {*made.protocol.baselines}
    assert found["cifar100"].model.options == {"negative_slope": 0.1, "bn_momentum": 0.001}
    aircraft = found["aircraft"]
    assert (aircraft.model.plain_neck, aircraft.model.hidden_units) == ("elu", 600) and aircraft.model.weights
    assert (aircraft.data.image_size, aircraft.data.crop_bottom) == (224, 20)


def test_unknown_presets_name_the_closest() -> None:
    with pytest.raises(ConfigError, match=r"unknown preset 'digit'. Did you mean 'digits'\? Known: "):
        load_preset("digit")


# --- --set ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3", -3),
        ("0.5", 0.5),
        ("1e-4", 1e-4),
        ("5.0e-4", 5e-4),
        ("1E3", 1000.0),
        ("true", True),
        ("null", None),
        ("", None),
        ("resnet32", "resnet32"),
        ("parquet:cifar10", "parquet:cifar10"),
        ("'3'", 3.0),
        ("[1, 2]", [1, 2]),
        ("[1e-4, 0.1, x]", [1e-4, 0.1, "x"]),
        ("[]", []),
        ("{tau: 1e-1, name: x, deep: [1e-2]}", {"tau": 0.1, "name": "x", "deep": [0.01]}),
        ("a=b", "a=b"),
    ],
)
def test_values_are_read_as_yaml_with_exponents(text: str, value: Any) -> None:
    found = parse_assignments([f"a.b={text}"])
    assert found == {"a": {"b": value}}
    assert type(found["a"]["b"]) is type(value)


def test_paths_nest_and_later_ones_win() -> None:
    found = parse_assignments(["a.b.c=1", "a.b.d=2", "e=3", "a.b.c=4", "e.f=5"])
    assert found == {"a": {"b": {"c": 4, "d": 2}}, "e": {"f": 5}}


@pytest.mark.parametrize("text", ["a.b", "=3", ""])
def test_assignments_without_key_or_value(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected KEY=VALUE, e\.g\. --set train"):
        parse_assignments([text])


def test_values_that_are_not_yaml() -> None:
    with pytest.raises(ConfigError, match=r"--set 'a=\[1': the value is not valid YAML"):
        parse_assignments(["a=[1"])


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_float_survives_the_command_line(value: float) -> None:
    assert parse_assignments([f"a={value!r}"]) == {"a": value}


# --- precedence -------------------------------------------------------------------------------------------------------------


def test_assignments_beat_the_file_and_the_file_beats_the_preset(tmp_path: Path) -> None:
    preset = load_preset("digits")
    path = tmp_path / "mine.yaml"
    path.write_text("train: {epochs: 7, lr: 0.03}\nexecution: {trials: 3}\n")
    made, execution, _ = make_configs("digits", load_file(path), parse_assignments(["train.lr=0.02"]))
    assert (made.train.epochs, made.train.lr) == (7, 0.02)
    assert made.train.batch_size == preset["train"]["batch_size"]
    assert execution.trials == 3
    assert make_configs("digits")[0].train.epochs == preset["train"]["epochs"]


trees = st.recursive(
    st.integers(0, 3), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=8
).filter(lambda tree: isinstance(tree, dict))


@given(base=trees, over=trees)
def test_merge_takes_every_leaf_of_over_and_the_rest_of_base(base: dict[str, Any], over: dict[str, Any]) -> None:
    snapshot = json.dumps([base, over], sort_keys=True)
    merged = merge(base, over)

    def check(result: Any, b: Any, o: Any) -> None:
        if not (isinstance(b, dict) and isinstance(o, dict)):
            assert result == o
            return
        assert set(result) == set(b) | set(o)
        for key in result:
            if key not in o:
                assert result[key] == b[key]
            elif key not in b:
                assert result[key] == o[key]
            else:
                check(result[key], b[key], o[key])

    check(merged, base, over)
    assert json.dumps([base, over], sort_keys=True) == snapshot  # nothing was changed in place


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- 1\n- 2\n", "expected a mapping of settings, found list"),
        ("", "found NoneType"),
        ("a: [1\n", "not valid YAML"),
        (b"\xff\xfe\x00", "not valid YAML"),
    ],
)
def test_files_that_hold_no_settings(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=message) as caught:
        load_file(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--config .*none.yaml: cannot be read .*give the path of a YAML file"):
        load_file(tmp_path / "none.yaml")


def test_json_files_are_read_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"train": {"lr": 1e-4}}))
    assert make_configs("digits", load_file(path))[0].train.lr == 1e-4


# --- hashes -------------------------------------------------------------------------------------------------------------------


def leaves(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths of all fields of a configuration that are not configurations themselves."""
    if not isinstance(value, BaseModel):
        return [path]
    return [leaf for name in type(value).model_fields for leaf in leaves(getattr(value, name), (*path, name))]


#: Another valid value for the fields whose value cannot be perturbed by the rules of `another`.
OTHER: dict[str, Any] = {
    "data.source": "parquet:cifar10",
    "data.train_level": "coarse",
    "data.probe_level": "coarse",
    "data.image_size": 16,
    "data.image_column": "photo",
    "data.fine_column": "species",
    "data.coarse_column": "kind",
    "data.train_size": 100,
    "data.train_list": "train.txt",
    "data.val_list": "val.txt",
    "data.test_list": "test.txt",
    "data.hierarchy": "flat",
    "data.imbalance": 10.0,
    "data.tail": "step",
    "data.val_fraction": 0.2,
    "model.backbone": "resnet8",
    "model.projector_dim": 32,
    "model.options": {"width": 2},
    "model.plain_neck": "elu",
    "model.weights": "net.pth",
    "model.weights_hash": "0123456789abcdef",
    "train.schedule": "step",
    "train.milestones": [0.3, 0.6],
    "train.clip_norm": 1.0,
    "train.sampling": "balanced",
    "train.augment": "flip",
    "train.cutout": 4,
    "train.precision": "bfloat16",
    "probe.search": "grid",
    "probe.strengths": [0.1],
    "probe.strengths_before": [0.1],
    "probe.solver": "sgd",
    "search.family": "major_minor",
    "search.refine": ["global"],
    "search.own": ["logit_adjustment"],
    "search.releases": ["gate"],
    "search.objectives": ["accuracy"],
    "search.sampler": "random",
    "search.asha": {"first_rung": 2},
    "search.constraints": [{"metric": "accuracy", "at_least": -1.0, "than": "ce_etf"}],
    "search.stop": [{"metric": "train/feature_norm", "above": 1e4}],
    "protocol.baselines": ["ce"],
    "protocol.learning_rates": [0.1],
    "protocol.weight_decays": [0.1],
    "method.name": "ce",
    "method.release": "gate",
    "method.label_smoothing": 0.1,
    "method.logit_adjustment": 1.0,
    "method.scale": 30.0,
    "method.margin": 0.5,
    "method.focal": 1.0,
    "method.class_balanced": 0.9999,
    "method.deferred": 0.8,
    "method.closed_first": 0.2,
    "method.closed_last": 0.2,
    "method.loss": "dot_regression",
    "method.feature_norm": True,
    "method.frame": "orthonormal",
    "method.gamma": 2.0,
    "method.s_min": "grid",
    "method.neck": "transformation",
    "method.cosine": 0.4,
    "method.cosine_schedule": "rising",
    "method.soft_labels": 10.0,
    "method.hierarchical_ce": 0.1,
    "method.levels": "flamingo",
    "method.pair_margin": 3.0,
    "method.mixup": 1.0,
    "method.cutmix": 1.0,
    "method.sampling": "balanced",
    "method.second": "crt",
    "method.second_epochs": 10,
    "method.second_lr": 0.2,
    "method.exponent": 1.0,
    "method.prior_strength": 1.0,
    "method.m2m_start": 0.8,
    "method.m2m_beta": 0.999,
    "method.m2m_gamma": 0.9,
    "method.m2m_lambda": 0.5,
    "method.centroid_loss": 0.01,
    "method.thresholds.family": "global",
    "role": "confirm",
}
#: Fields that only go together with another change.
ALONG: dict[str, dict[str, Any]] = {
    "data.val_fraction": {"data": {"val_per_class": None}},
    "data.val_list": {"data": {"val_per_class": None}},
    "data.n_max": {"data": {"imbalance": 10.0}},
    "data.tail": {"data": {"imbalance": 10.0}},
    "model.hidden_units": {"model": {"plain_neck": "elu"}},
    "model.weights_hash": {"model": {"weights": "net.pth"}},
    "search.refine": {"search": {"family": "major_minor"}},
    "search.own": {"search": {"method": {"name": "hinge_la"}}},
    "search.promote": {"search": {"asha": {"first_rung": 2}}},
    "search.method.margin": {"search": {"method": {"scale": 30}}},
    "search.method.gamma": {"search": {"method": {"frame": "hierarchy"}}},
    "search.method.s_min": {"search": {"method": {"frame": "hierarchy", "gamma": 1.0}}},
    "search.method.cosine_schedule": {"search": {"method": {"cosine": 0.4}}},
    "search.method.deferred": {"search": {"method": {"class_balanced": 0.9999}}},
    **{
        f"search.method.{name}": {"search": {"method": {"second": second}}}
        for second, stage in SECONDS.items()
        for name in stage.settings
    },
    "method.thresholds.family": {"method": {"thresholds": {"angles": {"tau": 0.3}}}},
    "method.thresholds.angles": {"method": {"thresholds": {"family": "global"}}},
}


def another(path: tuple[str, ...], value: Any) -> Any:
    name = ".".join(path).replace("search.method.", "method.") if path[:2] == ("search", "method") else ".".join(path)
    if path == ("search", "method", "name"):
        return "hinge_la"
    if name in OTHER:
        return OTHER[name]
    if isinstance(value, bool):
        return not value
    if name == "protocol.grid_points":
        return value + 8
    if name == "method.thresholds.angles":
        return {"tau": 0.4}
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value + 0.01
    if name == "data.n_max":
        return 50
    if name == "protocol.published_ce":
        return 70.4
    if name == "protocol.own":
        return {"ldam": {"margin": 0.4}}
    raise AssertionError(f"give another value of {name} here")


def changed(base: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    nested: Any = value
    for key in reversed(path):
        nested = {key: nested}
    return merge(base, nested)


def read(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        value = getattr(value, name)
    return value


#: Decide no result: the images' content hash does.
NO_RESULT = {
    ("data", "download"): True,
    ("data", "expected_split"): "0123456789abcdef",
    ("model", "weights_hash"): "0123456789abcdef",
}
#: They are what is searched, or mean nothing on frozen axes, and are refused where they are given.
SEARCHED = [
    ("search", "method", *rest)
    for rest in (
        *(("thresholds", "family"), ("thresholds", "angles"), ("release",), ("exponent",)),
        *(("levels",), ("pair_margin",)),
    )
]
STUDY_FIELDS = [path for path in leaves(study()) if path not in (("preset",), *NO_RESULT, *SEARCHED)]
EXPERIMENT_FIELDS = [path for path in leaves(experiment()) if path not in NO_RESULT]


def hashes_of_a_change(made: Any, path: tuple[str, ...]) -> tuple[Any, Any]:
    """The configuration before and after another value of one field, and of those that it cannot do without."""
    base = merge(made.to_dict(), ALONG.get(".".join(path), {}))
    try:
        before = build(type(made), base)
    except ConfigError:  # the companion is invalid without the field
        before = made
    return before, build(type(made), changed(base, path, another(path, read(made, path))))


@pytest.mark.parametrize("path", STUDY_FIELDS, ids=".".join)
def test_every_field_of_a_study_is_part_of_its_identity(path: tuple[str, ...]) -> None:
    before, after = hashes_of_a_change(study(), path)
    assert before.identity != after.identity


@pytest.mark.parametrize("path", EXPERIMENT_FIELDS, ids=".".join)
def test_every_field_of_an_experiment_is_part_of_its_key(path: tuple[str, ...]) -> None:
    before, after = hashes_of_a_change(experiment(), path)
    assert before.key != after.key


def test_a_part_of_a_method_that_is_not_given_is_no_part_of_the_key() -> None:
    """0 is given: it may switch off what the name has."""
    plain = experiment().to_dict()["method"]
    assert plain.keys() == {"name", "thresholds", "release", "label_smoothing"}
    given = MethodConfig(name="ldam", scale=0, feature_norm=False)
    assert given.to_dict() == {**plain, "name": "ldam", "scale": 0.0, "feature_norm": False}
    assert MethodConfig.model_validate(given.to_dict()) == given
    assert digest(experiment(method={"scale": 0}).to_dict()) != digest(experiment().to_dict())
    assert experiment(method={"scale": None}).key == experiment().key


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("logit_adjustment", -1, "greater than or equal to 0"),
        ("scale", -30, "greater than or equal to 0"),
        ("margin", 2.5, "less than or equal to 2"),
        ("focal", -0.5, "greater than or equal to 0"),
        ("class_balanced", 1, "less than 1"),
        ("class_balanced", "0.9.9", "valid number"),
        ("deferred", 160, "less than 1"),
        ("closed_first", 160, "less than 1"),
        ("closed_last", -0.2, "greater than or equal to 0"),
        ("loss", "mse", "'cross_entropy' or 'dot_regression'"),
        ("feature_norm", "perhaps", "valid boolean"),
        ("mixup", -1, "greater than or equal to 0"),
        ("cutmix", -1, "greater than or equal to 0"),
        ("sampling", "random", "'natural', 'balanced' or 'square_root'"),
    ],
)
def test_parts_out_of_range(part: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"setting method.{part}=.*{message}"):
        experiment(method={part: value})


@pytest.mark.parametrize("path", NO_RESULT, ids=".".join)
def test_what_decides_no_result_is_no_part_of_either(path: tuple[str, ...]) -> None:
    value, along = NO_RESULT[path], ALONG.get(".".join(path), {})
    bases = merge(study().to_dict(), along), merge(experiment().to_dict(), along)
    assert build(StudyConfig, changed(bases[0], path, value)).identity == build(StudyConfig, bases[0]).identity
    assert build(ExperimentConfig, changed(bases[1], path, value)).key == build(ExperimentConfig, bases[1]).key


#: Identity, and the keys of CE's search and of the fixed cones' first confirmation, as they were before long tails had more
#: than one shape and training more than one order. They name folders of finished work.
FIRST_KEYS = {
    "cifar10": ("87986af826d32122", "072ec400e6f9c171", "3f43e795956bed52"),
    "cifar20-100": ("1dd407daf0dc21c5", "12db2c53fbd5a284", "2b491cc83bc5a2f6"),
    "digits": ("2f93fd079ddae694", "275b314e828652af", "6df5c88a146616b6"),
    "digits-lt": ("5a6915c1a0f94c25", "9ddcd5aa9451e01a", "236892ba51f28ed8"),
    "tin20-100": ("d3e1a3c558815a59", "1171c8a130cc033a", "c35c1e1c95bd1249"),
    "tin20-100-small": ("12fcc4da1b4aefd5", "7cd6602bd9fed94a", "1e3957133b926e96"),
}


@pytest.mark.parametrize("name", FIRST_KEYS)
def test_new_settings_at_their_defaults_leave_old_keys_alone(name: str) -> None:
    from divfeat.search.jobs import baseline
    from divfeat.search.jobs import experiment as job

    made = as_first_shipped(name)
    ce, fixed = job(made, baseline("ce", made), 0), job(made, baseline("hinge_fixed", made), 2000, "confirm")
    assert (made.identity, ce.key, fixed.key) == FIRST_KEYS[name]


def test_all_sections_are_covered_by_the_fields_above() -> None:
    assert {path[0] for path in STUDY_FIELDS} == set(StudyConfig.model_fields) - {"preset"}
    assert len(STUDY_FIELDS) > 45 and len(EXPERIMENT_FIELDS) > 35


def test_the_asha_settings_are_part_of_the_identity() -> None:
    hashes = {
        study(search={"asha": asha}).identity
        for asha in (None, {}, {"first_rung": 3}, {"reduction": 4}, {"first_rung": 3, "reduction": 4})
    }
    hashes.add(study(search={"asha": {}, "promote": True}).identity)
    assert len(hashes) == 6
    assert study(search={"asha": {}, "promote": False}).identity == study(search={"asha": {}}).identity
    assert study(search={"asha": {"first_rung": 4}}).identity == study(search={"asha": {}}).identity
    assert AshaConfig().first_rung == 4


def test_constraints_and_stop_reasons_are_given_on_the_command_line() -> None:
    assigned = parse_assignments(
        [
            "search.constraints=[{metric: major, at_least: -1.0, than: ce_etf}, {metric: log_norm, at_most: 5}]",
            "search.stop=[{metric: train/feature_norm, above: 1e4}]",
        ]
    )
    made = make_configs("digits-lt", overrides=assigned)[0]
    assert [one.name for one in made.search.constraints] == ["major >= ce_etf - 1", "log_norm <= 5"]
    assert made.search.stop[0].above == 1e4
    assert build(StudyConfig, made.to_dict()) == made
    assert digest(deciding(made.to_dict())) != digest(deciding(make_configs("digits-lt")[0].to_dict()))


def test_a_stop_reason_names_what_was_measured() -> None:
    above, below = StopConfig(metric="train/loss", above=2.0), StopConfig(metric="followed/collapse/nc1", below=0.1)
    assert above.reached({"train/loss": 2.5}) == "train/loss = 2.5 above 2"
    assert below.reached({"followed/collapse/nc1": 0.05}) == "followed/collapse/nc1 = 0.05 below 0.1"
    for metrics in ({"train/loss": 2.0}, {"train/loss": math.nan}, {"followed/collapse/nc1": 0.01}, {}):
        assert above.reached(metrics) is None
    assert below.reached({"followed/collapse/nc1": 0.1}) is None


def test_every_score_is_a_share_to_be_maximised_or_a_distance_to_be_minimised() -> None:
    for name, measure in OBJECTIVES.items():
        kind = ("number", "minimize") if name in OF_TREES else ("share", "maximize")
        assert measure.geometry or (measure.unit, measure.direction) == kind, name
        assert measure.plain == (measure.geometry or name in OF_TREES)
        assert measure.scale == (100 if measure.unit == "share" else 1)
        assert measure.sign == (1 if measure.direction == "maximize" else -1)
    assert [name for name, measure in OBJECTIVES.items() if measure.sign < 0] == [*OF_TREES, "log_norm"]


def test_identity_ignores_how_a_study_is_run() -> None:
    plain, _, _ = make_configs("digits")
    for assignment in ("execution.trials=99", "execution.name=mine", "execution.workers_per_trial=2"):
        assert make_configs("digits", overrides=parse_assignments([assignment]))[0].identity == plain.identity
    assert study(preset="a").identity == study(preset="b").identity
    assert set(ExecutionConfig.model_fields).isdisjoint(set(StudyConfig.model_fields))


def test_hashes_see_values_not_their_spelling() -> None:
    assert study(train={"lr": 1}).identity == study(train={"lr": 1.0}).identity
    shuffled = build(StudyConfig, dict(reversed(list(study().to_dict().items()))))
    assert shuffled.identity == study().identity
    for text in (study().identity, experiment().key):
        assert len(text) == 16 and int(text, 16) >= 0


def test_the_digest_is_pinned() -> None:
    """Keys name folders of finished work: a change of the canonical form would orphan them all."""
    canonical = b'{"a":"\\u00e9","b":[1,2.5,null]}'
    assert digest({"b": [1, 2.5, None], "a": "é"}) == hashlib.sha256(canonical).hexdigest()[:16]
    with pytest.raises(ValueError):
        digest(math.nan)


#: Of the presets as they were first shipped. A new field must leave them alone at its default.
IDENTITIES = {
    "cifar10": "87986af826d32122",
    "cifar20-100": "1dd407daf0dc21c5",
    "digits": "2f93fd079ddae694",
    "digits-lt": "5a6915c1a0f94c25",
    "tin20-100": "d3e1a3c558815a59",
    "tin20-100-small": "12fcc4da1b4aefd5",
}


#: preset -> key of the training with tau+ = 0.5 and the gate, seed 3.
KEYS = {
    "cifar10": "04e90564fc0d56ff",
    "cifar20-100": "211cb724def531ae",
    "digits": "bc31baffc5ac2602",
    "digits-lt": "0fa516a72031c3ee",
    "tin20-100": "1a7655fd3ccd12d6",
    "tin20-100-small": "98ca00976136884f",
}


@pytest.mark.parametrize("preset", IDENTITIES)
def test_identities_and_keys_of_the_presets_stay(preset: str) -> None:
    """A new setting that is off leaves them as they are: `deciding` drops it."""
    made = as_first_shipped(preset)
    assert made.identity == IDENTITIES[preset]
    method = {"name": "hinge_ce", "thresholds": {"family": "global", "angles": {"tau": 0.5}}, "release": "gate"}
    fields = {name: getattr(made, name) for name in ("data", "model", "train", "probe")}
    assert build(ExperimentConfig, {**fields, "method": method, "seed": 3}).key == KEYS[preset]


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"method": "ce_etf"}, "search: method='ce_etf' has no thresholds to search; use hinge_ce or hinge_la"),
        ({"method": "hinge"}, "unknown method 'hinge'. Did you mean 'hinge_la'?"),
        (
            {"method": {"name": "hinge_la", "release": "gate"}},
            "thresholds and release are what is searched; leave them out",
        ),
        (
            {"method": {"deferred": 0.5}},
            "search: method.deferred=0.5 says when class weights start, and 'hinge_ce' has none",
        ),
        ({"method": {"scael": 3}}, "unknown setting 'search.method.scael'. Did you mean 'search.method.scale'?"),
        (
            {"own": ["logit_adjustment"]},
            "logit_adjustment is 0.0, outside the searched range 0.25 to 3; set search.method.logit_adjustment to one inside",
        ),
        ({"own": ["mixup"]}, "the first value of mixup is None, outside the searched range 0.1 to 2, log scale; set"),
        ({"own": ["tau"], "method": "hinge_la"}, "unknown part with a searched range 'tau'"),
        ({"own": ["logit_adjustment"] * 2, "method": "hinge_la"}, "name no part twice"),
        ({"own": ["closed_last"], "family": "none"}, "closed_last: the family 'none' has no cones to close"),
        ({"method": {"closed_first": 0.2}, "family": "none"}, "closed_first: the family 'none' has no cones"),
        (
            {"own": ["closed_first"], "method": {"closed_last": 0.6}},
            "own=['closed_first']: the search comes to closed_first=0.45, where method.closed_first=0.45 and",
        ),
        (
            {"own": ["class_balanced"], "method": {"class_balanced": 0.5}},
            "class_balanced is 0.5, outside the searched range 0.9 to 0.99999, log scale of 1 - it; set",
        ),
    ],
)
def test_bases_of_a_search_that_are_refused(search: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        study(search=search)
    assert message in str(caught.value)


def test_a_base_by_name_or_as_a_mapping_is_the_same() -> None:
    by_name, mapping = study(search={"method": "hinge_la"}), study(search={"method": {"name": "hinge_la"}})
    assert by_name == mapping and by_name.identity == mapping.identity != study().identity
    plain = study(search={"method": "hinge_ce", "own": []})
    assert plain.identity == study().identity
    found, _, _ = make_configs(
        "digits", overrides=parse_assignments(["search.method=hinge_la", "search.own=[logit_adjustment]"])
    )
    assert build(StudyConfig, found.to_dict()) == found and found.search.own == ("logit_adjustment",)


def test_releases_and_objectives_agree_with_the_rest() -> None:
    from divfeat.losses import RELEASES

    assert get_args(module.Release) == RELEASES
    assert set(SearchConfig().releases) == set(RELEASES)
    assert all(
        one.geometry or (one.validation.split("/")[0] in ("probe", "val") and one.test.startswith("test/"))
        for one in OBJECTIVES.values()
    )


def test_unknown_without_a_close_name_only_lists() -> None:
    assert unknown("thing", "qqq", ["alpha", "beta"]) == "unknown thing 'qqq'. Known: alpha, beta"


def test_preset_files_hold_only_known_sections() -> None:
    for name in preset_names():
        loaded = load_preset(name)
        assert set(loaded) <= {*StudyConfig.model_fields, "execution", "about"}
        assert yaml.safe_load(yaml.safe_dump(loaded)) == loaded


def test_what_is_said_of_a_method_keeps_its_name() -> None:
    """In the order given: a name alone, then one of its numbers; a name alone replaces all that was said before."""
    words = ["search.method=hinge_la", "search.method.logit_adjustment=2"]
    made, _, _ = make_configs("digits", overrides=parse_assignments(words))
    assert made.search.method == MethodConfig(name="hinge_la", logit_adjustment=2.0)
    made, _, _ = make_configs("tin100-hierarchy-small", overrides=parse_assignments(["search.method.gamma=3"]))
    assert made.search.method == MethodConfig(name="hinge_haf", gamma=3.0)
    made, _, _ = make_configs(
        "tin100-hierarchy-small", overrides=parse_assignments(["search.method=hinge_ce", "search.own=[]"])
    )
    assert made.search.method == MethodConfig()
