"""Actors that run one trial after another, from the first phase to the last.

Starting a process and importing PyTorch costs seconds, a trial may take no more; so processes are begun before the first
trial is known, and kept while there is work for them.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

import ray

from divfeat.cluster.faults import Attempts, Fault, Patience, fault_from
from divfeat.cluster.source import JobSource
from divfeat.cluster.stall import Stall
from divfeat.cluster.trial import TrialSpec, run_spec, warm_up
from divfeat.data.prepare import PreparedData

logger = logging.getLogger(__name__)

#: An actor without work is ended after so long, so that a cluster may shrink; another one costs seconds.
IDLE_SECONDS = 60.0
#: How often to ask whether everything is to stop.
_ASK_SECONDS = 0.2
#: Within which a trial that was told to stop must be gone.
_STOP_SECONDS = 60.0


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
        """Begin a trial; returns its first word (see `run_spec`), or `{"fault": ...}`, a `Fault` as a mapping."""
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
        except BaseException as error:
            logger.exception("trial %s was lost", spec.key)
            self._words.put({"fault": asdict(fault_from(error))})

    def _say(self, word: dict[str, Any]) -> None:
        self._words.put(word)
        if not word.get("done") and not self._answers.get():
            raise _StoppedError


@dataclass
class _Running:
    """A trial on an actor.

    Attributes:
        actor: Where it runs.
        spec: Of it.
        since: When it was last spoken to, on the clock that never goes back; None until its actor lives.
    """

    actor: Any
    spec: TrialSpec
    since: float | None


class Pool:
    """Up to `concurrent` actors, and the loop that feeds them.

    Args:
        concurrent: Trials at a time.
        cpus: Cores of each.
        gpus: GPUs of each.
        progress_timeout: Seconds of silence after which a trial is taken to hang; None follows what is heard (`Patience`).
    """

    def __init__(self, concurrent: int, cpus: float, gpus: float, progress_timeout: float | None = None) -> None:
        self.concurrent = concurrent
        # Spread: a node that goes takes few trials with it, and each reads the images from its own node.
        self._made: Any = ray.remote(TrialRunner).options(num_cpus=cpus, num_gpus=gpus, scheduling_strategy="SPREAD")
        self._idle: list[tuple[Any, float]] = []  # and since when
        self._born: dict[Any, ray.ObjectRef] = {}  # actors that may not live yet: a cluster can have to grow first
        self.patience = Patience(progress_timeout)

    def begin(self, number: int) -> None:
        """Start so many actors; `run` starts what it lacks, and waits for their nodes where an autoscaler adds them."""
        while len(self._idle) < number:
            self.rest(self._make())

    def run(self, source: JobSource, data: ray.ObjectRef, stall: Stall) -> None:
        """Run everything `source` hands out on `data`; returns when all have ended, it is stopping, or no trial gets a place."""
        feeding = _Feeding(self, source, data, stall)
        try:
            feeding.go()
        finally:  # what they had finished is on disk, the rest goes on from its checkpoint
            for trial in feeding.running.values():
                self.kill(trial.actor)

    def take(self) -> Any:
        """An actor without a trial."""
        return self._idle.pop(0)[0] if self._idle else self._make()

    def _make(self) -> Any:
        actor: Any = self._made.remote()
        self._born[actor] = actor.__ray_ready__.remote()
        return actor

    def lives(self, actor: Any) -> bool:
        """Whether an actor was placed, or failed to be, which its answer tells."""
        if actor in self._born and ray.wait([self._born[actor]], timeout=0)[0]:
            del self._born[actor]
        return actor not in self._born

    def rest(self, actor: Any) -> None:
        """An actor is free."""
        self._idle.append((actor, time.monotonic()))

    def kill(self, actor: Any) -> None:
        """End an actor."""
        self._born.pop(actor, None)
        ray.kill(actor)

    def end_idle(self) -> None:
        """Free what nothing needed for long."""
        oldest = time.monotonic() - IDLE_SECONDS
        for actor, since in self._idle:
            if since < oldest:
                self.kill(actor)
        self._idle = [(actor, since) for actor, since in self._idle if since >= oldest]

    def close(self) -> None:
        """End the actors at rest, which between two runs are all: a cluster that is shared gets its cores back."""
        for actor, _ in self._idle:
            self.kill(actor)
        self._idle = []


class _Feeding:
    """One source on the actors of a pool."""

    def __init__(self, pool: Pool, source: JobSource, data: ray.ObjectRef, stall: Stall) -> None:
        self.pool, self.source, self.data, self.stall = pool, source, data, stall
        self.running: dict[ray.ObjectRef, _Running] = {}
        self.again: list[tuple[float, TrialSpec]] = []  # when a lost one is begun again; it keeps its place until then
        self.attempts = Attempts()

    def go(self) -> None:
        """Until all have ended, or the source is stopping."""
        more = True
        while not self.source.stopping():
            self._begin_again()
            while more and len(self.running) + len(self.again) < self.pool.concurrent:
                spec = self.source.next()
                if spec is None:
                    more = self.source.waiting
                    break
                self._begin(spec)
            if self.running:
                ready, _ = ray.wait(list(self.running), timeout=_ASK_SECONDS)
                for word in ready:
                    self._heard(word)
                self._end_hung()
            elif not more and not self.again:
                return
            else:
                time.sleep(_ASK_SECONDS)
            self.pool.end_idle()
            if (stuck := self.stall.look(self._any_placed)) is not None:
                self.source.stuck(stuck)

    def _any_placed(self) -> bool:
        return not self.running or any(trial.since is not None for trial in self.running.values())

    def _begin(self, spec: TrialSpec) -> None:
        actor = self.pool.take()
        self._spoken(_Running(actor, spec, None), actor.begin.remote(spec.to_json(), self.data))

    def _begin_again(self) -> None:
        now = time.monotonic()
        due = [entry for entry in self.again if entry[0] <= now]
        self.again = [entry for entry in self.again if entry[0] > now]
        for _, spec in due:
            self._begin(spec)

    def _spoken(self, trial: _Running, word: ray.ObjectRef) -> None:
        self.running[word] = trial
        if trial.since is not None or self.pool.lives(trial.actor):
            self._placed(trial)

    def _placed(self, trial: _Running) -> None:
        """Its actor lives: from now on it is to speak."""
        if trial.since is None:
            self.source.placed(trial.spec.key)
        trial.since = time.monotonic()

    def _heard(self, word: ray.ObjectRef) -> None:
        """Take a trial's word and answer it."""
        trial = self.running.pop(word)
        key = trial.spec.key
        try:
            said = ray.get(word)
        except ray.exceptions.RayError as error:  # the process, its node or what it was given is gone
            self.pool.kill(trial.actor)
            self.pool.close()  # actors at rest may have been on the same node: a trial must not use up its attempts on them
            self._lost(trial.spec, fault_from(error))
            return
        if "fault" in said:
            self.pool.rest(trial.actor)
            self._lost(trial.spec, Fault(**said["fault"]))
            return
        if trial.since is None:
            self._placed(trial)  # its first word came before anybody looked whether its actor lives
        else:
            self.pool.patience.heard(time.monotonic() - trial.since)
        if said["events"]:
            self.attempts.reached(key, int(said["events"][-1]["epoch"]) + 1)
        if said.get("done"):
            self.pool.rest(trial.actor)
            self.source.ended(key, None)
        elif self.source.heard(key, said["events"]):
            try:
                ray.get(trial.actor.stop.remote(), timeout=_STOP_SECONDS)
                self.pool.rest(trial.actor)
            except ray.exceptions.RayError:
                self.pool.kill(trial.actor)
            self.source.ended(key, None)
        else:
            self._spoken(trial, trial.actor.go_on.remote())

    def _end_hung(self) -> None:
        now = time.monotonic()
        for word, trial in list(self.running.items()):
            if trial.since is None:
                if self.pool.lives(trial.actor):
                    self._placed(trial)
            elif now - trial.since > self.pool.patience.seconds:
                del self.running[word]
                self.pool.kill(trial.actor)
                self._lost(trial.spec, Fault("hung", f"no word for {now - trial.since:.0f} s"))

    def _lost(self, spec: TrialSpec, fault: Fault) -> None:
        """Begin a trial again in a while, or give it up."""
        pause = self.attempts.lost(spec.key, fault)
        self.source.lost(spec.key, fault, again=pause is not None)
        if pause is None:
            self.source.ended(spec.key, fault)
            return
        times = self.attempts.times(spec.key)
        logger.warning("trial %s was lost (%d): %s; again in %.1f s", spec.key, times, fault, pause)
        self.again.append((time.monotonic() + pause, spec))
