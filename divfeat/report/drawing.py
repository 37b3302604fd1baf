"""A figure together with what it is drawn from, so that it can be drawn anew without its study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from divfeat.errors import DataError
from divfeat.files import read_mapping, write_json
from divfeat.report import figures
from divfeat.report.figures._canvas import Place

#: Under this a mapping is kept as a list of pairs: methods have their colours by their order, which JSON files here do not keep.
_PAIRS = "in order"


@dataclass(frozen=True)
class Drawing:
    """One figure; called with a place it goes there (a path: a PNG) and returns the caption.

    Attributes:
        figure: Name of a function of `divfeat.report.figures`.
        arguments: Of it, all but the path: plain arrays, numbers, words, and mappings of them.
    """

    figure: str
    arguments: Mapping[str, Any]

    def __call__(self, path: Place) -> str:
        """Draw it and return the caption."""
        caption: str = getattr(figures, self.figure)(path=path, **self.arguments)
        return caption

    def save(self, path: Path) -> None:
        """Write it as JSON; missing numbers are null."""
        write_json(path, {"figure": self.figure, "arguments": _kept(self.arguments)})

    @classmethod
    def load(cls, path: Path) -> Drawing:
        """The inverse of `save`.

        Raises:
            DataError: no such file, or none of a figure.
        """
        found = read_mapping(path)
        if found is None or found.get("figure") not in figures.__all__:
            raise DataError(
                f"{path} holds no figure's data: `python -m divfeat.report.build runs/STUDY --publish FOLDER` writes it beside "
                "the figure"
            )
        return cls(found["figure"], _taken_up(found["arguments"]))


def _kept(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_PAIRS: [[name, _kept(inner)] for name, inner in value.items()]}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [_kept(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _taken_up(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _taken_up(inner) for name, inner in value[_PAIRS]}
    return [_taken_up(inner) for inner in value] if isinstance(value, list) else value
