"""Real servers for the length of a block, on the loopback interface."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from divfeat.tracking.store import unreachable

#: To answer at all, on a busy machine.
_SECONDS = 240


def free_port() -> int:
    """One that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def kill_tree(pid: int) -> None:
    """Kill a process and all that it started: Ray's daemons have process groups of their own."""
    try:
        root = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return
    for process in [*root.children(recursive=True), root]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@contextlib.contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[str]:
    """`mlflow server` over an sqlite file and a folder of artifacts."""
    command = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/files"]
    with _serving(command, port, folder, "server.log") as uri:
        yield uri


@contextlib.contextmanager
def dashboard(storage: str, folder: Path, port: int) -> Iterator[str]:
    """optuna-dashboard on a storage."""
    command = ["-c", "from optuna_dashboard._cli import main; main()"]
    with _serving(
        [*command, storage, "--host", "127.0.0.1", "--port", str(port)], port, folder, "dashboard.log"
    ) as uri:
        yield uri


@contextlib.contextmanager
def s3_server(folder: Path, port: int) -> Iterator[str]:
    """An S3 that keeps its objects in memory (moto)."""
    command = ["-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _serving(command, port, folder, "s3.log") as uri:
        yield uri


def s3_variables(endpoint: str) -> dict[str, str]:
    """What a user sets for it; nothing is asked of a cloud."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test-access",
        "AWS_SECRET_ACCESS_KEY": "test-secret-7f3a",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def make_bucket(endpoint: str) -> str:
    """A new one of an S3 server; its name."""
    bucket = f"bucket-{secrets.token_hex(6)}"
    with urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{bucket}", method="PUT"), timeout=60) as answer:
        assert answer.status == 200
    return bucket


@contextlib.contextmanager
def gcs_server(folder: Path, port: int) -> Iterator[str]:
    """A GCS that keeps its objects in memory."""
    command = ["-m", "gcp_storage_emulator", "start", "--host", "127.0.0.1", "--port", str(port), "--in-memory"]
    with _serving(command, port, folder, "gcs.log") as uri:
        yield uri


@contextlib.contextmanager
def _serving(arguments: Sequence[str], port: int, folder: Path, log: str) -> Iterator[str]:
    """This interpreter with `arguments`, once it answers; its whole process group is ended at the end."""
    folder.mkdir(exist_ok=True)
    env = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / log).open("ab") as out:
        server = subprocess.Popen(
            [sys.executable, *arguments], stdout=out, stderr=out, cwd=folder, env=env, start_new_session=True
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + _SECONDS
        while unreachable(uri, timeout=1):
            assert server.poll() is None, (folder / log).read_text()
            assert time.monotonic() < deadline, (folder / log).read_text()
            time.sleep(0.2)
        yield uri
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
