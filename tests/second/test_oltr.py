"""OLTR: embedding, centroid loss, and what a stage starts from and learns."""

import math

import pytest
import torch
from torch import nn

from divfeat.features import extract
from divfeat.losses import Objective
from divfeat.models import LinearHead, Taps
from divfeat.pretrain import train
from divfeat.second.oltr import CentroidLoss, MemoryHead, MemoryLearner
from tests.second.samples import config, data, first_stage, second_stage

K, D = 4, 3


def head() -> MemoryHead:
    centroids = torch.randn(K, D, generator=torch.Generator().manual_seed(1))
    return MemoryHead(centroids, LinearHead(D, K, seed=2), seed=3).double()


def features(seed: int = 4) -> torch.Tensor:
    return 2 * torch.randn(6, D, generator=torch.Generator().manual_seed(seed)).double()


def naive_embedding(made: MemoryHead, x: list[float]) -> list[float]:
    centroids = made.centroids.tolist()
    lookup, select = made.hallucinator.linear, made.selector.linear

    def linear(layer: nn.Linear) -> list[float]:
        rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
        return [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in rows]

    nearest = min(math.dist(x, c) for c in centroids)
    raw = [math.exp(value) for value in linear(lookup)]
    shares = [value / sum(raw) for value in raw]
    memory = [sum(share * c[d] for share, c in zip(shares, centroids, strict=True)) for d in range(D)]
    select_by = [math.tanh(value) for value in linear(select)]
    return [10 / nearest * (x[d] + select_by[d] * memory[d]) for d in range(D)]


def test_the_embedding_and_its_logits_against_a_loop() -> None:
    made, found = head(), features()
    outputs = made(Taps(found, found))
    assert torch.equal(outputs.features, found)
    for x, logits in zip(found.tolist(), outputs.logits.tolist(), strict=True):
        v = naive_embedding(made, x)
        length = math.hypot(*v)
        for k, w in enumerate(made.weight.tolist()):
            cosine = sum(a * b for a, b in zip(v, w, strict=True)) / length / math.hypot(*w)
            assert logits[k] == pytest.approx(16 * length / (1 + length) * cosine, rel=1e-9)


@pytest.mark.parametrize("spread", [0.1, 3.0])  # with the hinge that repels at work, and without
def test_the_centroid_loss_against_a_loop(spread: float) -> None:
    made, found, labels = head(), spread * features(), torch.tensor([0, 1, 2, 3, 0, 1])
    logits = made.score(found).detach()
    losses = CentroidLoss(made, 0.05)(found, labels, logits).tolist()
    repelled = 0
    for i, (x, y) in enumerate(zip(found.tolist(), labels.tolist(), strict=True)):
        squares = [math.dist(x, c) ** 2 for c in made.centroids.tolist()]
        repel = max(0.0, 10 - sum(squares[k] for k in range(K) if k != y) / K)
        repelled += repel > 0
        ce = math.log(sum(math.exp(float(v - logits[i, y])) for v in logits[i]))
        assert losses[i] == pytest.approx(ce + 0.05 * (squares[y] / 2 + 0.01 * repel), rel=1e-9)
    assert repelled if spread < 1 else repelled < 6


def test_centroids_move_by_their_loss_alone() -> None:
    made, found, labels = head(), features(), torch.tensor([0, 1, 2, 3, 0, 1])
    made.score(found).square().sum().backward()
    assert made.centroids.grad is None
    assert all(value.grad is not None for value in made.parameters() if value is not made.centroids)
    loss = CentroidLoss(made, 0.05)
    assert list(loss.parameters()) == []
    loss(found, labels, made.score(found)).sum().backward()
    assert float(made.centroids.grad.abs().min()) > 0


def test_a_feature_on_its_centroid_stays_finite() -> None:
    made = head()
    on_it = made.centroids.detach().clone().requires_grad_()
    made.score(on_it).sum().backward()
    assert bool(made.score(on_it).isfinite().all())


def test_the_stage_starts_from_the_first_and_leaves_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made = config(method={"name": "oltr", "second_epochs": 1})
    started: dict[str, torch.Tensor] = {}

    def watched(learner: MemoryLearner, *args: object, **options: object) -> object:
        started.update({name: value.clone() for name, value in learner.state_dict().items()})
        groups = learner.parameter_groups(made.train)
        assert [group.get("multiple", 1.0) for group in groups] == [1.0, 0.1]
        assert {id(value) for group in groups for value in group["params"]} == {id(v) for v in learner.parameters()}
        assert any(value is learner.head.centroids for value in groups[1]["params"])
        return train(learner, *args, **options)

    monkeypatch.setattr("divfeat.second.stage.train", watched)
    before = {name: value.clone() for name, value in first_stage(made).learner.state_dict().items()}
    first, learner, trained = second_stage(made)
    assert isinstance(first.learner.head, LinearHead)
    for name, value in before.items():
        where = name.replace("head.linear", "head.hallucinator.linear")
        assert torch.equal(started[where], value), name
        assert torch.equal(first.learner.state_dict()[name], value), name
    found = extract(first_stage(made).learner, data().train)
    for k in range(10):
        mean = found.after[found.fine == k].double().mean(0)
        torch.testing.assert_close(started["head.centroids"][k].double(), mean, rtol=1e-4, atol=1e-5)
    moved = {name for name, value in learner.state_dict().items() if not torch.equal(started[name], value)}
    assert {"extractor.projector.weight", "head.centroids", "head.weight", "head.selector.linear.weight"} <= moved
    assert len(trained.history) == 1


def test_after_a_frame_the_memory_is_looked_up_anew() -> None:
    first, learner, _ = second_stage(config(method={"name": "ce_etf", "second": "oltr", "second_epochs": 1}))
    assert isinstance(learner.head, MemoryHead)
    assert learner.head.hallucinator.axes.shape == first.learner.head.axes.shape


def test_slower_parameters_learn_at_a_tenth_of_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    first = first_stage(config(method={"name": "oltr"}))
    dim = first.learner.extractor.feature_dim
    made = MemoryHead(torch.zeros(10, dim), LinearHead(dim, 10), seed=0)
    rates: list[list[float]] = []
    real = torch.optim.SGD.step

    def step(optimizer: torch.optim.SGD, closure: None = None) -> None:
        rates.append([group["lr"] for group in optimizer.param_groups])
        real(optimizer, closure)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    settings = first.settings(256, epochs=1, lr=0.1, schedule="constant")
    first.train(MemoryLearner(first.learner.extractor, made), Objective(), settings)
    assert rates
    assert all(rate == pytest.approx([0.1, 0.01]) for rate in rates)
