"""A cluster whose head trains nothing and whose autoscaler adds nodes (processes here): studies of every kind are begun on it.

python -m tests.deploy.scaling_scene FOLDER      (alone: see tests.deploy.alone)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.deploy.scaling import Scaling, scaling_head

ROOT = Path(__file__).resolve().parents[2]
#: Whole, with as few trainings as there can be.
TINY = [
    "--smoke-test", "--trials", "2", "--set", "train.epochs=1", "--set", "protocol.baselines=[ce_etf]",
    "--set", "search.releases=[gate]",
]  # fmt: skip
TYPES = {
    "head": ({"CPU": 0.0, "divfeat_driver": 8.0}, 0),
    "small": ({"CPU": 1.0, "object_store_memory": 200 * 2**20}, 2),
}


def main(folder: Path) -> None:
    found: dict[str, Any] = {}
    with scaling_head(folder, TYPES, most=2, dashboard=True) as head:
        found["impatient"] = study(head, folder, "impatient", "--wait-for-nodes", "0.2")
        found["too large"] = study(head, folder, "large", "--set", "execution.cpus_per_worker=4")
        found["too many"] = study(head, folder, "many", "--max-concurrent", "9")
        found["grown"] = study(head, folder, "grown", "--max-concurrent", "2")
        deadline = time.monotonic() + 120
        while len(head.seen()[-1]) > 1 and time.monotonic() < deadline:
            time.sleep(0.5)
        found["seen"] = head.seen()
        spanning = subprocess.run(
            [sys.executable, "-m", "tests.deploy.spanning_scene", str(folder / "spanning")],
            env=head.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        found["spanning"] = {"code": spanning.returncode, "said": spanning.stdout + spanning.stderr}
    (folder / "found.json").write_text(json.dumps(found))


def study(head: Scaling, folder: Path, name: str, *words: str) -> dict[str, Any]:
    line = [sys.executable, str(ROOT / "studies" / "tau_search.py"), "--address", "auto", *TINY, "--name", name]
    begun = time.monotonic()
    done = subprocess.run(
        [*line, "--storage-path", str(folder / "studies"), *words],
        env=dict(os.environ) | head.environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(name, done.returncode, f"{time.monotonic() - begun:.0f} s", flush=True)
    written = [path.name for path in (folder / "studies" / name).rglob("*")]
    return {"code": done.returncode, "said": done.stdout, "written": written}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
