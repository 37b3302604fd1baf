"""NC1 at K = 1000 and D = 2048: time and peak memory beside dense covariances and their pseudo-inverse.

Two peers: one product over all samples, the fastest dense way, and the usual loop that adds up a covariance a class.
All take float32 features and calculate in float64, as `divfeat.metrics.nc1` does.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.rows import Row, in_turn, seconds
from divfeat.metrics import ClassStatisticsAccumulator, NC1Accumulator, nc1

REPEATS = 3
_ROOT = Path(__file__).resolve().parents[1]
_SIZES = {False: (30_000, 2048, 1000), True: (300, 24, 10)}  # samples, dimensions, classes
_BATCH = 512
_RTOL = 1e-8


def _features(size: int, dim: int, classes: int) -> tuple[Tensor, Tensor]:
    """Float32 features about their class means, drawn in place so that little more than they is ever held."""
    generator = torch.Generator().manual_seed(0)
    features = torch.empty(size, dim).normal_(std=0.5, generator=generator)
    labels = torch.arange(size) % classes
    means = torch.randn(classes, dim, generator=generator)
    for part, kinds in zip(features.split(256), labels.split(256), strict=True):
        part += means[kinds]
    return features, labels


def one_shot(features: Tensor, labels: Tensor) -> float:
    """The function."""
    return float(nc1(features, labels))


def streamed(features: Tensor, labels: Tensor) -> float:
    """The accumulators, fed as a loader would."""
    first = ClassStatisticsAccumulator(int(labels.max()) + 1)
    for part, kinds in zip(features.split(_BATCH), labels.split(_BATCH), strict=True):
        first.update(part, kinds)
    second = NC1Accumulator(first.compute())
    for part, kinds in zip(features.split(_BATCH), labels.split(_BATCH), strict=True):
        second.update(part, kinds)
    return float(second.compute().pooled)


def dense_at_once(features: Tensor, labels: Tensor) -> float:
    """Sigma_W as one product of all centred samples."""
    samples = features.double()
    means = _means(samples, labels)
    samples = samples - means[labels]
    return _trace(samples.T @ samples / len(samples), means)


def dense_by_class(features: Tensor, labels: Tensor) -> float:
    """Sigma_W added up class by class, as published code does."""
    dim = features.shape[1]
    within, means = torch.zeros(dim, dim, dtype=torch.float64), []
    for label in range(int(labels.max()) + 1):
        samples = features[labels == label].double()
        means.append(samples.mean(0))
        samples = samples - means[-1]
        within += samples.T @ samples
    return _trace(within / len(features), torch.stack(means))


def _means(samples: Tensor, labels: Tensor) -> Tensor:
    counts = torch.bincount(labels)
    return samples.new_zeros(len(counts), samples.shape[1]).index_add_(0, labels, samples) / counts[:, None]


def _trace(within: Tensor, means: Tensor) -> float:
    centred = means - means.mean(0)
    between = centred.T @ centred / len(means)
    return float(torch.trace(within @ torch.linalg.pinv(between)) / len(means))


_WAYS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "nc1": one_shot,
    "accumulators": streamed,
    "dense, one product": dense_at_once,
    "dense, class by class": dense_by_class,
}


def _memory(name: str, small: bool) -> dict[str, float]:
    """Peak memory of one way beyond its inputs, MiB, and its value, in a fresh process."""
    # New memory is mapped and given back at once: the peak is then of live numbers, not of the allocator's reserve.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
    words = [sys.executable, "-m", "benchmarks.measure_nc1", name, str(int(small)), str(torch.get_num_threads())]
    told = subprocess.run(words, check=True, capture_output=True, text=True, cwd=_ROOT, env=environment)
    found: dict[str, float] = json.loads(told.stdout.splitlines()[-1])
    return found


def _told_memory(name: str, small: bool) -> dict[str, float]:
    """What the fresh process does: a tiny call first, so that libraries are loaded; Linux only."""
    _WAYS[name](*_features(*_SIZES[True]))
    features, labels = _features(*_SIZES[small])
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is held now
    before = _held("VmRSS")
    value = _WAYS[name](features, labels)
    return {"mib": (_held("VmHWM") - before) / 1024, "value": value}


def _held(what: str) -> int:
    """A line of /proc/self/status, in KiB."""
    (line,) = (each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(f"{what}:"))
    return int(line.split()[1])


def measure(repeats: int, small: bool) -> Iterator[Row]:
    """Time of both of our ways to both peers, on one thread; then peak memory likewise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from _measure(repeats, small)
    finally:
        torch.set_num_threads(threads)


def _measure(repeats: int, small: bool) -> Iterator[Row]:
    size, dim, classes = _SIZES[small]
    ours, peers = list(_WAYS)[:2], list(_WAYS)[2:]
    memory = {name: [_memory(name, small)] for name in _WAYS}  # once: it does not vary
    values = {name: found[0]["value"] for name, found in memory.items()}
    error = max(abs(values[name] / values[peers[0]] - 1) for name in _WAYS)
    if not error <= _RTOL:
        raise AssertionError(f"the ways to NC1 give different values: {values}")
    setting = {
        "samples": size,
        "dim": dim,
        "classes": classes,
        "threads": 1,
        "features": "float32",
        "arithmetic": "float64",
        "batch of the accumulators": _BATCH,
        "values": values,
        "largest_relative_difference": error,
    }
    features, labels = _features(size, dim, classes)
    sides = [partial(seconds, partial(way, features, labels)) for way in _WAYS.values()]
    times = dict(zip(_WAYS, zip(*in_turn(sides, repeats, warm_up=small), strict=True), strict=True))
    for peer in peers:
        for name in ours:
            pairs = list(zip(times[name], times[peer], strict=True))
            yield Row("time of NC1", name, peer, "s", pairs, "times", goal=5.0, setting=setting)
    for peer in peers:
        for name in ours:
            pairs = [
                (one["mib"] or 1 / 1024, other["mib"] or 1 / 1024)
                for one, other in zip(memory[name], memory[peer], strict=True)
            ]
            yield Row("peak memory of NC1", name, peer, "MiB", pairs, "times", goal=10.0, setting=setting)


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]))
    print(json.dumps(_told_memory(sys.argv[1], sys.argv[2] == "1")))
