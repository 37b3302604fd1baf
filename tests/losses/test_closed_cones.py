"""Cones that are closed in the first or last epochs: then the loss is the one without them, else as it is."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from divfeat.errors import ConfigError
from divfeat.frames import simplex_etf
from divfeat.losses import ConeGate, Hinge, LogitAdjustment, Objective

FRAME = simplex_etf(4, 6, generator=torch.Generator().manual_seed(0)).float()
TAU = math.pi / 3


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Every second sample lies near its axis."""
    source = torch.Generator().manual_seed(1)
    labels = torch.arange(12) % 4
    features = torch.randn(12, 6, generator=source)
    features[::2] = 3 * FRAME.T[labels[::2]] + 0.1 * features[::2]
    return features, labels, features @ FRAME


def parts(kind: str) -> dict[str, object]:
    return {"gate": ConeGate(FRAME, TAU)} if kind == "gate" else {"transforms": [Hinge(FRAME, TAU)]}


@pytest.mark.parametrize("kind", ["hinge", "gate"])
def test_closed_cones_act_in_no_epoch_of_theirs(kind: str) -> None:
    features, labels, logits = batch()
    objective = Objective(**parts(kind), closed=(0.2, 0.3))
    hinged, plain = Objective(**parts(kind))(features, logits, labels), Objective()(features, logits, labels)
    assert not torch.equal(hinged, plain)
    for epoch in range(10):
        expected = plain if epoch < 2 or epoch >= 7 else hinged
        assert torch.equal(objective(features, logits, labels, epoch / 10), expected)
    assert torch.equal(objective(features, logits, labels), hinged)


def test_other_transforms_stay() -> None:
    features, labels, logits = batch()
    prior = LogitAdjustment(torch.tensor([40, 20, 10, 5]), 1.0)
    objective = Objective([Hinge(FRAME, TAU), prior], closed=(0.0, 0.5))
    assert torch.equal(objective(features, logits, labels, 0.5), Objective([prior])(features, logits, labels))


@given(epochs=st.integers(1, 400), data=st.data())
def test_shares_that_name_epochs_mean_those(epochs: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, epochs - 1))
    last = data.draw(st.integers(0, epochs - 1 - first))
    objective = Objective(closed=(first / epochs, last / epochs))
    opened = [epoch for epoch in range(epochs) if objective.cones_are_open(epoch / epochs)]
    assert opened == list(range(first, epochs - last))


@pytest.mark.parametrize("closed", [(-0.1, 0.0), (0.0, 1.0), (0.5, 0.5)])
def test_cones_that_never_open_are_refused(closed: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="whose sum must be less than 1"):
        Objective(closed=closed)
