"""What the commands share: flags of a study, flags to configuration, and an exit code for everything that can go wrong.

Imports nothing heavy before the arguments are known, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from divfeat.errors import DivfeatError

if TYPE_CHECKING:
    from divfeat.study_config import ExecutionConfig, StudyConfig

OK, BAD_CONFIG, USAGE, FAILURES, BUDGET, INTERNAL, TERMINATED = 0, 1, 2, 3, 4, 70, 75

#: Last lines of a command's `--help`.
EXIT_CODES_TEXT = (
    "Exit codes: 0 done, 1 bad configuration or data, 2 usage, 3 too many failed trials, 4 budget reached "
    "(results valid), 70 internal error, 75 terminated, or storage lost or full: resumable, 130 interrupted and saved."
)

#: Flags that are settings of the execution.
_EXECUTION = (
    "name",
    "trials",
    "max_concurrent",
    "workers_per_trial",
    "gpus_per_worker",
    "address",
    "wait_for_nodes",
    "storage_path",
    "tracking_uri",
    "time_budget",
    "gpu_hours",
    "max_cost",
)


def add_study_flags(flags: argparse.ArgumentParser) -> None:
    """The flags that say how to run a study, and what to change of its preset."""
    flags.add_argument("--config", metavar="FILE", help="YAML laid over the preset")
    flags.add_argument(
        "--set", action="append", default=[], metavar="A.B=VALUE", help="one setting over both; repeatable"
    )
    flags.add_argument(
        "--trials",
        type=positive_int,
        metavar="N",
        help="proposals of the search, and for each baseline that is tuned; default the preset's",
    )
    flags.add_argument(
        "--max-concurrent", type=positive_int, metavar="N", help="trials at a time; default as many as fit"
    )
    flags.add_argument(
        "--workers-per-trial", type=positive_int, metavar="N", help="processes of one training; default 1"
    )
    flags.add_argument(
        "--gpus-per-worker", type=_not_negative, metavar="X", help="GPUs (or a share of one) of a worker; default 0"
    )
    flags.add_argument("--address", metavar="auto", help="join a running Ray cluster; default starts Ray here")
    flags.add_argument(
        "--wait-for-nodes",
        type=_not_negative,
        metavar="S",
        help="seconds without a place for any trial, then give up; default 1800 under an autoscaler, else 0 at first, 600 later",
    )
    flags.add_argument(
        "--storage-path",
        metavar="URI",
        help="folder of all studies, or shared storage as file:///FOLDER, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX; default runs",
    )
    flags.add_argument("--tracking-uri", metavar="URI", help="MLflow server; default sqlite in the study's folder")
    flags.add_argument("--seed", type=_natural, metavar="N", help="of the whole study; default 0")
    flags.add_argument(
        "--time-budget",
        type=positive,
        metavar="S",
        help="seconds of this session; the search ends in time for confirmation and report; default none",
    )
    flags.add_argument(
        "--gpu-hours", type=positive, metavar="H", help="GPU-hours of the whole study, likewise; default no limit"
    )
    flags.add_argument(
        "--max-cost",
        type=positive,
        metavar="X",
        help="cost of the whole study, likewise, at the prices of an hour of each node type in execution.prices",
    )
    flags.add_argument(
        "--smoke-test", action="store_true", help="the whole path in about a minute: few trials, epochs, seeds"
    )
    flags.add_argument(
        "--dry-run", action="store_true", help="print what would run, how long and what it can detect; run nothing"
    )
    flags.add_argument("--print-config", action="store_true", help="print the resolved settings as YAML; run nothing")


def guarded(action: Callable[[], int]) -> int:
    """The exit code of `action`, or of what stopped it, which is told on stderr."""
    try:
        return action()
    except DivfeatError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_CONFIG
    except KeyboardInterrupt:
        return 130
    except Exception:
        traceback.print_exc()
        print(
            "internal error: please report the lines above; what finished is saved, the same line resumes",
            file=sys.stderr,
        )
        return INTERNAL


def configure(
    flags: argparse.Namespace,
    preset: str | None = None,
    over: Mapping[str, Any] | None = None,
    smoke: Mapping[str, Any] | None = None,
) -> tuple[StudyConfig, ExecutionConfig, str]:
    """Preset, file, flags and assignments as configurations; later ones win.

    Args:
        flags: Of `add_study_flags`, with `preset` and `name` where the command has them.
        preset: Instead of `flags.preset`; where neither is given, what the file and the assignments name, or digits.
        over: Settings of the command's own flags, laid over all others.
        smoke: What the command's own `--smoke-test` lays over that of all.

    Raises:
        ConfigError: anything unknown or invalid.
    """
    from divfeat.settings import SMOKE, layered, load_file, merge, parse_assignments

    return layered(
        preset or getattr(flags, "preset", None),
        load_file(flags.config) if flags.config else {},
        parse_assignments(flags.set),
        seed=flags.seed,
        execution={name: getattr(flags, name, None) for name in _EXECUTION},
        smoke=merge(SMOKE, smoke or {}) if flags.smoke_test else None,
        above=over,
    )


def print_config(study: StudyConfig, execution: ExecutionConfig) -> int:
    """Print the resolved settings as YAML, which `--config` takes; returns the exit code."""
    import yaml

    print(f"# identity {study.identity}")
    print(yaml.safe_dump(study.to_dict() | {"execution": execution.to_dict()}, sort_keys=False), end="")
    return OK


def command_line(script: str, arguments: Sequence[str] | None) -> str:
    """The line that resumes what `script` (under studies/) runs with these arguments; None takes this process's own."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    return shlex.join(
        [
            "python",
            os.path.relpath(sys.argv[0]) if Path(sys.argv[0]).suffix == ".py" else f"studies/{script}",
            *words,
        ]
    )


def positive_int(text: str) -> int:
    """As the type of a flag."""
    return int(_number(text, lambda value: value >= 1 and value == int(value), "a whole number of at least 1"))


def _natural(text: str) -> int:
    return int(_number(text, lambda value: value >= 0 and value == int(value), "a whole number of at least 0"))


def _not_negative(text: str) -> float:
    return _number(text, lambda value: value >= 0, "a number of at least 0")


def positive(text: str) -> float:
    """As the type of a flag."""
    return _number(text, lambda value: value > 0, "a number above 0")


def _number(text: str, allowed: Any, wanted: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or not allowed(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return value
