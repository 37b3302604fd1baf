"""Names in a store: relative, in one spelling, and never outside the root they are under."""

from __future__ import annotations

from pathlib import Path

from divfeat.errors import DataError

#: Begins the name of a file that is not whole yet; no key may, and no list shows one.
PART = ".part."
_MOST_BYTES, _MOST_BYTES_OF_A_NAME = 900, 200  # object stores take 1,024 with the prefix, file systems 255


def checked_key(key: str, where: str = "") -> str:
    """`key`, if it names something under the root and nothing else.

    Args:
        key: Names joined by slashes, such as `runs/0123456789abcdef/record.json`.
        where: Address of the store, for the message.

    Raises:
        DataError: it is empty or absolute, has a part `.` or `..` or an empty one, a backslash or a control character, or is
            longer than stores take.
    """
    reason = _trouble(key)
    if reason is not None:
        place = f"{where}: " if where else ""
        raise DataError(
            f"{place}{key[:200]!r} is no name under a study's storage ({reason}); if it came from there, remove it"
        )
    return key


def is_key(key: str) -> bool:
    """Whether `checked_key` lets it pass."""
    return _trouble(key) is None


def inside(folder: Path, key: str) -> Path:
    """Where under `folder`, on this machine, the file of a checked key goes.

    Raises:
        DataError: a link on the way there could lead out of the folder.
    """
    path = folder
    for part in key.split("/"):
        path = path / part
        if path.is_symlink():
            raise DataError(f"{path} is a link, which could lead out of {folder}; replace it by what it names")
    return path


def _trouble(key: str) -> str | None:
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "an empty part, '.' or '..' leads elsewhere"
    if "\\" in key or not key.isprintable():
        return "a backslash or a character that is not printed"
    if parts[-1].startswith(PART):
        return f"names that begin with {PART!r} are of files that are not whole"
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        return "it is no text"
    if max(sizes) > _MOST_BYTES_OF_A_NAME or sum(sizes) + len(sizes) > _MOST_BYTES:
        return "it is too long"
    return None
