"""The winner's feature extractor as an MLflow model: code and tensors, no pickled objects, nothing inferred."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from torch import Tensor

from divfeat.errors import ConfigError
from divfeat.models import FeatureExtractor

ARTIFACT_PATH = "model"
"""Folder of the model among the artifacts of the run that trained it."""

REQUIREMENTS = ("numpy", "pydantic", "pyyaml", "torch", "torchvision")
"""What `divfeat.models` imports; divfeat itself goes along as code."""

MAX_EXAMPLE = 4096
"""Values in an input example, which MLflow keeps as JSON."""


def save_extractor(path: Path, config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> None:
    """Writes the MLflow model of an extractor to the new folder `path`.

    Input uint8 [-1, C, H, W], output float32 [-1, D]; param "tap" = "after" (the projector, default) or "before".

    Args:
        path: Must not exist.
        config: `FeatureExtractor.config`.
        state_dict: `FeatureExtractor.state_dict()`.

    Raises:
        ConfigError: The weights do not fit the config.
    """
    extractor = FeatureExtractor.from_config(config)
    try:
        extractor.load_state_dict(dict(state_dict))
    except RuntimeError as error:
        raise ConfigError(f"the weights do not fit the extractor {config.get('backbone')!r}: {error}") from error
    shape = tuple(config["image_shape"])
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, *shape))]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, extractor.feature_dim))]),
        params=ParamSchema([ParamSpec("tap", DataType.string, "after")]),
    )
    example = np.zeros((1, *shape), dtype=np.uint8) if math.prod(shape) <= MAX_EXAMPLE else None
    with tempfile.TemporaryDirectory(prefix="divfeat-") as name, _as_before():
        weights, settings = Path(name, "weights.pt"), Path(name, "config.json")
        torch.save({key: value.detach().cpu().contiguous() for key, value in extractor.state_dict().items()}, weights)
        settings.write_text(json.dumps(extractor.config, indent=1), encoding="utf-8")
        mlflow.pyfunc.save_model(
            path,
            python_model=str(Path(__file__).with_name("extractor_model.py")),
            artifacts={"weights": str(weights), "config": str(settings)},
            code_paths=[str(Path(__file__).parents[1])],
            signature=signature,
            input_example=example,
            pip_requirements=[f"{package}=={version(package).partition('+')[0]}" for package in REQUIREMENTS],
        )


@contextlib.contextmanager
def _as_before() -> Iterator[None]:
    """Keeps MLflow's trial of the input example quiet, and the copied code it tries off this process's path."""
    log, path = logging.getLogger("mlflow"), list(sys.path)
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)
        sys.path = path


def check_name(name: str) -> None:
    """Raises ConfigError for a name that MLflow's registry does not take."""
    if not name.strip() or re.search(r"[/:]", name):
        raise ConfigError(f"registered model {name!r}: MLflow takes no '/', no ':' and no empty name; choose another")


def register(
    client: MlflowClient,
    name: str,
    config: Mapping[str, Any],
    state_dict: Mapping[str, Tensor],
    run_id: str,
    tags: Mapping[str, str],
    description: str,
) -> int:
    """Puts the model among a run's artifacts and makes a version of it, unless there is one with the same identity.

    Args:
        client: Of the tracking server, which is the registry too.
        name: Of the registered model, made if it is new.
        config: As `save_extractor`.
        state_dict: As `save_extractor`.
        run_id: The run that trained it.
        tags: Of the version; `study` and `trial_key` are its identity.
        description: Of the version.

    Returns:
        The version.
    """
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for known in client.search_model_versions(f"name = '{name.replace(chr(39), chr(39) * 2)}'"):
        if all(known.tags.get(tag) == tags[tag] for tag in ("study", "trial_key")):
            return int(known.version)
    with tempfile.TemporaryDirectory(prefix="divfeat-") as folder:
        model = Path(folder, ARTIFACT_PATH)
        save_extractor(model, config, state_dict)
        client.log_artifacts(run_id, str(model), ARTIFACT_PATH)
    made = client.create_model_version(
        name, f"runs:/{run_id}/{ARTIFACT_PATH}", run_id, dict(tags), description=description, await_creation_for=0
    )
    return int(made.version)
