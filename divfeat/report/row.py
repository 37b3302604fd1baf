"""A summary as plain JSON: what `verdict.json` holds and what a row of `results/` is copied from."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from divfeat.files import finite as json_numbers
from divfeat.report.arrays import finite
from divfeat.report.commands import study_command
from divfeat.report.group_words import groups_json
from divfeat.report.outcomes import class_angles
from divfeat.report.summary import Bound, Grid, Objective, Runs, StudySummary
from divfeat.thresholds import Number, family_named


def results_row(summary: StudySummary) -> dict[str, Any]:
    """The result of a study with what produced it (design 5.7).

    Scores, differences and intervals are points, those of geometry as it is; angles are given in radians, degrees and
    fractions of pi; what is missing is None. Nothing in it depends on the machine's folders or on the time of writing.
    """
    study, rules = summary.trained, summary.config.protocol
    row: dict[str, Any] = json_numbers(
        {
            "study": summary.name,
            "preset": summary.config.preset,
            "config_hash": summary.config.identity,
            "command": study_command(summary, where=False),
            "verdict": summary.sentence,
            "winner": _winner(summary),
            "objectives": [_objective(objective) for objective in summary.objectives],
            "groups": groups_json(summary),
            "confirmation_seeds": list(summary.confirmed[0].seeds) if summary.confirmed else [],
            "methods": {runs.name: _method(runs) for runs in summary.confirmed},
            "as_good_as_best": _as_good(summary.grid)
            if summary.grid
            else {"status": "undetermined", "reason": summary.grid_note},
            "noise_floor": asdict(summary.floor),
            "detectable_difference": summary.detectable,
            "own_numbers": {
                one.name: {name: value for name, value in asdict(one).items() if name != "name"}
                for one in summary.own_numbers
            },
            "protocol": rules.to_dict() | {"trials": len(summary.trials), "search": summary.config.search.to_dict()},
            "train": study.train.to_dict(),
            "test_reads": summary.test_reads,
            "other_test_reads": list(summary.other_reads),
            "provenance": dict(summary.provenance),
            "missing": list(summary.missing),
        }
    )
    if summary.stability:
        row["rank_stability"] = json_numbers([asdict(one) for one in summary.stability])
    if summary.bounds:
        row["constraints"] = json_numbers([_bound(bound) for bound in summary.bounds])
    if summary.front is not None:
        row["front"] = json_numbers(asdict(summary.front))
    return row


def _bound(bound: Bound) -> dict[str, Any]:
    """How far it is missed in points, or as geometry is; None where that is unknown."""
    return {
        "constraint": bound.limit.name,
        "bound": bound.limit.bound,
        "infeasible_trials": bound.infeasible,
        "winner_misses_it_by": {"selection": bound.selection, "confirmation": bound.confirmation},
    }


def angle(radians: float) -> dict[str, float]:
    """An angle in its three units."""
    return {"radians": radians, "degrees": math.degrees(radians), "fraction_of_pi": radians / math.pi}


def _winner(summary: StudySummary) -> dict[str, Any] | None:
    if summary.winner is None or summary.winner_method is None:
        return None
    method, row = summary.winner_method, summary.winner["winner"]
    family = family_named(method.thresholds.family)
    return {
        "name": row["name"],
        "method": method.name,
        "release": method.release,
        "family": method.thresholds.family,
        "angles": {
            name: {"number": value} if isinstance(family.other(name), Number) else angle(value)
            for name, value in method.thresholds.angles.items()
        },
        "per_class": [
            {
                "class": one["class"],
                "name": one["name"],
                "train_images": one["train_images"],
                "tau_plus": angle(one["tau_plus"]),
            }
            for one in class_angles(summary)
        ],
        "trial": row["number"],
        "equals": list(summary.equals),
    }


def _objective(objective: Objective) -> dict[str, Any]:
    images = {name: asdict(interval) for name, interval in objective.crossed.items()}
    return {
        "name": objective.name,
        "metric": objective.metric,
        "verdict": objective.verdict.sentence,
        "winners_judged": objective.verdict.looks,
        "scores": {name: values.tolist() for name, values in objective.scores.items()},
        "comparisons": [asdict(one) | {"with_images": images.get(one.name)} for one in objective.verdict.comparisons],
        "optimism": asdict(objective.optimism),
    }


def _method(runs: Runs) -> dict[str, Any]:
    terminal, done = runs.terminal
    facts = [record["provenance"] for record in runs.completed]
    return {
        "method": runs.method.to_dict(),
        "finished": done,
        "terminal_phase": terminal,
        "parameter_count": facts[0]["parameter_count"] if facts else None,
        "feature_dim": facts[0]["feature_dim"] if facts else None,
        "probe_strength": next((float(value) for value in finite(runs.values("probe/strength"))), None),
    }


def _as_good(grid: Grid) -> dict[str, Any]:
    interval = grid.interval
    return {
        "status": grid.as_good.status,
        "reason": grid.as_good.reason,
        "release": grid.release,
        "angles": list(grid.angles),
        "scores": grid.scores.tolist(),
        "interval": None if interval is None else [angle(value) for value in interval],
        "apart": [angle(value) for value in grid.apart],
        "half_width": grid.as_good.half_width,
    }
