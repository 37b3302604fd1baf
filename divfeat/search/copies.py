"""What is no ledger, copied to a study's shared storage now and then: databases, MLflow's artifacts, the report.

sqlite stays on this machine's own disk, where its locks hold: what is copied is a backup of it. An older copy does no harm,
since Optuna and MLflow are brought up to the ledger at every start.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from divfeat.errors import DivfeatError, disk_fault
from divfeat.storage import Entry, Store
from divfeat.storage.keys import inside

logger = logging.getLogger(__name__)

_DATABASES = ("optuna.db", "mlflow.db")
#: MLflow's, where the study has a database of its own.
_ARTIFACTS = "mlartifacts"
_FOLDERS = (_ARTIFACTS, "report")
_COPY_SECONDS = 120.0


class Copies:
    """A thread that copies within its `with` block; at the end everything is copied.

    Args:
        store: Of the study.
        home: The study's folder.
    """

    def __init__(self, store: Store, home: Path) -> None:
        self.store, self.home = store, home
        self._copied: dict[Path, tuple[int, ...]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="copies", daemon=True)

    def __enter__(self) -> Copies:
        there = self.store.list(_ARTIFACTS)
        for path in self._files():
            entry, state = there.get(path.relative_to(self.home).as_posix()), _state(path)
            if entry is not None and state == (entry.size, entry.mtime):
                self._copied[path] = state
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._ended.set()
        self._thread.join()
        if error is not None and disk_fault(error) is not None:
            return
        try:
            self.copy()
        except Exception:
            if error is None:
                raise
            logger.warning("what is no ledger was not copied to %s", self.store.uri, exc_info=True)

    @staticmethod
    def fill(store: Store, home: Path, there: Mapping[str, Entry]) -> None:
        """Copy home the databases that are missing there, MLflow's with its artifacts."""
        for name in _DATABASES:
            if name not in there or (home / name).exists():
                continue
            if name == "mlflow.db":
                for key in there:
                    if key.startswith(f"{_ARTIFACTS}/"):
                        store.get(key, inside(home, key))
            store.get(name, inside(home, name))

    def copy(self) -> None:
        """Copy what has changed since the last time."""
        for name in _DATABASES:
            self._copy_database(self.home / name)
        sent = []
        for path in self._files():
            state = _state(path)
            if state is not None and self._copied.get(path) != state:
                self.store.put(path.relative_to(self.home).as_posix(), path)
                sent.append(path)
                self._copied[path] = state
        if any(path.is_relative_to(self.home / _ARTIFACTS) for path in sent):
            self._date(sent)

    def _work(self) -> None:
        while not self._ended.wait(_COPY_SECONDS):
            try:
                self.copy()
            except (DivfeatError, OSError, sqlite3.Error) as error:  # what lasts the ledger's next write will meet
                logger.warning("copying to %s: %s", self.store.uri, error)

    def _copy_database(self, path: Path) -> None:
        state = _state(path)
        if state is None:
            return
        state += _state(path.with_name(f"{path.name}-wal")) or ()
        if self._copied.get(path) == state:
            return
        with tempfile.TemporaryDirectory(prefix=".copy-", dir=self.home) as folder:
            copy = Path(folder) / path.name
            with (
                contextlib.closing(
                    sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30)
                ) as source,
                contextlib.closing(sqlite3.connect(copy)) as target,
            ):
                source.backup(target)
            self.store.put(path.name, copy)
        self._copied[path] = state

    def _date(self, sent: list[Path]) -> None:
        """Give artifacts the store's times, by which the next session knows that they are there."""
        there = self.store.list(_ARTIFACTS)
        for path in sent:
            entry = there.get(path.relative_to(self.home).as_posix())
            if entry is not None and self._copied[path][0] == entry.size:
                os.utime(path, ns=(entry.mtime, entry.mtime))
                self._copied[path] = (entry.size, entry.mtime)

    def _files(self) -> list[Path]:
        found = [path for name in _FOLDERS for path in sorted((self.home / name).rglob("*"))]
        return [path for path in found if path.is_file() and not path.is_symlink() and not path.name.startswith(".")]


def _state(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
