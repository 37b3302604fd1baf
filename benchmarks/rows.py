"""What a benchmark writes: rows of ratios to a named peer, with every pair, the goal, and where they were measured."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from divfeat.files import read_json, write_json
from divfeat.provenance import commit, device_name, versions

RESULTS = Path(__file__).resolve().parents[1] / "results" / "benchmarks"

T = TypeVar("T")

#: `times`: peer over ours, such as "10 times as fast", the more the better. `share`: ours over the peer, such as
#: "1.05 of the bare loop", the less the better.
Sense = Literal["times", "share"]


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        what: Is measured, in a few words.
        ours: What of divfeat.
        peer: What it is compared with.
        unit: Of both sides of the pairs.
        pairs: [ours, peer] of each repeat, in the order they were measured.
        sense: How the ratio is formed.
        goal: The ratio is to be at least (`times`) or at most (`share`) this; None where no ratio was promised.
        most: Our own median is to be at most this, in `unit`; None where no absolute value was promised.
        setting: What a reader needs to judge it: sizes, steps, threads.
    """

    what: str
    ours: str
    peer: str
    unit: str
    pairs: Sequence[tuple[float, float]]
    sense: Sense
    goal: float | None = None
    most: float | None = None
    setting: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ratios(self) -> list[float]:
        """One a pair."""
        return [peer / ours if self.sense == "times" else ours / peer for ours, peer in self.pairs]

    @property
    def ratio(self) -> float:
        """The median of the pairs' ratios: what disturbs both sides of a pair alike cancels."""
        return statistics.median(self.ratios)

    @property
    def met(self) -> bool | None:
        """Whether the medians reach what was promised; None where nothing was."""
        kept = []
        if self.goal is not None:
            kept.append(self.ratio >= self.goal if self.sense == "times" else self.ratio <= self.goal)
        if self.most is not None:
            kept.append(statistics.median(ours for ours, _ in self.pairs) <= self.most)
        return all(kept) if kept else None

    def to_dict(self) -> dict[str, Any]:
        """As it is written: with both medians, the ratio, and the smallest and largest ratio of a pair."""
        ours, peers = zip(*self.pairs, strict=True)
        return asdict(self) | {
            "median_ours": statistics.median(ours),
            "median_peer": statistics.median(peers),
            "ratio": self.ratio,
            "ratio_range": [min(self.ratios), max(self.ratios)],
            "met": self.met,
        }


def seconds(action: Callable[[], Any]) -> float:
    """Wall time of one call, the device's queue drained before and after."""
    _drain()
    start = time.perf_counter()
    action()
    _drain()
    return time.perf_counter() - start


def with_processor(action: Callable[[], Any], kept: list[float]) -> float:
    """`seconds(action)`, while the processor time that this process took for it is put into `kept`.

    On a machine that others keep busy wall time says how busy; processor time, of work on one thread, hardly does.
    """
    start = time.process_time()
    found = seconds(action)
    kept.append(time.process_time() - start)
    return found


def paired(
    ours: Callable[[], float], peer: Callable[[], float], repeats: int, *, warm_up: bool = True
) -> list[tuple[float, float]]:
    """Measures both sides in turn, which goes first changing from pair to pair.

    Args:
        ours: Gives one measurement, such as `lambda: seconds(action)`.
        peer: The same of the peer.
        repeats: Pairs.
        warm_up: Whether one pair goes before and is not counted.
    """
    return [(one, other) for one, other in in_turn((ours, peer), repeats, warm_up=warm_up)]


def in_turn(sides: Sequence[Callable[[], T]], repeats: int, *, warm_up: bool = True) -> list[list[T]]:
    """Measures any number of sides in rounds, another one going first in each: a list a round, in the order of `sides`.

    Args:
        sides: One measurement each.
        repeats: Rounds.
        warm_up: Whether one round goes before and is not counted.
    """
    found = []
    for repeat in range(-warm_up, repeats):
        turn = repeat % len(sides)
        order = [*range(turn, len(sides)), *range(turn)]
        measured = {side: sides[side]() for side in order}
        if repeat >= 0:
            found.append([measured[side] for side in range(len(sides))])
    return found


def machine() -> dict[str, Any]:
    """Processor, cores, memory, GPU, threads and what else kept the machine busy."""
    cuda = torch.cuda.is_available()
    return {
        "processor": device_name(torch.device("cpu")),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": device_name(torch.device("cuda")) if cuda else None,
        "torch_threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def write_rows(name: str, rows: Sequence[Row], before: Mapping[str, Any], out: Path = RESULTS) -> Path:
    """Writes a benchmark's rows, of one device, to `out`/NAME.json (NAME-gpu.json of a GPU).

    Args:
        name: Of the benchmark.
        rows: In the order they are shown.
        before: `machine()`, called before the first measurement, so that the load is not the benchmark's own.
        out: Folder.
    """
    place = out / f"{name}{'-gpu' if before['gpu'] else ''}.json"
    write_json(
        place,
        {
            "benchmark": name,
            "command": f"python -m benchmarks {name}",
            "rows": [row.to_dict() for row in rows],
            "machine": dict(before),
            "commit": commit(),
            "versions": versions(),
            "time": time.time(),
        },
    )
    return place


def read_rows(out: Path = RESULTS) -> list[dict[str, Any]]:
    """Every written benchmark, by name."""
    return [read_json(place) for place in sorted(out.glob("*.json"))]


def told(row: Row) -> str:
    """A row in one line, as it is printed while a benchmark runs."""
    content = row.to_dict()
    low, high = content["ratio_range"]
    word = {None: "", True: ", goal met", False: ", GOAL MISSED"}[row.met]
    better = "times as small as" if row.unit == "MiB" else "times the speed of"
    form = better if row.sense == "times" else "of"
    return (
        f"{row.what}: {row.ours} {content['median_ours']:.4g} {row.unit}, {row.peer} {content['median_peer']:.4g} {row.unit}: "
        f"{row.ratio:.3g} {form} the peer [{low:.3g}, {high:.3g}] in {len(row.pairs)} pairs{word}"
    )


def _drain() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
