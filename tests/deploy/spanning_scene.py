"""One trial over two workers on a cluster with safe nodes, and where its processes were: joins the cluster of RAY_ADDRESS.

python -m tests.deploy.spanning_scene FOLDER
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from divfeat.cluster.executor import RayExecutor
from divfeat.cluster.trial import TrialSpec
from divfeat.config import MethodConfig
from divfeat.data.prepare import prepare
from divfeat.search.jobs import experiment
from divfeat.settings import make_configs


class One:
    """Hands out one trial."""

    waiting = False

    def __init__(self, spec: TrialSpec) -> None:
        self.specs, self.ends, self.over = [spec], [], False

    def next(self) -> TrialSpec | None:
        return self.specs.pop() if self.specs else None

    def placed(self, key: str) -> None: ...

    def heard(self, key: str, events: Sequence[dict[str, Any]]) -> bool:
        return False

    def lost(self, key: str, fault: Any, again: bool) -> None: ...

    def ended(self, key: str, fault: Any) -> None:
        self.ends.append(str(fault))

    def stuck(self, why: Exception) -> None:
        self.ends.append(str(why))
        self.over = True

    def stopping(self) -> bool:
        return self.over


def main(folder: Path) -> None:
    folder.mkdir(parents=True)
    study, _, _ = make_configs("digits", overrides={"train": {"epochs": 2, "warmup_epochs": 0}})
    trial = experiment(study, MethodConfig(name="ce"), 0)
    spec = TrialSpec(trial.key, trial.to_dict(), str(folder / "run"), str(folder / "stages"), workers=2, cpus=0.5)
    executor = RayExecutor(workers=2, cpus=0.5, gpus=0.0, address="auto", storage=folder, max_concurrent=1)
    places: set[tuple[str, str]] = set()
    over = threading.Event()
    try:
        executor.wait(print, lambda: False)
        executor.share("search", prepare(study.data, "search"))
        head = next(node["NodeID"] for node in ray.nodes() if "node:__internal_head__" in node["Resources"])
        watcher = threading.Thread(target=_watch, args=(places, over))
        watcher.start()
        source = One(spec)
        executor.run(source, "search")
    finally:
        over.set()
        executor.close()
    watcher.join()
    found = {"ends": source.ends, "record": (folder / "run" / "record.json").exists()}
    found["on head"] = sorted({kind for kind, node in places if node == head})
    found["elsewhere"] = sorted({kind for kind, node in places if node != head})
    print("FOUND", json.dumps(found))


def _watch(places: set[tuple[str, str]], over: threading.Event) -> None:
    """Where actors live, by class."""
    from ray.util.state import list_actors

    while not over.is_set():
        try:
            for actor in list_actors(filters=[("state", "=", "ALIVE")], raise_on_missing_output=False):
                places.add((actor.class_name, actor.node_id))
        except Exception as error:  # the cluster is just ending
            print("not watched:", type(error).__name__)
        time.sleep(0.5)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
