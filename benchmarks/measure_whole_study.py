"""The default study from its command to its verdict, against the seconds that its trials computed over the concurrency.

Start-up, every phase's tail, the registered extractor and the report are in it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.rows import Row
from divfeat.files import read_json

REPEATS = 1
_ROOT = Path(__file__).resolve().parents[1]
_CONCURRENT = 2
_SMALL = (
    "train.epochs=1",
    "probe.strengths=[0.001]",
    "protocol.learning_rates=[]",
    "protocol.weight_decays=[]",
    "protocol.baselines=[ce_etf]",
    "protocol.select_top=1",
    "protocol.select_seeds=2",
    "protocol.grid_points=0",
    "protocol.confirm_seeds=2",
)


def study(*words: str) -> tuple[float, float, int]:
    """Run a study in a fresh folder.

    Args:
        words: Further flags.

    Returns:
        Wall time, seconds that its trials computed over the concurrency, and their number.

    Raises:
        RuntimeError: it failed.
    """
    with tempfile.TemporaryDirectory(prefix="divfeat-bench-") as storage:
        line = [sys.executable, "studies/tau_search.py", "--storage-path", storage]
        start = time.perf_counter()
        done = subprocess.run(
            [*line, "--max-concurrent", str(_CONCURRENT), *words],
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        wall = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode}:\n{done.stdout[-4000:]}")
        runs = [read_json(place)["provenance"] for place in Path(storage).glob("*/runs/*/record.json")]
    return wall, sum(run["seconds"] - run["reporting_seconds"] for run in runs) / _CONCURRENT, len(runs)


def measure(repeats: int, small: bool) -> Iterator[Row]:
    """One row."""
    words = ["--trials", "2", *(word for change in _SMALL for word in ("--set", change))] if small else []
    found = [study(*words) for _ in range(repeats)]
    setting = {"preset": "digits", "runs": found[0][2], "concurrent": _CONCURRENT, "threads": 1}
    pairs = [(wall, compute) for wall, compute, _ in found]
    yield Row("whole study", "divfeat", "its trials' seconds / 2", "s", pairs, "share", goal=1.05, setting=setting)
