"""Lines to copy: the command that gives a study again, and those that open MLflow, Optuna's dashboard, the extractor."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import yaml

from divfeat.report.summary import StudySummary
from divfeat.settings import make_configs, preset_names
from divfeat.storage import is_uri
from divfeat.study_config import ExecutionConfig


def study_command(summary: StudySummary, *, where: bool = True) -> str:
    """The line that gives this very study: the preset and every setting that differs from it.

    Args:
        summary: Of the study.
        where: Also name folder, study and server, so that the line resumes it; without them it can be run anywhere.
    """
    config = summary.config
    preset = config.preset if config.preset in preset_names() else preset_names()[0]
    base, defaults, _ = make_configs(preset)
    words = ["python", "studies/tau_search.py", "--preset", preset]
    for key, value in _changed(base.to_dict(), config.to_dict()):
        if key == "seed":
            words += ["--seed", str(value)]
        elif key != "preset":
            plain = isinstance(value, str) and yaml.safe_load(value) == value
            text = value if plain else json.dumps(value)
            words += ["--set", f"{key}={text}"]
    words += ["--trials", str(summary.execution.trials)]
    for field in ("workers_per_trial", "gpus_per_worker"):
        value = getattr(summary.execution, field)
        if value != getattr(defaults, field):
            words += [_flag(field), f"{value:g}"]
    if where:
        storage, defaults = summary.execution.storage_path, ExecutionConfig()
        if is_uri(storage):
            words += ["--storage-path", storage]
            if summary.execution.home != defaults.home:
                words += ["--set", f"execution.home={summary.place.parent}"]
        elif storage != defaults.storage_path:
            words += ["--storage-path", str(summary.place.parent)]
        if summary.name != f"{config.preset}-{config.identity[:8]}":
            words += ["--name", summary.name]
        if summary.execution.tracking_uri:
            words += ["--tracking-uri", _without_password(summary.execution.tracking_uri)]
    return shlex.join(words)


def mlflow_server(summary: StudySummary) -> str | None:
    """Where the study is on a server of MLflow; None where `mlflow_command` opens it."""
    uri = summary.execution.tracking_uri
    if uri is None or not uri.startswith(("http://", "https://")):
        return None
    return f"{_without_password(uri)} (experiment {summary.name})"


def mlflow_command(summary: StudySummary) -> str | None:
    """The line that opens MLflow on the study; None where it is on a server."""
    if mlflow_server(summary):
        return None
    return shlex.join(["mlflow", "ui", "--backend-store-uri", tracking_uri(summary)])


def optuna_command(summary: StudySummary) -> str:
    """The line that opens Optuna's dashboard on the search."""
    return shlex.join(["optuna-dashboard", f"sqlite:///{summary.place / 'optuna.db'}"])


def extractor_lines(summary: StudySummary) -> str | None:
    """Python that loads the registered extractor; None where none was registered."""
    if summary.registered is None:
        return None
    model = f"models:/{summary.registered['model']}/latest"
    return (
        f"import mlflow\n\nmlflow.set_tracking_uri({json.dumps(tracking_uri(summary))})\n"
        f"model = mlflow.pyfunc.load_model({json.dumps(model)})\n"
        "features = model.predict(images)  # uint8 [N, C, H, W] -> float32 [N, D]"
    )


def _changed(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys whose value differs, with the new one; a mapping that is new or gone is one value."""
    for name, value in new.items():
        before = old.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping) and before:
            yield from _changed(before, value, f"{prefix}{name}.")
        elif value != before:
            yield f"{prefix}{name}", value


def tracking_uri(summary: StudySummary) -> str:
    """Of MLflow: the server, or the sqlite file in the study's folder; without a password."""
    uri = summary.execution.tracking_uri
    return _without_password(uri) if uri else f"sqlite:///{summary.place / 'mlflow.db'}"


def _flag(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _without_password(uri: str) -> str:
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else uri
