"""OLTR: features enriched from a memory of class centroids (Liu et al. 2019, arXiv:1904.05160, section 3).

As the released code without modulated attention. Two things are done a sample where the code does them a batch, so that the
number of workers changes nothing: the repelling hinge, and the centroids' gradient, which the code also divides by the
images of the class in the batch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from divfeat.config import ExperimentConfig, TrainConfig
from divfeat.features import extract
from divfeat.losses.functional import at_least_float32, cross_entropy
from divfeat.losses.objective import Objective
from divfeat.models import Head, LinearHead
from divfeat.models.initialise import keyed_generator
from divfeat.parts import Parts
from divfeat.pretrain import Learner, TrainResult
from divfeat.second.ncm import class_means
from divfeat.second.stage import FirstStage, SecondStage, check_epochs, check_present
from divfeat.thresholds import ThresholdContext

#: Of the reachability, and of the cosine classifier's logits.
REACH, SCALE = 10.0, 16.0
#: Of the hinge that keeps other centroids away, and its weight beside the pull to the own.
MARGIN, REPEL = 10.0, 0.01
#: Images of a batch; extractor and centroids learn at this share of the head's learning rate.
BATCH, SLOWER = 256, 0.1


class MemoryHead(Head):
    """Logits of v = (10 / d)(x + tanh(S x) * (softmax(H x) M)), d the distance of x to the nearest centroid, rows of M.

    They are 16 |v| / (1 + |v|) cos(w_k, v). The centroids get no gradient through the logits: their loss moves them.
    `Outputs.features` are x, the features that the centroids stand among.
    """

    def __init__(self, centroids: Tensor, hallucinator: LinearHead, seed: int) -> None:
        """Starts from `centroids` [K, D] and a classifier that looks up the memory; the rest is drawn from `seed`."""
        super().__init__()
        classes, dim = centroids.shape
        self.centroids = nn.Parameter(centroids.detach().clone())
        self.hallucinator = hallucinator
        self.selector = LinearHead(dim, dim, seed=seed)
        drawn = torch.rand(classes, dim, generator=keyed_generator(seed, "cosine")) * 2 - 1
        self.weight = nn.Parameter(drawn.to(centroids.device) / math.sqrt(dim))

    @property
    def axes(self) -> Tensor:
        """Those of the cosine classifier at length 1: [D, K]."""
        return nn.functional.normalize(self.weight, dim=-1).T

    def embed(self, features: Tensor) -> Tensor:
        """x [..., N, D] to v [..., N, D]."""
        memory = self.centroids.detach()
        nearest = (features.unsqueeze(-2) - memory).norm(dim=-1).amin(-1, keepdim=True)
        found = self.hallucinator.score(features).softmax(-1) @ memory
        # A training image alone in its class may lie on its centroid.
        return REACH / nearest.clamp(min=1e-6) * (features + self.selector.score(features).tanh() * found)

    def score(self, features: Tensor) -> Tensor:
        """Features [..., N, D] to logits [..., N, K]."""
        embedded = self.embed(at_least_float32(features))
        length = embedded.norm(dim=-1, keepdim=True)
        return SCALE * (embedded / (1 + length)) @ self.axes


class CentroidLoss(nn.Module):
    """Criterion CE + weight (||x - c_y||^2 / 2 + 0.01 [10 - sum over k != y of ||x - c_k||^2 / K]+)."""

    def __init__(self, head: MemoryHead, weight: float) -> None:
        super().__init__()
        self._heads = (head,)  # in a tuple: the centroids are the learner's parameters, not this loss's
        self.weight = weight

    def forward(self, features: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
        """[..., N], float32 or wider."""
        centroids = self._heads[0].centroids
        squares = (at_least_float32(features).unsqueeze(-2) - centroids).square().sum(-1)
        own = squares.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        repelled = (MARGIN - (squares.sum(-1) - own) / squares.shape[-1]).clamp(min=0)
        return cross_entropy(logits, labels, 0.0) + self.weight * (own / 2 + REPEL * repelled)


class MemoryLearner(Learner):
    """Extractor and centroids learn slowly."""

    def parameter_groups(self, config: TrainConfig) -> list[dict[str, Any]]:
        """The head's parameters, and the slow ones; the first stage's multiples are not this one's."""
        assert isinstance(self.head, MemoryHead)
        slow = [*self.extractor.parameters(), self.head.centroids]
        fast = [value for value in self.head.parameters() if value is not self.head.centroids]
        return [{"params": fast}, {"params": slow, "multiple": SLOWER}]


class OpenLongTail(SecondStage):
    """Trains extractor and memory on from the first stage, every class as often, a tenth of the rate after each third."""

    settings: ClassVar[Mapping[str, Any]] = {"second_epochs": 60, "second_lr": 0.1, "centroid_loss": 0.01}

    def check_parts(self, name: str, frame: bool, parts: Parts) -> None:
        """Needs an epoch."""
        check_epochs("oltr", parts)

    def check(self, config: ExperimentConfig, parts: Parts, classes: ThresholdContext) -> None:
        """Needs a centroid of every class."""
        check_present("oltr", classes.class_counts, "needs a centroid of every class")

    def trainings(self, parts: Parts, epochs: int) -> float:
        """Its epochs train the whole network."""
        return parts.second_epochs / epochs

    def run(self, first: FirstStage) -> tuple[Learner, TrainResult]:
        """Trains it, on a copy of the first stage's network."""
        extractor = copy.deepcopy(first.learner.extractor)
        trained = first.learner.head
        data = first.data
        found = extract(first.learner, data.train, channels_last=first.config.train.channels_last).after.double()
        centroids = class_means(found, torch.as_tensor(data.train_labels, device=found.device), len(first.counts))
        dim, classes = extractor.feature_dim, len(first.counts)
        # The memory is looked up by the first stage's classifier, as released, where that is linear.
        hallucinator = LinearHead(dim, classes, seed=first.seed("hallucinator"))
        if isinstance(trained, LinearHead):
            hallucinator.load_state_dict(trained.state_dict())
        head = MemoryHead(centroids.float().cpu(), hallucinator, first.seed("head")).to(first.device)
        learner = MemoryLearner(extractor, head)
        objective = Objective(criterion=CentroidLoss(head, first.parts.centroid_loss))
        settings = first.settings(BATCH, schedule="step", milestones=(1 / 3, 2 / 3), step_factor=0.1)
        return learner, first.train(learner, objective, settings)
