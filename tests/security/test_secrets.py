"""Secrets come from the environment and stay there: not in files of the study, MLflow, Ray's logs, or process titles."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest

from divfeat.files import read_json

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RAY_AUTH_TOKEN",
    "PGPASSWORD",
)  # fmt: skip


def test_a_study_writes_no_secret_anywhere(tmp_path: Path) -> None:
    values = {name: secrets.token_hex(32) for name in NAMES}
    short = Path(tempfile.mkdtemp(prefix="ray-"))  # Ray's sockets need a short path
    environment = dict(
        os.environ,
        OMP_NUM_THREADS="1",
        RAY_USAGE_STATS_ENABLED="0",
        RAY_TMPDIR=str(short),
        RAY_AUTH_MODE="token",
        **values,
    )
    titles: set[str] = set()
    line = [sys.executable, str(ROOT / "studies" / "tau_search.py"), "--smoke-test", "--name", "quiet"]
    with (tmp_path / "output").open("wb") as out:
        study = subprocess.Popen(
            [*line, "--storage-path", str(tmp_path / "studies")], env=environment, cwd=tmp_path, stdout=out, stderr=out
        )
        watching = threading.Thread(target=_watch, args=(study, titles))
        watching.start()
        try:
            assert study.wait(900) == 0, (tmp_path / "output").read_text()
        finally:
            study.kill()
            watching.join()
    try:
        assert read_json(tmp_path / "studies" / "quiet" / "phases" / "done.json") is not None
        assert any("ray::TrialRunner" in title for title in titles)
        leaked = [name for name, value in values.items() for title in titles if value in title]
        assert leaked == [], "in a process title"
        files = [
            path for top in (tmp_path, short) for path in top.rglob("*") if path.is_file() and not path.is_symlink()
        ]
        assert len(files) > 100
        leaks = set()
        for path in files:
            content = path.read_bytes()
            leaks |= {(name, path.name) for name, value in values.items() if value.encode() in content}
        assert leaks == set()
    finally:
        shutil.rmtree(short, ignore_errors=True)


def _watch(study: subprocess.Popen[bytes], titles: set[str]) -> None:
    while study.poll() is None:
        with contextlib.suppress(psutil.Error):
            for process in [psutil.Process(study.pid), *psutil.Process(study.pid).children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    titles.add(" ".join(process.cmdline()))
        time.sleep(0.2)
