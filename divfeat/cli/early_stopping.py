"""The command line that records learning curves and tries rules of early stopping on them."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from divfeat.cli.flags import BUDGET, EXIT_CODES_TEXT, OK, configure, guarded, positive, positive_int

OUT = "results/curves"
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


_STEPS: Mapping[str, Callable[[argparse.Namespace, Sequence[str]], int]] = {"record": _record}
