"""tau-norm, the nearest class mean and post-hoc adjustment, sample by sample."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestCentroid

from divfeat.features import extract
from divfeat.models import CosineHead, FrameHead, LinearHead, Taps
from divfeat.second.ncm import MeanHead, class_means
from divfeat.second.post_hoc import AdjustedHead
from tests.second.samples import config, data, second_stage

CONE = {"thresholds": {"family": "global", "angles": {"tau": 0.5}}}


def scored(made: Any) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """The first and second network on validation: heads, features, logits."""
    first, learner, trained = second_stage(made)
    assert trained.history == []
    found = extract(learner, data().evaluation)
    assert torch.equal(found.after, extract(first.learner, data().evaluation).after)
    return first, learner, found.after.double().numpy(), found.logits.double().numpy()


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_tau_norm_against_a_loop(exponent: float) -> None:
    first, learner, features, logits = scored(config(method={"name": "tau_norm", "exponent": exponent}))
    weight = first.learner.head.linear.weight.detach().double().numpy()
    for u, row in zip(features[:10], logits[:10], strict=True):
        for k in range(10):
            length = math.sqrt(sum(value**2 for value in weight[k]))
            expected = sum(w * x for w, x in zip(weight[k], u, strict=True)) / length**exponent
            assert row[k] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert learner.head.bias is None
    torch.testing.assert_close(
        extract(learner, data().evaluation).after @ learner.head.axes, torch.tensor(logits).float()
    )


def test_tau_norm_by_default_leaves_directions() -> None:
    first, learner, _, _ = scored(config(method={"name": "tau_norm"}))
    torch.testing.assert_close(learner.head.axes.norm(dim=0), torch.ones(10))
    weight = first.learner.head.axes
    torch.testing.assert_close(learner.head.axes, weight / weight.norm(dim=0))


@pytest.mark.parametrize("name", ["ncm", "hinge_ce", "ldam"])
def test_ncm_against_scikit_learn(name: str) -> None:
    first, _, features, logits = scored(
        config(method={"name": name, "second": "ncm", **(CONE if name == "hinge_ce" else {})})
    )
    train = extract(first.learner, data().train).after.double().numpy()
    centre = train.mean(0)
    train, features = train - centre, features - centre
    train, features = (found / np.linalg.norm(found, axis=1, keepdims=True) for found in (train, features))
    reference = NearestCentroid().fit(train, data().train_labels)
    assert np.array_equal(logits.argmax(1), reference.predict(features))
    distances = ((features[:, None] - reference.centroids_[None]) ** 2).sum(2)
    assert logits == pytest.approx(-distances, abs=1e-4)
    assert (logits.argmax(1) == data().evaluation.fine).mean() > 0.1


@settings(max_examples=30, deadline=None)
@given(shift=st.floats(-5, 5), seed=st.integers(0, 100))
def test_ncm_knows_no_origin(shift: float, seed: int) -> None:
    """A move of all features moves centre and features alike."""
    source = torch.Generator().manual_seed(seed)
    features, labels = torch.randn(30, 4, generator=source).double(), torch.arange(30) % 3

    def logits(found: torch.Tensor) -> torch.Tensor:
        centre = found.mean(0)
        away = torch.nn.functional.normalize(found - centre, dim=1)
        return MeanHead(centre, class_means(away, labels, 3))(Taps(found, found)).logits

    torch.testing.assert_close(logits(features), logits(features + shift), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("method", [{"name": "post_hoc_la"}, {"name": "ldam", "second": "post_hoc"},
                                    {"name": "hinge_ce", "second": "post_hoc", **CONE}], ids=lambda m: m["name"])  # fmt: skip
def test_post_hoc_adjustment_against_a_loop(method: dict[str, Any], strength: float) -> None:
    first, _, _, logits = scored(config(method={**method, "prior_strength": strength}))
    plain = extract(first.learner, data().evaluation).logits.double().numpy()
    counts = data().class_counts.tolist()
    for before, after in zip(plain, logits, strict=True):
        expected = [v - strength * math.log(n / sum(counts)) for v, n in zip(before, counts, strict=True)]
        assert after.tolist() == pytest.approx(expected, abs=1e-5)
    if strength == 1:
        assert (plain.argmax(1) != logits.argmax(1)).any()


@pytest.mark.parametrize(
    "head", [LinearHead(6, 4, seed=1), CosineHead(6, 4, 16.0, seed=1), FrameHead(torch.eye(6)[:, :4])]
)
def test_axes_and_bias_are_those_of_the_adjusted_classifier(head: Any) -> None:
    adjusted = AdjustedHead(head, torch.tensor([0.0, -1.0, -2.0, -3.0]))
    features = torch.randn(7, 6, generator=torch.Generator().manual_seed(3))
    found = adjusted(Taps(features, features))
    torch.testing.assert_close(found.features @ adjusted.axes + adjusted.bias, found.logits)
