"""The command line that records learning curves and tries rules of early stopping on them."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from divfeat.cli.flags import BUDGET, EXIT_CODES_TEXT, OK, configure, guarded, positive, positive_int

OUT, PAGE = "results/curves", "docs/early-stopping.md"
#: File of the comparison beside the curves.
COMPARED = "compare.json"
_SCRIPT = "studies/early_stopping.py"


def parser() -> argparse.ArgumentParser:
    """The flags of `studies/early_stopping.py`."""
    flags = argparse.ArgumentParser(
        prog="early_stopping.py",
        description="Record learning curves, and try rules of early stopping on them.",
        epilog=EXIT_CODES_TEXT,
        allow_abbrev=False,
    )
    steps = flags.add_subparsers(dest="step", required=True)
    made = steps.add_parser(
        "record", help="train trials drawn at random from the search's space, the objective measured after every epoch"
    )
    made.add_argument("--preset", default="digits", metavar="NAME", help="settings; default digits")
    made.add_argument("--config", metavar="FILE", help="YAML laid over the preset")
    made.add_argument(
        "--set", action="append", default=[], metavar="A.B=VALUE", help="one setting over both; repeatable"
    )
    made.add_argument("--trials", type=positive_int, default=60, metavar="N", help="trainings; default 60")
    made.add_argument(
        "--stop-after",
        type=positive,
        metavar="S",
        help="seconds, then begin no further training; the same line goes on",
    )
    made.set_defaults(seed=None, smoke_test=False)
    made.add_argument("--out", metavar="FILE", help=f"default {OUT}/PRESET.json")
    tried = steps.add_parser(
        "compare", help="search all recorded curves again, under each rule, and write tables and figure"
    )
    tried.add_argument("--orders", type=positive_int, default=500, metavar="N", help="of the trials; default 500")
    tried.add_argument(
        "--out", default=OUT, metavar="FOLDER", help=f"of the curves and of the comparison; default {OUT}"
    )
    tried.add_argument("--page", default=PAGE, metavar="FILE", help=f"with the marks for the tables; default {PAGE}")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """Record or compare; returns the exit code."""
    given = parser().parse_args(arguments)
    words = sys.argv[1:] if arguments is None else list(arguments)
    return guarded(lambda: _STEPS[given.step](given, words))


def _record(given: argparse.Namespace, words: Sequence[str]) -> int:
    trials, given.trials = given.trials, None  # not those of the preset's search
    study, _, _ = configure(given)
    from divfeat.files import check_writable
    from divfeat.stopping.curves import record

    place = Path(given.out or f"{OUT}/{study.preset}.json")
    check_writable(place.parent, "the curves' folder (--out)")
    said = [word for before, word in zip(["", *words], words, strict=False) if "--stop-after" not in (before, word)]
    command = shlex.join(["python", _SCRIPT, *said])
    done = record(study, trials, place, command, stop_after=given.stop_after, say=lambda line: print(line, flush=True))
    return OK if done else BUDGET


def _compare(given: argparse.Namespace, words: Sequence[str]) -> int:
    from divfeat.errors import DataError
    from divfeat.files import write_json, write_text
    from divfeat.provenance import commit, versions
    from divfeat.stopping import page
    from divfeat.stopping.compare import START, compared
    from divfeat.stopping.curves import read_curves

    out, place = Path(given.out), Path(given.page)
    recorded = [path for path in sorted(out.glob("*.json")) if path.name != COMPARED]
    if not recorded:
        raise DataError(f"{out} holds no curves: `python {_SCRIPT} record` makes them")
    found = {
        "command": f"python {_SCRIPT} compare --orders {given.orders}",
        "orders": given.orders,
        "start_epochs": START,
        "commit": commit(),
        "versions": dict(versions()),
        "sets": {path.stem: compared(read_curves(path), given.orders) for path in recorded},
    }
    try:
        rewritten = page.between(place.read_text(encoding="utf-8"), page.text(found))
    except OSError as error:
        raise DataError(f"--page {place} cannot be read ({error.strerror}); name the page with the marks") from error
    write_json(out / COMPARED, found)
    write_text(place, rewritten)
    print(page.figure(found, out / "figures" / "compare.png"))
    return OK


_STEPS: Mapping[str, Callable[[argparse.Namespace, Sequence[str]], int]] = {"record": _record, "compare": _compare}
