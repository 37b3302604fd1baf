"""CRM: classes ranked by the distance to be expected of them, at test time, on any trained model (Karthik et al., ICLR 2021)."""

from __future__ import annotations

from torch import Tensor

from divfeat.axes import tree_of
from divfeat.config import ExperimentConfig
from divfeat.errors import ConfigError
from divfeat.hierarchy import Hierarchy
from divfeat.metrics.mistakes import lowest_risk
from divfeat.models import Head, Outputs, Taps
from divfeat.parts import Parts
from divfeat.pretrain import Learner, TrainResult
from divfeat.second.stage import FirstStage, SecondStage
from divfeat.thresholds import ThresholdContext


class LowestRiskHead(Head):
    """Scores minus the expected distance under the softmax of a trained head: the highest is the class of the least risk.

    They are no logits: a softmax of them is no probability.
    """

    def __init__(self, head: Head, hierarchy: Hierarchy) -> None:
        """Of a head of as many classes as the tree has."""
        super().__init__()
        self.head = head
        self.length = head.length
        self.hierarchy = hierarchy

    @property
    def axes(self) -> Tensor:
        """The trained head's: [D, K]."""
        return self.head.axes

    @property
    def bias(self) -> Tensor | None:
        """The trained head's."""
        return self.head.bias

    def score(self, features: Tensor) -> Tensor:
        """Features [..., N, D] as `forward` returns them to scores [..., N, K]."""
        return self._ranked(self.head.score(features))

    def forward(self, taps: Taps) -> Outputs:
        """As the trained head, by lowest risk."""
        outputs: Outputs = self.head(taps)
        return Outputs(outputs.features, self._ranked(outputs.logits))

    def _ranked(self, logits: Tensor) -> Tensor:
        return lowest_risk(logits, self.hierarchy).to(logits)


class LowestRisk(SecondStage):
    """Nothing is trained, and nothing is chosen."""

    def check_parts(self, name: str, frame: bool, parts: Parts) -> None:
        """Needs probabilities."""
        if parts.loss != "cross_entropy":
            raise ConfigError(
                f"method.second='crm' weighs the probabilities of a softmax, and method.loss={parts.loss!r} has none: use a "
                "method with cross-entropy"
            )

    def check(self, config: ExperimentConfig, parts: Parts, classes: ThresholdContext) -> None:
        """Needs a tree."""
        tree_of(config.method.name, "method.second='crm'", classes.hierarchy, uneven=parts.nothing_on_an_even_tree)

    def run(self, first: FirstStage) -> tuple[Learner, TrainResult]:
        """The trained network with other scores."""
        assert first.data.hierarchy is not None, "checked before training"
        head = LowestRiskHead(first.learner.head, first.data.hierarchy)
        return Learner(first.learner.extractor, head), TrainResult()
