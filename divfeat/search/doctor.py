"""What a study would find on this machine: packages, devices, storage, MLflow, Ray, data; nothing is trained or kept.

Packages are imported where they are looked at, so that one that is broken is a finding.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from divfeat.data.sources import find_source
from divfeat.errors import DivfeatError
from divfeat.files import check_writable
from divfeat.provenance import commit, device_name, versions
from divfeat.settings import make_configs, preset_names
from divfeat.storage import is_uri, network_filesystem, open_store
from divfeat.study_config import ExecutionConfig

#: Bytes free under which a study's folder is told to be nearly full.
LITTLE_DISK = 2**30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: Was looked at.
        said: What was found.
        trouble: Whether a study would fail on it; `said` then has the remedy.
    """

    what: str
    said: str
    trouble: bool = False


def examine(storage: str, tracking_uri: str | None = None, address: str | None = None) -> Iterator[Finding]:
    """Look at everything, one finding after the other.

    Args:
        storage: Folder of studies, which need not exist, or URI of shared storage, as a study takes it.
        tracking_uri: As a study takes it.
        address: Of a Ray cluster, or None for a Ray that a study starts here.
    """
    looks: tuple[tuple[str, Callable[[], str]], ...] = (
        ("packages", _packages),
        ("device", _device),
        ("storage", lambda: _storage(storage)),
        ("MLflow", lambda: _tracking(storage, tracking_uri)),
        ("Ray", lambda: _ray(address)),
        ("data", _data),
    )
    for what, look in looks:
        try:
            yield Finding(what, look())
        except DivfeatError as error:
            yield Finding(what, str(error), trouble=True)
        except Exception as error:  # a broken installation breaks in any way
            yield Finding(what, f"{type(error).__name__}: {error}", trouble=True)


def _packages() -> str:
    found = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"{found}; commit {commit()}"


def _device() -> str:
    cores, gpus = len(os.sched_getaffinity(0)), torch.cuda.device_count()
    text = f"{cores} cores ({device_name(torch.device('cpu'))})"
    for place in range(gpus):
        device = torch.device("cuda", place)
        free, total = torch.cuda.mem_get_info(device)
        torch.ones(8, 8, device=device).sum().item()  # whether it computes
        text += f"; {device_name(device)}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
    return text if gpus else f"{text}; no GPU that torch can use: presets of 200 epochs want one"


def _storage(storage: str) -> str:
    if is_uri(storage):
        return f"{open_store(storage).uri} can be written, read and listed"
    place = Path(storage).expanduser()
    check_writable(place, "--storage-path")
    if (kind := network_filesystem(place)) is not None:
        raise DivfeatError(
            f"{place} lies on another machine's disk ({kind}), where sqlite would lose data; give {place.absolute().as_uri()}"
        )
    nearest = next(folder for folder in (place, *place.absolute().parents) if folder.exists())
    free = shutil.disk_usage(nearest).free
    if free < LITTLE_DISK:
        raise DivfeatError(f"{place} has {free / 2**20:.0f} MiB left; free some, or choose another --storage-path")
    return f"{place} can be written to, {free / 2**30:.1f} GiB free"


def _tracking(storage: str, uri: str | None) -> str:
    from divfeat.tracking.store import reachable

    home = ExecutionConfig().home if is_uri(storage) else storage
    reachable(uri, Path(home).expanduser() / "study")
    return "an sqlite file in each study's folder" if uri is None else f"{uri} can be tracked in"


def _ray(address: str | None) -> str:
    from divfeat.cluster.executor import RayExecutor

    with tempfile.TemporaryDirectory() as folder:
        executor = RayExecutor(
            workers=1, cpus=1.0, gpus=0.0, address=address, storage=Path(folder), max_concurrent=None
        )
        try:
            where = "a Ray of its own started here" if address is None else f"the cluster at {address} answers"
            return f"{where}: {executor.concurrent} trials of one core at a time"
        finally:
            executor.close()


def _data() -> str:
    there, missing = [], []
    for preset in preset_names():
        data = make_configs(preset)[0].data
        try:
            find_source(data.source, split="test", root=None, download=False, **data.columns, **data.lists)
            there.append(preset)
        except DivfeatError:
            missing.append(preset)
    text = f"here for {', '.join(there)}"
    return f"{text}; not for {', '.join(missing)} (DIVFEAT_DATA names the folder)" if missing else text
