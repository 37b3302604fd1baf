"""Folders on a node's own disk for the length of a trial; what a killed one left is removed by the next."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_PREFIX, _LOCK = "divfeat-trial-", ".lock"
#: A folder without its lock is being made, or was left behind before it had one.
_WITHOUT_LOCK_SECONDS = 3600.0


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A new folder, removed at the end, under TMPDIR."""
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        with open(folder / _LOCK, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # held by the kernel, which knows better than a process number who lives
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep() -> None:
    """Remove what nobody holds any more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # somebody else removes it, or begins to hold it
            about = folder.lstat()
            if about.st_uid == os.getuid() and stat.S_ISDIR(about.st_mode) and _left(folder, about.st_mtime):
                shutil.rmtree(folder)


def _left(folder: Path, made: float) -> bool:
    try:
        with open(folder / _LOCK) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except FileNotFoundError:
        return time.time() - made > _WITHOUT_LOCK_SECONDS
    except BlockingIOError:
        return False
