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
    """`over` laid over `base`, mapping by mapping."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


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
    return build(StudyConfig, settings), build(ExecutionConfig, execution, prefix="execution."), about
