"""Ends a machine that was forgotten: after some hours, or once Ray is gone from it.

    python deploy/watchdog.py --hours 24 --then 'sudo shutdown -h now'
    python deploy/watchdog.py --hours 72 --without-ray 10 --then 'sudo shutdown -h now'

It needs nothing but Python, and no right beyond that of its command. One that is started again takes the place of the one
that runs, and counts anew. A command that fails is tried again every minute: a machine that stays costs money.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

#: Process of Ray that every node of a cluster has.
RAYLET = "raylet"


def main(arguments: list[str] | None = None) -> int:
    """Wait, then run the command; returns its exit code."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--hours", type=_positive, required=True, help="longest life of this machine, from now")
    flags.add_argument(
        "--without-ray", type=_positive, metavar="MINUTES", help="end it so long after Ray was last seen"
    )
    flags.add_argument("--then", required=True, metavar="COMMAND", help="what ends the machine, for a shell")
    flags.add_argument("--pid-file", type=Path, default=Path.home() / ".divfeat-watchdog.pid")
    flags.add_argument(
        "--every", type=_positive, default=20.0, metavar="S", help="seconds between two looks; default 20"
    )
    given = flags.parse_args(arguments)
    _take_over(given.pid_file)
    _say(f"this machine ends in {given.hours:g} h: {given.then}")
    _say(
        f"because {_wait(given.hours * 3600, given.without_ray and given.without_ray * 60, given.every)}: {given.then}"
    )
    while (code := subprocess.run(given.then, shell=True).returncode) != 0:
        _say(f"exit code {code}, again in a minute")
        time.sleep(min(60.0, given.every * 3))
    return code


def _wait(seconds: float, without_ray: float | None, every: float) -> str:
    """Until the machine is to end; returns why."""
    begun = seen = _now()
    while True:
        now = _now()
        if now - begun >= seconds:
            return f"it is {seconds / 3600:g} h old"
        if without_ray is not None:
            if _ray_runs():
                seen = now
            if now - seen >= without_ray:
                return f"Ray was not seen for {without_ray / 60:g} min"
        time.sleep(min(every, max(0.01, seconds - (now - begun))))


def _now() -> float:
    """Seconds on a clock that nobody sets, and that goes on while a machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _ray_runs() -> bool:
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if path.read_text().strip() == RAYLET:
                return True
    return False


def _take_over(pid_file: Path) -> None:
    """End the watchdog that runs here, if one does, and write down this one."""
    with contextlib.suppress(OSError, ValueError):
        before = int(pid_file.read_text())
        line = Path(f"/proc/{before}/cmdline").read_bytes().split(b"\0")
        if any(word.rpartition(b"/")[2] == b"watchdog.py" for word in line):  # not another process that got its number
            os.kill(before, signal.SIGTERM)
    pid_file.write_text(f"{os.getpid()}\n")


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _say(text: str) -> None:
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
