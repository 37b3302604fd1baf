"""What every configuration shares: frozen once made, unknown keys are errors, every error names key, value and remedy.

What decides a result has a digest; a setting that came later is no part of it while it is at its default.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pydantic
from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

from divfeat.errors import ConfigError, unknown


class Frozen(BaseModel):
    """A configuration or a section of one."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return self.model_dump(mode="json")


def build(model: type[Any], settings: Any, prefix: str = "") -> Any:
    """Validate `settings` as `model`.

    Raises:
        ConfigError: one line a problem, each with key, value and what is expected.
    """
    try:
        return model.model_validate(settings)
    except pydantic.ValidationError as error:
        raise ConfigError("\n".join(_explain(model, problem, prefix) for problem in error.errors())) from error


#: Types of pydantic's problems, in the words of the YAML that settings are written in.
_WORDS = {
    "tuple_type": "Input should be a list, as in [a, b]",
    "dict_type": "Input should be a mapping, as in {a: 1}",
    "model_type": "Input should be a mapping of settings, as in {a: 1}",
}


def _explain(model: type[BaseModel], problem: Any, prefix: str) -> str:
    location = [str(part) for part in problem["loc"]]
    where = (prefix + ".".join(location)).rstrip(".")
    if problem["type"] == "extra_forbidden":
        known, prefix = _fields_at(model, location[:-1]), where.rpartition(".")[0]
        # `imbalance` is data.imbalance, `method.focal` search.method.focal: told where one section alone has the name.
        sections = [] if location[1:] else [name for name in known if location[0] in _fields_at(model, [name])]
        elsewhere = f"{sections[0]}.{where}" if len(sections) == 1 else ""
        return unknown("setting", where, known, prefix=prefix, elsewhere=elsewhere)
    if problem["type"] == "missing":
        return f"setting {where} is missing"
    message = _WORDS.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    if problem["type"] == "value_error" or not location:
        return f"{where}: {message}" if where else message
    value = repr(problem.get("input"))
    setting = location[:-1] if location[-1].isdigit() else location  # a place in a list means what the list does
    field = _fields_at(model, setting[:-1]).get(setting[-1])
    meaning = f" ({field.description})" if field is not None and field.description else ""
    return f"setting {where}={value[:80]}: {message[0].lower()}{message[1:]}{meaning}"


def _fields_at(model: type[BaseModel], location: list[str]) -> dict[str, FieldInfo]:
    """Fields of the nested model at `location`, by name."""
    current: Any = model
    for part in location:
        if part.isdigit():  # a place in a list of the models found already
            continue
        fields = getattr(current, "model_fields", {})
        if part not in fields:
            return {}
        annotation = fields[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        current = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
    return dict(getattr(current, "model_fields", {}))


# --- identity ---------------------------------------------------------------------------------------------------------

#: Section -> (its model, settings that came after the first studies): at their default these are no part of a key, so that
#: the keys of finished work stay what they are.
Later = Mapping[str, tuple[type[BaseModel], tuple[str, ...]]]


def digest(value: Any) -> str:
    """16 hexadecimal digits of the canonical JSON of `value`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def without(settings: Mapping[str, Any], never: tuple[str, ...], later: Later) -> dict[str, Any]:
    """`settings` (JSON types, sections as mappings) without what decides no result.

    Args:
        settings: Of a configuration.
        never: Settings that decide no result, whatever their value, in the sections of `later`.
        later: Settings that decide none at their default.
    """
    kept = dict(settings)
    for section, (model, names) in later.items():
        if section in settings:
            defaults = {name: _plain(model.model_fields[name].get_default(call_default_factory=True)) for name in names}
            kept[section] = {
                name: value
                for name, value in settings[section].items()
                if name not in never and not (name in defaults and value == defaults[name])
            }
    return kept


def _plain(value: Any) -> Any:
    """A default as JSON has it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return list(value) if isinstance(value, tuple) else value
