"""The processes that a study lives on: Ray nodes, an MLflow server, the driver; each can be killed and begun again."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from divfeat.tracking.store import unreachable
from tests.servers import free_port, kill_tree

ROOT = Path(__file__).resolve().parents[2]
#: To come up, on a busy machine.
_SECONDS = 240.0


class Scene:
    """A head without cores for trials, two nodes of one core, an MLflow server and a driver that may or may not run.

    Args:
        folder: For logs, servers and studies.
        words: Of the study's command, without address, storage and tracking.
        nodes: How many nodes train.
    """

    def __init__(self, folder: Path, words: Sequence[str], nodes: int = 2) -> None:
        self.folder, self.words = folder, list(words)
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        own = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true"}
        own["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
        # A node that is killed should be missed within seconds, as on a cluster of one's own.
        own |= {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "5"}
        self.environment = dict(os.environ, PYTHONPATH=str(ROOT), **token, **own)
        self.address, self.port = f"127.0.0.1:{free_port()}", free_port()
        self.storage = folder / "studies"
        self.storage.mkdir(parents=True, exist_ok=True)
        self.driver: subprocess.Popen[bytes] | None = None
        self.server: subprocess.Popen[bytes] | None = None
        self.head: subprocess.Popen[bytes] | None = None
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.count = nodes

    def open(self) -> None:
        """Start all but the driver."""
        self.head = self._ray("--head", f"--port={self.address.rpartition(':')[2]}", "--num-cpus=0", name="head")
        while len(self.nodes) < self.count:
            self.nodes.append(self._node())
        self.start_server()

    # --- beginning ------------------------------------------------------------------------------------------------------

    def _ray(self, *words: str, name: str, tries: int = 3) -> subprocess.Popen[bytes]:
        log = self.folder / f"{name}-{time.monotonic_ns()}.log"
        # Two Ray nodes of one machine find ports of their own; the dashboard is not needed by trials in one process.
        line = [sys.executable, "-m", "ray.scripts.scripts", "start", *words, "--block"]
        if "--head" in words:
            line += ["--include-dashboard=false", f"--ray-client-server-port={free_port()}"]
        with log.open("wb") as out:
            process = subprocess.Popen(line, env=self.environment, stdout=out, stderr=out, start_new_session=True)
        try:
            deadline = time.monotonic() + _SECONDS
            while "Ray runtime started" not in log.read_text(errors="replace"):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text(errors="replace")
                time.sleep(0.2)
        except BaseException as error:
            kill_tree(process.pid)
            if isinstance(error, AssertionError) and tries > 1:  # Ray gives a node 30 s, which a busy machine may not
                return self._ray(*words, name=name, tries=tries - 1)
            raise
        return process

    def _node(self) -> subprocess.Popen[bytes]:
        return self._ray(f"--address={self.address}", "--num-cpus=1", name="node")

    def start_server(self) -> None:
        """MLflow, over the same database as before."""
        place = self.folder / "server"
        place.mkdir(exist_ok=True)
        line = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--workers",
            "1",
        ]
        line += ["--backend-store-uri", f"sqlite:///{place}/server.db", "--artifacts-destination", f"{place}/files"]
        with (place / "log").open("ab") as out:
            self.server = subprocess.Popen(
                line, env=self.environment, stdout=out, stderr=out, cwd=place, start_new_session=True
            )
        deadline = time.monotonic() + _SECONDS
        while unreachable(self.uri, timeout=1):
            assert self.server.poll() is None and time.monotonic() < deadline, (place / "log").read_text()[-5000:]
            time.sleep(0.2)

    @property
    def uri(self) -> str:
        """Of the MLflow server."""
        return f"http://127.0.0.1:{self.port}"

    def start_driver(self, name: str) -> None:
        """The one line that begins and resumes the study `name`."""
        line = [sys.executable, str(ROOT / "studies" / "tau_search.py"), "--address", self.address, "--name", name]
        line += ["--storage-path", str(self.storage), "--tracking-uri", self.uri, *self.words]
        with (self.folder / f"{name}.log").open("ab") as out:
            self.driver = subprocess.Popen(
                line, env=self.environment, stdout=out, stderr=out, cwd=self.folder, start_new_session=True
            )

    def said(self, name: str) -> str:
        """What the driver of `name` printed, over all its lives."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    # --- ending ---------------------------------------------------------------------------------------------------------

    def kill_driver(self) -> None:
        """-9, as a machine that goes; what it had started for itself goes with it."""
        assert self.driver is not None
        kill_tree(self.driver.pid)
        self.driver.wait()

    def kill_worker(self, draw: random.Random) -> bool:
        """-9 to one process that trains, if there is one."""
        found = [process for process in psutil.process_iter(["cmdline"]) if self._trains(process)]
        if not found:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            draw.choice(sorted(found, key=lambda one: one.pid)).kill()
        return True

    def _trains(self, process: psutil.Process) -> bool:
        words = process.info["cmdline"] or [""]
        if not words[0].startswith("ray::TrialRunner"):
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            ours = {node.pid for node in self.nodes}
            return any(parent.pid in ours for parent in process.parents())
        return False

    def kill_node(self, draw: random.Random) -> None:
        """-9 to a node with all that runs on it; another one comes in its place."""
        index = draw.randrange(len(self.nodes))
        kill_tree(self.nodes[index].pid)
        self.nodes[index].wait()
        self.nodes[index] = self._node()

    def kill_server(self) -> None:
        """-9 to MLflow."""
        assert self.server is not None
        kill_tree(self.server.pid)
        self.server.wait()

    def signal_driver(self, number: signal.Signals) -> int:
        """A polite word; returns the exit code."""
        assert self.driver is not None
        self.driver.send_signal(number)
        return self.driver.wait(_SECONDS)

    def close(self) -> None:
        """End everything."""
        for process in (self.driver, *self.nodes, self.head, self.server):
            if process is not None:
                kill_tree(process.pid)
                process.wait()
