"""Where a result comes from: commit, versions, device."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import torch

import divfeat

#: Names the commit where the code was copied without its history: on the nodes of a cluster.
COMMIT_VARIABLE = "DIVFEAT_COMMIT"
_COMMIT = re.compile(r"[0-9a-f]{7,64}(-dirty)?")
_PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "scipy", "pyarrow", "ray", "optuna", "mlflow")


@lru_cache
def commit() -> str:
    """Commit of the source tree, '-dirty' appended where tracked files differ from it.

    Where git has none, since the code was copied without its history, it is what `DIVFEAT_COMMIT` names, or 'unknown'.
    """
    named = os.environ.get(COMMIT_VARIABLE, "")
    return _from_git() or (named if _COMMIT.fullmatch(named) else "unknown")


def _from_git() -> str | None:
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        head, changed = (
            subprocess.run(
                ["git", "-C", str(root), *command], capture_output=True, text=True, check=True, timeout=20
            ).stdout
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.strip() + ("-dirty" if changed.strip() else "")


@lru_cache
def versions() -> dict[str, str]:
    """Versions of divfeat, Python and the packages that decide results."""
    found = {"divfeat": divfeat.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def device_name(device: torch.device) -> str:
    """Name of the GPU, or the machine's processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
