"""Hierarchies from files: nested JSON, tables of levels (CSV, Parquet), lists of is-a relations."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from divfeat.errors import DataError
from divfeat.hierarchy.tree import Hierarchy

#: Columns of a table that name no level; `label` does where it is the last one and holds names.
_NO_LEVEL = ("id", "index", "label")


def load(path: Path) -> Hierarchy:
    """Read a hierarchy.

    Args:
        path: `.json`: nested mappings, or iNaturalist's list of categories with their taxa; `.csv` and `.parquet`: one row a
            class, one column a level from the coarsest to the class, empty where a class lies higher; columns called
            id, index or label are left out, but for a last one called label that holds names; `.txt`: one relation a
            line, parent and child divided by a tab or else by blanks.

    Raises:
        DataError: it cannot be read, or holds no tree: names file and place.
    """
    readers = {".json": _json, ".csv": _csv, ".parquet": _parquet, ".txt": _edges}
    if path.suffix.lower() not in readers:
        raise DataError(f"hierarchy {path}: unknown kind of file {path.suffix!r}; known: {', '.join(readers)}")
    try:
        return readers[path.suffix.lower()](path)
    except DataError as error:
        raise DataError(f"hierarchy {path}: {error}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"hierarchy {path} cannot be read: {error}") from error


def _json(path: Path) -> Hierarchy:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, below in pairs:
            if name in found:
                raise DataError(f"{name!r} comes twice below one node: every node has one place")
            found[name] = below
        return found

    content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    if isinstance(content, dict) and isinstance(content.get("categories"), list):
        content = content["categories"]
    if isinstance(content, list) and content and all(isinstance(row, dict) and "genus" in row for row in content):
        return _taxa(content)
    if not isinstance(content, dict | list):
        raise DataError(f"it holds {content!r}, not nested mappings of names")
    return Hierarchy.from_nested(content)


#: iNaturalist's ranks, from the coarsest; its categories name the class itself as `name`.
TAXA = ("kingdom", "phylum", "class", "order", "family", "genus", "name")


def _taxa(rows: Sequence[dict[str, Any]]) -> Hierarchy:
    """iNaturalist's categories, in the order of their ids, which is that of the labels."""
    for row in rows:
        if missing := [name for name in TAXA if name not in row]:
            raise DataError(f"category {row.get('name', row.get('id'))!r} has no {missing[0]!r}")
    ranked = sorted(rows, key=lambda row: row.get("id", 0))
    return Hierarchy.from_table([[str(row[name]) for name in TAXA] for row in ranked])


def _csv(path: Path) -> Hierarchy:
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = [row for row in csv.reader(file) if row] or [[]]
    return _table(header, rows)


def _parquet(path: Path) -> Hierarchy:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    columns = [column.to_pylist() for column in table.columns]
    return _table(table.column_names, list(zip(*columns, strict=True)))


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Hierarchy:
    if not header or not rows:
        raise DataError("the table is empty: its first row names the levels, each further row is a class")
    for place, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise DataError(f"row {place} has {len(row)} cells, the header {len(header)}")
    cells = [["" if cell is None else str(cell).strip() for cell in row] for row in rows]
    left_out = [at for at, name in enumerate(header) if name in _NO_LEVEL]
    last = len(header) - 1
    if header[last] == "label" and not all(row[last].isdecimal() for row in cells):
        left_out.remove(last)
    try:
        return Hierarchy.from_table([[cell for at, cell in enumerate(row) if at not in left_out] for row in cells])
    except DataError as error:
        if not left_out:
            raise
        out = ", ".join(repr(header[at]) for at in left_out)
        raise DataError(f"{error} (left out as no level: {out}; give it another name if it is one)") from error


def _edges(path: Path) -> Hierarchy:
    edges = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        words = [word.strip() for word in (line.split("\t") if "\t" in line else line.split())]
        if len(words) != 2 or not all(words):
            raise DataError(f"line {number} is no pair of parent and child: {line!r}")
        edges.append((words[0], words[1]))
    if not edges:
        raise DataError("it holds no relations: one a line, parent and child")
    return Hierarchy.from_edges(edges)
