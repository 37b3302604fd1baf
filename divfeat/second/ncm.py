"""NCM: the nearest class mean in place of the classifier (Kang et al. 2020, section 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from divfeat.config import ExperimentConfig
from divfeat.features import extract
from divfeat.losses.functional import at_least_float32
from divfeat.models import Head
from divfeat.parts import Parts
from divfeat.pretrain import Learner, TrainResult
from divfeat.second.stage import FirstStage, SecondStage, check_present
from divfeat.thresholds import ThresholdContext


class MeanHead(Head):
    """Logits -||f - m_k||^2, where f is the feature about a centre and at length 1, and m_k a class's mean of those.

    Source: released code, KNNClassifier with `cl2n` and `l2`: means are not normalised again.
    """

    centre: Tensor
    means: Tensor

    def __init__(self, centre: Tensor, means: Tensor) -> None:
        """Copies `centre` [D] and `means` [K, D]."""
        super().__init__()
        self.register_buffer("centre", centre.detach().clone())
        self.register_buffer("means", means.detach().clone())

    @property
    def axes(self) -> Tensor:
        """The means as columns [D, K], seen from the centre."""
        return self.means.T

    def score(self, features: Tensor) -> Tensor:
        """Features [..., N, D] to logits [..., N, K]."""
        found = centred(features, self.centre)
        return 2 * found @ self.axes - self.means.square().sum(-1) - found.square().sum(-1, keepdim=True)


def centred(features: Tensor, centre: Tensor) -> Tensor:
    """Features [..., D] less `centre` [D], at length 1."""
    return nn.functional.normalize(at_least_float32(features) - centre, dim=-1)


class NearestMean(SecondStage):
    """Means over the training images, without augmentation; the centre is the mean image's, so large classes move it most."""

    def check(self, config: ExperimentConfig, parts: Parts, classes: ThresholdContext) -> None:
        """Needs a mean of every class."""
        check_present("ncm", classes.class_counts, "needs a mean of every class")

    def run(self, first: FirstStage) -> tuple[Learner, TrainResult]:
        """Nothing is trained."""
        data = first.data
        channels_last = first.config.train.channels_last
        found = extract(first.learner, data.train, channels_last=channels_last).after.double()
        labels = torch.as_tensor(data.train_labels, device=found.device)
        centre = found.mean(0)
        means = class_means(centred(found, centre), labels, len(first.counts))
        return Learner(first.learner.extractor, MeanHead(centre.float(), means.float())), TrainResult()


def class_means(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Mean of each class's features [N, D]: [K, D]; NaN for a class without any."""
    sums = features.new_zeros(num_classes, features.shape[1]).index_add_(0, labels, features)
    return sums / torch.bincount(labels, minlength=num_classes).unsqueeze(1)
