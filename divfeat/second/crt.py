"""cRT: classifier re-training (Kang et al. 2020, "Decoupling Representation and Classifier", section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from divfeat.models import Head, LinearHead
from divfeat.second.frozen import HeadTraining
from divfeat.second.stage import FirstStage


class ClassifierRetraining(HeadTraining):
    """A new linear classifier on the frozen features, whatever classifier they were learned with."""

    name = "crt"
    settings: ClassVar[Mapping[str, Any]] = {"second_epochs": 10, "second_lr": 0.2}

    def head(self, first: FirstStage) -> Head:
        """Linear, drawn anew."""
        return LinearHead(first.learner.extractor.feature_dim, len(first.counts), seed=first.seed("head"))
