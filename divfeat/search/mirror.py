"""A study's home folder as the image of its shared storage.

The store is the truth: what the driver writes goes there first and then to the home folder, which is what everything reads;
what workers write there is copied home when a run has ended. A home that is lost, or another machine's, is filled again at
the start. Names that come from the store are checked: nothing is written outside the home, and nothing is unpickled.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from divfeat.config import ExperimentConfig
from divfeat.errors import ConfigError, DataError, StorageLostError
from divfeat.files import read_mapping
from divfeat.search.copies import Copies
from divfeat.search.lease import Lease
from divfeat.stages import DONE, ended_stages, stage_key
from divfeat.storage import Entry, Store
from divfeat.storage.keys import inside

STAGES = "stages"
_STUDY, _FINISHED = "study.json", "phases/done.json"
#: What of a study's folder is the ledger: files, and folders with all that is in them.
_LEDGER = (_STUDY, "execution.json", "spend.json", "test_reads.jsonl", "proposals/", "phases/", "runs/")
_THREADS = 16
#: How often the store is asked whether a first stage is trained.
_ASK_SECONDS = 2.0


class Mirror:
    """Store and home of one study.

    Args:
        store: Its root is the study's.
        home: The study's folder on this machine.
    """

    def __init__(self, store: Store, home: Path) -> None:
        self.store, self.home = store, home
        self.lease = Lease(store)
        self._stages_done: dict[str, tuple[bool, float]] = {}  # and when that was asked

    # --- at the start ---------------------------------------------------------------------------------------------------

    def study(self) -> dict[str, Any] | None:
        """`study.json` as the store has it, or None.

        Raises:
            DataError: it is no JSON object.
            ConfigError: the home holds a study of its own under this name.
        """
        data = self.store.read(_STUDY)
        if data is None:
            return None
        try:
            found = json.loads(data)
        except ValueError as error:
            raise DataError(f"{self.store.uri}/{_STUDY} is no JSON ({error}); restore it from a copy") from error
        if not isinstance(found, dict):
            raise DataError(f"{self.store.uri}/{_STUDY} holds no settings by name; restore it from a copy")
        mine = read_mapping(self.home / _STUDY)
        if mine is not None and mine.get("created") != found.get("created"):
            raise ConfigError(
                f"{self.home} holds a study of its own, begun apart from the one of that name in {self.store.uri}; move that "
                "folder away, or use another --name or --set execution.home=FOLDER"
            )
        return found

    def fill(self) -> None:
        """Copy home what the store has, without driving the study: to read it."""
        if self.study() is not None:
            self._get({key: entry for key, entry in self.store.list().items() if _of_ledger(key)})

    @contextmanager
    def held(self) -> Iterator[None]:
        """Drive the study within the block: from filling the home to the last copies of what is no ledger.

        Raises:
            ConfigError: another process drives it.
            StorageLostError: the storage fails, or another driver has taken over.
        """
        self.lease.take()
        try:
            self._pull()
            with Copies(self.store, self.home):
                yield
        finally:
            with suppress(StorageLostError):  # then it counts as given back after a while
                self.lease.release()

    def _pull(self) -> None:
        there = self.store.list()
        if _STUDY not in there:
            if (self.home / _STUDY).exists():
                self._adopt()
            return
        ledger = {key: entry for key, entry in there.items() if _of_ledger(key)}
        self._get(ledger)
        forgiven = {key.rpartition("/")[0] for key in ledger if "/failed-" in key}
        for path in self._files(_LEDGER):
            key = self._key(path)
            if key in ledger or path.suffix not in (".json", ".jsonl") or path.name == "events.jsonl":
                continue  # other files can be made again, and events are of a trial that goes on elsewhere
            was_forgiven = path.name == "record.json" and key.rpartition("/")[0] in forgiven
            if key == _FINISHED or path.name == "paused.json" or was_forgiven:
                path.unlink()  # taken back by another machine
            else:
                self.store.put(key, path)
        Copies.fill(self.store, self.home, there)

    def _adopt(self) -> None:
        """Take a study that has only been on this machine into the store; its name last: a crash repeats it."""
        files = [path for path in self._files((*_LEDGER, f"{STAGES}/")) if path.name != _STUDY]
        with ThreadPoolExecutor(_THREADS) as threads:
            list(threads.map(lambda path: self.store.put(self._key(path), path), files))
        self.store.put(_STUDY, self.home / _STUDY)

    def _get(self, wanted: Mapping[str, Entry]) -> None:
        """Copy home what differs there."""
        missing = [key for key, entry in wanted.items() if not _same(inside(self.home, key), entry)]
        with ThreadPoolExecutor(_THREADS) as threads:
            list(threads.map(lambda key: self.store.get(key, inside(self.home, key)), missing))

    # --- while it runs --------------------------------------------------------------------------------------------------

    def write(self, path: Path, text: str) -> None:
        """Send what `path` in the home is about to hold."""
        self.lease.check()
        self.store.write(self._key(path), text.encode())

    def append(self, path: Path, line: str) -> None:
        """Add a line to a file of the store, which others add lines to as well, and have it home as it is then."""
        self.lease.check()
        key = self._key(path)
        before = self.store.read(key) or b""
        torn = b"\n" if before and not before.endswith(b"\n") else b""
        self.store.write(key, before + torn + line.encode())
        self.store.get(key, inside(self.home, key))

    def send(self, folder: Path, place: Path) -> None:
        """Send all of a run's `folder`, which is about to be `place` in the home; its record last."""
        self.lease.check()
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        for path in sorted(files, key=lambda path: path.name == "record.json"):
            self.store.put(self._key(place / path.relative_to(folder)), path)

    def move(self, old: Path, new: Path) -> None:
        """Send a file of the home under its new name, and take the old one back."""
        self.lease.check()
        self.store.put(self._key(new), old)
        self.store.delete(self._key(old))

    def remove(self, path: Path) -> None:
        """Take a file of the home back."""
        self.lease.check()
        self.store.delete(self._key(path))

    def fetch(self, folder: Path) -> None:
        """Copy home what a worker has written into a folder of the home."""
        self._get(self.store.list(self._key(folder)))

    def stage_done(self, config: ExperimentConfig) -> bool:
        """Whether a run has left word that the first stage of `config` is trained."""
        key, now = stage_key(config), time.monotonic()
        done, asked = self._stages_done.get(key, (False, -_ASK_SECONDS))
        if not done and now - asked >= _ASK_SECONDS:
            done = self.store.stat(f"{STAGES}/{key}/{DONE}") is not None
            self._stages_done[key] = done, now
        return done

    def remove_stages(self, config: ExperimentConfig | None = None, *, shared: bool = False) -> None:
        """Remove the checkpoints of a run that has ended, arguments as `divfeat.stages.remove_stages`; without one, all."""
        keys = [STAGES] if config is None else [f"{STAGES}/{key}" for key in ended_stages(config, shared=shared)]
        for key in keys:
            self.store.delete_prefix(key)

    # --- names ----------------------------------------------------------------------------------------------------------

    def _key(self, path: Path) -> str:
        return path.relative_to(self.home).as_posix()

    def _files(self, places: Iterable[str]) -> list[Path]:
        """What the home has of these, without links and files that are not whole."""
        found = []
        for place in places:
            for path in sorted((self.home / place).rglob("*")) if place.endswith("/") else [self.home / place]:
                hidden = any(part.startswith(".") for part in path.relative_to(self.home).parts)
                if path.is_file() and not path.is_symlink() and not hidden:
                    found.append(path)
        return found


def _of_ledger(key: str) -> bool:
    hidden = any(part.startswith(".") for part in key.split("/"))
    return not hidden and any(key.startswith(one) if one.endswith("/") else key == one for one in _LEDGER)


def _same(path: Path, entry: Entry) -> bool:
    """Whether `path` is the copy that was made of what the store has."""
    try:
        found = path.stat()
    except OSError:
        return False
    return found.st_size == entry.size and found.st_mtime_ns == entry.mtime
