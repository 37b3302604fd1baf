"""Random numbers keyed by counters: a pure function of (seed, stream, counters, index).

A generator with a state gives numbers that depend on everything drawn before. These depend on their key alone, so the
batch composition, the number of workers, the device and a resume change nothing. The mixer is the finaliser of
SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014) on int64 tensors, whose
products wrap the same way on every device.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

_MASK = (1 << 64) - 1
_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def stream_key(seed: int, stream: str, *counters: int) -> int:
    """A 64-bit key of a named stream at some counters (an epoch, say)."""
    key = _mix(int.from_bytes(hashlib.sha256(stream.encode()).digest()[:8], "little"))
    for value in (seed, *counters):
        key = _mix(key ^ _mix((value + _GOLDEN) & _MASK))
    return key


def keyed_bits(key: int, index: Tensor) -> Tensor:
    """Random integers in [0, 2^63), int64 of ``index``'s shape and device, one for each index (int64)."""
    return torch.from_numpy(bits_by_numpy(key, index)) if index.device.type == "cpu" else bits_by_torch(key, index)


def bits_by_torch(key: int, index: Tensor) -> Tensor:
    """:func:`keyed_bits` on any device."""
    bits = index * _signed(_GOLDEN) + _signed(key)
    bits = (bits ^ _shift(bits, 30)) * _signed(_MIX_1)
    bits = (bits ^ _shift(bits, 27)) * _signed(_MIX_2)
    return _shift(bits ^ _shift(bits, 31), 1)


def bits_by_numpy(key: int, index: Tensor) -> np.ndarray:
    """:func:`keyed_bits` on a CPU, where numpy starts an operation on a batch's few numbers in a quarter of the time."""
    with np.errstate(over="ignore"):  # numpy warns of single numbers that wrap, not of arrays
        bits = np.ascontiguousarray(index.numpy()).view(np.uint64) * np.uint64(_GOLDEN) + np.uint64(key)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(_MIX_1)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(_MIX_2)
    return ((bits ^ (bits >> np.uint64(31))) >> np.uint64(1)).view(np.int64).reshape(index.shape)


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * _MIX_1) & _MASK
    z = ((z ^ (z >> 27)) * _MIX_2) & _MASK
    return z ^ (z >> 31)


def _signed(value: int) -> int:
    """The int64 with the same 64 bits: PyTorch takes no larger scalars."""
    return value - (1 << 64) if value >> 63 else value


def _shift(bits: Tensor, places: int) -> Tensor:
    """Logical shift to the right: PyTorch's own drags the sign along."""
    return torch.bitwise_right_shift(bits, places) & ((1 << (64 - places)) - 1)
