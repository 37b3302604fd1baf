"""Small files written so that a crash leaves the old content or the new, never a half."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from divfeat.errors import DataError


def check_writable(place: Path, what: str) -> None:
    """Refuse a folder that cannot be written to or made, before what is written there has been made.

    Args:
        place: The folder.
        what: Whose it is, in words.

    Raises:
        DataError: naming `what`, the folder and what stands in the way.
    """
    nearest = next(folder for folder in (place, *place.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=".divfeat-", dir=nearest):  # permissions alone do not tell: see /proc
            pass
    except OSError as error:
        raise DataError(
            f"{what} {place}: {nearest} cannot be written to ({error.strerror}); give a folder that can"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path` to write to, which takes its place, atomically and durably, when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # a disk that is full must not stay so for this
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` atomically and durably."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by the JSON of `value` atomically; NaN and infinity become null."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """What `write_json` writes."""
    return json.dumps(finite(value), indent=1, sort_keys=True, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """The JSON in `path`, or None where there is no such file.

    Raises:
        DataError: it cannot be read, or is no JSON: nothing here writes halves, so it was damaged or changed.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # text that is no UTF-8 or no JSON is a ValueError
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else f"it is no JSON: {error}"
        raise DataError(
            f"{path} cannot be read ({reason}); restore it from a copy, or begin the study anew in another folder"
        ) from error


def read_mapping(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`, or None where there is no such file.

    Raises:
        DataError: as `read_json`, or it holds something else.
    """
    found = read_json(path)
    if found is not None and not isinstance(found, dict):
        raise DataError(
            f"{path} holds a JSON {type(found).__name__}, no settings by name; restore it from a copy, or begin the study "
            "anew in another folder"
        )
    return found


def append_line(path: Path, value: Any) -> None:
    """Append one JSON line in a single write; a line that a kill tore is closed first, so that it takes none with it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json_line(value)
    with open(path, "a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = "\n" + line
        file.write(line.encode())


def json_line(value: Any) -> str:
    """What `append_line` appends."""
    return json.dumps(finite(value), sort_keys=True, allow_nan=False) + "\n"


def read_lines(path: Path) -> list[Any]:
    """Every complete JSON line of `path`; torn ones are left out."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    rows = []
    for line in text.splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # the write that a kill interrupted; its event comes again
    return rows


def finite(value: Any) -> Any:
    """`value` with non-finite floats replaced by None, since JSON has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value
