"""A head trained alone: the network before it is frozen, in evaluation mode, and the classes are sampled alike."""

from __future__ import annotations

from divfeat.losses.objective import Objective
from divfeat.models import Head
from divfeat.parts import Parts
from divfeat.pretrain import Learner, TrainResult
from divfeat.second.stage import FirstStage, SecondStage, check_epochs

#: Images of a batch in the released configurations (classifier-balancing, config/ImageNet_LT).
BATCH = 512
#: A step without the way back through the network takes about a third of a whole one.
_FORWARD = 1 / 3


class FrozenLearner(Learner):
    """A learner whose extractor neither learns nor counts: batch norm keeps its statistics too."""

    def __init__(self, trained: Learner, head: Head) -> None:
        super().__init__(trained.extractor.requires_grad_(False), head)

    def train(self, mode: bool = True) -> FrozenLearner:
        """The head alone follows `mode`."""
        super().train(mode)
        self.extractor.eval()
        return self


class HeadTraining(SecondStage):
    """Trains a head of its own making by cross-entropy, every class as often (Kang et al. 2020, section 4)."""

    name: str

    def head(self, first: FirstStage) -> Head:
        """The head before it is trained; what asks for no gradient stays."""
        raise NotImplementedError

    def check_parts(self, name: str, frame: bool, parts: Parts) -> None:
        """Needs an epoch."""
        check_epochs(self.name, parts)

    def trainings(self, parts: Parts, epochs: int) -> float:
        """A forward pass an image."""
        return _FORWARD * parts.second_epochs / epochs

    def run(self, first: FirstStage) -> tuple[Learner, TrainResult]:
        """Trains it."""
        learner = FrozenLearner(first.learner, self.head(first).to(first.device))
        return learner, first.train(learner, Objective(), first.settings(BATCH))
