"""A tree named in the configuration: found, matched by name, in the key and the hash of the data, and scored by."""

import json
from pathlib import Path

import pytest
import torch

from divfeat import record
from divfeat.config import DataConfig
from divfeat.data.prepare import prepare
from divfeat.data.trees import tree_of_names
from divfeat.errors import ConfigError, DataError
from divfeat.experiment import run
from divfeat.metrics import hierarchical_distance_at_k, mistake_severity
from tests.search.samples import make_study

BASE = {"source": "digits", "val_per_class": 5, "train_size": 200}
TREE = {"round": {"holes": ["6", "8", "9", "0"], "open": ["2", "3", "5"]}, "straight": ["1", "4", "7"]}


@pytest.fixture
def tree_file(tmp_path: Path) -> Path:
    path = tmp_path / "digits.json"
    path.write_text(json.dumps(TREE))
    return path


def test_a_file_is_matched_by_name(tree_file: Path) -> None:
    data = prepare(DataConfig(**BASE, hierarchy=str(tree_file)), "search")
    assert data.hierarchy is not None and data.hierarchy.classes == data.class_names == tuple("0123456789")
    assert data.hierarchy.distances()[0, [6, 2, 1]].tolist() == [1, 2, 3]


def test_it_is_found_below_the_folder_of_data_sets(tree_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig(**BASE, hierarchy="digits.json")
    assert prepare(config, "search", root=tree_file.parent).hierarchy is not None
    monkeypatch.setenv("DIVFEAT_DATA", str(tree_file.parent))
    assert prepare(config, "search").hierarchy is not None


def test_trees_of_the_labels_alone() -> None:
    flat = prepare(DataConfig(**BASE, hierarchy="flat"), "search").hierarchy
    assert flat is not None and flat.sizes == [10]
    coarse = prepare(DataConfig(**BASE, hierarchy="coarse"), "search").hierarchy
    assert coarse is not None and coarse.sizes == [5, 10]
    assert coarse.distances()[0].tolist() == [0, 1, *[2] * 8]


def test_without_images_all_but_coarse_are_made_of_names(tree_file: Path) -> None:
    names = tuple("0123456789")
    assert tree_of_names("flat", names, "fine").sizes == [10]
    assert (
        tree_of_names(str(tree_file), names, "fine")
        == prepare(DataConfig(**BASE, hierarchy=str(tree_file)), "search").hierarchy
    )
    with pytest.raises(ConfigError, match=r"data.hierarchy=coarse: which coarse label"):
        tree_of_names("coarse", names, "fine")


def test_coarse_labels_are_inner_nodes_of_a_tree_of_fine_ones(tmp_path: Path) -> None:
    names = prepare(DataConfig(**BASE, train_level="coarse"), "search").class_names
    tree = {"low": {name: list(f"{2 * k}{2 * k + 1}") for k, name in enumerate(names[:2])}}
    tree |= {"high": {name: list(f"{2 * k}{2 * k + 1}") for k, name in enumerate(names) if k > 1}}
    path = tmp_path / "tree.json"
    path.write_text(json.dumps(tree))
    found = prepare(DataConfig(**BASE, train_level="coarse", hierarchy=str(path)), "search").hierarchy
    assert found is not None and found.classes == names and found.sizes == [2, 5]


def test_the_tree_is_part_of_the_data(tree_file: Path) -> None:
    config = DataConfig(**BASE, hierarchy=str(tree_file))
    plain, one = prepare(DataConfig(**BASE), "search"), prepare(config, "search")
    assert plain.hierarchy is None and plain.split_hash != one.split_hash
    tree_file.write_text(json.dumps({"a": list("01234"), "b": list("56789")}))
    assert prepare(config, "search").split_hash != one.split_hash


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("nowhere.json", {}, r"data.hierarchy=nowhere.json: there is no file at .*nowhere.json.* known: flat, coarse, aircraft"),
        ("cifar10", {}, r"data.hierarchy=cifar10: unknown class '0'.*lacks 10 of the data set's 10 classes"),
        ("coarse", {"train_level": "coarse"}, "data.hierarchy=coarse: the set's coarse labels have no tree above them"),
    ],
)  # fmt: skip
def test_what_names_no_tree_of_these_labels(name: str, changes: dict, words: str) -> None:
    with pytest.raises((ConfigError, DataError), match=words):
        prepare(DataConfig(**BASE | changes, hierarchy=name), "search")


def test_an_experiment_says_how_bad_its_mistakes_are(tree_file: Path) -> None:
    study = make_study(
        data=BASE | {"hierarchy": str(tree_file), "train_level": "fine"},
        train={"epochs": 1, "batch_size": 100},
        probe={"strengths": [1.0]},
    )
    from divfeat.config import MethodConfig
    from divfeat.search.jobs import experiment

    config = experiment(study, MethodConfig(name="ce_etf"), 0)
    data = prepare(config.data, "search")
    result = run(config, data)
    scored, tree = result.features["val"], data.hierarchy
    assert tree is not None and result.hierarchy == tree
    labels, predictions = scored.labels("fine"), scored.logits.argmax(1)
    found = result.metrics
    assert found["val/mistake_severity"] == float(mistake_severity(predictions, labels, tree))
    assert found["val/hierarchical_distance_5"] == float(hierarchical_distance_at_k(scored.logits, labels, tree, 5))
    assert "val/hierarchical_distance_20" not in found  # of ten classes
    levels = tree.levels()
    for level in (1, 2):
        hits = (levels[level - 1][predictions] == levels[level - 1][labels]).double().mean()
        assert found[f"val/level_{level}_accuracy"] == pytest.approx(float(hits))
    assert "val/level_3_accuracy" not in found  # that is val/accuracy
    assert record.completed(config, result)["metrics"]["val/mistake_severity"] == found["val/mistake_severity"]
    plain = experiment(make_study(data=BASE | {"train_level": "fine"}), MethodConfig(name="ce_etf"), 0)
    assert plain.key != config.key and "hierarchy" not in str(plain.key)
    assert torch.isfinite(torch.tensor(found["val/hierarchical_distance_1"]))
