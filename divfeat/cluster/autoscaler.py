"""The autoscaler of a cluster: whether there is one, which nodes it may add, and waiting for the first that a trial needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import yaml
from ray.util import placement_group, remove_placement_group

from divfeat.cluster.capacity import SMALLER, Capacity
from divfeat.errors import ConfigError

#: Seconds that a study waits for nodes of an autoscaler unless it is told otherwise: a spot GPU may take that long.
WAIT_SECONDS = 1800.0
#: How often a study that waits says so.
SAY_SECONDS = 30.0
#: How often it asks whether it is to stop.
_ASK_SECONDS = 0.5
_PROCESSES = Path("/proc")


@dataclass(frozen=True)
class Autoscaler:
    """An autoscaler and what it may add.

    Attributes:
        types: Node type -> (CPUs, GPUs, how many at most), workers only; empty where its file cannot be read from here.
        at_most: Workers of all types together.
    """

    types: Mapping[str, tuple[float, float, int]]
    at_most: int = 0

    @property
    def nodes(self) -> list[tuple[float, float]]:
        """(CPUs, GPUs) of every node that it may have at a time, the largest first."""
        one_by_one = [(gpus, cpus) for cpus, gpus, number in self.types.values() for _ in range(number)]
        return [(cpus, gpus) for gpus, cpus in sorted(one_by_one, reverse=True)[: self.at_most]]

    def __str__(self) -> str:
        if not self.types:
            return "an autoscaler whose node types cannot be read from here"
        kinds = ", ".join(
            f"{number} x {name} ({cpus:g} CPUs and {gpus:g} GPUs)" for name, (cpus, gpus, number) in self.types.items()
        )
        return f"an autoscaler that may add {self.at_most} nodes: {kinds}"


def find_autoscaler(processes: Path = _PROCESSES) -> Autoscaler | None:
    """The autoscaler of the cluster that this process has joined, or None where there is none.

    Ray tells nobody which node types its autoscaler has; but the process that scales names its file on its command line,
    and runs on the head, as do jobs that were submitted. In a container of its own (KubeRay) it is known by its reports.
    """
    address = ray.get_runtime_context().gcs_address
    for line in _command_lines(processes):
        if f"--gcs-address={address}" in line and any(
            "autoscaler" in word and word.endswith("monitor.py") for word in line
        ):
            files = [word.partition("=")[2] for word in line if word.startswith("--autoscaling-config=")]
            return _read(Path(files[0]).expanduser()) if files else None
    # Nodes that an autoscaler made name their type; where somebody started them by hand, one reports as well but adds none.
    typed = any(node.get("Labels", {}).get("ray.io/node-group") for node in ray.nodes() if node["Alive"])
    return Autoscaler({}) if typed and _reports(address) else None


def _command_lines(processes: Path) -> list[list[str]]:
    found = []
    for path in processes.glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().decode(errors="replace").split("\0"))
        except OSError:  # it ended, or is another user's
            continue
    return found


def _read(path: Path) -> Autoscaler:
    """Node types of an autoscaler's file, in which `ray up` has filled in the resources of each."""
    try:
        settings: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        head, at_most = settings["head_node_type"], settings.get("max_workers")
        types = {}
        for name, kind in settings["available_node_types"].items():
            number = int(kind.get("max_workers", 0 if name == head else at_most or 0))
            has = kind.get("resources") or {}
            if name != head and number:
                types[name] = (float(has.get("CPU", 0)), float(has.get("GPU", 0)), number)
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError):
        return Autoscaler({})
    total = sum(number for *_, number in types.values())
    return Autoscaler(types, total if at_most is None else min(int(at_most), total))


def _reports(address: str) -> bool:
    """Whether an autoscaler (Ray's second one) reports to the cluster from somewhere else."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply  # type: ignore[attr-defined]

    reply = GetClusterStatusReply()
    reply.ParseFromString(GcsClient(address).get_cluster_status(timeout_s=10))
    return bool(reply.autoscaling_state.autoscaler_state_version)


def wait_for_trial(
    capacity: Callable[[], Capacity],
    scaler: Autoscaler | None,
    seconds: float,
    say: Callable[[str], None],
    stopping: Callable[[], bool],
) -> bool:
    """Wait until the cluster has a place for one trial, which an autoscaler hears of and adds nodes for.

    Args:
        capacity: Of the nodes there are now, asked again and again.
        scaler: None where there is none: then nodes may still join by other hands.
        seconds: The longest wait.
        say: Told what is missing, now and then.
        stopping: Whether to give up.

    Returns:
        Whether there is a place; False when stopping.

    Raises:
        ConfigError: none in time, with what is missing.
    """
    now = capacity()
    # Not `request_resources`, which outlives the driver: nodes would be kept, and paid for, after a crash.
    asked = placement_group(now.bundles, strategy="PACK")
    begun, said = time.monotonic(), -SAY_SECONDS
    try:
        while not asked.wait(_ASK_SECONDS):
            waited = time.monotonic() - begun
            if stopping():
                return False
            now = capacity()
            if now.fewest is not None and now.trials:
                return True  # with fewer workers than were asked for
            who = scaler or "no autoscaler was found"
            if waited >= seconds:
                raise ConfigError(
                    f"no place for a trial after {waited:.0f} s: {now.needs}, {now.has}, {who}; {SMALLER}, or wait longer with "
                    "--wait-for-nodes"
                )
            if waited - said >= SAY_SECONDS:
                said = waited
                say(f"waiting for nodes, {waited:.0f} of at most {seconds:.0f} s: {now.needs}, {now.has}, {who}")
    finally:
        remove_placement_group(asked)
    return True
