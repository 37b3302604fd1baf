"""`python -m tests.chaos --seed 1 --faults 50 --out results/chaos`: the long run, with a report."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from divfeat.files import write_json, write_text
from divfeat.provenance import commit, versions
from tests.chaos.run import SMALL, run


def main() -> int:
    """Run and report; 1 where something did not hold."""
    flags = argparse.ArgumentParser(prog="python -m tests.chaos", description="Kill a study at random and compare.")
    flags.add_argument("--seed", type=int, default=0, help="of what is killed and when; default 0")
    flags.add_argument("--faults", type=int, default=50, help="default 50")
    flags.add_argument("--pause", type=float, default=6.0, help="mean seconds between two faults; default 6")
    flags.add_argument("--out", type=Path, help="folder for chaos.json and chaos.md; default only printed")
    given = flags.parse_args()
    about = {"commit": commit(), "versions": dict(versions()), "words": list(SMALL)}

    def told(found: dict) -> None:
        if given.out is not None:
            write_json(given.out / "chaos.json", about | found)
            write_text(given.out / "chaos.md", report(about | found))
        done, broken = sum(found["faults"].values()), len(found["broken"])
        print(f"{done} of {given.faults} faults, {found['studies']} studies, {broken} things broken", flush=True)

    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        found = run(Path(folder), given.seed, given.faults, pause=given.pause, told=told)
    print(json.dumps(found["broken"], indent=1) if found["broken"] else report(about | found))
    return 1 if found["broken"] else 0


def report(found: dict) -> str:
    """As Markdown."""
    total = sum(found["faults"].values())
    lines = [
        "# Chaos",
        "",
        f"{total} faults at random times (seed {found['seed']}) into {found['studies']} studies, one after another, on a head "
        "and two nodes of one core, each compared with the same study undisturbed.",
        "",
        "| fault | times |",
        "|---|---|",
        *(f"| {kind} | {times} |" for kind, times in sorted(found["faults"].items())),
        "",
        f"Undisturbed a study takes {found['ideal']:.0f} s, disturbed {found['seconds'] / found['studies']:.0f} s on average: "
        f"{found['seconds'] / found['studies'] / found['ideal']:.1f} times as long.",
        "",
        "Nothing was broken: every finished trial once and unchanged, the same trials, numbers and winner as undisturbed, no "
        "trial left running in Optuna, no run doubled or stuck in MLflow, every epoch once."
        if not found["broken"]
        else "Broken:\n\n" + "\n".join(f"- {fault}" for fault in found["broken"]),
        "",
        f"Commit {found['commit']}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
