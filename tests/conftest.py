"""One thread a test process: small tensors on two busy cores run many times slower with more. Real images where
DIVFEAT_DATA names them."""

import math
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import pytest
import torch
from hypothesis import settings

#: Slow tests of these start Ray, which takes the cores that it finds, and whose `auto` finds any cluster of the machine.
STARTS_RAY = (
    "benchmarks", "chaos", "cluster", "deploy", "notebook", "security", "ui", "test_console.py", "test_example_notebook.py",
)  # fmt: skip

torch.set_num_threads(1)
# A busy machine is no defect: what an example takes is not asserted.
settings.register_profile("divfeat", deadline=None)
settings.load_profile("divfeat")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images; the test skips where there is none."""
    folder = os.environ.get("DIVFEAT_DATA")
    if not folder:
        pytest.skip("DIVFEAT_DATA is not set: it names the folder that holds cifar10/ and tin100/")
    missing = [name for name in ("cifar10", "tin100") if not (Path(folder) / name).is_dir()]
    if missing:
        pytest.skip(f"DIVFEAT_DATA={folder} lacks {', '.join(missing)}")
    return Path(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """CI begins with another file each time, so that each is run where time is short."""
    files = list(dict.fromkeys(item.path for item in items if "alone" in item.keywords))
    if not files or "DIVFEAT_ALONE_TURN" not in os.environ:
        return
    turn = int(os.environ["DIVFEAT_ALONE_TURN"]) % len(files)
    order = {path: place for place, path in enumerate(files[turn:] + files[:turn])}
    items.sort(key=lambda item: order.get(item.path, -1))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What does not fit into CI's time is skipped aloud: a run that is cut off tells nothing."""
    until = float(os.environ.get("DIVFEAT_ALONE_UNTIL", math.inf))
    if "alone" in item.keywords and time.time() > until:
        pytest.skip("no time is left in this run of CI, which begins elsewhere next time")


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what must have the machine for itself."""
    if item.path.relative_to(Path(__file__).parent).parts[0] in STARTS_RAY:
        item.add_marker(pytest.mark.alone)
