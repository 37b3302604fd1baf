"""A folder as a store: this machine's own disk, or one that all nodes have mounted (NFS)."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from pathlib import Path
from typing import Any

from divfeat.storage.keys import PART
from divfeat.storage.store import Entry


class FolderBackend:
    """Files under a folder. No link below it is followed: one could lead out of it.

    Args:
        root: Absolute; may itself be a link, and is made with the first file.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def missing(self) -> str | None:
        """The folder around it: else an NFS that is not mounted would be made on this machine's disk."""
        parent = self.root.parent
        return None if parent.is_dir() else f"there is no folder {parent}; make it, or mount what it stands for"

    def read(self, key: str) -> bytes | None:
        """See `Backend`."""
        try:
            with open(self._descriptor(key), "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def put(self, key: str, path: Path) -> None:
        """Under a name of its own first, then by rename."""
        target = self._path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{PART}{secrets.token_hex(8)}")
        try:
            with open(path, "rb") as source, open(part, "xb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def get(self, key: str, path: Path) -> Entry | None:
        """See `Backend`."""
        try:
            source = open(self._descriptor(key), "rb")  # noqa: SIM115 - closed below, its absence told apart
        except (FileNotFoundError, NotADirectoryError):
            return None
        with source, open(path, "wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
            return _entry(os.fstat(source.fileno()))

    def stat(self, key: str) -> Entry | None:
        """See `Backend`."""
        try:
            found = os.lstat(self._path(key))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _entry(found) if stat.S_ISREG(found.st_mode) else None

    def list(self, prefix: str) -> dict[str, Entry]:
        """See `Backend`."""
        top = self._path(prefix) if prefix else self.root
        found: dict[str, Entry] = {}
        for folder, _, names in os.walk(top, onerror=_told):
            for name in names:
                if name.startswith(PART):
                    continue
                path = Path(folder) / name
                try:
                    about = os.lstat(path)
                except FileNotFoundError:  # removed meanwhile
                    continue
                if stat.S_ISREG(about.st_mode):
                    found[path.relative_to(self.root).as_posix()] = _entry(about)
        return found

    def delete(self, key: str) -> None:
        """See `Backend`."""
        try:
            self._path(key).unlink(missing_ok=True)
        except (NotADirectoryError, IsADirectoryError):  # nor is there a file of that name
            return

    def delete_prefix(self, prefix: str) -> None:
        """See `Backend`."""
        path = self._path(prefix)
        for _ in range(3):  # one who writes there meanwhile makes the folder anew
            try:
                shutil.rmtree(path)
            except (FileNotFoundError, NotADirectoryError):
                return
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
        shutil.rmtree(path)

    def arrow(self, prefix: str) -> tuple[str, Any]:
        """See `Backend`."""
        return str(self._path(prefix) if prefix else self.root), None

    def _path(self, key: str) -> Path:
        """Of a key, whose folders are no links."""
        path = self.root
        for part in key.split("/")[:-1]:
            path = path / part
            if path.is_symlink():
                raise OSError(errno.ELOOP, f"{path} is a link, which could lead out of the storage; remove it")
        return path / key.rpartition("/")[2]

    def _descriptor(self, key: str) -> int:
        """Of an ordinary file."""
        path = self._path(key)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise FileNotFoundError(errno.ENOENT, "no ordinary file", str(path))
        return descriptor


def _entry(found: os.stat_result) -> Entry:
    return Entry(found.st_size, found.st_mtime_ns)


def _told(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error
