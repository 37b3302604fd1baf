"""The thresholds that won, for somebody's own training loop."""

import json
import math

import pytest
import torch

from divfeat.errors import DataError
from divfeat.files import read_json
from divfeat.frames import simplex_etf
from divfeat.losses.hinge import HingeCE, theorem_tau_minus
from divfeat.methods import METHODS
from divfeat.report.export import example, export_thresholds, thresholds_of
from divfeat.report.reading import read_summary
from tests.report.studies import TAIL, Studied

TAU = [0.0, 0.9, 0.4, 1.1, 0.0, 0.7]


@pytest.mark.parametrize("release", ["none", "paper", "theorem", "gate"])
def test_the_lines_are_the_loss_and_its_gradient(tmp_path, release):
    """Plain PyTorch against the library, on features inside and outside their cones."""
    torch.manual_seed(0)
    axes, labels = simplex_etf(6, 8, dtype=torch.float64).float(), torch.arange(6).repeat(20)
    features = 3 * axes.T[labels] + torch.randn(120, 8) * torch.rand(120, 1) * 3
    tau = torch.tensor([0.0] * 6 if release == "none" else TAU)
    minus = theorem_tau_minus(axes, tau) if release == "theorem" else math.pi
    theirs, ours = features.clone().requires_grad_(), features.clone().requires_grad_()
    expected = HingeCE(axes, tau, minus, gate=release == "gate")(theirs, labels)
    content = {"tau_plus": tau.tolist(), "release": release, "open": [0.0, 1.0], "besides": {}}
    (tmp_path / "it's.json").write_text(json.dumps(content), encoding="utf-8")
    scope = {"features": ours, "labels": labels, "axes": axes}
    exec(example(content, tmp_path / "it's.json"), scope)
    torch.testing.assert_close(scope["loss"], expected)
    torch.autograd.backward([scope["loss"], expected])
    torch.testing.assert_close(ours.grad, theirs.grad)
    if release != "none":
        plain = torch.nn.functional.cross_entropy(features @ axes, labels)
        assert 0 < int(scope["inside"].sum()) < 100 and abs(float((plain - expected).detach())) > 0.01


def test_the_winner_s_thresholds_with_what_produced_them(tmp_path):
    study = Studied(tmp_path / "s", preset="digits-lt").all()
    content = export_thresholds(tmp_path / "s", tmp_path / "new" / "t.json")
    assert content == read_json(tmp_path / "new" / "t.json")
    record = study.ledger.record(study.winner_keys()[0])
    method = study.winner["winner"]["method"]
    assert content["tau_plus"] == [row["tau_plus"] for row in record["per_class"]] and max(content["tau_plus"]) > 0
    assert [row["train_images"] for row in content["classes"]] == list(TAIL)
    assert content["release"] == method["release"] and content["angles"] == method["thresholds"]["angles"]
    assert (content["open"], content["besides"], content["unit"]) == ([0.0, 1.0], {}, "radians")
    assert (
        content["config_hash"] == study.config.identity and content["verdict"] == read_summary(tmp_path / "s").sentence
    )
    assert str(tmp_path) not in json.dumps(content)


def test_what_the_lines_leave_out_is_said(tmp_path):
    base = {"name": "hinge_la", "closed_first": 0.5, "logit_adjustment": 1.5}
    Studied(tmp_path / "s", preset="digits-lt", search={"method": base}).begin().search(degrees=(60.0,)).select()
    content = thresholds_of(read_summary(tmp_path / "s"))
    assert content["open"] == [0.5, 1.0] and content["besides"] == {"logit_adjustment": 1.5}
    text = example(content, tmp_path / "t.json")
    assert (
        "open from 0.5 to 1 of the epochs" in text and "besides its cones the winner has logit_adjustment=1.5" in text
    )


def test_without_a_winner_there_is_nothing_to_export(tmp_path):
    Studied(tmp_path / "s", preset="digits-lt").begin().search()
    with pytest.raises(DataError, match="s has no winner yet; run the study"):
        export_thresholds(tmp_path / "s", tmp_path / "t.json")
    assert not (tmp_path / "t.json").exists()


def test_thresholds_that_move_are_no_angles(tmp_path):
    Studied(tmp_path / "s", preset="digits-lt", search={"family": "quantile"}).begin().search().select()
    with pytest.raises(DataError, match="'quantile', which move during training"):
        export_thresholds(tmp_path / "s", tmp_path / "t.json")


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    Studied(tmp_path / "s", preset="digits-lt").all()
    with pytest.raises(DataError, match="is a folder; name a file in it"):
        export_thresholds(tmp_path / "s", tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="cannot be written to"):
        export_thresholds(tmp_path / "s", tmp_path / "file" / "t.json")


def test_every_method_with_cones_is_known_to_the_lines():
    """What is no cone of theirs (a prior, a frame, the cosine loss) the lines say they leave out."""
    assert {name for name, method in METHODS.items() if method.hinge} == {"hinge_ce", "hinge_la", "hinge_haf"}
