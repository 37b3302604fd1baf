"""Which images an epoch draws: each once, or classes in other shares than they have images."""

from __future__ import annotations

import torch
from torch import Tensor

from divfeat.config import Sampling
from divfeat.data.keyed import keyed_bits, stream_key
from divfeat.errors import ConfigError, unknown

#: Sampling -> q of p_k ~ n_k^q (Kang et al. 2020, "Decoupling Representation and Classifier for Long-Tailed Recognition",
#: equation 1).
_POWERS: dict[str, float] = {"natural": 1.0, "square_root": 0.5, "balanced": 0.0}


def class_shares(counts: Tensor, sampling: Sampling) -> Tensor:
    """Expected share of each class in an epoch, float64 [K], summing to 1; 0 for a class without images.

    Args:
        counts: int64 [K] images of each class.
        sampling: ``natural`` (as many as there are), ``square_root`` or ``balanced`` (all classes alike).

    Raises:
        ConfigError: an unknown sampling.
    """
    if sampling not in _POWERS:
        raise ConfigError(unknown("sampling", sampling, _POWERS))
    weights = torch.where(counts > 0, counts.double() ** _POWERS[sampling], 0.0)
    return weights / weights.sum()


def draws(labels: Tensor, sampling: Sampling, *, seed: int, epoch: int) -> Tensor:
    """The N draws of an epoch, in no particular order: a pure function of (labels, sampling, seed, epoch).

    A draw is row + N * copy: copy 0 is a row's first appearance in the epoch, and copies may be augmented each in its own
    way. A class of share p gets p * N draws, rounded up or down at random so that the mean over epochs is exact. They visit
    the class's images in a fresh random order again and again, so that two images of a class differ by at most one copy.

    Args:
        labels: int64 [N].
        sampling: as :func:`class_shares` takes it.
        seed: of the order's stream.
        epoch: from 0.

    Returns:
        int64 [N], all different; for ``natural`` the rows themselves.
    """
    total = len(labels)
    if sampling == "natural":
        return torch.arange(total)
    counts = torch.bincount(labels)
    ends = torch.cumsum(class_shares(counts, sampling) * total, 0)
    ends[-1] = total
    # Systematic rounding: one offset for all, so that the parts sum to N and each is its expectation rounded up or down.
    bits = keyed_bits(stream_key(seed, "sampling/rounding", epoch), torch.zeros(1, dtype=torch.int64))
    upto = (ends + (int(bits) >> 10) / 2**53).floor().long()
    wanted = torch.diff(upto, prepend=torch.zeros(1, dtype=torch.int64))
    bits = keyed_bits(stream_key(seed, "sampling/rows", epoch), torch.arange(total))
    shuffled = torch.argsort(bits, stable=True)
    rows = shuffled[torch.argsort(labels[shuffled], stable=True)]  # class after class, each in random order
    starts = torch.cumsum(counts, 0) - counts
    classes = torch.repeat_interleave(torch.arange(len(counts)), wanted)
    nth = torch.arange(total) - (torch.cumsum(wanted, 0) - wanted)[classes]
    return rows[starts[classes] + nth % counts[classes]] + total * (nth // counts[classes])
