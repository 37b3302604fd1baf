"""The life of a study in MLflow: its runs begin, report, end and are made good after an outage or a crash."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from mlflow.exceptions import MlflowException
from torch import Tensor

from divfeat.errors import ConfigError
from divfeat.tracking.page import Place
from divfeat.tracking.runs import LOGGED, STUDY, Runs, StudyRun
from divfeat.tracking.store import Store, bounded_requests, logger, open_store, unreachable
from divfeat.tracking.values import plain, points

T = TypeVar("T")

STATUSES = {"completed": "FINISHED", "failed": "FAILED", "pruned": "KILLED", "stopped": "KILLED"}
"""Our word for how a run ended, which its tag `status` keeps -> MLflow's."""

PAUSE_SECONDS = 60.0
"""After a failed write the driver leaves MLflow alone for this long, then asks for its health first."""

EXPERIMENT = "(experiment)"
"""What stands for the experiment itself where a trial's run has its key."""

_OF_STUDY = {"phase": "study", "role": "study"}
"""Tags of the parent run, so that grouping by either tells it from the trials."""

FLUSH_SECONDS = 2.0
"""Epochs are written at most this often, several in one call: a call costs the driver some 10 ms."""


@dataclass
class _Start:
    """What a run is begun with; kept until it is finished, so that an outage at its start can be made good."""

    phase: str
    seed: int
    name: str
    params: Mapping[str, Any]
    number: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    start_time: int | None = None

    def shown_tags(self, key: str) -> dict[str, Any]:
        """All tags of the run of `key` that do not change while it runs: filters find it by them, on any page."""
        own = {"trial_key": key, "phase": self.phase, "seed": self.seed}
        return {**self.tags, **own, **({} if self.number is None else {"trial_number": self.number})}


class Tracker:
    """Writes a study to MLflow: one parent run, one child a trial or confirmation seed.

    MLflow is a projection: every method may be called again with the same arguments and changes nothing then, and none
    fails the study. What a server that went away has missed is kept (`behind` holds the keys) and written when it is
    back, or by `reconcile` at the next start. One process, one thread: the driver.
    """

    def __init__(self, store: Store, study_name: str) -> None:
        """See `Tracker.open`."""
        self._begin(store.uri, study_name, Runs(store, study_name))

    def _begin(
        self, uri: str, study_name: str, opened: Runs | None, opening: Callable[[], Store] | None = None
    ) -> None:
        self.uri, self._opened, self._opening = uri, opened, opening
        self.behind: set[str] = set()
        self._study = study_name
        self._starts: dict[str, _Start] = {}
        self._pending: dict[str, tuple[Mapping[str, Any], Mapping[str, Path]]] = {}
        self._buffer: dict[str, list[Mapping[str, Any]]] = {}
        self._flush_at = 0.0
        self._paused_until: float | None = None

    @classmethod
    def open(cls, study_dir: Path, study_name: str, tracking_uri: str | None = None, *, late: bool = False) -> Tracker:
        """Opens (or makes) the study's experiment and finds its runs.

        Args:
            study_dir: The study's folder: `mlflow.db` and `mlartifacts/` go there unless a `tracking_uri` is given.
            study_name: Name of the experiment and value of the tag `study`.
            tracking_uri: Address of an MLflow server (or a database URI); None = the sqlite file.
            late: Go on without a server that does not answer, and open the experiment when it is back: of a study that has begun.

        Raises:
            ConfigError: Nothing answers there within seconds, or it refuses; names the URI and the remedy.
        """
        if late and tracking_uri and (reason := unreachable(tracking_uri)):
            tracker = cls.__new__(cls)
            tracker._begin(tracking_uri, study_name, None, partial(open_store, study_dir, study_name, tracking_uri))
            tracker._paused_until = time.monotonic() + PAUSE_SECONDS
            logger.warning(
                "MLflow at %s does not answer (%s). The study goes on; what is missing there is written when it is back, or when "
                "the study is resumed",
                tracking_uri,
                reason,
            )
            return tracker
        store = open_store(study_dir, study_name, tracking_uri)
        with bounded_requests():
            return cls(store, study_name)

    @property
    def _runs(self) -> Runs:
        """For what is attempted: the experiment may have to be opened first."""
        if self._opened is None:
            assert self._opening is not None
            try:
                self._opened = Runs(self._opening(), self._study)
            except ConfigError as error:
                raise OSError(f"it could not be opened yet: {error}") from error
        return self._opened

    def _found(self, key: str) -> StudyRun | None:
        return None if self._opened is None else self._opened.get(key)

    def study_run(
        self,
        config: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> str | None:
        """Begins the parent run or takes it up again.

        A param keeps its first value (MLflow's are final); the artifact `config.yaml` is always the current config.

        Args:
            config: The study's nested config, all of it.
            tags: Further tags.
            params: The few settings to compare studies by: every name here is offered as an axis and a column.

        Returns:
            Its run id, or None while MLflow is away.
        """

        def begin() -> str:
            run = self._parent()
            self._runs.add_params(run, params or {})
            self._runs.set_running(run)
            self._runs.add_tags(run, _OF_STUDY | dict(tags or {}))
            self._runs.upload(run, {"config.yaml": config})
            return run.id

        return self._attempt(STUDY, begin)

    def start_run(
        self,
        key: str,
        *,
        phase: str,
        seed: int,
        name: str,
        params: Mapping[str, Any],
        number: int | None = None,
        tags: Mapping[str, str] | None = None,
        start_time: int | None = None,
    ) -> str | None:
        """Begins the run of a trial or seed, or takes it up again; one that was stopped or failed is RUNNING again.

        Args:
            key: The ledger's key of the run (tag `trial_key`).
            phase: search, confirm, ... (tag).
            seed: Of the run (tag).
            name: What the MLflow UI shows.
            params: May be nested; long vectors are shown in part, with the whole in the artifact `params.json`.
            number: The trial's number in the search (tag `trial_number`).
            tags: Further tags.
            start_time: Unix milliseconds; default now.

        Returns:
            Its run id, or None while MLflow is away.
        """
        self._starts[key] = _Start(phase, seed, name, params, number, tags or {}, start_time)

        def begin() -> str:
            run = self._run(key)
            if run.tags.get("status") != "completed":
                self._runs.set_running(run)
            return run.id

        return self._attempt(key, begin)

    def log_events(self, key: str, events: Sequence[Mapping[str, Any]]) -> None:
        """Logs epochs of a begun run: events {"epoch": int, "time": unix ms, "metrics": {name: float}}.

        A metric has one point an epoch, the first one logged, also when a trial is set back and repeats an epoch. What
        comes within `FLUSH_SECONDS` is written together; `finish_run` and `finish_study` wait for nothing.

        Raises:
            KeyError: The run was not begun.
        """
        self._check_begun(key)
        self._buffer.setdefault(key, []).extend(events)
        if time.monotonic() >= self._flush_at:
            self._flush()
            self._flush_at = time.monotonic() + FLUSH_SECONDS

    def pause_run(self, key: str) -> None:
        """Says that a begun run waits for its turn to go on: `start_run` takes it up again, `finish_run` ends it.

        MLflow's word is SCHEDULED, which its pages show as neither ended nor failed; the tag `status` says `paused`.

        Raises:
            KeyError: The run was not begun.
        """
        self._check_begun(key)
        events = self._buffer.pop(key, [])

        def pause() -> None:
            self._log(key, events)
            self._runs.set_status(self._run(key), "SCHEDULED", "paused")

        self._attempt(key, pause)

    def finish_run(self, key: str, record: Mapping[str, Any], files: Mapping[str, Path] | None = None) -> None:
        """Logs what is missing of a run and closes it.

        Writes the artifacts (`config.yaml`, `record.json`, `files`), the end and its status, the epochs MLflow lacks,
        the final metrics at the last epoch, and last the mark that all is there: so it is repaired by calling again.

        Args:
            key: The run's key.
            record: The ledger's: "status" (completed, failed, pruned or stopped), "metrics" (flat), "config", "history"
                (events as in `log_events`), "error" (text or None), "time" (unix ms of the end; default now).
            files: Artifacts by their path in the run; a folder goes in whole.

        Raises:
            KeyError: The run was not begun, or the status is another word.
        """
        if record["status"] not in STATUSES:
            raise KeyError(f"run {key!r}: status {record['status']!r} is none of {', '.join(STATUSES)}")
        self._check_begun(key)
        self._pending[key] = (record, dict(files or {}))
        self._drain()

    def reconcile(
        self,
        records: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any] | None]],
        files: Callable[[str], Mapping[str, Path]] | None = None,
    ) -> list[str]:
        """Brings MLflow up to the ledger at the start of a resumed study.

        Args:
            records: By key, the keyword arguments of `start_run` and the final record, or None for a run that is still
                to finish (left alone: it goes on).
            files: Gives the artifacts of a finished run by its key.

        Returns:
            Keys of the runs that were replayed or closed.
        """
        late = []
        for key, (start, record) in records.items():
            if record is None:
                continue
            times = [event["time"] for event in record.get("history") or ()]
            # When it ran, not when it is replayed.
            begun = _Start(**{"start_time": min(times, default=None), **start})
            run = self._found(key)
            if run is not None and run.tags.get(LOGGED) == _digest(record, begun):
                continue
            late.append(key)
            self._starts[key] = begun
            ended = {"time": max(times)} if times else {}
            self.finish_run(key, {**ended, **record}, files(key) if files else None)
        return late

    def log_report(self, files: Mapping[str, Path]) -> None:
        """Puts the report's files (tables, figures) under `report/` of the parent run, over those of an earlier one."""
        self._attempt(STUDY, lambda: self._runs.upload(self._parent(), {}, files, "report"))

    def place(self) -> Place | None:
        """Where the study is in MLflow, for links to it; None while its run is not there."""
        run = self._found(STUDY)
        return None if run is None else Place(self._runs.experiment, run.id)

    def describe_experiment(self, tags: Mapping[str, str]) -> None:
        """Sets the experiment's tags: description (`NOTE`), saved views, what the list of experiments shows."""

        def describe() -> None:
            known = self._runs.client.get_experiment(self._runs.experiment).tags
            for name, value in tags.items():
                if known.get(name) != value:
                    self._runs.client.set_experiment_tag(self._runs.experiment, name, value)
            self.behind.discard(EXPERIMENT)

        self._attempt(EXPERIMENT, describe)

    def mark(self, tag: str, keys: Collection[str]) -> None:
        """Says `yes` in a tag of the runs of these keys, and `no` where another run said `yes` before."""

        def say() -> None:
            marked = [run for key in keys if (run := self._runs.get(key)) is not None]
            for run in self._runs.tagged(tag, "yes"):
                if run not in marked:
                    self._runs.add_tags(run, {tag: "no"})
            for run in marked:
                self._runs.add_tags(run, {tag: "yes"})

        self._attempt(STUDY, say)

    def log_study(self, metrics: Mapping[str, float], step: int) -> None:
        """Metrics of the study as a whole while it runs, such as what it has cost.

        Args:
            metrics: Name -> value.
            step: Runs that are finished.
        """
        event = {"epoch": step, "time": int(time.time() * 1000), "metrics": metrics}
        self._attempt(STUDY, lambda: self._runs.log(self._parent(), points([event])))

    def finish_study(
        self, status: str, metrics: Mapping[str, float] | None = None, tags: Mapping[str, str] | None = None
    ) -> None:
        """Closes the parent run; `study_run` opens it again.

        Args:
            status: completed, failed or stopped.
            metrics: The study's own, at step 0.
            tags: Further tags, such as the verdict.

        Raises:
            KeyError: The status is another word.
        """
        ended = STATUSES[status]

        def finish() -> None:
            run = self._parent()
            self._runs.close(run, ended)
            event = {"epoch": 0, "time": int(time.time() * 1000), "metrics": metrics or {}}
            self._runs.log(run, (), points([event]), {**(tags or {}), "status": status})
            self.behind.discard(STUDY)

        if self._paused_until is not None:
            self._paused_until = time.monotonic()  # the last chance: ask for its health now
        self._flush()
        self._drain()
        self._attempt(STUDY, finish)

    def register_extractor(
        self,
        name: str,
        config: Mapping[str, Any],
        state_dict: Mapping[str, Tensor],
        *,
        key: str,
        tags: Mapping[str, str] | None = None,
        description: str = "",
    ) -> int | None:
        """Registers a run's feature extractor: `mlflow.pyfunc.load_model("models:/NAME/1").predict(images)`.

        Args:
            name: Of the registered model.
            config: `FeatureExtractor.config`.
            state_dict: `FeatureExtractor.state_dict()`.
            key: The run that trained it. A run has one version under a name, found again by its tags.
            tags: Further tags of the version.
            description: Of the version, shown in the UI.

        Returns:
            The version, or None while MLflow is away.

        Raises:
            ConfigError: MLflow allows no such name, or the weights do not fit the config.
            KeyError: The run was not begun.
        """
        from divfeat.tracking.extractor import check_name, register  # imports mlflow.pyfunc and torchvision: seconds

        check_name(name)
        self._check_begun(key)
        own = {**(tags or {}), "study": self._study, "trial_key": key}
        return self._attempt(
            key, lambda: register(self._runs.client, name, config, state_dict, self._run(key).id, own, description)
        )

    def describe_model(
        self, name: str, version: int, *, description: str, tags: Mapping[str, str], of_version: str
    ) -> None:
        """Says on the pages of a registered model and of a version where it came from and how it did.

        Args:
            name: Of the registered model.
            version: Of it.
            description: Of the model as a whole, Markdown.
            tags: Of both: the list of models shows the model's, its page those of every version.
            of_version: Description of the version, Markdown.
        """

        def describe() -> None:
            client = self._runs.client
            client.update_registered_model(name, description)
            client.update_model_version(name, str(version), of_version)
            for tag, value in tags.items():
                client.set_registered_model_tag(name, tag, value)
                client.set_model_version_tag(name, str(version), tag, value)

        self._attempt(STUDY, describe)

    @property
    def away(self) -> bool:
        """Whether the server did not answer when it was last spoken to."""
        return self._paused_until is not None

    def _attempt(self, key: str, action: Callable[[], T]) -> T | None:
        """Does `action` unless MLflow is away; a failure leaves `key` behind and never ends the study."""
        if self._paused_until is not None and time.monotonic() >= self._paused_until:
            self._paused_until = time.monotonic() + PAUSE_SECONDS if unreachable(self.uri) else None
        if self._paused_until is not None:
            self.behind.add(key)
            return None
        try:
            with bounded_requests():
                return action()
        except (MlflowException, OSError) as error:
            self.behind.add(key)
            if isinstance(error, MlflowException) and 400 <= error.get_http_status_code() < 500:
                self._pending.pop(key, None)  # refused: asking again would not help
                logger.warning("MLflow refused what was logged for %s: %s", key, error)
            else:
                self._paused_until = time.monotonic() + PAUSE_SECONDS
                logger.warning(
                    "MLflow at %s cannot be written (%s). The study goes on; what is missing there is written when it "
                    "is back, or when the study is resumed",
                    self.uri,
                    f"{type(error).__name__}: {error}".splitlines()[0],
                )
            return None

    def _check_begun(self, key: str) -> None:
        if self._found(key) is None and key not in self._starts:
            raise KeyError(f"run {key!r} was never begun: call start_run first")

    def _parent(self) -> StudyRun:
        return self._runs.get(STUDY) or self._runs.create(STUDY, self._study, {"divfeat.role": "study", **_OF_STUDY})

    def _run(self, key: str) -> StudyRun:
        """The run of `key`, made if MLflow lacks it, with the params it was begun with."""
        run, start = self._runs.get(key), self._starts.get(key)
        if start is None:
            assert run is not None  # _check_begun
            return run
        if run is None:
            tags = {**start.shown_tags(key), "mlflow.parentRunId": self._parent().id}
            run = self._runs.create(key, start.name, tags, start.start_time)
        else:
            self._runs.rename(run, start.name)
            self._runs.add_tags(run, start.shown_tags(key))
        self._runs.add_params(run, start.params)
        return run

    def _flush(self) -> None:
        """Writes the epochs that wait; what cannot be written now is in the record that finishes the run."""
        buffer, self._buffer = self._buffer, {}
        for key, events in buffer.items():
            self._attempt(key, partial(self._log, key, events))

    def _log(self, key: str, events: Sequence[Mapping[str, Any]]) -> None:
        self._runs.log(self._run(key), points(events))

    def _drain(self) -> None:
        for key in list(self._pending):
            self._attempt(key, partial(self._finish, key, *self._pending[key]))

    def _finish(self, key: str, record: Mapping[str, Any], files: Mapping[str, Path]) -> None:
        run = self._run(key)
        digest = _digest(record, self._starts.get(key))
        if run.tags.get(LOGGED) != digest:
            texts: dict[str, Any] = {"record.json": record, "config.yaml": record.get("config") or {}}
            start = self._starts.get(key)
            if start is not None and self._runs.add_params(run, start.params):
                texts["params.json"] = start.params
            self._runs.upload(run, texts, files)
            self._runs.close(run, STATUSES[record["status"]], record.get("time"))
            history = [*self._buffer.get(key, ()), *(record.get("history") or ())]
            final = {
                "epoch": 0,  # or the end of its curve, where a metric has one
                # After the epoch's own, so that MLflow takes it for the latest; the same each time it is logged.
                "time": max((event["time"] for event in history), default=run.start_time) + 1,
                "metrics": record.get("metrics") or {},
            }
            tags = {"status": record["status"], "reason": record.get("error") or "", LOGGED: digest}
            self._runs.log(run, points(history), points([final]), tags)
        run.points = None  # not needed again, and a long study has many
        for waiting in (self._starts, self._pending, self._buffer):
            waiting.pop(key, None)
        self.behind.discard(key)


def _digest(record: Mapping[str, Any], start: _Start | None) -> str:
    """Of what a run shows, the same before and after a stay in a JSON file; when it began and ended is no part of it.

    With its name, tags and params: a run that an older divfeat named otherwise is written anew when its study goes on.
    """
    content: dict[str, Any] = {name: value for name, value in record.items() if name != "time"}
    if start is not None:
        content |= {"shown": [start.name, start.shown_tags(""), start.params]}
    return hashlib.sha256(json.dumps(plain(content), sort_keys=True).encode()).hexdigest()[:16]
