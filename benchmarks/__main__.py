"""`python -m benchmarks [NAME...]`: list the benchmarks or run some of them; see `benchmarks/__init__.py`."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

import benchmarks
from benchmarks.rows import RESULTS, machine, told, write_rows
from divfeat.cli.flags import guarded, positive_int


def names() -> list[str]:
    """Modules that are a benchmark: `measure_NAME.py`, with `measure(repeats, small) -> rows`."""
    found = [module.name for module in pkgutil.iter_modules(benchmarks.__path__)]
    return sorted(name.removeprefix("measure_") for name in found if name.startswith("measure_"))


def run(name: str, repeats: int | None, small: bool, out: Path) -> None:
    """Measure one benchmark, print its rows as they stand and write them."""
    module = importlib.import_module(f"benchmarks.measure_{name}")
    before = machine()
    print(f"{name}: {' '.join((module.__doc__ or '').split('.')[0].split())}", flush=True)
    rows = []
    for row in module.measure(repeats or (1 if small else module.REPEATS), small):
        print(f"  {told(row)}", flush=True)
        rows.append(row)
        write_rows(name, rows, before, out)  # each as it is won: a run that is cut keeps what it has


def main(arguments: Sequence[str] | None = None) -> int:
    """List or run; returns the exit code."""
    flags = argparse.ArgumentParser(prog="python -m benchmarks", description=benchmarks.__doc__, allow_abbrev=False)
    flags.add_argument("names", nargs="*", metavar="NAME", help="of a benchmark, or `all`")
    flags.add_argument("--repeats", type=positive_int, metavar="N", help="pairs; default each benchmark's own")
    flags.add_argument("--small", action="store_true", help="tiny sizes: whether it runs, no measurement")
    flags.add_argument(
        "--out", metavar="FOLDER", help="default results/benchmarks; with --small nothing is written there"
    )
    given = flags.parse_args(arguments)
    known = names()
    if not given.names:
        for name in known:
            text = importlib.import_module(f"benchmarks.measure_{name}").__doc__ or ""
            print(f"{name:12}{' '.join(text.split('.')[0].split())}")
        return 0
    chosen = known if given.names == ["all"] else given.names
    unknown = [name for name in chosen if name not in known]
    if unknown:
        flags.error(f"no benchmark {', '.join(map(repr, unknown))}; there are {', '.join(known)}, and `all`")
    if given.small and given.out is None:
        flags.error("--small measures nothing worth keeping: name a folder with --out")
    out = Path(given.out or RESULTS)

    def action() -> int:
        for name in chosen:
            run(name, given.repeats, given.small, out)
        return 0

    return guarded(action)


if __name__ == "__main__":
    sys.exit(main())
