"""Nothing that a study starts for itself is reachable from another machine."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

#: Starts Ray as a study does and prints the addresses that it and its children listen on, by process.
SCRIPT = """
import json, sys
from pathlib import Path
import psutil
from divfeat.cluster.executor import RayExecutor

executor = RayExecutor(workers=int(sys.argv[1]), cpus=0.5, gpus=0.0, address=None, storage=Path(sys.argv[2]), max_concurrent=1)
executor.begin()
me, found = psutil.Process(), []
for process in [me, *me.children(recursive=True)]:
    try:
        for one in process.net_connections(kind="inet"):
            if one.status == psutil.CONN_LISTEN:
                found.append((process.name(), one.laddr.ip))
    except psutil.NoSuchProcess:
        pass
executor.close()
print("FOUND " + json.dumps(found))
"""


def listening(workers: int, folder: Path, **variables: str) -> list[tuple[str, str]]:
    environment = dict(os.environ, RAY_USAGE_STATS_ENABLED="0", OMP_NUM_THREADS="1", **variables)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(workers), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    return [(name, address) for name, address in json.loads(line.removeprefix("FOUND "))]


def is_loopback(text: str) -> bool:
    address = ipaddress.ip_address(text)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


@pytest.mark.parametrize("workers", [1, 2])
def test_ray_listens_on_the_loopback_interface_alone(workers: int, tmp_path: Path) -> None:
    """With two workers a trial the dashboard runs too."""
    found = listening(workers, tmp_path)
    assert len(found) > 4
    assert [one for one in found if not is_loopback(one[1])] == []


def test_who_asks_for_more_gets_it(tmp_path: Path) -> None:
    """And the look above would see it."""
    found = listening(1, tmp_path, RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="1")
    assert any(not is_loopback(address) for _, address in found)
