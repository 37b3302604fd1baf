"""The watchdog as a process, with a short life and a harmless end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.deploy.alone import ROOT, alone, needs

Start = Callable[..., subprocess.Popen[str]]
#: Hours.
SHORT, LONG = "0.0003", "1"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: list[subprocess.Popen[str]] = []

    def begin(*words: str) -> subprocess.Popen[str]:
        line = [
            sys.executable,
            str(ROOT / "deploy" / "watchdog.py"),
            "--pid-file",
            str(tmp_path / "pid"),
            "--every",
            "0.05",
        ]
        made.append(subprocess.Popen([*line, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return made[-1]

    yield begin
    for process in made:
        process.kill()
        process.communicate()


def test_it_ends_the_machine_when_its_time_is_up(start: Start, tmp_path: Path) -> None:
    process = start("--hours", SHORT, "--then", f"echo ended >> {tmp_path}/end")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "end").read_text() == "ended\n"
    assert "0.0003 h old" in said


def test_a_command_that_fails_is_tried_again(start: Start, tmp_path: Path) -> None:
    process = start("--hours", SHORT, "--then", f"echo tried >> {tmp_path}/end; test $(wc -l < {tmp_path}/end) = 3")
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "end").read_text() == "tried\n" * 3


def test_it_ends_a_machine_that_ray_has_left(tmp_path: Path) -> None:
    """Where no other Ray is in sight; a process of that name stands for it."""
    needs()
    shutil.copy(shutil.which("sleep") or "/bin/sleep", tmp_path / "raylet")
    script = f"""
        cd {tmp_path}
        ./raylet 60 & raylet=$!
        {sys.executable} {ROOT}/deploy/watchdog.py --hours 1 --without-ray 0.005 --every 0.05 --pid-file pid \\
            --then 'touch end' & dog=$!
        sleep 1.5
        test ! -e end && kill -0 $dog || exit 3
        kill $raylet
        wait $dog
    """
    done = subprocess.run(alone("bash", "-c", script), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "end").exists()
    assert "Ray was not seen for 0.005 min" in done.stdout


def test_a_new_one_takes_the_place_of_the_old(start: Start, tmp_path: Path) -> None:
    first = start("--hours", LONG, "--then", "true")
    while not (tmp_path / "pid").exists():
        time.sleep(0.05)
    second = start("--hours", LONG, "--then", "true")
    assert first.wait(60) == -signal.SIGTERM
    assert second.poll() is None
    assert int((tmp_path / "pid").read_text()) == second.pid


def test_the_number_of_another_process_is_left_alone(start: Start, tmp_path: Path) -> None:
    (tmp_path / "pid").write_text(f"{os.getpid()}\n")
    start("--hours", SHORT, "--then", "true").communicate(timeout=60)  # this test goes on


@pytest.mark.parametrize("hours", ["0", "-1", "soon"])
def test_a_life_without_end_is_refused(start: Start, hours: str) -> None:
    process = start("--hours", hours, "--then", "true")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2 and "--hours" in said
