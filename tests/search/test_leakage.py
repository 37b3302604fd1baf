"""A label planted in the test images must not help: whole studies with real trainings, on images that tell their class.

Real phases, ledger, Optuna and trainings, in this process instead of on Ray; MLflow is left out. The plant is a stripe of a
colour of the class, over images that are hard without it.
"""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits

from divfeat.cluster.trial import run_spec
from divfeat.config import ExperimentConfig
from divfeat.data import prepare as prepare_module
from divfeat.data.prepare import prepare
from divfeat.errors import DataError
from divfeat.experiment import run
from divfeat.search import session
from divfeat.search.ledger import Ledger
from divfeat.search.protocol import confirm_seeds
from divfeat.search.study import Study
from divfeat.settings import make_configs
from divfeat.study_config import ExecutionConfig, StudyConfig

pytestmark = pytest.mark.slow

CLASSES = 4
#: Images a class.
SIZES = {"train": 50, "val": 30, "test": 40}
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], dtype=np.uint8)
SETTINGS = {
    "data": {
        "source": "lists:images", "train_level": "fine", "probe_level": "fine", "val_list": "images/val.txt",
        "train_list": "images/train.txt", "test_list": "images/test.txt", "val_per_class": None, "val_fraction": None,
    },
    "model": {"backbone": "digits_cnn"},
    "train": {"epochs": 6, "batch_size": 50, "lr": 0.05, "warmup_epochs": 0},
    "probe": {"strengths": [0.01, 0.1], "strengths_before": [0.01]},
    "search": {"objectives": ["accuracy"], "releases": ["gate"]},
    "protocol": {
        "baselines": ["ce", "ce_etf"], "learning_rates": [0.02, 0.05], "weight_decays": [], "grid_points": 0,
        "select_top": 1, "select_seeds": 2, "confirm_seeds": 2,
    },
}  # fmt: skip


def study() -> StudyConfig:
    return make_configs("digits", SETTINGS)[0]


@lru_cache
def drawn() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Part -> uint8 [N, 8, 8, 3] images and labels: faint digits in noise."""
    digits, rng = load_digits(), np.random.default_rng(0)
    found, used = {}, np.zeros(CLASSES, dtype=int)
    for part, size in SIZES.items():
        rows = [np.flatnonzero(digits.target == k)[used[k] : used[k] + size] for k in range(CLASSES)]
        used += size
        shown = digits.images[np.concatenate(rows)][..., None].repeat(3, axis=3)
        noisy = 90 + 3 * shown + 40 * rng.standard_normal(shown.shape)
        found[part] = (noisy.clip(0, 255).astype(np.uint8), np.repeat(np.arange(CLASSES), size))
    return found


def made(root: Path, *planted: str) -> Path:
    """The images as list files below `root`, with the plant in the parts named."""
    for part, (images, labels) in drawn().items():
        (root / "images" / part).mkdir(parents=True)
        lines = []
        for place, (image, label) in enumerate(zip(images, labels, strict=True)):
            shown = image.copy()
            if part in planted:
                shown[:2] = COLOURS[label]
            Image.fromarray(shown).save(root / "images" / part / f"{place}.png")
            lines.append(f"{part}/{place}.png {label}")
        (root / "images" / f"{part}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


class Ran:
    """A whole study on the images below `root`, and what it saw."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.config = root, study()
        self.ledger = Ledger(root / "study")
        #: Splits read from disk, and data shared with trials, each with whether a winner was frozen by then.
        self.opened: list[tuple[str, bool]] = []
        self.shared: list[tuple[str, bool]] = []
        ran = self

        class InProcess:
            concurrent = 1

            def __init__(self, **placement: Any) -> None:
                self.data: dict[str, Any] = {}

            def wait(self, *told: Any) -> None: ...

            def begin(self) -> None: ...

            def node_types(self) -> dict[str, int]:
                return {"local": 1}

            def share(self, role: str, data: Any) -> None:
                ran.shared.append((role, ran.frozen))
                self.data[role] = data

            def run(self, source: Any, role: str) -> None:
                while (spec := source.next()) is not None:
                    run_spec(spec, self.data[role], lambda told: None)
                    source.ended(spec.key, None)

            def close(self) -> None: ...

        class Untracked:
            away = False

            @classmethod
            def open(cls, *place: Any, **how: Any) -> Untracked:
                return cls()

            def __getattr__(self, name: str) -> Any:
                return lambda *arguments, **named: None

        real = prepare_module.load_source

        def load(*arguments: Any, **named: Any) -> Any:
            self.opened.append((named["split"], self.frozen))
            return real(*arguments, **named)

        monkeypatch.setattr(session, "RayExecutor", InProcess)
        monkeypatch.setattr(session, "Tracker", Untracked)
        monkeypatch.setattr(prepare_module, "load_source", load)

    @property
    def frozen(self) -> bool:
        return self.ledger.phase("winner") is not None

    def go(self) -> Ran:
        console = Console(file=io.StringIO(), width=150)
        found = Study(self.config, ExecutionConfig(trials=3), self.ledger.folder, "study", self.root, console=console)
        session.run_session(found, lambda: SimpleNamespace(files={}, metrics={}, sentence=""))
        return self

    def records(self, role: str) -> dict[str, dict[str, Any]]:
        """Key -> what a run of the role found, without clocks."""
        found = {key: self.ledger.record(key) for key in self.ledger.started()}
        return {key: timeless(record) for key, record in found.items() if record and record["config"]["role"] == role}

    def decisions(self) -> list[Any]:
        """Learning rate, proposals, candidates, winner, probe strengths."""
        return [self.ledger.phase("calibrate"), self.ledger.proposals(), self.ledger.phase("winner")]

    def accuracy(self) -> float:
        """Mean on test over all confirmed runs."""
        return float(np.mean([record["metrics"]["test/accuracy"] for record in self.records("confirm").values()]))


def timeless(record: dict[str, Any]) -> dict[str, Any]:
    kept = {name: record[name] for name in ("status", "config", "metrics", "per_class")}
    return kept | {"history": [{name: row[name] for name in row if name != "time"} for row in record["history"]]}


def of_training(record: dict[str, Any]) -> dict[str, Any]:
    """What a confirmation found out on its training images: nothing of it has seen a test image."""
    metrics = {
        name: v for name, v in record["metrics"].items() if name.partition("/")[0] in ("train", "collapse", "feature")
    }
    return {
        "metrics": metrics,
        "train": [{n: row[n] for n in row if n.startswith("train/")} for row in record["history"]],
    }


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    """By where the label was planted."""
    found = {}
    for name, planted in {"nowhere": (), "test": ("test",), "val": ("val",), "everywhere": tuple(SIZES)}.items():
        with pytest.MonkeyPatch.context() as patch:
            found[name] = Ran(made(tmp_path_factory.mktemp(name), *planted), patch).go()
    return found


def test_the_plant_would_help_where_it_may_be_learned(studies: dict[str, Ran]) -> None:
    """Without this, the tests below could not fail."""
    assert studies["nowhere"].accuracy() < 0.75
    assert studies["everywhere"].accuracy() > studies["nowhere"].accuracy() + 0.2


def test_a_label_in_the_test_images_changes_no_choice(studies: dict[str, Ran]) -> None:
    clean, planted = studies["nowhere"], studies["test"]
    assert len(clean.records("search")) > 5
    assert planted.records("search") == clean.records("search")  # scores, curves, geometry: to the last bit
    assert planted.decisions() == clean.decisions()


def test_a_label_in_the_test_images_changes_no_training_and_does_not_help(studies: dict[str, Ran]) -> None:
    clean, planted = studies["nowhere"].records("confirm"), studies["test"].records("confirm")
    assert clean.keys() == planted.keys() and len(clean) >= 4
    for key, record in clean.items():
        assert of_training(planted[key]) == of_training(record)
        assert planted[key]["metrics"] != record["metrics"]  # the test images did change
    assert studies["test"].accuracy() <= studies["nowhere"].accuracy() + 0.03
    config = ExperimentConfig.model_validate(next(iter(clean.values()))["config"])
    weights = [
        run(config, prepare(config.data, "confirm", root=studies[name].root)).extractor.state_dict()
        for name in ("nowhere", "test")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_label_in_the_validation_images_changes_the_choosing_alone(studies: dict[str, Ran]) -> None:
    clean, planted = studies["nowhere"], studies["val"]
    ours, theirs = planted.records("search"), clean.records("search")
    common = ours.keys() & theirs.keys()
    assert len(common) > 2
    for key in common:  # the same trainings, judged by other images
        assert of_training(ours[key]) == of_training(theirs[key])
        assert ours[key]["metrics"] != theirs[key]["metrics"]
    assert planted.ledger.phase("calibrate") != clean.ledger.phase("calibrate")
    same = clean.records("confirm").keys() & planted.records("confirm").keys()
    for key in same:
        assert planted.records("confirm")[key] == clean.records("confirm")[key]


@pytest.mark.parametrize("name", ["nowhere", "test", "val", "everywhere"])
def test_test_images_are_read_once_after_the_winner_is_frozen_and_every_read_is_noted(
    studies: dict[str, Ran], name: str
) -> None:
    ran = studies[name]
    assert ("test", True) in ran.opened and ("test", False) not in ran.opened
    assert ran.shared == [("search", False), ("confirm", True)]
    reads = ran.ledger.test_reads()
    assert {row["key"] for row in reads} == ran.records("confirm").keys() and len(reads) == len(ran.records("confirm"))
    assert {record["config"]["seed"] for record in ran.records("confirm").values()} == set(confirm_seeds(ran.config))
    frozen = (ran.ledger.folder / "phases" / "winner.json").stat().st_mtime
    assert min(row["time"] for row in reads) > frozen - 0.01


def test_search_and_selection_need_no_test_image_at_all(
    studies: dict[str, Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With test images that nothing can open, all is chosen alike, and the confirmation is refused."""
    root = made(tmp_path)
    for path in (root / "images" / "test").iterdir():
        path.write_bytes(b"no image")
    ran = Ran(root, monkeypatch)
    with pytest.raises(DataError, match=r"images/test/0\.png"):
        ran.go()
    assert ran.records("search") == studies["nowhere"].records("search")
    assert ran.decisions() == studies["nowhere"].decisions()
    assert ran.ledger.test_reads() == [] and ran.records("confirm") == {}
