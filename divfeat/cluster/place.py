"""Where a trial reads and writes: the study's folder, which all nodes have, or scratch on its node beside shared storage.

With a store, a node may go at any moment: what others need of a trial is in the store as soon as it is on disk here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from divfeat import record
from divfeat.config import ExperimentConfig
from divfeat.files import read_json
from divfeat.stages import ended_stages, remove_stages, second_key, stage_key
from divfeat.storage import Store, reopen
from divfeat.storage.scratch import scratch

_RECORD, _EVENTS = "record.json", "events.jsonl"


class Place:
    """The study's own folder.

    Args:
        folder: Of the run.
        stages: Of checkpoints.

    Every method is for rank 0 alone, unless it says otherwise.
    """

    def __init__(self, folder: Path, stages: Path) -> None:
        self.folder, self.stages = folder, stages

    def finished(self) -> bool:
        """Whether the run has its record; on any rank."""
        return read_json(self.folder / _RECORD) is not None

    def saved(self, path: Path) -> None:
        """The file `path` under `stages` was written anew."""

    def told(self) -> None:
        """The event log has grown."""

    def write(self, key: str, content: dict[str, Any]) -> None:
        """The record, after everything else; unless the driver wrote one: workers of a training that was pruned run on for a
        moment."""
        if not (self.folder / _RECORD).exists():
            record.write(self.folder, key, content)

    def remove_stages(self, config: ExperimentConfig, *, shared: bool) -> None:
        """Checkpoints that nobody goes on from."""
        remove_stages(self.stages, config, shared=shared)


class Scratch(Place):
    """A folder of this node, filled from a store and followed by it.

    Args:
        top: On this node's disk.
        store: Of the study.
        run: Folder of the run in the store.
        stages: Folder of checkpoints in the store.
    """

    def __init__(self, top: Path, store: Store, run: str, stages: str) -> None:
        super().__init__(top / "run", top / "stages")
        self.store, self._stages_key = store.inside(run), stages
        self._study = store
        self._sent = 0
        self.folder.mkdir()
        self.stages.mkdir()

    def fill(self, config: ExperimentConfig) -> None:
        """Get what the run goes on from; on every rank."""
        self.store.get(_EVENTS, self.folder / _EVENTS)
        for key in {stage_key(config), second_key(config)}:
            for name in self._study.inside(self._stages_key).list(key):
                self._study.get(f"{self._stages_key}/{name}", self.stages / name)
        self._sent = self._events()

    def finished(self) -> bool:
        """See `Place`."""
        return self.store.stat(_RECORD) is not None

    def saved(self, path: Path) -> None:
        """Send it, after the epochs that it follows: who goes on from it must know of them."""
        self.told()
        self._study.put(f"{self._stages_key}/{path.relative_to(self.stages).as_posix()}", path)

    def told(self) -> None:
        """Send the event log."""
        size = self._events()
        if size > self._sent:
            self.store.put(_EVENTS, self.folder / _EVENTS)
            self._sent = size

    def write(self, key: str, content: dict[str, Any]) -> None:
        """Send every file of the run, and the record last: where there is one, all is there."""
        super().write(key, content)
        self.told()
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and path.name not in (_RECORD, _EVENTS):
                self.store.put(path.relative_to(self.folder).as_posix(), path)
        if not self.finished():
            self.store.put(_RECORD, self.folder / _RECORD)

    def remove_stages(self, config: ExperimentConfig, *, shared: bool) -> None:
        """See `Place`."""
        super().remove_stages(config, shared=shared)
        for key in ended_stages(config, shared=shared):
            self._study.delete_prefix(f"{self._stages_key}/{key}")

    def _events(self) -> int:
        log = self.folder / _EVENTS
        return log.stat().st_size if log.exists() else 0


class Outside:
    """A run as the process sees it that drives its workers, which are elsewhere.

    Args:
        folder: Of the run; with a store its key there.
        store: `Store.address`, or None.
    """

    def __init__(self, folder: str, store: dict[str, Any] | None) -> None:
        self.folder = Path(folder)
        self.store = None if store is None else reopen(**store).inside(folder)

    def recorded(self) -> bool:
        """Whether the run has its record."""
        if self.store is not None:
            return self.store.stat(_RECORD) is not None
        return (self.folder / _RECORD).exists()

    def said(self) -> int:
        """Bytes of the event log."""
        if self.store is not None:
            found = self.store.stat(_EVENTS)
            return 0 if found is None else found.size
        log = self.folder / _EVENTS
        return log.stat().st_size if log.exists() else 0

    def epochs(self) -> int:
        """That the event log has."""
        if self.store is None:
            return len(record.events(self.folder))
        with scratch() as top:
            self.store.get(_EVENTS, top / _EVENTS)
            return len(record.events(top))

    def note_fault(self, kind: str, cause: str, **more: Any) -> None:
        """What took it from its place, after how many epochs, and whether it was given up."""
        if self.store is None:
            record.note_fault(self.folder, kind, cause, **more)
            return
        with scratch() as top:
            self.store.get(record.FAULTS, top / record.FAULTS)
            record.note_fault(top, kind, cause, **more)
            self.store.put(record.FAULTS, top / record.FAULTS)

    def faults(self) -> list[dict[str, Any]]:
        """What `note_fault` noted, in order."""
        if self.store is None:
            return record.faults(self.folder)
        with scratch() as top:
            self.store.get(record.FAULTS, top / record.FAULTS)
            return record.faults(top)


def ray_storage(storage: Path | Store, name: str) -> dict[str, Any]:
    """Where Ray Train and Tune keep files of their own: settings of their `RunConfig`.

    Args:
        storage: The study's folder, or its store.
        name: Of a folder in it.
    """
    if isinstance(storage, Path):
        return {"storage_path": str(storage / name)}
    path, filesystem = storage.inside(name).arrow
    return {"storage_path": path, "storage_filesystem": filesystem}


@contextmanager
def placed(folder: str, stages: str, store: dict[str, Any] | None, config: ExperimentConfig) -> Iterator[Place]:
    """The place of a trial, for as long as it runs.

    Args:
        folder: Of the run; with a store its key there.
        stages: Of checkpoints; with a store their key there.
        store: `Store.address`, or None where all nodes have `folder`.
        config: Of the experiment.
    """
    if store is None:
        yield Place(Path(folder), Path(stages))
        return
    with scratch() as top:
        place = Scratch(top, reopen(**store), folder, stages)
        if not place.finished():
            place.fill(config)
        yield place
