"""Faults drawn from a seed, one after another, until the study has come to its end."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos import invariants
from tests.chaos.scene import Scene

#: Kinds of fault: each once in every round, in an order that is drawn.
KINDS = ("driver", "worker", "node", "mlflow", "SIGINT", "SIGTERM")
CODES = {"SIGINT": 130, "SIGTERM": 75}
#: What a study says that ended while MLflow was away; then a person gives the line once more.
UNTOLD = "lacks a part of this study"
#: A few minutes of two cores: every phase, checkpoints within a training, proposals that no other result decides.
SMALL = (
    "--trials", "6", "--max-concurrent", "2", "--set", "train.epochs=12", "--set", "protocol.learning_rates=[]",
    "--set", "protocol.weight_decays=[]", "--set", "protocol.select_top=1", "--set", "protocol.select_seeds=2",
    "--set", "protocol.grid_points=0", "--set", "protocol.confirm_seeds=2", "--set", "protocol.baselines=[ce]",
    "--set", "search.sampler=random", "--set", "probe.strengths=[0.01, 0.1]", "--set", "execution.checkpoint_seconds=0.5",
)  # fmt: skip


def run(
    folder: Path,
    seed: int,
    faults: int,
    words: tuple[str, ...] = SMALL,
    pause: float = 6.0,
    told: Callable[[dict[str, Any]], None] = lambda found: None,
) -> dict[str, Any]:
    """Run a study undisturbed and one that is killed, and compare.

    Args:
        folder: For everything.
        seed: Of what is killed and when.
        faults: How many; should the study end before, more go into another one like it.
        words: Of the study's command.
        pause: Mean seconds from a driver's first sign of work to the next fault, exponential.
        told: Called with what is known after each study.

    Returns:
        JSON types: `faults` (kind -> count), `log`, `broken` (what did not hold: empty if all is well), `seconds` disturbed,
        `ideal` undisturbed.
    """
    draw, log = random.Random(seed), list[dict[str, Any]]()
    scene = Scene(folder, words)
    try:
        scene.open()
        start = time.monotonic()
        scene.start_driver("undisturbed")
        assert scene.driver is not None and scene.driver.wait(1800) == 0, scene.said("undisturbed")
        ideal = time.monotonic() - start
        broken = _all_of(scene, "undisturbed")
        spent, studies, order = 0.0, 0, list[str]()
        while len(log) < faults:
            name = f"disturbed-{studies}"
            studies += 1
            start = time.monotonic()
            broken += _disturb(scene, name, draw, order, log, faults, pause)
            spent += time.monotonic() - start
            broken += [f"{name}: {fault}" for fault in _all_of(scene, name)]
            same = invariants.the_same(scene.storage / name, scene.storage / "undisturbed")
            broken += [f"{name}: {fault}" for fault in same]
            found = {
                "seed": seed,
                "faults": dict(Counter(entry["kind"] for entry in log)),
                "studies": studies,
                "seconds": round(spent, 1),
                "ideal": round(ideal, 1),
                "broken": broken,
                "log": log,
            }
            told(found)
        return found
    finally:
        scene.close()


def _all_of(scene: Scene, name: str) -> list[str]:
    study = scene.storage / name
    return [*invariants.of_the_ledger(study), *invariants.of_optuna(study), *invariants.of_mlflow(study, scene.uri)]


def _disturb(
    scene: Scene,
    name: str,
    draw: random.Random,
    order: list[str],
    log: list[dict[str, Any]],
    faults: int,
    pause: float,
) -> list[str]:
    """One study to its end; returns what broke on the way. `order` is what is left of a round, which may span studies."""
    study, broken = scene.storage / name, list[str]()
    witness = invariants.Witness(study)
    began = time.monotonic()
    scene.start_driver(name)
    assert scene.driver is not None
    said = 0
    while True:
        if len(log) < faults:
            _wait(scene, study, draw.expovariate(1 / pause))
            if scene.driver.poll() is None:
                if not order:
                    order += draw.sample(KINDS, len(KINDS))
                if order[0] == "worker" and not scene.kill_worker(draw):
                    continue  # nothing trains at this moment: it is tried again
                kind = order.pop(0)
                log.append({"kind": kind, "study": name, "second": round(time.monotonic() - began, 1), **_state(study)})
                broken += _fault(scene, kind, draw, name)
        broken += witness.look()
        try:
            code = scene.driver.wait(0.1 if len(log) < faults else 1800)
        except Exception:
            assert len(log) < faults, scene.said(name)
            continue
        if code == 0 and UNTOLD not in scene.said(name)[said:]:
            return broken
        if code > 0 and code not in CODES.values():
            return [*broken, f"the driver ended with code {code}: {scene.said(name)[-2000:]}"]
        said = len(scene.said(name))
        scene.start_driver(name)


def _wait(scene: Scene, study: Path, seconds: float) -> None:
    """So long from when the driver works: a study that is killed while it starts would never get further."""
    assert scene.driver is not None
    before = _work(study)
    deadline = time.monotonic() + 300
    while scene.driver.poll() is None and _work(study) == before and time.monotonic() < deadline:
        time.sleep(0.1)
    until = time.monotonic() + seconds
    while scene.driver.poll() is None and time.monotonic() < until:
        time.sleep(0.05)


def _work(study: Path) -> tuple[int, int]:
    logs = list(study.glob("runs/*/events.jsonl"))
    return len(list(study.glob("runs/*/record.json"))), sum(path.stat().st_size for path in logs)


def _state(study: Path) -> dict[str, int]:
    return {"records": len(list(study.glob("runs/*/record.json")))}


def _fault(scene: Scene, kind: str, draw: random.Random, name: str) -> list[str]:
    if kind == "driver":
        scene.kill_driver()
    elif kind == "node":
        scene.kill_node(draw)
    elif kind == "mlflow":
        scene.kill_server()
        time.sleep(draw.uniform(0.0, 10.0))
        scene.start_server()
    elif kind != "worker":
        code = scene.signal_driver(signal.Signals[kind])
        if code not in (0, CODES[kind]):
            return [f"{kind} ended the driver with code {code}: {scene.said(name)[-2000:]}"]
    return []
