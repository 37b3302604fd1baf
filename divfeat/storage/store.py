"""A study's shared storage: a few operations on named files, the same on a folder, on S3 and on GCS.

What a reader finds under a name is what one writer wrote there, whole: never a half, whoever is killed when. Nothing is
locked; names are the caller's business. Hiccups are waited out, what lasts is one error.
"""

from __future__ import annotations

import errno
import logging
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from divfeat.errors import DataError, StorageLostError
from divfeat.storage.keys import PART, checked_key

logger = logging.getLogger("divfeat.storage")

T = TypeVar("T")

#: Seconds that storage may be away before a study stops.
PATIENCE_SECONDS = 120.0
_FIRST_SECONDS, _LONGEST_SECONDS = 0.25, 10.0
#: Errors that waiting does not mend.
_LASTING = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR)
)
#: What S3 and GCS call a missing permission.
DENIED_WORDS = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH",
    "INVALID_CLIENT_TOKEN_ID",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
)
_LASTING_WORDS = (*DENIED_WORDS, "NO_SUCH_BUCKET")


@dataclass(frozen=True)
class Entry:
    """What a list tells of a file.

    Attributes:
        size: Bytes.
        mtime: When it was last written, in nanoseconds, on the store's clock.
    """

    size: int
    mtime: int


class Backend(Protocol):
    """One kind of storage. Keys are checked; OSErrors are passed on as they come."""

    def missing(self) -> str | None:
        """What is not there that no file can make, and the remedy; None where nothing is missing."""

    def read(self, key: str) -> bytes | None:
        """All of a file, None where there is none."""

    def put(self, key: str, path: Path) -> None:
        """Replace a file by that at `path`, atomically."""

    def get(self, key: str, path: Path) -> Entry | None:
        """Copy a file over `path`, which may be left a half; None where there is none."""

    def stat(self, key: str) -> Entry | None:
        """Of one file, None where there is none."""

    def list(self, prefix: str) -> dict[str, Entry]:
        """Files under the folder `prefix` ("" for all), links left out; names are not checked yet."""

    def delete(self, key: str) -> None:
        """Remove a file, if it is there."""

    def delete_prefix(self, prefix: str) -> None:
        """Remove a folder and all that is in it, if it is there."""

    def arrow(self, prefix: str) -> tuple[str, Any]:
        """Path of a folder, and pyarrow's file system that it lies on; None for this machine's."""


class Store:
    """Named files under one root.

    Args:
        backend: Kind of storage.
        uri: Of the root, without credentials: for messages, and to open it elsewhere.
        patience: Seconds that storage may be away before an operation gives up.
        prefix: Folder under the backend's root.

    Every operation raises `StorageLostError` where the storage is away for longer than `patience`, full, or refuses, and
    `DataError` for a key that leaves the root.
    """

    def __init__(self, backend: Backend, uri: str, patience: float = PATIENCE_SECONDS, prefix: str = "") -> None:
        self.backend, self.uri, self.patience = backend, uri, patience
        self._prefix = prefix
        self._away: list[bool] = []  # one entry while it was given up: then nothing is waited for until it answers

    def inside(self, folder: str) -> Store:
        """The store whose root is `folder` of this one."""
        checked_key(folder, self.uri)
        root, query = self.uri.partition("?")[::2]
        uri = f"{root.rstrip('/')}/{folder}" + (f"?{query}" if query else "")
        inner = Store(self.backend, uri, self.patience, self._prefix + folder + "/")
        inner._away = self._away
        return inner

    def read(self, key: str) -> bytes | None:
        """All of the file `key`, None where there is none."""
        full = self._full(key)
        return self._patiently(f"reading {key}", lambda: self.backend.read(full))

    def write(self, key: str, data: bytes) -> None:
        """Replace the file `key` by `data`, or leave it as it was."""
        self._full(key)
        with tempfile.TemporaryDirectory(prefix="divfeat-") as folder:
            path = Path(folder) / "data"
            path.write_bytes(data)
            self.put(key, path)

    def put(self, key: str, path: Path) -> None:
        """Replace the file `key` by the one at `path`, which nobody writes to meanwhile, or leave it as it was."""
        full = self._full(key)
        path.stat()  # a file that is not there is no fault of the storage
        self._patiently(f"writing {key}", lambda: self.backend.put(full, path))

    def get(self, key: str, path: Path) -> Entry | None:
        """Copy the file `key` to `path`, which gets the store's time; whole or not at all, in a folder that is made.

        Returns:
            What it is like, or None where there is none, with `path` left alone.
        """
        full = self._full(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{PART}{path.name}.{os.getpid()}.{time.monotonic_ns()}")
        try:
            found = self._patiently(f"copying {key} to {path.parent}", lambda: self.backend.get(full, part))
            if found is not None:
                with open(part, "rb+") as file:
                    os.fsync(file.fileno())
                os.utime(part, ns=(found.mtime, found.mtime))
                os.replace(part, path)
            return found
        finally:
            part.unlink(missing_ok=True)

    def stat(self, key: str) -> Entry | None:
        """What the file `key` is like, None where there is none."""
        full = self._full(key)
        return self._patiently(f"looking at {key}", lambda: self.backend.stat(full))

    def list(self, folder: str = "") -> dict[str, Entry]:
        """Every file under `folder` ("" for all) by its key, in order.

        Raises:
            DataError: besides, one has a name that leaves the root: nobody who means well wrote it.
        """
        full = self._full(folder) if folder else self._prefix.rstrip("/")
        found = self._patiently(f"listing {folder or 'all'}", lambda: self.backend.list(full))
        keys = {}
        for name in sorted(found):
            if not name.startswith(self._prefix):
                raise DataError(f"{self.uri}: a list of it names {name!r}, which lies elsewhere; remove it")
            keys[checked_key(name[len(self._prefix) :], self.uri)] = found[name]
        return keys

    def delete(self, key: str) -> None:
        """Remove the file `key`; one that is not there is as good."""
        full = self._full(key)
        self._patiently(f"removing {key}", lambda: self.backend.delete(full))

    def delete_prefix(self, folder: str) -> None:
        """Remove every file under `folder`."""
        full = self._full(folder)
        self._patiently(f"removing {folder}", lambda: self.backend.delete_prefix(full))

    @property
    def arrow(self) -> tuple[str, Any]:
        """Path and pyarrow file system of the root, for libraries that write there themselves; None is this machine's."""
        return self.backend.arrow(self._prefix.rstrip("/"))

    @property
    def address(self) -> dict[str, Any]:
        """Arguments of `divfeat.storage.reopen`, as JSON types; without credentials."""
        return {"uri": self.uri, "patience": self.patience}

    def _full(self, key: str) -> str:
        return self._prefix + checked_key(key, self.uri)

    def _patiently(self, what: str, call: Callable[[], T]) -> T:
        """Try again while it may help."""
        until, pause = time.monotonic() + (0.0 if self._away else self.patience), _FIRST_SECONDS
        while True:
            try:
                found = call()
                self._away.clear()
                return found
            except OSError as error:
                left = until - time.monotonic()
                if lasting(error) or left <= 0:
                    self._away[:] = [True]
                    raise StorageLostError(f"{self.uri}: {what} failed: {reason_of(error)}") from error
                logger.warning("%s: %s failed, tried again: %s", self.uri, what, reason_of(error))
                time.sleep(min(pause, left))
                pause = min(2 * pause, _LONGEST_SECONDS)


def lasting(error: OSError) -> bool:
    """Whether waiting will not help: no space, no permission, no bucket."""
    return error.errno in _LASTING or any(word in str(error) for word in _LASTING_WORDS)


def reason_of(error: BaseException) -> str:
    """In one line."""
    if isinstance(error, OSError) and error.strerror and error.errno in _LASTING:
        return error.strerror
    return " ".join(str(error).split())[:300] or type(error).__name__
