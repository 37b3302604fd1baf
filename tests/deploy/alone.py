"""Commands in namespaces of their own: other processes are out of sight, and of the network there is only loopback.

`ray up`, `ray stop` and their kin look for every Ray process of a machine, want fixed ports, and dial the addresses that a cloud
tells them; here that harms nobody.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def alone(*command: str) -> list[str]:
    """`command` so that it sees no other process, and its end is the end of all that it started."""
    rights = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    up = 'ip link set lo up && exec "$@"'
    return [
        "unshare",
        *rights,
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--net",
        "bash",
        "-c",
        up,
        "bash",
        *command,
    ]


def needs(*programs: str, root: bool = False) -> None:
    """Skip the test where namespaces are forbidden, or a program is missing; CI's machine has all."""
    if root and os.geteuid() != 0:
        pytest.skip("only root may mount and set up a network")
    missing = [
        name
        for name in ("unshare", "ip", *programs)
        if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None
    ]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")
    if subprocess.run(alone("true"), capture_output=True).returncode != 0:
        pytest.skip("this machine allows no namespaces")


def play(scene: str, folder: Path, *words: str, timeout: float = 300, **variables: str) -> dict[str, Any]:
    """Run the module `tests.deploy.SCENE` alone, with `folder` for a home; returns what it wrote to `found.json` there."""
    home = folder / "home"
    (home / ".ray").mkdir(parents=True, exist_ok=True)
    (home / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
    environment = dict(
        os.environ, HOME=str(home), PYTHONPATH=str(ROOT), RAY_USAGE_STATS_ENABLED="0", OMP_NUM_THREADS="1"
    )
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        environment.pop(name, None)
    done = subprocess.run(
        alone(sys.executable, "-m", f"tests.deploy.{scene}", str(folder), *words),
        cwd=ROOT,
        env=environment | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found | {"output": done.stdout}
