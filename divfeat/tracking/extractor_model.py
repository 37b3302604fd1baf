"""The code of a registered feature extractor: MLflow runs a copy of this file when it loads the model (no pickle).

It needs only `divfeat.models`, of which the model carries a copy, so it also loads where divfeat is not installed.
"""

from __future__ import annotations

import json
import os
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.pyfunc import PythonModel

from divfeat.errors import ConfigError
from divfeat.models import FeatureExtractor

BATCH = 256
"""Images at a time; memory, not results, depends on it."""


class ExtractorModel(PythonModel):
    """Features of images. Runs on CUDA where there is one; MLFLOW_DEFAULT_PREDICTION_DEVICE=cpu keeps it off."""

    def load_context(self, context: Any) -> None:
        """Rebuilds the net from its config and reads the weights, as tensors only."""
        with open(context.artifacts["config"], encoding="utf-8") as file:
            self.extractor = FeatureExtractor.from_config(json.load(file))
        self.extractor.load_state_dict(torch.load(context.artifacts["weights"], map_location="cpu", weights_only=True))
        default = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(os.environ.get("MLFLOW_DEFAULT_PREDICTION_DEVICE") or default)
        self.extractor.to(self.device).eval()

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """Extracts features.

        Args:
            context: MLflow's; not used.
            model_input: uint8 array [N, C, H, W].
            params: {"tap": "after"} (the projector's output, default) or "before" (the pooled features).

        Returns:
            float32 array [N, D].

        Raises:
            ConfigError: Another tap.
        """
        tap = (params or {}).get("tap", "after")
        if tap not in ("before", "after"):
            raise ConfigError(f"tap = {tap!r}: must be 'after' (the projector) or 'before' it")
        images = torch.from_numpy(np.array(model_input, dtype=np.uint8))  # a copy: torch wants it writable
        width = self.extractor.feature_dim if tap == "after" else self.extractor.backbone_dim
        features = np.empty((len(images), width), dtype=np.float32)
        with torch.inference_mode():
            for at in range(0, len(images), BATCH):
                taps = self.extractor(images[at : at + BATCH].to(self.device))
                features[at : at + BATCH] = getattr(taps, tap).cpu().numpy()
        return features


mlflow.models.set_model(ExtractorModel())
