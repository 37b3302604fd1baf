"""How long every preset takes on this machine's CPU: rewrites results/preset_times.json.

    DIVFEAT_DATA=... python studies/preset_times.py [--keep] [STUDY_FOLDER ...]

Planned times are those of --dry-run, from a warm-up; measured ones are those of the study folders named, each run from start
to verdict in one session. A preset whose data are not here keeps its row; with --keep every plan there is stands, and only
what has none is planned: plans want an idle machine, for minutes.
"""

import os
import sys
from pathlib import Path
from typing import Any

from divfeat.errors import DataError, DivfeatError
from divfeat.files import read_json, write_json
from divfeat.search.plan import make_plan
from divfeat.search.study import Study
from divfeat.settings import make_configs, preset_names

RESULTS = Path(__file__).resolve().parents[1] / "results" / "preset_times.json"
#: Seconds between the making of a study's folder and the start of its session.
_SAME_SESSION = 60


def planned(preset: str) -> dict[str, Any]:
    """Runs of a preset, and seconds of one and of all of them on this machine's CPU."""
    study, execution, _ = make_configs(preset, overrides={"execution": {"gpus_per_worker": 0}})
    plan = make_plan(Study(study, execution, Path("runs") / preset, preset))
    return {
        "runs": sum(plan.runs.values()),
        "at_a_time": plan.concurrent,
        "seconds_per_run": round(plan.seconds_per_run, 1),
        "planned_seconds": round(plan.seconds),
    }


def measured(folder: Path) -> tuple[str, int]:
    """Preset of a finished study, and seconds from its start to its verdict.

    Raises:
        DataError: it is not finished, was taken up again, or is not the preset's own.
    """
    study, done, session = (read_json(folder / name) for name in ("study.json", "phases/done.json", "execution.json"))
    if study is None or done is None or session is None:
        raise DataError(f"{folder} holds no finished study: name the folder that the study printed")
    if session["time"] - study["created"] > _SAME_SESSION:
        raise DataError(f"{folder} was taken up again after its first session: run it anew, in one")
    preset = str(study["config"]["preset"])
    own, execution, _ = make_configs(preset)
    if study["identity"] != own.identity or done["trials"] != execution.trials:
        raise DataError(
            f"{folder} was run with other settings than the preset {preset!r}: name a study of the preset as it is"
        )
    return preset, round(done["time"] - study["created"])


def main(words: list[str]) -> int:
    """Write the table; returns the exit code."""
    keep, folders = "--keep" in words, [word for word in words if word != "--keep"]
    try:
        times = dict(measured(Path(folder)) for folder in folders)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    presets = (read_json(RESULTS) or {"presets": {}})["presets"]
    for preset in preset_names():
        known = presets.get(preset, {})
        try:
            row = known if keep and known else planned(preset)
        except DivfeatError as error:
            print(f"{preset} keeps its row: {error}")
            continue
        presets[preset] = row | {"measured_seconds": times.get(preset, known.get("measured_seconds"))}
        print(preset, presets[preset])
    write_json(RESULTS, {"cores": len(os.sched_getaffinity(0)), "device": "cpu", "presets": presets})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
