"""A real Ray cluster on this machine, one for a test module, and studies run on it as a person would: by the command."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from divfeat.files import read_json
from tests.servers import free_port, kill_tree

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Command:
    """A command under `studies/` with the cluster's address, in a process group of its own."""

    address: str | None
    environment: dict[str, str]
    script: str = "tau_search.py"
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, storage: Path, *words: str) -> subprocess.Popen[str]:
        place = [] if "--storage-path" in words else ["--storage-path", str(storage)]
        line = [sys.executable, str(ROOT / "studies" / self.script), *place, *words]
        if self.address is not None:
            line += ["--address", self.address]
        process = subprocess.Popen(
            line,
            cwd=storage,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def run(self, storage: Path, *words: str, code: int = 0, timeout: float = 900) -> str:
        """Run to the end and check the exit code."""
        process = self.start(storage, *words)
        output, _ = process.communicate(timeout=timeout)
        assert process.returncode == code, output
        return output

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                kill_tree(process.pid)


def environment() -> dict[str, str]:
    return dict(os.environ, OMP_NUM_THREADS="1", RAY_USAGE_STATS_ENABLED="0")


@pytest.fixture(scope="module")
def on_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """The command, joined to a cluster that `ray start` made: two CPUs, dashboard on, token authentication."""
    port, dashboard, client = free_port(), free_port(), free_port()
    variables = environment() | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    log = tmp_path_factory.mktemp("ray") / "head.log"
    with log.open("w") as output:
        head = subprocess.Popen(
            [
                sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={port}", "--num-cpus=2",
                "--include-dashboard=true", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}", "--block",
            ],
            env=variables,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    command = Command(f"127.0.0.1:{port}", variables)
    try:
        deadline = time.monotonic() + 120
        while "Ray runtime started" not in log.read_text():
            assert head.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        yield command
    finally:
        command.close()
        kill_tree(head.pid)
        head.wait(30)


@pytest.fixture
def alone() -> Iterator[Command]:
    """The command as a newcomer runs it: Ray is started for the study alone."""
    command = Command(None, environment())
    yield command
    command.close()


Records = Callable[[Path], dict[str, dict]]


def records(study: Path) -> dict[str, dict]:
    """Finished experiments of a study by key."""
    return {path.parent.name: read_json(path) for path in study.glob("runs/*/record.json")}


def wait_for_records(study: Path, wanted: int, process: subprocess.Popen[str], timeout: float = 300) -> None:
    """Until the study has so many records."""
    deadline = time.monotonic() + timeout
    while len(list(study.glob("runs/*/record.json"))) < wanted:
        if process.poll() is not None:
            pytest.fail(process.communicate()[0])
        assert time.monotonic() < deadline
        time.sleep(0.1)
