"""Whose fault it is, how long until the next attempt, how much silence is too much."""

from __future__ import annotations

import errno

import pytest
import ray.exceptions as rays
import torch
from hypothesis import given
from hypothesis import strategies as st

from divfeat.cluster import faults
from divfeat.cluster.faults import RETRIES, Attempts, Fault, Patience, fault_from
from divfeat.cluster.trial import fault_of
from divfeat.errors import StorageLostError

GONE = Fault("node", "gone")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (rays.ActorDiedError(), "worker"),
        (rays.WorkerCrashedError(), "worker"),
        (rays.NodeDiedError("the node is dead"), "node"),
        (rays.LocalRayletDiedError(), "node"),
        (rays.ActorUnavailableError("no answer", None), "network"),
        (rays.ObjectLostError("ab" * 14, None, ""), "object"),
        (rays.OwnerDiedError("ab" * 14, None, ""), "object"),
        (rays.OutOfMemoryError("Task was killed due to the node running low on memory"), "memory"),
        (rays.OutOfDiskError("local disk is full"), "storage"),
        (OSError(errno.ENOSPC, "No space left on device"), "storage"),
        (OSError("the share is away"), "storage"),
        (ConnectionResetError("by peer"), "network"),
        (SystemExit(1), "worker"),
    ],
)
def test_what_took_a_trial_from_its_place(error, kind):
    assert fault_from(error).kind == kind
    assert fault_from(error).cause.strip() and "\n" not in fault_from(error).cause


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EROFS, "Read-only file system"),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
        StorageLostError("gone"),
    ],
)
def test_a_full_disk_is_not_the_trials_doing_however_it_is_told(error):
    assert fault_of(error) is None and fault_from(error).kind == "storage"
    outer = ValueError("while saving")
    outer.__cause__ = error
    assert fault_of(outer) is None and fault_from(outer).kind == "storage"


def test_a_real_full_disk_is_known_for_what_it_is():
    with pytest.raises((OSError, RuntimeError)) as caught:
        torch.save({"weights": torch.zeros(1 << 20)}, "/dev/full")
    assert fault_from(caught.value).kind == "storage" and fault_of(caught.value) is None


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.floats(0, 0.999))
def test_attempts_are_counted_from_the_last_that_got_further(further, spread):
    attempts, lost, epochs = Attempts(spread=lambda: spread), 0, 0
    for got_further in further:
        if got_further:
            epochs += 1
            lost = 0
        attempts.reached("a", epochs)
        lost += 1
        pause = attempts.lost("a", GONE)
        assert attempts.times("a") == lost and attempts.times("b") == 0
        if lost > RETRIES:
            assert pause is None
        else:
            longest = min(faults.FIRST_SECONDS * 2 ** (lost - 1), faults.LONGEST_SECONDS)
            assert longest / 2 <= pause <= longest


def test_memory_is_forgiven_once():
    attempts = Attempts()
    assert attempts.lost("a", Fault("memory", "killed")) is not None
    assert attempts.lost("a", Fault("memory", "killed")) is None


def test_pauses_grow_up_to_the_longest():
    attempts = Attempts(most=20, spread=lambda: 0.0)
    pauses = [attempts.lost("a", GONE) for _ in range(20)]
    assert pauses == sorted(pauses) and pauses[-1] == faults.LONGEST_SECONDS


def test_patience_follows_what_is_heard_and_the_user():
    patience = Patience()
    assert patience.seconds == faults.UNHEARD_SECONDS
    patience.heard(1.0)
    assert patience.seconds == faults.SILENT_SECONDS
    patience.heard(120.0)
    patience.heard(2.0)
    assert patience.seconds == 120.0 * faults.SILENCES
    assert Patience(5.0).seconds == 5.0
