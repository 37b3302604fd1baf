"""Who drives a study whose storage several machines reach: one process at a time.

Object stores have no locks. A driver says every few seconds that it lives; who finds no such word, or knows that its process
is gone, takes over. A driver that was taken for dead and was not finds out at its next word, and stops.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
from pathlib import Path
from typing import Any

from divfeat.errors import ConfigError, DivfeatError, StorageLostError
from divfeat.storage import Store

logger = logging.getLogger(__name__)

#: Between two words, and after the last of which a driver counts as gone.
BEAT_SECONDS, GONE_SECONDS = 20.0, 90.0
_KEY = "driver.json"


class Lease:
    """The right to write a study's storage; while it is held a thread of its own says so, whatever else takes long.

    Args:
        store: Of the study.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.token = secrets.token_hex(16)
        self.lost: str | None = None
        self._held = False
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> None:
        """Become the study's driver.

        Raises:
            ConfigError: another one lives, or may; says who, where, and what to do.
        """
        owner = self._owner()
        if owner is not None and owner.get("token") != self.token and not _is_gone(owner):
            silent = self._silent()
            if silent is not None and silent < GONE_SECONDS:
                raise ConfigError(
                    f"{self.store.uri}: process {owner.get('process')} on {owner.get('host')} runs this study (last heard of "
                    f"{silent:.0f} s ago); wait for it, or use --name. If that machine is gone, repeat the line in "
                    f"{GONE_SECONDS - silent:.0f} s"
                )
        self._say()
        owner = self._owner()
        if owner is not None and owner.get("token") != self.token:
            raise ConfigError(
                f"{self.store.uri}: process {owner.get('process')} on {owner.get('host')} began this study at the same moment; "
                "wait for it, or use --name"
            )
        self._held = True
        self._ended.clear()
        self._thread = threading.Thread(target=self._go_on, name="lease", daemon=True)
        self._thread.start()

    def _go_on(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            try:
                self.beat()
            except (DivfeatError, OSError) as error:  # what lasts the ledger's next write will meet
                logger.warning("telling %s that this driver lives: %s", self.store.uri, error)

    def beat(self) -> None:
        """Say that this driver lives; notes where another has taken over."""
        if self._held:
            owner = self._owner()
            if owner is not None and owner.get("token") != self.token:
                self.lost = f"process {owner.get('process')} on {owner.get('host')} has taken the study over"
                self._held = False
            else:
                self._say()

    def check(self) -> None:
        """Raise where another driver has taken over.

        Raises:
            StorageLostError: it has.
        """
        if self.lost is not None:
            raise StorageLostError(f"{self.store.uri}: {self.lost}; this one stops")

    def release(self) -> None:
        """Let others drive the study."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._held:
            self._held = False
            self.store.delete(_KEY)

    def _say(self) -> None:
        said = {"token": self.token, "host": socket.gethostname(), "boot": _boot(), "process": os.getpid()}
        self.store.write(_KEY, json.dumps(said | {"started": _started(os.getpid())}).encode())

    def _owner(self) -> dict[str, Any] | None:
        data = self.store.read(_KEY)
        if data is None:
            return None
        try:
            found = json.loads(data)
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    def _silent(self) -> float | None:
        """Seconds since the owner's last word, both times on the store's clock."""
        last = self.store.stat(_KEY)
        if last is None:
            return None
        probe = f"driver-{self.token}.json"
        self.store.write(probe, b"{}")
        now = self.store.stat(probe)
        self.store.delete(probe)
        return None if now is None else max(0.0, (now.mtime - last.mtime) / 1e9)


def _is_gone(owner: dict[str, Any]) -> bool:
    """Whether it was a process of this machine that no longer runs: of others nothing is known."""
    if owner.get("host") != socket.gethostname() or owner.get("boot") != _boot() or not owner.get("boot"):
        return False
    process, started = owner.get("process"), owner.get("started")
    if process == os.getpid():  # a session of this very process that the storage failed under
        return True
    return not isinstance(process, int) or started is None or _started(process) != started


def _boot() -> str:
    """Of this machine since it was last started; "" where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _started(process: int) -> str | None:
    """When a process began, in the kernel's count: a later one may have its number. None where there is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
