"""Where a configuration comes from: a preset, a file laid over it, and assignments laid over both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from divfeat.errors import ConfigError, unknown
from divfeat.study_config import ExecutionConfig, StudyConfig
from divfeat.validation import build

#: What a smoke test lays over the preset, below the user's own settings.
SMOKE: dict[str, Any] = {
    "train": {"epochs": 2, "warmup_epochs": 0},
    "probe": {"strengths": [0.01, 0.1, 1.0]},  # of 45, most of the time of so short a training
    "protocol": {
        "learning_rates": [],
        "weight_decays": [],
        "select_top": 1,
        "select_seeds": 2,
        "grid_points": 0,
        "confirm_seeds": 2,
    },
    "execution": {"trials": 3},
}


#: Settings that are addresses, and where their secrets belong.
_SECRETS = {
    "tracking_uri": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (of a database: PGPASSWORD)",
    "storage_path": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or GOOGLE_APPLICATION_CREDENTIALS)",
    "address": "RAY_AUTH_TOKEN",
}


def preset_names() -> list[str]:
    """Presets shipped with the package."""
    folder = resources.files("divfeat") / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_preset(name: str) -> dict[str, Any]:
    """The mapping of a preset: study fields, `execution`, and `about` (text).

    Raises:
        ConfigError: unknown name; the message lists the known ones.
    """
    if name not in preset_names():
        raise ConfigError(unknown("preset", name, preset_names()))
    text = (resources.files("divfeat") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def load_file(path: str | Path) -> dict[str, Any]:
    """A YAML or JSON file of settings laid over the preset.

    Raises:
        ConfigError: missing, unreadable, or not a mapping.
    """
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"--config {path}: cannot be read ({error.strerror}); give the path of a YAML file"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: not valid YAML: {error}") from error
    if not isinstance(loaded, Mapping):
        raise ConfigError(f"--config {path}: expected a mapping of settings, found {type(loaded).__name__}")
    return dict(loaded)


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """``a.b=value`` strings as a nested mapping; values are read as YAML (numbers, lists, null, text).

    Raises:
        ConfigError: no equals sign, or a value that is not YAML.
    """
    result: dict[str, Any] = {}
    for text in assignments:
        path, sign, value = text.partition("=")
        if not sign or not path:
            raise ConfigError(f"--set {text!r}: expected KEY=VALUE, e.g. --set train.epochs=40")
        try:
            parsed = yaml.safe_load(value) if value else None
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {text!r}: the value is not valid YAML") from error
        keys = path.split(".")
        result = merge(result, {keys[0]: _nest(keys[1:], _with_numbers(parsed))})
    return result


def _with_numbers(value: Any) -> Any:
    """`value` with text such as 1e-4, which YAML 1.1 does not take for a number, as one; in lists and mappings too."""
    if isinstance(value, Mapping):
        return {key: _with_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_numbers(item) for item in value]
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _nest(keys: list[str], value: Any) -> Any:
    for key in reversed(keys):
        value = {key: value}
    return value


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, mapping by mapping; a method by its name alone is a mapping too where more is said of it."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if key == "method" and isinstance(old, str) and isinstance(value, Mapping):
            old = {"name": old}
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def assigned(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a.b": value}`` as a nested mapping: what `parse_assignments` makes of text, for values that are none.

    Raises:
        ConfigError: a name that is no text, or empty.
    """
    result: dict[str, Any] = {}
    for path, value in settings.items():
        if not isinstance(path, str) or not all(path.split(".")):
            raise ConfigError(f"set: {path!r} names no setting; give names such as 'train.epochs'")
        keys = path.split(".")
        result = merge(result, {keys[0]: _nest(keys[1:], value)})
    return result


def layered(
    preset: str | None,
    file: Mapping[str, Any],
    over: Mapping[str, Any],
    *,
    seed: int | None,
    execution: Mapping[str, Any],
    smoke: Mapping[str, Any] | None = None,
    above: Mapping[str, Any] | None = None,
) -> tuple[StudyConfig, ExecutionConfig, str]:
    """Configurations from what a user gives, on the command line or in a call; later ones win.

    Args:
        preset: None takes what the file or the assignments name, or digits: what --print-config wrote names its preset, and
            with it the study's default name.
        file: Settings laid over the preset.
        over: Assignments over both.
        seed: Over the assignments; None leaves them.
        execution: Likewise; what is None there is not given.
        smoke: Laid over the preset, below the file; None for a study at full size.
        above: Over all others.

    Returns:
        As `make_configs`.

    Raises:
        ConfigError: anything unknown or invalid.
    """
    chosen = preset or str(merge(file, over).get("preset", "digits"))
    given = {name: value for name, value in execution.items() if value is not None}
    direct = ({} if seed is None else {"seed": seed}) | ({"execution": given} if given else {})
    base = file if smoke is None else merge(smoke, file)
    return make_configs(chosen, base, merge(merge(over, direct), above or {}))


def make_configs(
    preset: str, file: Mapping[str, Any] | None = None, overrides: Mapping[str, Any] | None = None
) -> tuple[StudyConfig, ExecutionConfig, str]:
    """Study and execution from a preset, a file over it, and assignments over both.

    Returns:
        (study, execution, the preset's `about` text).

    Raises:
        ConfigError: anything unknown or invalid, all problems in one message.
    """
    settings = merge(load_preset(preset), merge(file or {}, overrides or {}))
    about = str(settings.pop("about", ""))
    execution = settings.pop("execution", {})
    settings["preset"] = preset
    _check_no_secrets(execution)
    return build(StudyConfig, settings), build(ExecutionConfig, execution, prefix="execution."), about


def _check_no_secrets(execution: Any) -> None:
    """Refuse addresses with a password in them: settings are written into files, MLflow and process titles.

    Raises:
        ConfigError: naming the setting, never its value.
    """
    for name, variables in _SECRETS.items():
        address = execution.get(name) if isinstance(execution, Mapping) else None
        if isinstance(address, str) and "@" in address.partition("://")[2].partition("/")[0]:
            raise ConfigError(
                f"execution.{name} (--{name.replace('_', '-')}) has a user or a password in it, which would be written into "
                f"files and process titles; take it out and give it as {variables} in the environment"
            )
