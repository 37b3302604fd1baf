"""Where a result comes from: commit, versions, device."""

from __future__ import annotations

import platform
import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import torch

import divfeat

_PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "scipy", "pyarrow", "ray", "optuna", "mlflow")


@lru_cache
def commit() -> str:
    """Commit of the source tree, '-dirty' appended where tracked files differ from it, or 'unknown' outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return "unknown"
    try:
        head, changed = (
            subprocess.run(
                ["git", "-C", str(root), *command], capture_output=True, text=True, check=True, timeout=20
            ).stdout
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
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
