"""The ledger: the study's truth on disk. Optuna, MLflow and the report are projections of it.

study.json               identity of the study
execution.json           how it was last run
proposals/<number>.json  what Optuna proposed; proposals/<baseline>/<number>.json for a baseline that is tuned
runs/<key>/record.json   one finished experiment, written by the process that ran it, by atomic rename
runs/<key>/events.jsonl  one line an epoch; the key of an event is its epoch, the last line of an epoch counts
runs/<key>/start.json    what was launched: phase, name, seed
runs/<key>/paused.json   since when it waits at a rung, while it does
runs/<key>/faults.jsonl  what took it from its place without being its doing
spend.json               what all sessions cost
runs/<key>/faults.jsonl  what took it from its place without being its doing
phases/<name>.json       what each phase of the protocol decided
spend.json               what it has cost
test_reads.jsonl         every read of the test set

With shared storage (`divfeat.search.mirror`) each of them is written there first, and then here.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from divfeat import record as records
from divfeat.config import ExperimentConfig
from divfeat.errors import ConfigError, DataError
from divfeat.files import append_line, json_line, json_text, read_json, read_lines, read_mapping, write_json
from divfeat.record import FORMAT
from divfeat.stages import first_stage_done, remove_stages
from divfeat.study_config import StudyConfig, deciding

if TYPE_CHECKING:
    from divfeat.search.mirror import Mirror


def read_study(folder: Path) -> dict[str, Any] | None:
    """`study.json` of the study in `folder`: `format`, `identity` and `config`; None where there is none.

    Raises:
        DataError: it cannot be read, or something is missing from it.
    """
    return _whole(read_mapping(folder / "study.json"), str(folder / "study.json"))


def _whole(found: dict[str, Any] | None, path: str) -> dict[str, Any] | None:
    missing = [] if found is None else [name for name in ("format", "identity", "config") if name not in found]
    if missing:
        raise DataError(
            f"{path} has no {' and no '.join(map(repr, missing))}; restore it from a copy, or begin the study anew in "
            "another folder"
        )
    return found


def known_study(folder: Path) -> dict[str, Any]:
    """`read_study` of a folder that must hold one.

    Raises:
        DataError: as `read_study`, or no study there, or one of another format.
    """
    found = read_study(folder)
    if found is None:
        raise DataError(f"{folder} holds no study (there is no study.json); give the folder that the study printed")
    if found["format"] != FORMAT:
        raise DataError(f"{folder} was written in format {found['format']}, this divfeat reads format {FORMAT}")
    return found


class Ledger:
    """Reads and writes the folder of one study.

    Args:
        folder: The study's folder.
        mirror: Of the shared storage whose image the folder is, for the driver, or None.
    """

    def __init__(self, folder: Path, mirror: Mirror | None = None) -> None:
        self.folder, self.mirror = folder, mirror
        self._lock: Any = None

    # --- the study -----------------------------------------------------------------------------------------------------

    def check(self, study: StudyConfig) -> bool:
        """Whether the folder holds this very study; writes nothing.

        Raises:
            ConfigError: the folder holds another study (the differences are named), was written by another version of
                the format, or cannot be written.
            DataError: its study.json cannot be read.
        """
        found = _whole(self.mirror.study(), f"{self.mirror.store.uri}/study.json") if self.mirror is not None else None
        found = found or read_study(self.folder)
        if found is None:
            parent = next(folder for folder in (self.folder, *self.folder.absolute().parents) if folder.exists())
            if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
                raise ConfigError(f"{self._setting}: {parent} cannot be written; choose a folder you may write to")
            return False
        if found["format"] != FORMAT:
            raise ConfigError(
                f"{self.folder} was written in format {found['format']}, this is {FORMAT}; use another --name"
            )
        if found["identity"] != study.identity:
            lines = "\n".join(differences(deciding(found["config"]), deciding(study.to_dict())))
            raise ConfigError(
                f"the name {self.folder.name!r} is taken by a study with other settings:\n{lines}\n"
                f"repeat the settings of that study to resume it, choose another --name, or add --fork NEW_NAME: a new study "
                "that starts from what this one found"
            )
        return True

    def open(self, study: StudyConfig) -> None:
        """Make the study's folder, or take it up again, and lock it for this process.

        Raises:
            ConfigError: as `check`, or another process runs the study.
        """
        known = self.check(study)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 - held until exit
        except OSError as error:
            raise ConfigError(
                f"{self._setting}: {self.folder} cannot be written ({error.strerror}); choose another folder"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "unknown"
            raise ConfigError(
                f"study {self.folder.name!r} is being run by process {owner}; wait for it, or use --name"
            ) from error
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        if not known:
            config = {"identity": study.identity, "config": study.to_dict()}
            self._write(self.folder / "study.json", {"format": FORMAT, "created": time.time(), **config})

    @property
    def _setting(self) -> str:
        """That names the folder."""
        return "--storage-path" if self.mirror is None else "execution.home"

    def _write(self, path: Path, value: Any) -> None:
        """The truth first: where there is shared storage, that is it."""
        if self.mirror is not None:
            self.mirror.write(path, json_text(value))
        write_json(path, value)

    def _append(self, path: Path, value: Any) -> None:
        if self.mirror is not None:
            self.mirror.append(path, json_line(value))
        else:
            append_line(path, value)

    def _remove(self, path: Path) -> None:
        if path.exists() and self.mirror is not None:
            self.mirror.remove(path)
        path.unlink(missing_ok=True)

    def write_execution(self, execution: Mapping[str, Any]) -> None:
        """How the study is run this time."""
        self._write(self.folder / "execution.json", execution)

    def owner(self) -> str:
        """Number of the process on this machine that runs the study; "" where none does. Takes no lock, which would be in the
        way of one that starts."""
        try:
            process = (self.folder / ".lock").read_text(encoding="utf-8").strip()
            os.kill(int(process), 0)
        except PermissionError:  # somebody else's, and alive
            return process
        except (OSError, ValueError):
            return ""
        handles = Path("/proc") / process / "fd"
        if not handles.is_dir():
            return process
        lock = (self.folder / ".lock").resolve()
        return process if any(_target(handle) == lock for handle in handles.iterdir()) else ""

    def close(self) -> None:
        """Let other processes run the study."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # --- runs -----------------------------------------------------------------------------------------------------------

    def run_folder(self, key: str) -> Path:
        """Folder of the experiment `key`."""
        return self.folder / "runs" / key

    @property
    def stages(self) -> Path:
        """Folder of the checkpoints of running experiments, and of first stages that several share."""
        return self.folder / "stages"

    def remove_stages(self) -> None:
        """Nothing goes on from a checkpoint any more."""
        if self.mirror is not None:
            self.mirror.remove_stages()
        shutil.rmtree(self.stages, ignore_errors=True)

    def remove_stages_of(self, config: ExperimentConfig, *, shared: bool) -> None:
        """Nor from those of a run that has ended; arguments as `divfeat.stages.remove_stages`."""
        if self.mirror is not None:
            self.mirror.remove_stages(config, shared=shared)
        remove_stages(self.stages, config, shared=shared)

    def first_stage_done(self, config: ExperimentConfig) -> bool:
        """Whether the first stage of `config` is trained: others may start beside it."""
        if self.mirror is not None:
            return self.mirror.stage_done(config)
        return first_stage_done(self.stages, config)

    def start(self, key: str, info: dict[str, Any]) -> None:
        """Note that an experiment is launched; noting it again changes nothing."""
        path = self.run_folder(key) / "start.json"
        if not path.exists():
            self._write(path, {"key": key, "time": time.time(), **info})
        self._remove(path.with_name("paused.json"))

    def pause(self, key: str) -> None:
        """Note that a launched experiment waits at a rung, until it is started again or has its record."""
        self._write(self.run_folder(key) / "paused.json", {"key": key, "time": time.time()})

    def paused(self, key: str) -> bool:
        """Whether the experiment waits at a rung."""
        return (self.run_folder(key) / "paused.json").exists() and self.record(key) is None

    def started(self) -> dict[str, dict[str, Any]]:
        """What was launched, by key."""
        found = {}
        for path in sorted((self.folder / "runs").glob("*/start.json")):
            found[path.parent.name] = read_json(path)
        return found

    def record(self, key: str) -> dict[str, Any] | None:
        """The finished experiment `key`, or None."""
        found: dict[str, Any] | None = read_json(self.run_folder(key) / "record.json")
        return found

    def write_record(self, key: str, record: dict[str, Any]) -> None:
        """The truth about one experiment; written once."""
        self._write(self.run_folder(key) / "record.json", records.written(key, record))

    def forgive(self, phases: Collection[str]) -> list[str]:
        """Set aside the records of runs of `phases` that failed for a cause that may have been mended; NaN is final.

        Proposals of such runs are marked `lost`: the search makes them anew.

        Returns:
            Their keys; they run again.
        """
        keys = []
        for key, info in self.started().items():
            record = self.record(key)
            if record is None or info["phase"] not in phases or not mendable(record):
                continue
            path = self.run_folder(key) / "record.json"
            aside = path.with_name(f"failed-{int(record['finished'])}.json")
            if self.mirror is not None:
                self.mirror.move(path, aside)
            path.replace(aside)
            keys.append(key)
        for of in ("", *(path.name for path in (self.folder / "proposals").glob("*/"))):
            for number, row in self.proposals(of).items():
                if row["key"] in keys:
                    self.write_proposal(number, row | {"lost": True}, of)
        return keys

    def fetch(self, key: str) -> None:
        """Have here what its workers wrote elsewhere of the experiment `key`."""
        if self.mirror is not None:
            self.mirror.fetch(self.run_folder(key))

    def event(self, key: str, event: Mapping[str, Any]) -> None:
        """Append one epoch of a running experiment."""
        append_line(self.run_folder(key) / "events.jsonl", event)

    def take_over(self, key: str, folder: Path) -> None:
        """Make `folder`, on the same disk, the one of the finished experiment `key`."""
        if self.mirror is not None:
            self.mirror.send(folder, self.run_folder(key))
        folder.replace(self.run_folder(key))

    def heard(self, key: str, events: Iterable[Mapping[str, Any]]) -> None:
        """Note epochs of a running experiment that its workers note elsewhere: until they are fetched, for those who look."""
        for event in events if self.mirror is not None else ():
            self.event(key, event)

    def events(self, key: str) -> list[dict[str, Any]]:
        """One row an epoch, in order."""
        return records.events(self.run_folder(key))

    def fault(self, key: str, kind: str, cause: str) -> None:
        """Note what took a run from its place without being its doing."""
        self._append(self.run_folder(key) / records.FAULTS, records.fault(kind, cause))

    def faults(self, key: str) -> list[dict[str, Any]]:
        """Those of a run, in order."""
        return records.faults(self.run_folder(key))

    def spend(self) -> dict[str, Any] | None:
        """What the study has cost, as last written; None before anything ran."""
        return read_mapping(self.folder / "spend.json")

    def write_spend(self, spend: Mapping[str, object]) -> None:
        """Replace it."""
        self._write(self.folder / "spend.json", dict(spend))

    # --- proposals and phases ------------------------------------------------------------------------------------------

    def write_proposal(self, number: int, proposal: dict[str, Any], of: str = "") -> None:
        """What Optuna proposed as trial `number`, of the search or of the baseline `of`."""
        self._write(self.folder / "proposals" / of / f"{number:05d}.json", {"number": number, **proposal})

    def proposals(self, of: str = "", *, lost: bool = False) -> dict[int, dict[str, Any]]:
        """Proposals of the search, or of a baseline, by number; with `lost` also those made anew since their run was lost."""
        found = (read_json(path) for path in sorted((self.folder / "proposals" / of).glob("*.json")))
        return {row["number"]: row for row in found if lost or not row.get("lost")}

    def phase(self, name: str) -> dict[str, Any] | None:
        """What the phase `name` decided, or None."""
        found: dict[str, Any] | None = read_json(self.folder / "phases" / f"{name}.json")
        return found

    def write_phase(self, name: str, decision: dict[str, Any]) -> None:
        """Freeze a decision."""
        self._write(self.folder / "phases" / f"{name}.json", decision)

    def reopen(self) -> None:
        """The study is no longer finished."""
        self._remove(self.folder / "phases" / "done.json")

    def same_data(self, role: str, split_hash: str) -> None:
        """Note what the runs of `role` see, and refuse to go on with anything else.

        Raises:
            DataError: the images or their split are not those that the study was begun with.
        """
        known = self.phase("data") or {}
        if known.setdefault(role, split_hash) != split_hash:
            raise DataError(
                f"study {self.folder.name!r} was begun on other images or another split (hash {known[role]}, now "
                f"{split_hash}): put the data back, start anew with another --name, or add --fork NEW_NAME to start with what "
                "it found"
            )
        self.write_phase("data", known)

    def test_read(self, key: str, why: str) -> None:
        """Note a read of the test set; the same experiment counts once."""
        path = self.folder / "test_reads.jsonl"
        if all(row["key"] != key for row in read_lines(path)):
            self._append(path, {"key": key, "time": time.time(), "why": why})

    def test_reads(self) -> list[dict[str, Any]]:
        """Every read of the test set."""
        return read_lines(self.folder / "test_reads.jsonl")


def mendable(record: Mapping[str, Any]) -> bool:
    """Whether a failed run may end otherwise once its cause is mended: all but a training that diverged."""
    return record["status"] == "failed" and record.get("error_kind") != "nan"


def _target(link: Path) -> Path | None:
    """What a link names; None where it is gone meanwhile."""
    try:
        return Path(os.readlink(link))
    except OSError:
        return None


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Lines 'a.b: old -> new' where two nested mappings differ; what one lacks is at its default there, or switched off."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in sorted(old.keys() | new.keys()):
            lines += differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
        return lines
    shown = ["not set" if value is None else repr(value) for value in (old, new)]
    return [] if old == new else [f"  {prefix}: {shown[0]} -> {shown[1]}"]
