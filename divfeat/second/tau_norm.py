"""tau-normalisation: axes at their length to the power 1 - p, without bias (Kang et al. 2020, equation 2, its tau is p)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from divfeat.errors import ConfigError
from divfeat.models import FrameHead
from divfeat.parts import Parts
from divfeat.pretrain import Learner, TrainResult
from divfeat.second.stage import FirstStage, SecondStage


class TauNormalisation(SecondStage):
    """w_k / ||w_k||^p: p = 0 only drops the bias, p = 1 leaves directions alone."""

    settings: ClassVar[Mapping[str, Any]] = {"exponent": 1.0}

    def check_parts(self, name: str, frame: bool, parts: Parts) -> None:
        """Needs axes of different lengths."""
        if frame or parts.scale:
            which = "a frame's" if frame else "those of a cosine classifier (method.scale)"
            raise ConfigError(
                f"method.second='tau_norm' divides axes by a power of their length, and the axes of {name!r} are {which}, all "
                "of length 1: nothing would change; use it after a linear classifier (ce, ce_no_projector, focal ...), or "
                "lws, crt or post_hoc here"
            )

    def run(self, first: FirstStage) -> tuple[Learner, TrainResult]:
        """Nothing is trained."""
        axes = first.learner.head.axes.detach()
        # A classifier that weight decay took to zero scores zero, not 0 / 0.
        lengths = axes.norm(dim=0).clamp(min=1e-12)
        return Learner(first.learner.extractor, FrameHead(axes / lengths**first.parts.exponent)), TrainResult()
