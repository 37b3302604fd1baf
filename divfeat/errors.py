"""Errors a user can cause and mend: each message names the value, the place and the remedy."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class DivfeatError(Exception):
    """Base of the errors that end a command with exit code 1 and one clear message."""


class ConfigError(DivfeatError, ValueError):
    """A setting is unknown, of the wrong type, out of range, or at odds with another."""


class DataError(DivfeatError, ValueError):
    """A data set is missing, unreadable, or not what the configuration says it is."""


class NonFiniteError(DivfeatError, ArithmeticError):
    """A loss or a gradient became NaN or infinite: the run fails, the study goes on."""


class StorageLostError(DivfeatError, OSError):
    """A study's storage cannot be written or read any more, or is full: the study stops, and goes on once that is mended."""


#: Of a disk that is full, broken, gone or read-only, wherever it is met.
_DISK = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.ENOTCONN))
#: The same in the words of libraries that raise errors of their own (sqlite, PyTorch's writer of checkpoints).
_DISK_WORDS = (
    "no space left",
    "disk is full",
    "disk i/o error",
    "readonly database",
    "unexpected pos",  # PyTorch's file writer, which wrote less than it should
    "failed writing file",
    "file write failed",
)


def disk_fault(error: BaseException | None) -> str | None:
    """In one line what is wrong with a disk, where that is what `error`, or what caused it, tells of; else None."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        text = str(error)
        known = isinstance(error, StorageLostError) or (isinstance(error, OSError) and error.errno in _DISK)
        if known or any(words in text.lower() for words in _DISK_WORDS):
            return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
        error = error.__cause__ or error.__context__
    return None


def unknown(kind: str, name: str, known: Iterable[str], prefix: str = "", elsewhere: str = "") -> str:
    """Message for a name that is not among `known`, with the closest one, or else with where there is one `elsewhere`."""
    known = list(known)
    close = difflib.get_close_matches(name.rpartition(".")[2], known, n=1)
    meant = (prefix + "." if prefix else "") + close[0] if close else elsewhere
    hint = f" Did you mean {meant!r}?" if meant else ""
    return f"unknown {kind} {name!r}.{hint} Known: {', '.join(known)}"
