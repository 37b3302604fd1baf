"""cRT and LWS: the backbone stays bit for bit, and only what should learn does."""

from typing import Any

import pytest
import torch
from torch import nn

from divfeat.models import CosineHead, FrameHead, LinearHead, Taps
from divfeat.second.crt import ClassifierRetraining
from divfeat.second.frozen import FrozenLearner
from divfeat.second.lws import ScaledHead
from tests.second.samples import config, data, first_stage, second_stage

CONE = {"thresholds": {"family": "global", "angles": {"tau": 0.5}}, "release": "gate"}
FIRST: list[dict[str, Any]] = [{"name": "ce"}, {"name": "ldam"}, {"name": "hinge_ce", **CONE}, {"name": "etf_dr"}]


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("second", ["crt", "lws"])
@pytest.mark.parametrize("method", FIRST, ids=lambda method: method["name"])
def test_the_backbone_stays_bit_for_bit_and_the_head_learns(method: dict[str, Any], second: str) -> None:
    made = config(method={**method, "second": second, "second_epochs": 2})
    before = state(first_stage(made).learner)
    first, learner, trained = second_stage(made)
    assert learner.extractor is first.learner.extractor
    after = learner.extractor.state_dict()
    assert all(torch.equal(before[f"extractor.{name}"], value) for name, value in after.items())
    losses = [row["train/loss"] for row in trained.history]
    assert len(losses) == 2 and losses[1] < losses[0]
    assert trained.history[0]["train/lr"] > trained.history[1]["train/lr"] > 0  # a cosine of its own
    if second == "crt":
        assert isinstance(learner.head, LinearHead)
        return
    assert isinstance(learner.head, ScaledHead)
    learned = dict(learner.head.named_parameters())
    assert [name for name, value in learned.items() if value.requires_grad] == ["scale"]
    for name, value in learner.head.head.state_dict().items():
        assert torch.equal(before[f"head.{name}"], value)
    assert float((learner.head.scale.detach() - 1).abs().max()) > 1e-3


def test_a_gradient_of_lws_touches_the_factors_alone() -> None:
    first = first_stage(config(method={"name": "lws"}))
    learner = FrozenLearner(first.learner, ScaledHead(first.learner.head))
    features, logits, *_ = learner.train()(torch.tensor(data().train.images[:20]))
    assert not learner.extractor.training and learner.head.training
    assert not features.requires_grad
    logits.square().sum().backward()
    assert {name for name, value in learner.named_parameters() if value.grad is not None} == {"head.scale"}


@pytest.mark.parametrize(
    "head", [LinearHead(6, 4, seed=1), CosineHead(6, 4, 16.0, seed=1), FrameHead(torch.eye(6)[:, :4])]
)
def test_scaled_logits_against_a_loop(head: Any) -> None:
    """f_k (<w_k, h> + b_k), h as the head scores it."""
    scaled = ScaledHead(head)
    factors = torch.tensor([0.5, 1.0, 2.0, -1.0])
    scaled.scale.data.copy_(factors)
    features = torch.randn(7, 6, generator=torch.Generator().manual_seed(3))
    plain, found = head(Taps(features, features)), scaled(Taps(features, features))
    for i in range(7):
        for k in range(4):
            assert found.logits[i, k].item() == pytest.approx(float(factors[k]) * plain.logits[i, k].item(), abs=1e-6)
    assert torch.equal(found.features, plain.features)
    rebuilt = found.features @ scaled.axes + (0 if scaled.bias is None else scaled.bias)
    torch.testing.assert_close(rebuilt, found.logits)  # what metrics take for the classifier


def test_the_second_stage_is_its_own_training() -> None:
    """Published numbers, no larger a batch than the first stage's, classes alike, and streams of its own."""
    first = first_stage(config(method={"name": "crt"}, train={"mixup": 0.2, "warmup_epochs": 1, "weight_decay": 0.1}))
    found = first.settings(512)
    assert (found.epochs, found.lr, found.batch_size, found.weight_decay) == (10, 0.2, 50, 5e-4)
    assert (found.schedule, found.sampling, found.mixes, found.warmup_epochs) == ("cosine", "balanced", False, 0)
    assert found.augment == "crop_flip" and first.settings(20).batch_size == 20
    labels = torch.cat([batch.labels for batch in first.batches(found).epoch(0)])
    shares = torch.bincount(labels, minlength=10)
    assert shares.max() - shares.min() <= 1
    assert torch.bincount(torch.tensor(data().train_labels)).max() > 50
    assert len({first.seed(name) for name in ("order", "augment", "head")} | {first.config.seed}) == 4


def test_the_new_classifier_is_drawn_by_the_seed() -> None:
    heads = [ClassifierRetraining().head(first_stage(config(method={"name": "crt"}, seed=seed))) for seed in (0, 0, 1)]
    assert torch.equal(heads[0].axes, heads[1].axes)
    assert not torch.equal(heads[0].axes, heads[2].axes)
    assert not torch.equal(heads[0].axes, first_stage(config(method={"name": "crt"})).learner.head.axes)
