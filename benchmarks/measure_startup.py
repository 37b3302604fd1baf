"""How long until a command answers: `import divfeat` and two `--help`, beside a bare interpreter.

The goal is a second, and that nothing of Ray, torch or MLflow is imported.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.rows import Row, paired, seconds

REPEATS = 15
_ROOT = Path(__file__).resolve().parents[1]
_HEAVY = ("ray", "torch", "mlflow", "optuna", "pandas", "matplotlib")


def _process(*words: str) -> float:
    return seconds(lambda: subprocess.run([sys.executable, *words], check=True, capture_output=True, cwd=_ROOT))


def heavy_imports(*words: str) -> list[str]:
    """Which heavy packages a Python process imports."""
    told = subprocess.run(
        [sys.executable, "-X", "importtime", *words], check=True, capture_output=True, text=True, cwd=_ROOT
    )
    imported = {line.rsplit("|", 1)[-1].strip() for line in told.stderr.splitlines()}
    return [name for name in _HEAVY if name in imported]


def measure(repeats: int, small: bool) -> Iterator[Row]:
    """One row a command; the ratio is how many times the bare interpreter it takes."""
    commands = {
        "import divfeat": ("-c", "import divfeat"),
        "tau_search.py --help": ("studies/tau_search.py", "--help"),
        "divfeat --help": ("-c", "from divfeat.cli.console import main; main(['--help'])"),
    }
    for what, words in commands.items():
        pairs = paired(lambda words=words: _process(*words), lambda: _process("-c", "pass"), repeats)  # type: ignore[misc]
        setting = {"heavy_imports": heavy_imports(*words)}
        yield Row("start-up", what, "python -c pass", "s", pairs, "share", most=1.0, setting=setting)
