"""The runs of one study as MLflow has them: each found again by its tags, each point written once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag

from divfeat.tracking.artifacts import staged
from divfeat.tracking.store import Store, logger
from divfeat.tracking.values import MAX_TAG, Point, clean_key, short, short_params

STUDY = "(study)"
"""What stands for the parent run where a trial's run has its key."""

LOGGED = "divfeat.logged"
"""Tag of a run that MLflow holds completely: the digest of the record that was logged."""

_BATCH = 900  # MLflow takes 1000 metrics, params and tags a call


@dataclass
class StudyRun:
    """A run as MLflow has it.

    Attributes:
        id: MLflow's.
        start_time: Unix milliseconds.
        status: MLflow's word.
        name: What its UI shows.
        tags: Name -> value.
        params: Names of the params it has.
        points: Latest value by (metric, step); None = ask MLflow before the next write.
    """

    id: str
    start_time: int
    status: str
    name: str
    tags: dict[str, str]
    params: set[str]
    points: dict[tuple[str, int], float] | None = None


class Runs:
    """Reads the study's runs by one search, then remembers them: afterwards it only writes."""

    def __init__(self, store: Store, study: str) -> None:
        self.client: MlflowClient = store.client
        self.experiment = store.experiment_id
        self._study = study
        self._runs: dict[str, StudyRun] = {}
        token = None
        while True:
            page = self.client.search_runs([self.experiment], order_by=["attributes.start_time"], page_token=token)
            for run in page:
                self._admit(run)
            token = page.token
            if not token:
                return

    def get(self, key: str) -> StudyRun | None:
        """The run of a key (`STUDY` = the parent), or None."""
        return self._runs.get(key)

    def create(self, key: str, name: str, tags: Mapping[str, Any], start_time: int | None = None) -> StudyRun:
        """Makes the run of a key, RUNNING, with all its tags in the one call."""
        own = {"study": self._study, "status": "running", **tags}
        own = {clean_key(tag): short(str(value), MAX_TAG) for tag, value in own.items()}
        self._runs[key] = run = _as_found(self.client.create_run(self.experiment, start_time, own, name))
        run.points = {}
        return run

    def add_params(self, run: StudyRun, tree: Mapping[str, Any]) -> bool:
        """Sets the params that the run lacks (those it has are final in MLflow). True if some are shown in part."""
        params, cut = short_params(tree)
        new = [Param(name, value) for name, value in params.items() if name not in run.params]
        if new:
            self.client.log_batch(run.id, params=new)
            run.params |= set(params)
        return cut

    def add_tags(self, run: StudyRun, tags: Mapping[str, Any]) -> None:
        """Sets the tags that are new or changed."""
        texts = {clean_key(name): short(str(value), MAX_TAG) for name, value in tags.items()}
        new = {name: text for name, text in texts.items() if run.tags.get(name, "") != text}
        if new:
            self._write(run, [], new)

    def rename(self, run: StudyRun, name: str) -> None:
        """Gives a run its name: runs of an older divfeat were called otherwise."""
        if run.name != name:
            self.client.update_run(run.id, name=name)
            run.name = name

    def tagged(self, tag: str, value: str) -> list[StudyRun]:
        """The runs that carry a tag with this value."""
        return [run for run in self._runs.values() if run.tags.get(tag) == value]

    def set_running(self, run: StudyRun) -> None:
        """Opens a closed run again."""
        self.set_status(run, "RUNNING", "running")

    def set_status(self, run: StudyRun, status: str, word: str) -> None:
        """Gives a run that has not ended, or goes on, MLflow's word for how it stands, and ours in its tag."""
        if run.status != status:
            self.client.update_run(run.id, status)
            run.status = status
        self.add_tags(run, {"status": word, LOGGED: ""})

    def close(self, run: StudyRun, status: str, end_time: int | None = None) -> None:
        """Ends a run with MLflow's word for how; `end_time` in unix milliseconds, default now."""
        self.client.set_terminated(run.id, status, end_time)
        run.status = status

    def upload(
        self,
        run: StudyRun,
        texts: Mapping[str, Any],
        files: Mapping[str, Path] | None = None,
        folder: str | None = None,
    ) -> None:
        """Sends artifacts in one call, over those of the same path."""
        with staged(texts, files) as local:
            self.client.log_artifacts(run.id, local, folder)

    def log(
        self,
        run: StudyRun,
        points: Iterable[Point],
        final: Iterable[Point] = (),
        tags: Mapping[str, Any] | None = None,
    ) -> None:
        """Logs the points MLflow lacks, and the tags with the last of them, so that they say that all is there.

        A metric has one point a step, the first one logged. A final value is logged only where it differs from the latest:
        it was measured apart, and goes to the end of the metric's curve. A metric without a curve has it at its own step:
        the UI draws one point at step 0 as a bar, and one at a later step as a line of one point.
        """
        if run.points is None:
            run.points = self._history(run.id)
        known = dict(run.points)
        new = []
        for point in points:
            if (point.key, point.step) not in known:
                known[point.key, point.step] = point.value
                new.append(point)
        latest = {key: (step, value) for (key, step), value in sorted(known.items(), key=lambda item: item[0])}
        for point in final:
            step, value = latest.get(point.key, (point.step, None))
            if value is None or not _same(value, point.value):
                known[point.key, step] = point.value
                new.append(point._replace(step=step))
        run.points = None  # should the write fail, it is MLflow that knows what arrived
        self._write(run, new, tags or {})
        run.points = known

    def _write(self, run: StudyRun, new: list[Point], tags: Mapping[str, Any]) -> None:
        texts = {clean_key(name): short(str(value), MAX_TAG) for name, value in tags.items()}
        batches = [new[at : at + _BATCH] for at in range(0, len(new), _BATCH)] or [[]]
        for number, batch in enumerate(batches, start=1):
            metrics = [Metric(point.key, point.value, point.time, point.step) for point in batch]
            last = [RunTag(name, text) for name, text in texts.items()] if number == len(batches) else []
            self.client.log_batch(run.id, metrics, tags=last)  # no call at all where both are empty
        run.tags |= texts

    def _history(self, run_id: str) -> dict[tuple[str, int], float]:
        keys = self.client.get_run(run_id).data.metrics
        metrics = [metric for key in keys for metric in self.client.get_metric_history(run_id, key)]
        return {(metric.key, metric.step): metric.value for metric in sorted(metrics, key=lambda m: m.timestamp)}

    def _admit(self, found: Run) -> None:
        """Takes a found run in. Of two runs of one key the complete or the older one stays.

        Two arise only where a server answered too late and the request to make the run was repeated.
        """
        tags = found.data.tags
        key = STUDY if tags.get("divfeat.role") == "study" else tags.get("trial_key")
        if key is None or tags.get("study") != self._study:
            return
        run, other = _as_found(found), self._runs.get(key)
        if other is not None:
            if run.tags.get(LOGGED) and not other.tags.get(LOGGED):
                run, other = other, run
                self._runs[key] = other
            self.client.delete_run(run.id)
            logger.warning("MLflow had two runs of %s: deleted the emptier one, %s", key, run.id)
            return
        self._runs[key] = run


def _as_found(run: Run) -> StudyRun:
    info = run.info
    name = info.run_name or ""
    return StudyRun(info.run_id, info.start_time, info.status, name, dict(run.data.tags), set(run.data.params))


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))
