"""Weights that training starts from: a local file's, in torchvision's format. Nothing is downloaded."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from divfeat.errors import ConfigError
from divfeat.models.backbone import Backbone

#: What torch.load raises for files that are none of its own.
_UNREADABLE = (RuntimeError, ValueError, LookupError, EOFError, AttributeError, pickle.UnpicklingError)
#: The classifier, which is never read; counts that old files lack.
_CLASSIFIER, _COUNT = "fc.", "num_batches_tracked"


def load_weights(backbone: Backbone, path: Path, expected: str | None = None) -> None:
    """Replace a backbone's weights by those of a file, and note the file's hash in `backbone.weights_hash`.

    Args:
        backbone: A file for it holds the state dict of `backbone.pretrained`; a classifier `fc` beside that is left out.
        path: Of what `torch.save` wrote of a state dict; read as tensors only.
        expected: The first 16 digits of the file's SHA-256, or None for any.

    Raises:
        ConfigError: no such file, another hash, no state dict, or one of another net: names the file, the place and the remedy.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"model.weights={path} cannot be read ({error.strerror or error}): correct the path"
        ) from error
    found = hashlib.sha256(content).hexdigest()[:16]
    if expected not in (None, found):
        raise ConfigError(
            f"model.weights={path} has the hash {found}, but model.weights_hash={expected}: it is another file than the one "
            "meant; name that one, or change the hash"
        )
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise ConfigError(f"model.weights={path} holds no tensors that torch.load can read ({error})") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(
            f"model.weights={path} is no state dict, tensors by name: of a checkpoint with more in it, save the state dict alone"
        )
    wanted = backbone.pretrained.state_dict()
    given = {name: value for name, value in state.items() if name in wanted or not name.startswith(_CLASSIFIER)}
    _check_fits(path, given, wanted)
    backbone.pretrained.load_state_dict(given, strict=False)
    backbone.weights_hash = found


def _check_fits(path: Path, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    missing = [name for name in wanted if name not in given and not name.endswith(_COUNT)]
    beyond = [name for name in given if name not in wanted]
    if missing or beyond:
        said = (
            f"lacks {missing[0]!r} ({len(missing)} in all)" if missing else f"has {beyond[0]!r} ({len(beyond)} in all)"
        )
        raise ConfigError(
            f"model.weights={path} is of another net than model.backbone: it {said}; give the file of this net, with the "
            "names that torchvision has"
        )
    for name, value in given.items():
        if value.shape != wanted[name].shape:
            hint = "; model.options.stem=large is the stem of ImageNet's nets" if name == "conv1.weight" else ""
            raise ConfigError(
                f"model.weights={path}: {name} is {list(value.shape)}, the net's {list(wanted[name].shape)}: give the file of "
                f"this net{hint}"
            )
