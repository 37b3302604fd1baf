"""Records as JSON and the files beside them; provenance."""

import json
import math
import re
import subprocess
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from divfeat import provenance, record
from divfeat.config import ExperimentConfig
from divfeat.data.prepare import prepare
from divfeat.errors import DataError
from divfeat.experiment import ExperimentResult, run
from divfeat.features import FeatureSet
from divfeat.files import read_json, write_json
from divfeat.hierarchy import Hierarchy
from divfeat.models import FeatureExtractor
from divfeat.settings import merge
from divfeat.validation import build


def config(level: str = "coarse") -> ExperimentConfig:
    return build(
        ExperimentConfig,
        {
            "data": {"source": "digits", "train_level": level, "train_size": 80, "val_per_class": 2},
            "model": {"backbone": "digits_cnn", "projector_dim": 16},
            "train": {"epochs": 1, "batch_size": 40, "lr": 0.05},
            "probe": {"strengths": [0.1]},
        },
    )


@lru_cache
def result() -> ExperimentResult:
    return run(config())


def test_a_completed_record_is_json_and_gives_the_configuration_back(tmp_path: Path) -> None:
    made = record.completed(config(), result())
    write_json(tmp_path / "record.json", made)
    read = read_json(tmp_path / "record.json")
    assert read == json.loads(json.dumps(made))  # nothing was bent on the way: no NaN, no numpy number, no tuple
    assert build(ExperimentConfig, read["config"]).key == config().key == read["provenance"]["key"]
    assert read["status"] == "completed" and read["error"] is None
    assert read["metrics"] == result().metrics and read["history"] == result().history
    assert len(read["per_class"]) == 5 and read["notes"] == result().notes


@pytest.mark.parametrize(("status", "kind"), [("pruned", "rung"), ("failed", "nan")])
def test_a_record_that_ended_early_has_the_same_fields(status: str, kind: str) -> None:
    ended = record.ended(status, config(), "why", kind, [{"epoch": 0}])
    completed = record.completed(config(), result())
    assert ended.keys() == completed.keys() | {"error_kind"}
    assert (ended["status"], ended["error"], ended["error_kind"]) == (status, "why", kind)
    assert ended["history"] == [{"epoch": 0}] and ended["metrics"] == {}
    assert json.loads(json.dumps(ended)) == ended


def test_a_metric_that_is_no_number_becomes_null(tmp_path: Path) -> None:
    made = record.completed(config(), result())
    made["metrics"] = {"a": math.nan, "b": 1.0}
    write_json(tmp_path / "record.json", made)
    assert read_json(tmp_path / "record.json")["metrics"] == {"a": None, "b": 1.0}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_only_what_is_asked_for_is_kept(tmp_path: Path) -> None:
    weights = {"extractor/config.json", "extractor/weights.pt"}
    for name, options, expected in (
        ("none", {"weights": False, "features": False}, set()),
        ("weights", {"weights": True, "features": False}, weights),
        ("all", {"weights": True, "features": True}, weights | {"features.parquet", "axes.npy"}),
    ):
        record.save_arrays(tmp_path / name, result(), **options)
        assert files(tmp_path / name) == {"correct.npz"} | expected
    record.save_arrays(tmp_path / "all", result(), weights=True, features=True)  # again, as after a retry


def test_correctness_comes_back_without_pickle(tmp_path: Path) -> None:
    record.save_arrays(tmp_path, result(), weights=False, features=False)
    with np.load(tmp_path / "correct.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"accuracy", "fine_probe", "label", "fine", "predicted"}
        assert all(np.array_equal(arrays[key], result().correct[key]) for key in arrays)
        assert arrays["predicted"].dtype == np.int64 and arrays["predicted"].shape == arrays["label"].shape
        assert np.array_equal(arrays["predicted"] == arrays["label"], arrays["accuracy"])


@pytest.mark.parametrize("tree", [None, "flat"])
@pytest.mark.parametrize("role", ["search", "confirm"])
def test_angles_between_classes_are_kept_of_a_confirmation_with_a_tree(
    tmp_path: Path, role: str, tree: str | None
) -> None:
    changes = {"role": role, "data": {"hierarchy": tree}}
    found = run(build(ExperimentConfig, merge(config().to_dict(), changes)))
    record.save_arrays(tmp_path, found, weights=False, features=False)
    kept = {"angles.npz", "hierarchy.json"} if (role, tree) == ("confirm", "flat") else set()
    assert files(tmp_path) == {"correct.npz"} | kept
    if not kept:
        return
    with np.load(tmp_path / "angles.npz", allow_pickle=False) as angles:
        assert set(angles) == {"axes", "means"}
        for name in angles:
            assert angles[name].dtype == np.float32 and angles[name].shape == (5, 5)
            np.testing.assert_allclose(angles[name].diagonal(), 1, atol=1e-5)
        features, labels = found.features["train"].after, found.features["train"].labels("coarse")
        means = torch.nn.functional.normalize(torch.stack([features[labels == k].mean(0) for k in range(5)]), dim=1)
        np.testing.assert_allclose(angles["means"], (means @ means.T).cpu(), atol=1e-4)


def test_the_extractor_is_rebuilt_to_the_same_features(tmp_path: Path) -> None:
    record.save_arrays(tmp_path, result(), weights=True, features=False)
    rebuilt = FeatureExtractor.from_config(read_json(tmp_path / "extractor" / "config.json"))
    rebuilt.load_state_dict(torch.load(tmp_path / "extractor" / "weights.pt", weights_only=True))
    images = torch.from_numpy(prepare(config().data, "search").evaluation.images)
    with torch.no_grad():
        after = rebuilt.eval()(images).after
    torch.testing.assert_close(after, result().features["val"].after, rtol=1e-5, atol=1e-6)


def test_features_come_back_split_by_split(tmp_path: Path) -> None:
    record.save_arrays(tmp_path, result(), weights=False, features=True)
    assert np.array_equal(np.load(tmp_path / "axes.npy", allow_pickle=False), result().axes.float().numpy())
    for split, found in result().features.items():
        read = record.load_features(tmp_path / "features.parquet", split)
        assert found.coarse is not None
        for name, expected in (("feature", found.after), ("fine", found.fine), ("coarse", found.coarse)):
            assert read[name].dtype == expected.numpy().dtype
            assert np.array_equal(read[name], expected.numpy())
    with pytest.raises(DataError, match=r"features\.parquet holds no features of split 'test'"):
        record.load_features(tmp_path / "features.parquet", "test")


def test_a_confirmation_keeps_its_tree(tmp_path: Path) -> None:
    tree = Hierarchy.from_nested({"x": ["b", {"y": ["a", "d"]}], "z": ["c", "e"]}).aligned("abcde")
    searched = replace(result(), hierarchy=tree)
    confirmed = replace(searched, provenance={**result().provenance, "role": "confirm"})
    record.save_arrays(tmp_path / "search", searched, weights=False, features=False)
    record.save_arrays(tmp_path / "confirm", confirmed, weights=False, features=False)
    assert files(tmp_path / "search") == {"correct.npz"} and record.load_tree(tmp_path / "search") is None
    assert files(tmp_path / "confirm") == {"correct.npz", "hierarchy.json"}
    assert record.load_tree(tmp_path / "confirm") == tree
    write_json(tmp_path / "confirm" / "hierarchy.json", {"names": ["a"]})
    with pytest.raises(DataError, match="holds no tree of names, parents and num_classes"):
        record.load_tree(tmp_path / "confirm")


def test_features_without_coarse_labels(tmp_path: Path) -> None:
    found = FeatureSet(*(torch.arange(6.0).reshape(2, 3),) * 3, fine=torch.tensor([1, 0]), coarse=None)
    record.save_features(tmp_path / "f.parquet", {"train": found})
    read = record.load_features(tmp_path / "f.parquet", "train")
    assert set(read) == {"feature", "fine"}
    assert read["feature"].tolist() == [[0, 1, 2], [3, 4, 5]] and read["fine"].tolist() == [1, 0]


# --- provenance ---------------------------------------------------------------------------------------------------------


def test_the_commit_is_that_of_the_source_tree() -> None:
    assert re.fullmatch(r"unknown|[0-9a-f]{40}(-dirty)?", provenance.commit())


@pytest.mark.parametrize(
    ("changed", "expected"), [("", "c" * 40), (" M divfeat/pretrain.py\n", "c" * 40 + "-dirty"), (None, "unknown")]
)
def test_a_changed_tree_is_dirty_and_a_broken_one_unknown(
    monkeypatch: pytest.MonkeyPatch, changed: str | None, expected: str
) -> None:
    def git(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if changed is None:
            raise FileNotFoundError("git")
        return subprocess.CompletedProcess(command, 0, stdout="c" * 40 + "\n" if "rev-parse" in command else changed)

    monkeypatch.delenv(provenance.COMMIT_VARIABLE, raising=False)
    monkeypatch.setattr(provenance.subprocess, "run", git)
    monkeypatch.setattr(provenance.Path, "exists", lambda path: True)
    assert provenance.commit.__wrapped__() == expected


@pytest.mark.parametrize(
    ("named", "expected"),
    [("", "unknown"), ("c" * 40, "c" * 40), ("c" * 40 + "-dirty", "c" * 40 + "-dirty"), ("$(git rev-parse", "unknown")],
)
def test_outside_a_checkout_the_commit_is_the_one_named(
    monkeypatch: pytest.MonkeyPatch, named: str, expected: str
) -> None:
    monkeypatch.setattr(provenance.Path, "exists", lambda path: False)
    monkeypatch.setenv(provenance.COMMIT_VARIABLE, named)
    assert provenance.commit.__wrapped__() == expected


def test_versions_name_what_decides_results() -> None:
    found = provenance.versions()
    assert {"divfeat", "python", "torch", "numpy", "ray", "optuna", "mlflow"} <= set(found)
    assert all(isinstance(version, str) and version for version in found.values())


def test_the_processor_has_a_name() -> None:
    assert provenance.device_name(torch.device("cpu")).strip()
