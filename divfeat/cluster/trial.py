"""What runs inside a trial: one experiment, its events and its record on disk, and word to the driver.

A trial's own faults (NaN, memory, errors in code) end in a record with the status `failed` and a normal return, so that
only what infrastructure broke is tried again.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from divfeat import record
from divfeat.cluster.place import Place, placed
from divfeat.config import ExperimentConfig
from divfeat.data.prepare import PreparedData
from divfeat.errors import DivfeatError, NonFiniteError, disk_fault
from divfeat.experiment import run
from divfeat.files import append_line
from divfeat.pretrain import CHECKPOINT_SECONDS
from divfeat.study_config import StopConfig

Report = Callable[[dict[str, Any]], None]

#: Seconds between two words to the driver while training goes on; rungs and the end are always told.
REPORT_SECONDS = 2.0


@dataclass(frozen=True)
class TrialSpec:
    """Everything a trial needs, as JSON types.

    Attributes:
        key: Of the experiment.
        experiment: `ExperimentConfig` as a mapping.
        folder: Where record, events and files go, on a disk that driver and workers share; with a store their key there.
        stages: Where checkpoints go; with a store their key there.
        store: `Store.address` of the study's shared storage; None where all nodes have its folder.
        rungs: Finished epochs at which the objectives are measured.
        stop: Reasons to end the training early, `StopConfig` as mappings.
        keep: Whether weights and features stay on disk.
        shared: Whether other runs of the study can go on from the first stage's checkpoint, which then outlives this one.
        workers: Processes the training spans.
        fewest: With which it goes on while there is no place for all of them; None waits for all.
        cpus: Cores of each.
        gpus: GPUs of each.
        checkpoint_seconds: Between two checkpoints, of which a node that goes loses what came after.
    """

    key: str
    experiment: dict[str, Any]
    folder: str
    stages: str
    store: dict[str, Any] | None = None
    rungs: tuple[int, ...] = ()
    stop: tuple[dict[str, Any], ...] = ()
    keep: bool = False
    shared: bool = False
    workers: int = 1
    fewest: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    checkpoint_seconds: float = CHECKPOINT_SECONDS

    def to_json(self) -> str:
        """One string: Tune takes nested mappings apart."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TrialSpec:
        """The inverse of `to_json`."""
        fields = json.loads(text)
        return cls(**(fields | {name: tuple(fields[name]) for name in ("rungs", "stop")}))


def warm_up() -> None:
    """Have PyTorch load what it loads with the first optimizer and the first backward pass: a second and more."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    weight.sum().backward()
    optimizer.step()


def run_spec(
    spec: TrialSpec, data: PreparedData, report: Report, *, rank: int = 0, every_epochs: int | None = None
) -> None:
    """Run the experiment of `spec`, writing events as they come and the record at the end.

    Args:
        spec: What to run.
        data: Images, shared between trials.
        report: Tells the driver; gets `{"key", "events"}` and, at the end of one process, `{"key", "done": True}`, upon
            which the trial has ended. A training over workers ends by itself: its driver must first see them go.
        rank: Of this process; only rank 0 writes.
        every_epochs: Report after every so many epochs on all ranks alike; None reports by the clock (one process).

    Raises:
        Exception: only what infrastructure broke.
    """
    torch.set_num_threads(max(1, int(spec.cpus)))
    config = ExperimentConfig.model_validate(spec.experiment)
    with placed(spec.folder, spec.stages, spec.store, config) as place:
        if place.finished():  # before a crash of the driver
            report({"key": spec.key, "events": [], "done": True})
        else:
            _run(spec, config, data, place, _Relay(spec, place, report, rank, every_epochs))


def _run(spec: TrialSpec, config: ExperimentConfig, data: PreparedData, place: Place, relay: _Relay) -> None:
    folder, rank, every_epochs = place.folder, relay.rank, relay.every_epochs
    try:
        result = run(
            config,
            data,
            relay,
            stages=place.stages,
            rungs=spec.rungs,
            checkpoint_seconds=spec.checkpoint_seconds,
            on_checkpoint=place.saved,
        )
    except _StoppedError as reason:
        # Here and not by word of the driver, which comes late: the same training ends at the same epoch everywhere.
        place.write(spec.key, record.ended("pruned", config, str(reason), "stop", record.events(folder)))
        place.remove_stages(config, shared=spec.shared)
        if every_epochs is not None:
            raise  # other ranks wait in a collective
    except BaseException as error:
        kind = fault_of(error)
        if kind is None:
            raise
        history = record.events(folder)
        if rank == 0 or kind == "nan":
            text = str(error) if isinstance(error, DivfeatError) else traceback.format_exc(limit=-6)
            place.write(spec.key, record.ended("failed", config, text, kind, history))
            place.remove_stages(config, shared=spec.shared)
        if every_epochs is not None:
            raise  # other ranks wait in a collective; the record says it was the trial's own fault
    else:
        if rank == 0:
            record.save_arrays(folder, result, weights=spec.keep, features=spec.keep and config.role == "confirm")
            result.provenance["versions"] = dict(result.provenance["versions"])
            result.provenance["reporting_seconds"] = round(relay.seconds, 3)
            place.write(spec.key, record.completed(config, result))
            place.remove_stages(config, shared=spec.shared)
    relay.flush(done=every_epochs is None)


def fault_of(error: BaseException) -> str | None:
    """Whose fault an exception in a trial is: `nan`, `memory`, `config`, `error` are the trial's own; None is not."""
    if disk_fault(error) is not None:
        return None
    if isinstance(error, NonFiniteError):
        return "nan"
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
        return "memory"  # on the CPU torch raises a plain RuntimeError
    if isinstance(error, DivfeatError):
        return "config"
    if isinstance(error, (KeyboardInterrupt, SystemExit, OSError, ConnectionError)) or not isinstance(error, Exception):
        return None
    if isinstance(error, RuntimeError) and (
        type(error).__name__.startswith("Dist")  # torch.distributed.DistError and its kin
        or any(word in str(error) for word in ("gloo", "NCCL", "Connection"))
    ):
        return None
    return "error"


class _StoppedError(Exception):
    """A reason of `search.stop` was met; the message says which and when."""


class _Relay:
    """Passes epochs on: to the event log at once, to the driver now and then; ends a training that meets a stop reason."""

    def __init__(self, spec: TrialSpec, place: Place, report: Report, rank: int, every_epochs: int | None) -> None:
        self.spec, self.place, self.report, self.rank, self.every_epochs = spec, place, report, rank, every_epochs
        self.log = place.folder / "events.jsonl"
        self.stop = [StopConfig.model_validate(settings) for settings in spec.stop]
        self.waiting: list[dict[str, Any]] = []
        self.last = self.told = time.monotonic()
        self.seconds = 0.0  # that the training stood still for what is said here

    def __call__(self, epoch: int, metrics: Mapping[str, float]) -> None:
        mark = time.monotonic()
        self._pass_on(epoch, metrics)
        self.seconds += time.monotonic() - mark

    def _pass_on(self, epoch: int, metrics: Mapping[str, float]) -> None:
        event = dict(metrics)
        if self.rank == 0:
            append_line(self.log, event)
        self.waiting.append(event)
        finished = epoch + 1
        for one in self.stop if self.rank == 0 else []:  # rank 0 alone has every metric
            if (reason := one.reached(event)) is not None:
                raise _StoppedError(f"stopped after {finished} epochs: {reason}")
        if self.every_epochs is not None:
            due = finished % self.every_epochs == 0 or finished in self.spec.rungs
        else:
            due = finished in self.spec.rungs or time.monotonic() - self.last >= REPORT_SECONDS
        if due:
            self.flush()
        elif self.rank == 0 and time.monotonic() - self.told >= REPORT_SECONDS:
            self._tell_place()  # word over workers comes by epochs, which may be long: they must not be taken to hang

    def flush(self, done: bool = False) -> None:
        """Tell the driver what it does not know yet."""
        if self.rank == 0:
            self._tell_place()
        self.report({"key": self.spec.key, "events": self.waiting} | ({"done": True} if done else {}))
        self.waiting, self.last = [], time.monotonic()

    def _tell_place(self) -> None:
        self.place.told()
        self.told = time.monotonic()
