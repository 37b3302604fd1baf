"""A search of twelve short trials, two at a time, by divfeat, plain Ray Tune, Optuna and Syne Tune: wall time and start-up.

All sides train the same experiments in fresh processes, taking turns. Syne Tune is no dependency: `pip install -e '.[bench]'`.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rows import Row, in_turn
from benchmarks.sides.work import CONCURRENT
from divfeat.files import read_lines

REPEATS = 2
_ROOT = Path(__file__).resolve().parents[1]
_TRIALS, _EPOCHS = 12, 40
_OURS = "by_divfeat"
_PEERS = {
    "by_ray_tune": "Ray Tune",
    "by_optuna_threads": "optuna n_jobs=2",
    "by_optuna_processes": "optuna, 2 processes",
    "by_syne_tune": "Syne Tune",
    "bare": "2 bare processes",
}


@dataclass(frozen=True)
class Search:
    """How long a side took, in seconds.

    Attributes:
        whole: From the start of its process to its end.
        trials: From the start of the first trial to the end of the last.
        compute: What its trials computed, over the number of trials at a time.
        first: From the start of its process to the end of the first epoch.
        scores: Of the trials, by key.
    """

    whole: float
    trials: float
    compute: float
    first: float
    scores: Mapping[str, float]


def searched(side: str, trials: int, epochs: int) -> Search:
    """Run one side in a process of its own.

    Raises:
        RuntimeError: it failed, or did not run all trials.
    """
    with tempfile.TemporaryDirectory(prefix="divfeat-bench-") as folder:
        line = [sys.executable, "-m", f"benchmarks.sides.{side}", folder, str(trials), str(epochs)]
        launched = time.time()
        done = subprocess.run(line, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        ended = time.time()
        rows = read_lines(Path(folder) / "trials.jsonl")
    if done.returncode or len(rows) != trials:
        raise RuntimeError(
            f"{side}: exit code {done.returncode}, {len(rows)} of {trials} trials:\n{done.stdout[-4000:]}"
        )
    print(f"  {side}: {ended - launched:.1f} s", file=sys.stderr, flush=True)
    return Search(
        whole=ended - launched,
        trials=max(row["ended"] for row in rows) - min(row["started"] for row in rows),
        compute=sum(row["seconds"] for row in rows) / CONCURRENT,
        first=min(row["first"] for row in rows) - launched,
        scores={row["key"]: row["score"] for row in rows},
    )


def measure(repeats: int, small: bool) -> Iterator[Row]:
    """Of divfeat against its own trials, then against each peer: the whole search, and how soon it trains.

    Raises:
        RuntimeError: a side failed, or two sides did not train the same.
    """
    trials, epochs = (2, 1) if small else (_TRIALS, _EPOCHS)
    setting = {"trials": trials, "epochs": epochs, "concurrent": CONCURRENT, "threads": 1, "data": "digits"}
    peers = dict(_PEERS)
    if importlib.util.find_spec("syne_tune") is None:
        print("  no Syne Tune here, so no row of it: pip install -e '.[bench]'", file=sys.stderr, flush=True)
        del peers["by_syne_tune"]
    sides = {side: lambda side=side: searched(side, trials, epochs) for side in (_OURS, *peers)}
    rounds = in_turn(list(sides.values()), repeats, warm_up=False)
    found = dict(zip(sides, zip(*rounds, strict=True), strict=True))
    ours = found[_OURS]
    if any(one.scores != ours[0].scores for several in found.values() for one in several):
        raise RuntimeError(
            f"the sides did not train the same: { {side: one[0].scores for side, one in found.items()} }"
        )

    bound = "its trials' seconds / 2"
    spent = [(one.trials, one.compute) for one in ours]
    yield Row("study, first trial to last", "divfeat", bound, "s", spent, "share", goal=1.05, setting=setting)
    spent = [(one.whole, one.compute) for one in ours]
    yield Row("study, with start-up and end", "divfeat", bound, "s", spent, "share", setting=setting)
    for side, name in peers.items():
        theirs = found[side]
        own = [round(one.trials / one.compute, 3) for one in theirs]
        goal = None if side == "bare" else 1.0
        known = {**setting, "peer_over_its_own_trials": own}
        pairs = [(one.trials, other.trials) for one, other in zip(ours, theirs, strict=True)]
        yield Row(
            f"study vs {name}, first trial to last", "divfeat", name, "s", pairs, "times", goal=goal, setting=known
        )
        pairs = [(one.whole, other.whole) for one, other in zip(ours, theirs, strict=True)]
        yield Row(f"study vs {name}, whole", "divfeat", name, "s", pairs, "times", goal=goal, setting=known)
    for side, name in peers.items():
        pairs = [(one.first, other.first) for one, other in zip(ours, found[side], strict=True)]
        yield Row("start-up to the first epoch", "divfeat", name, "s", pairs, "share", setting=setting)
