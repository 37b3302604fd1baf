"""First weights from a local file of torchvision's format: taken whole, checked, and told where they do not fit."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from divfeat.config import ExperimentConfig
from divfeat.data.prepare import prepare
from divfeat.errors import ConfigError
from divfeat.experiment import build, run
from divfeat.models import FeatureExtractor, build_extractor, load_weights
from divfeat.settings import merge
from divfeat.validation import build as validated


def saved(path: Path, content: object) -> str:
    torch.save(content, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def reference(**options: Any) -> nn.Module:
    torch.manual_seed(5)
    return torchvision.models.resnet18(weights=None, **options)


def test_a_file_of_torchvision_is_taken_and_its_classifier_left(tmp_path: Path) -> None:
    net, extractor = reference(), build_extractor("resnet18", image_shape=(3, 96, 96), projector=False)
    state = {
        name: value for name, value in net.state_dict().items() if "num_batches_tracked" not in name
    }  # as old files
    digest = saved(tmp_path / "net.pth", state)
    load_weights(extractor.backbone, tmp_path / "net.pth", digest)
    assert extractor.backbone.weights_hash == digest
    net.fc = nn.Identity()
    images = torch.rand(2, 3, 96, 96)
    assert torch.equal(extractor.eval().backbone(images), net.eval()(images))
    rebuilt = FeatureExtractor.from_config(extractor.config)  # needs no file
    rebuilt.load_state_dict(extractor.state_dict())
    assert torch.equal(rebuilt.eval().backbone(images), net(images))


def test_any_backbone_takes_its_own_state_dict(tmp_path: Path) -> None:
    one, other = (build_extractor("digits_cnn", image_shape=(1, 8, 8), seed=seed).backbone for seed in (0, 1))
    saved(tmp_path / "net.pth", one.state_dict())
    load_weights(other, tmp_path / "net.pth")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"state_dict": {}}, "is no state dict, tensors by name: of a checkpoint with more in it"),
        ({"module.conv1.weight": torch.zeros(1)}, r"is of another net .* lacks 'conv1.weight' \(\d+ in all\)"),
        ("more", r"has 'layer5.weight' \(1 in all\)"),
        ("stem", r"conv1.weight is \[64, 3, 7, 7\], the net's \[64, 3, 3, 3\].*model.options.stem=large"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path: Path, content: Any, words: str) -> None:
    side = 32 if content == "stem" else 96
    if isinstance(content, str):
        content = reference().state_dict() | ({"layer5.weight": torch.zeros(1)} if content == "more" else {})
    saved(tmp_path / "net.pth", content)
    backbone = build_extractor("resnet18", image_shape=(3, side, side)).backbone
    before = [value.clone() for value in backbone.parameters()]
    with pytest.raises(ConfigError, match=rf"model.weights={tmp_path}/net.pth.*{words}"):
        load_weights(backbone, tmp_path / "net.pth")
    assert backbone.weights_hash is None
    assert all(torch.equal(a, b) for a, b in zip(before, backbone.parameters(), strict=True))


@pytest.mark.parametrize("content", [b"", b"no tensors", b"PK\x03\x04 torn"])
def test_files_that_are_none_of_torch(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(content)
    backbone = build_extractor("digits_cnn", image_shape=(1, 8, 8)).backbone
    with pytest.raises(ConfigError, match=r"net.pth holds no tensors that torch.load can read"):
        load_weights(backbone, path)
    with pytest.raises(ConfigError, match=r"none.pth cannot be read \(No such file"):
        load_weights(backbone, tmp_path / "none.pth")


def test_an_experiment_starts_from_them_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIVFEAT_DATA", str(tmp_path))
    net = build_extractor("digits_cnn", image_shape=(1, 8, 8), seed=77).backbone
    digest = saved(tmp_path / "net.pth", net.state_dict())
    base = {
        "data": {"source": "digits", "train_size": 80, "val_per_class": 2},
        "model": {"backbone": "digits_cnn", "weights": "net.pth"},
        "train": {"epochs": 1, "batch_size": 40, "lr": 0.05},
        "probe": {"strengths": [0.1]},
    }

    def config(**model: Any) -> ExperimentConfig:
        made: ExperimentConfig = validated(ExperimentConfig, merge(base, {"model": model}))
        return made

    data = prepare(config().data, "search")
    learner, _ = build(config(weights_hash=digest), data)
    assert all(
        torch.equal(a, b) for a, b in zip(learner.extractor.backbone.parameters(), net.parameters(), strict=True)
    )
    assert run(config(), data).provenance["weights_hash"] == digest
    assert "weights_hash" not in run(config(weights=None), data).provenance
    with pytest.raises(
        ConfigError, match=rf"net.pth has the hash {digest}, but model.weights_hash=0{'1' * 15}: it is another"
    ):
        build(config(weights_hash="0" + "1" * 15), data)
    with pytest.raises(ConfigError, match=r"model.weights=none.pth: there is no file at .*none.pth nor .*none.pth"):
        build(config(weights="none.pth"), data)
