"""Actors that run one trial after another, from the first phase to the last.

Starting a process and importing PyTorch costs seconds, a trial may take no more; so processes are begun before the first
trial is known, and kept while there is work for them.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import traceback
from dataclasses import dataclass
from typing import Any

import ray

from divfeat.cluster.source import RETRIES, JobSource
from divfeat.cluster.trial import TrialSpec, run_spec, warm_up
from divfeat.data.prepare import PreparedData

logger = logging.getLogger(__name__)

#: An actor without work is ended after so long, so that a cluster may shrink; another one costs seconds.
IDLE_SECONDS = 60.0
#: How often to ask whether everything is to stop.
_ASK_SECONDS = 0.2


class _StoppedError(SystemExit):
    """Raised in a trial that is to end where it stands: no fault of its own, so it leaves no record."""


class TrialRunner:
    """What an actor is: one trial at a time in a thread, which waits after every word for leave to go on."""

    def __init__(self) -> None:
        warm_up()
        self._words: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def begin(self, spec: str, data: PreparedData) -> dict[str, Any]:
        """Begin a trial; returns its first word (see `run_spec`), or `{"fault": traceback}` of what infrastructure broke."""
        self._thread = threading.Thread(target=self._run, args=(TrialSpec.from_json(spec), data), daemon=True)
        self._thread.start()
        return self._words.get()

    def go_on(self) -> dict[str, Any]:
        """Let the trial go on; returns its next word."""
        self._answers.put(True)
        return self._words.get()

    def stop(self) -> None:
        """End the trial where it stands; its checkpoint stays."""
        self._answers.put(False)
        assert self._thread is not None
        self._thread.join()

    def _run(self, spec: TrialSpec, data: PreparedData) -> None:
        try:
            run_spec(spec, data, self._say)
        except _StoppedError:
            pass
        except BaseException:
            self._words.put({"fault": traceback.format_exc(limit=-6)})

    def _say(self, word: dict[str, Any]) -> None:
        self._words.put(word)
        if not word.get("done") and not self._answers.get():
            raise _StoppedError


@dataclass
class _Running:
    """A trial on an actor, and how often it was begun."""

    actor: Any
    spec: TrialSpec
    begun: int


class Pool:
    """Up to `concurrent` actors, and the loop that feeds them.

    Args:
        concurrent: Trials at a time.
        cpus: Cores of each.
        gpus: GPUs of each.
    """

    def __init__(self, concurrent: int, cpus: float, gpus: float) -> None:
        self.concurrent = concurrent
        self._made: Any = ray.remote(TrialRunner).options(num_cpus=cpus, num_gpus=gpus)
        self._idle: list[tuple[Any, float]] = []  # and since when

    def begin(self) -> None:
        """Start all actors; `run` starts what it lacks."""
        while len(self._idle) < self.concurrent:
            self._rest(self._made.remote())

    def run(self, source: JobSource, data: ray.ObjectRef) -> None:
        """Run everything `source` hands out on `data`; returns when all have ended or it is stopping."""
        running: dict[ray.ObjectRef, _Running] = {}
        try:
            self._feed(running, source, data)
        finally:  # what they had finished is on disk, the rest goes on from its checkpoint
            for trial in running.values():
                ray.kill(trial.actor)

    def _feed(self, running: dict[ray.ObjectRef, _Running], source: JobSource, data: ray.ObjectRef) -> None:
        more = True
        while not source.stopping():
            while more and len(running) < self.concurrent:
                spec = source.next()
                if spec is None:
                    more = source.waiting
                    break
                self._begin(running, spec, data, begun=1)
            if running:
                ready, _ = ray.wait(list(running), timeout=_ASK_SECONDS)
                for word in ready:
                    self._heard(running, word, source, data)
            elif not more:
                return
            else:
                time.sleep(_ASK_SECONDS)
            self._end_idle()

    def _begin(self, running: dict[ray.ObjectRef, _Running], spec: TrialSpec, data: ray.ObjectRef, begun: int) -> None:
        actor: Any = self._idle.pop(0)[0] if self._idle else self._made.remote()
        running[actor.begin.remote(spec.to_json(), data)] = _Running(actor, spec, begun)

    def _heard(
        self, running: dict[ray.ObjectRef, _Running], word: ray.ObjectRef, source: JobSource, data: ray.ObjectRef
    ) -> None:
        """Take a trial's word and answer it."""
        trial = running.pop(word)
        key = trial.spec.key
        try:
            said = ray.get(word)
        except ray.exceptions.RayError as error:  # the process, its node or what it was given is gone
            said = {"fault": str(error)}
            ray.kill(trial.actor)
        else:
            if "fault" in said:
                self._rest(trial.actor)
        if "fault" in said:
            logger.warning("trial %s was lost, attempt %d of %d: %s", key, trial.begun, 1 + RETRIES, said["fault"])
            if trial.begun <= RETRIES:
                self._begin(running, trial.spec, data, trial.begun + 1)
            else:
                source.ended(key, lost=True)
        elif said.get("done"):
            self._rest(trial.actor)
            source.ended(key, lost=False)
        elif source.heard(key, said["events"]):
            try:
                ray.get(trial.actor.stop.remote())
                self._rest(trial.actor)
            except ray.exceptions.RayError:
                ray.kill(trial.actor)
            source.ended(key, lost=False)
        else:
            running[trial.actor.go_on.remote()] = trial

    def _rest(self, actor: Any) -> None:
        self._idle.append((actor, time.monotonic()))

    def _end_idle(self) -> None:
        """Free what nothing needed for long."""
        oldest = time.monotonic() - IDLE_SECONDS
        for actor, since in self._idle:
            if since < oldest:
                ray.kill(actor)
        self._idle = [(actor, since) for actor, since in self._idle if since >= oldest]

    def close(self) -> None:
        """End all actors: a cluster that is shared gets its cores back."""
        for actor, _ in self._idle:
            ray.kill(actor)
        self._idle = []
