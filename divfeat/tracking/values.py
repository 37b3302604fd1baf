"""What MLflow takes: short flat params, one point a metric and epoch, plain JSON and YAML files."""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

MAX_KEY = 250
MAX_PARAM = 6000
MAX_TAG = 8000
MAX_VECTOR = 8
"""A longer list is no param: its ends are shown, the whole of it is in the run's artifacts."""


class Point(NamedTuple):
    """One value of one metric: `step` is the epoch, `time` unix milliseconds."""

    key: str
    step: int
    time: int
    value: float


def clean_key(key: str) -> str:
    """`key` with the characters replaced that MLflow refuses in the names of params and metrics."""
    name = posixpath.normpath(re.sub(r"[^/\w.\- ]", "_", key)).lstrip("/.")
    return name[:MAX_KEY] or "_"


def short(text: str, limit: int) -> str:
    """`text`, cut to `limit` characters."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings by dotted name: {"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = plain(value)
    return flat


def short_params(tree: Mapping[str, Any]) -> tuple[dict[str, str], bool]:
    """Params of a nested config, and whether any is only shown in part (then the caller keeps the whole elsewhere)."""
    params: dict[str, str] = {}
    cut = False
    for key, value in flatten(tree).items():
        if isinstance(value, list) and len(value) > MAX_VECTOR:
            text = f"[{_text(value[0])}, {_text(value[1])}, ..., {_text(value[-1])}] ({len(value)} values)"
            cut = True
        else:
            text = _text(value)
        cut = cut or len(text) > MAX_PARAM
        params[clean_key(key)] = short(text, MAX_PARAM)
    return params, cut


def points(events: Iterable[Mapping[str, Any]]) -> Iterator[Point]:
    """Points of events {"epoch", "time", "metrics"}; what is no number is left out, infinite becomes NaN.

    MLflow would store an infinite value as 1.8e308, which is neither true nor drawable.
    """
    for event in events:
        for key, value in event["metrics"].items():
            if hasattr(value, "__float__"):
                number = float(value)
                yield Point(
                    clean_key(key), int(event["epoch"]), int(event["time"]), math.nan if math.isinf(number) else number
                )


def plain(value: Any) -> Any:
    """`value` as JSON types: tensors and arrays as lists, what JSON lacks as text, NaN and infinities as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, str | bool | int | None):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return str(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
