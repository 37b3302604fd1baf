"""The command line that measures trust: noise, calibration, one method against itself, figures."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from divfeat.cli.flags import BUDGET, EXIT_CODES_TEXT, OK, configure, guarded, positive, positive_int

OUT = "results/trust"
#: What results say made them, whatever the folders of this machine are called.
_LINE = "python studies/trust.py"


def parser() -> argparse.ArgumentParser:
    """The flags of `studies/trust.py`."""
    flags = argparse.ArgumentParser(
        prog="trust.py",
        description="Measure how far the verdict can be trusted.",
        epilog=EXIT_CODES_TEXT,
        allow_abbrev=False,
    )
    steps = flags.add_subparsers(dest="step", required=True)
    noise = steps.add_parser("noise", help="what makes scores differ, from the answers of finished studies: noise.json")
    noise.add_argument("studies", nargs="+", metavar="STUDY", help="folder of a finished study, one a preset")
    draw = steps.add_parser("calibration", help="draw studies over that noise and judge them: calibration.json")
    draw.add_argument(
        "--replicates", type=positive_int, default=2000, metavar="N", help="studies a point; default 2000"
    )
    draw.add_argument("--only", metavar="PRESET", help="this one, the others keep their rows; default all")
    same = steps.add_parser("same", help="train one method under two names and judge it: same-PRESET.json")
    same.add_argument(
        "--preset", default="digits", metavar="NAME", help="settings of data, model, training; default digits"
    )
    same.add_argument("--method", default="ce_etf", metavar="NAME", help="the one method; default ce_etf")
    same.add_argument("--seeds", type=positive_int, default=50, metavar="N", help="trainings a name; default 50")
    same.add_argument(
        "--trials", type=positive_int, default=40, metavar="N", help="trainings on validation; default 40"
    )
    same.add_argument("--rows", metavar="FOLDER", help="of the trainings; default runs/same-PRESET")
    same.add_argument("--at-a-time", type=positive_int, default=1, metavar="N", help="processes; default 1")
    same.add_argument("--stop-after", type=positive, metavar="S", help="seconds, then stop and save; default none")
    same.set_defaults(config=None, set=[], seed=None, smoke_test=False)
    drawn = steps.add_parser("figures", help="draw the figures anew, from the results alone")
    for step in (noise, draw, same, drawn):
        step.add_argument("--out", default=OUT, metavar="FOLDER", help=f"of the results; default {OUT}")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write what was found; returns the exit code."""
    given = parser().parse_args(arguments)
    return guarded(lambda: _STEPS[given.step](given, Path(given.out)))


def _noise(given: argparse.Namespace, out: Path) -> int:
    from divfeat.errors import DataError
    from divfeat.files import write_json
    from divfeat.report.answers import read_answers
    from divfeat.report.reading import read_summary
    from divfeat.search.ledger import Ledger
    from divfeat.trust.calibration import told
    from divfeat.trust.noise import distinct, fit

    found: dict[str, Any] = {}
    for folder in given.studies:
        summary = read_summary(folder)
        objective = summary.config.search.objectives[0]
        read = {runs.name: read_answers(Ledger(summary.folder), runs, objective) for runs in summary.confirmed}
        answers = {name: one.correct for name, one in read.items() if one is not None and one.complete}
        if len(answers) < 2:
            raise DataError(f"{folder} keeps no answers of two confirmed methods: name a finished study")
        seeds = len(next(iter(answers.values())))
        found[summary.config.preset] = {
            "config_hash": summary.config.identity,
            "commit": summary.provenance.get("commit"),
            "objective": objective,
            "confirmation_seeds": seeds,
            "noise": asdict(fit(answers)),
            "measured": told(distinct(answers)),
        }
    command = " ".join([f"{_LINE} noise", *(f"runs/{Path(folder).name}" for folder in given.studies)])
    write_json(out / "noise.json", {"command": command, "studies": found})
    return OK


def _calibration(given: argparse.Namespace, out: Path) -> int:
    import numpy as np

    from divfeat.errors import DataError
    from divfeat.files import read_json, write_json
    from divfeat.trust import calibration
    from divfeat.trust.noise import Noise

    known = read_json(out / "noise.json")
    if known is None:
        raise DataError(f"{out / 'noise.json'} is missing: `trust.py noise STUDY...` measures it")
    before = (read_json(out / "calibration.json") or {}).get("studies", {})
    found = {}
    for place, (name, row) in enumerate(known["studies"].items()):
        if given.only not in (None, name):
            if name in before:
                found[name] = before[name]
            continue
        noise, stream = Noise(**row["noise"]), np.random.default_rng([place, 5]).spawn(len(calibration.CASES) + 2)
        print(name, flush=True)
        found[name] = {
            "baselines": noise.baselines,
            "measured": row["measured"],
            "drawn": calibration.drawn(noise, 50, row["confirmation_seeds"], stream[0]),
            "null": [
                line
                for case, rng in zip(calibration.CASES, stream[2:], strict=True)
                for line in calibration.null(noise, case, given.replicates, rng)
            ],
            "power": calibration.power(noise, given.replicates, stream[1]),
            "detectable": calibration.detectable(noise),
        }
    cases = {case.name: case.about for case in calibration.CASES}
    write_json(
        out / "calibration.json",
        {
            "command": f"{_LINE} calibration --replicates {given.replicates}",
            "replicates": given.replicates,
            "alpha": calibration.ALPHA,
            "cases": cases,
            "studies": found,
        },
    )
    return _figures(given, out)


def _same(given: argparse.Namespace, out: Path) -> int:
    from divfeat.files import write_json
    from divfeat.search.fixed import check, run_fixed
    from divfeat.search.jobs import baseline
    from divfeat.trust.same import judged, same_jobs, scores_of

    study, _, _ = configure(given)
    folder = Path(given.rows or f"runs/same-{given.preset}")
    jobs = same_jobs(study, baseline(given.method, study), given.seeds, given.trials)
    check(jobs)
    if not run_fixed(
        jobs, folder, at_a_time=given.at_a_time, stop_after=given.stop_after, say=lambda line: print(line, flush=True)
    ):
        return BUDGET
    scores, facts = scores_of(jobs, study, folder)
    count = f"--seeds {given.seeds} --trials {given.trials}"
    write_json(
        out / f"same-{given.preset}.json",
        {
            "command": f"{_LINE} same --preset {given.preset} --method {given.method} {count}",
            "config_hash": study.identity,
            "method": given.method,
            "objective": study.search.objectives[0],
            "margin": study.protocol.margin,
            "provenance": facts,
            "scores": {name: values.tolist() for name, values in scores.items()},
            **judged(scores, study.protocol.margin),
        },
    )
    return _figures(given, out)


def _figures(given: argparse.Namespace, out: Path) -> int:
    from divfeat.files import read_json
    from divfeat.trust import figures

    if (found := read_json(out / "calibration.json")) is not None:
        figures.calibration(found, out / "figures" / "calibration.png")
        figures.power(found, out / "figures" / "power.png")
    if same := {path.stem.removeprefix("same-"): read_json(path) for path in sorted(out.glob("same-*.json"))}:
        figures.same(same, out / "figures" / "same.png")
    return OK


_STEPS: Mapping[str, Callable[[argparse.Namespace, Path], int]] = {
    "noise": _noise,
    "calibration": _calibration,
    "same": _same,
    "figures": _figures,
}
