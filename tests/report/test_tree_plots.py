"""Figures of a study over a tree: every argument against the ledger's own files, and where the tree comes from."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from divfeat.hierarchy import Hierarchy
from divfeat.metrics import confusion, crossed_edges, mistake_severity
from divfeat.report import figures
from divfeat.report.document import Figure
from divfeat.report.plots import Plot, applicable
from divfeat.report.reading import read_summary
from divfeat.report.tree_plots import ANGULAR, tree_plots
from divfeat.report.trees import tree_of_study
from divfeat.statistics import pareto_front
from tests.report.studies import FINE, IMAGES, Studied, completed

NESTED = {"a": ["class 0", {"b": ["class 1", "class 2"]}], "c": ["class 3", "class 4", "class 5"]}
TREE = Hierarchy.from_nested(NESTED)
NAMES = ("severity_by_accuracy", "mistakes_on_tree", "class_cosines", "angular")


def predicted(config) -> np.ndarray:
    rng = np.random.default_rng(int(config.key[:8], 16))
    return np.where(rng.random(IMAGES) < 0.6, FINE, rng.integers(0, 6, IMAGES))


def recorded(job):
    """With what a tree adds: severity everywhere, angular collapse of frozen axes at log-spaced epochs."""
    found, config = completed(job.experiment), job.experiment
    part = "val" if config.role == "search" else "test"
    answers = torch.from_numpy(predicted(config))
    found["metrics"][f"{part}/mistake_severity"] = float(mistake_severity(answers, torch.from_numpy(FINE), TREE))
    if config.method.name not in ("ce", "ce_no_projector"):
        for row in found["history"][:2]:
            row[ANGULAR] = 0.5 - 0.1 * row["epoch"] + int(config.key[:2], 16) / 1000
    return found


def cosines(key: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(int(key[:8], 16))
    return {name: rng.uniform(-1, 1, (6, 6)).astype(np.float32) for name in ("axes", "means")}


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A study whose confirmations kept predictions and angles, and no tree."""
    place = tmp_path_factory.mktemp("trees")
    (place / "tree.json").write_text(json.dumps(NESTED))
    data = {"hierarchy": str(place / "tree.json")}
    study = Studied(place / "s", preset="digits-lt", record=recorded, data=data).all()
    for runs in read_summary(place / "s").confirmed:
        for key in runs.keys:
            folder = study.ledger.run_folder(key)
            with np.load(folder / "correct.npz") as arrays:
                kept = dict(arrays)
            config = next(c for c in study_configs(study) if c.key == key)
            np.savez_compressed(folder / "correct.npz", **kept, predicted=predicted(config))
            np.savez_compressed(folder / "angles.npz", **cosines(key))
    return study


def study_configs(study):
    from divfeat.search import protocol

    winner = study.winner["winner"]
    for method in protocol.confirmed_methods(study.trained, winner).values():
        yield from protocol.confirmation_experiments(study.trained, method, study.winner["strengths"])


@pytest.fixture
def copied(studied, tmp_path):
    """(folder of its own, its tree's file)."""
    shutil.copytree(studied.ledger.folder, tmp_path / "s")
    return tmp_path / "s", Path(studied.config.data.hierarchy)


@pytest.fixture
def given(monkeypatch):
    """(summary) -> figure's name -> what it is given."""
    for name in ("mistakes_on_tree", "class_cosines", "angular_over_epochs"):
        monkeypatch.setattr(figures, name, lambda *arguments: arguments)

    def run(summary):
        return {name: getattr(draw, "arguments", None) or draw(Path("x")) for name, _, draw in tree_plots(summary)}

    return run


def test_every_figure_is_given_what_the_ledger_has(studied, given) -> None:
    summary = read_summary(studied.ledger.folder)
    found = given(summary)
    assert tuple(found) == NAMES
    confirmed = {runs.name: runs for runs in summary.confirmed}
    others = [name for name in confirmed if name != "winner" and name not in summary.equals]

    severity = found["severity_by_accuracy"]
    assert list(severity["methods"]) == ["winner", *others]
    for name, (accuracy, severities) in severity["methods"].items():
        records = confirmed[name].completed
        np.testing.assert_allclose(accuracy, [100 * one["metrics"]["test/accuracy"] for one in records])
        assert severities.tolist() == [one["metrics"]["test/mistake_severity"] for one in records]
    rows = [studied.ledger.record(row["key"])["metrics"] for row in studied.ledger.proposals().values()]
    values = [(100 * row["val/accuracy"], row["val/mistake_severity"]) for row in rows]
    np.testing.assert_allclose([trial["values"] for trial in severity["trials"]], values)
    front = {place for place, trial in enumerate(severity["trials"]) if trial["front"]}
    assert front == set(pareto_front(np.array(values) * (1, -1)).tolist()) and len(front) > 0
    assert severity["winner"] == studied.winner["winner"]["number"]

    shares, tree, _ = found["mistakes_on_tree"]
    assert tree == TREE and list(shares) == [summary.title("winner"), "ce_no_projector"]
    for name, table in zip(("winner", "ce_no_projector"), shares.values(), strict=True):
        configs = {config.key: config for config in study_configs(studied)}
        for seed, key in enumerate(confirmed[name].keys):
            answers = confusion(torch.from_numpy(predicted(configs[key])), torch.from_numpy(FINE), 6)
            np.testing.assert_allclose(table[:, seed], crossed_edges(answers, TREE))

    angles, tree, _ = found["class_cosines"]
    assert tree == TREE and list(angles) == [summary.title("winner")]
    for place, name in enumerate(("axes", "means")):
        expected = [cosines(key)[name] for key in confirmed["winner"].keys]
        np.testing.assert_array_equal(angles[summary.title("winner")][place], expected)

    curves, _ = found["angular"]
    assert list(curves) == [summary.title("winner"), *(one for one in others if one not in ("ce", "ce_no_projector"))]
    expected = [[row[ANGULAR] for row in record["history"][:2]] for record in confirmed["winner"].completed]
    assert curves[summary.title("winner")] == {"epoch": [1, 2], "angular": expected}


def test_a_study_without_a_tree_has_none_of_them(studied) -> None:
    summary = read_summary(studied.ledger.folder)
    data = summary.config.data.model_copy(update={"hierarchy": None})
    plain = dataclasses.replace(summary, config=summary.config.model_copy(update={"data": data}))
    assert list(tree_plots(plain)) == [] and tree_of_study(plain) is None
    names = [name for name, _, _ in applicable(summary)]
    assert [name for name in names if name in NAMES] == list(NAMES)
    assert [name for name, _, _ in applicable(plain)] == [name for name in names if name not in NAMES]


def test_the_report_shows_each_of_them(studied) -> None:
    from divfeat.report.build import document

    summary = read_summary(studied.ledger.folder)
    plots = {name: Plot(Path(f"{name}.png"), name, "") for name in NAMES}
    shown = [block.path.stem for block in document(summary, plots).blocks if isinstance(block, Figure)]
    assert sorted(shown) == sorted(NAMES)


def test_the_tree_that_was_kept_outlives_its_file(copied, given) -> None:
    folder, _ = copied
    summary = read_summary(folder)
    kept = Hierarchy.from_nested({"x": [f"class {k}" for k in range(3)], "y": [f"class {k}" for k in range(3, 6)]})
    key = summary.confirmed[0].keys[1]
    (folder / "runs" / key / "hierarchy.json").write_text(json.dumps(dataclasses.asdict(kept)))
    assert tree_of_study(summary) == kept
    assert given(summary)["mistakes_on_tree"][1] == kept


@pytest.mark.parametrize("change", ["gone", "another tree", "coarse", "another class"])
def test_a_tree_that_cannot_be_made_again_leaves_its_figures_out(change: str, copied, tmp_path) -> None:
    summary = read_summary(copied[0])
    assert tree_of_study(summary) == TREE
    name = "coarse" if change == "coarse" else str(tmp_path / "other.json")
    if change == "another tree":  # of the same classes, with another severity
        Path(name).write_text(json.dumps({"a": [f"class {k}" for k in range(5)], "b": {"c": ["class 5"]}}))
    if change == "another class":
        Path(name).write_text(json.dumps({"a": [f"kind {k}" for k in range(6)]}))
    data = summary.config.data.model_copy(update={"hierarchy": name})
    summary = dataclasses.replace(summary, config=summary.config.model_copy(update={"data": data}))
    assert tree_of_study(summary) is None
    assert [found for found, _, _ in tree_plots(summary)] == ["severity_by_accuracy", "angular"]


def test_runs_that_kept_no_predictions_have_no_figure_of_them(copied) -> None:
    folder, _ = copied
    summary = read_summary(folder)
    for runs in summary.confirmed:
        for key in runs.keys:
            path = folder / "runs" / key / "correct.npz"
            with np.load(path) as arrays:
                kept = {name: values for name, values in arrays.items() if name != "predicted"}
            np.savez_compressed(path, **kept)
            (folder / "runs" / key / "angles.npz").unlink()
    (folder / "runs" / summary.confirmed[0].keys[0] / "hierarchy.json").write_text(json.dumps(dataclasses.asdict(TREE)))
    assert [found for found, _, _ in tree_plots(summary)] == ["severity_by_accuracy", "angular"]


def test_a_seed_that_is_missing_is_a_gap(copied, given) -> None:
    folder, _ = copied
    summary = read_summary(folder)
    winner = summary.confirmed_as("winner")
    (folder / "runs" / winner.keys[2] / "correct.npz").unlink()
    (folder / "runs" / winner.keys[3] / "angles.npz").unlink()
    found = given(summary)
    shares = found["mistakes_on_tree"][0][summary.title("winner")]
    assert np.isnan(shares).all(axis=0).tolist() == [False, False, True, False, False]
    axes, means = found["class_cosines"][0][summary.title("winner")]
    assert len(axes) == len(means) == 4
