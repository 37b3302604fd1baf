"""LWS: learnable weight scaling (Kang et al. 2020, section 4.2): one factor a class on the trained classifier's logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from divfeat.models import Head
from divfeat.second.frozen import HeadTraining
from divfeat.second.stage import FirstStage


class ScaledHead(Head):
    """Logits f_k (<w_k, h> + b_k) of a frozen head: the factors, 1 at first, are all that learns.

    The factor stands after the bias, as in the released code.
    """

    def __init__(self, head: Head) -> None:
        """Freezes `head`."""
        super().__init__()
        self.head = head.requires_grad_(False)
        self.length = head.length
        self.scale = nn.Parameter(torch.ones(head.axes.shape[-1]))

    @property
    def axes(self) -> Tensor:
        """The head's axes at their scaled lengths: [D, K]."""
        return self.head.axes * self.scale

    @property
    def bias(self) -> Tensor | None:
        """[K], or None where the head has none."""
        bias = self.head.bias
        return None if bias is None else bias * self.scale

    def score(self, features: Tensor) -> Tensor:
        """Features [..., N, D] as `forward` returns them to logits [..., N, K]."""
        return self.head.score(features) * self.scale


class WeightScaling(HeadTraining):
    """Learns a factor for each class."""

    name = "lws"
    settings: ClassVar[Mapping[str, Any]] = {"second_epochs": 5, "second_lr": 0.2}

    def head(self, first: FirstStage) -> Head:
        """The trained head under factors of 1."""
        return ScaledHead(first.learner.head)
