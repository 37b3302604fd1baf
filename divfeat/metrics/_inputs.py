"""What every metric does to its inputs: check shapes and labels, lift to float64, sum by class."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from divfeat.errors import DataError

CHUNK_ELEMENTS = 2**24
"""Feature values lifted to float64 at once by the one-shot functions (128 MiB)."""

_BLOCK_ELEMENTS = 2**20
"""Feature values lifted at once inside a pass (8 MiB): new memory costs ten times the arithmetic done on it here."""


def exact_device(values: Tensor) -> torch.device:
    """Where `exact` puts them: their own device, or the CPU where that has no float64."""
    return torch.device("cpu") if values.device.type == "mps" else values.device


def exact(values: Tensor) -> Tensor:
    """The values as detached float64 on `exact_device`."""
    return values.detach().to(exact_device(values)).to(torch.float64)


def check_features(features: Tensor, labels: Tensor, *, stacked: bool = False) -> None:
    """Raise `DataError` unless features are floating [N, D] ([..., N, D] if stacked) and labels integer [N]."""
    if features.ndim < 2 or (features.ndim > 2 and not stacked) or not features.is_floating_point():
        wanted = "[..., N, D]" if stacked else "[N, D]"
        raise DataError(
            f"features have shape {tuple(features.shape)} and dtype {features.dtype}: pass floating {wanted}, "
            "one row a sample"
        )
    check_integers(labels, features.shape[-2], "labels")


def check_integers(values: Tensor, samples: int | None, name: str) -> None:
    """Raise `DataError` unless values are integers of shape [samples] (any length where samples is None)."""
    # Only int64: a tensor of uint8 would index as a mask.
    if values.ndim != 1 or values.dtype != torch.int64:
        raise DataError(
            f"{name} have shape {tuple(values.shape)} and dtype {values.dtype}: pass class indices, int64 [N]"
        )
    if samples is not None and values.shape[0] != samples:
        raise DataError(f"{name} number {values.shape[0]} for {samples} samples: pass one for each sample")


def check_range(values: Tensor, num_classes: int, name: str = "labels", *, wait: bool = True) -> None:
    """Raise `DataError` unless all values lie in [0, num_classes).

    Args:
        values: integers [N].
        num_classes: K.
        name: what the message calls them.
        wait: False skips the check on an accelerator, where reading the answer would stall a training step; an index
            that is out of range then stops at the device's own assertion.
    """
    if values.numel() == 0 or not (wait or values.device.type == "cpu"):
        return
    low, high = (int(v) for v in values.aminmax())
    if low < 0 or high >= num_classes:
        raise DataError(
            f"{name} span {low}..{high} but there are {num_classes} classes: pass indices from 0 to {num_classes - 1}, "
            "or the num_classes that fits"
        )


def class_count(labels: Tensor, num_classes: int | None) -> int:
    """`num_classes`, or where it is None one more than the largest label."""
    if num_classes is None:
        if labels.numel() == 0:
            raise DataError("there are no samples and no num_classes: pass at least one sample or num_classes")
        return int(labels.max()) + 1
    if num_classes < 1:
        raise DataError(f"num_classes is {num_classes}: pass at least 1")
    return num_classes


def chunks(features: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of [N, D] features and [N] labels small enough to lift to float64 one at a time."""
    rows = max(1, CHUNK_ELEMENTS // max(1, features.shape[-1]))
    yield from zip(features.split(rows), labels.split(rows), strict=True)


def exact_blocks(features: Tensor, labels: Tensor, centres: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of rows in float64, less the row of `centres` [K, D] that belongs to their label, beside their labels.

    All blocks share one buffer, which the next overwrites and the caller may.
    """
    device, (size, dim) = exact_device(features), features.shape
    rows = min(size, max(1, _BLOCK_ELEMENTS // max(1, dim)))
    buffer, own = (torch.empty((rows, dim), dtype=torch.float64, device=device) for _ in range(2))
    for part, kinds in zip(features.split(max(1, rows)), labels.split(max(1, rows)), strict=True):
        block = buffer[: len(part)].copy_(part.to(device))
        if centres is not None:
            block -= torch.index_select(centres, 0, kinds, out=own[: len(part)])
        yield block, kinds


def class_sums(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Sums by class over the last dimension: [..., N] and labels [N] -> [..., K], in the values' dtype."""
    sums = values.new_zeros((*values.shape[:-1], num_classes))
    return sums.index_add_(-1, labels, values)


def class_counts(labels: Tensor, num_classes: int) -> Tensor:
    """Samples of each class, int64 [K]. Unlike `bincount` it never waits for an accelerator."""
    return class_sums(torch.ones_like(labels, dtype=torch.int64), labels, num_classes)


def defined(value: Tensor, name: str, needs: str) -> Tensor:
    """The value, or `DataError` where it is NaN: what the one-shot functions do with an undefined measure."""
    if bool(value.isnan().any()):
        raise DataError(f"{name} is undefined for these features: it needs {needs}")
    return value
