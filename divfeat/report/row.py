"""A summary as plain JSON: what `verdict.json` holds and what a row of `results/` is copied from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from divfeat.files import finite
from divfeat.report.commands import study_command
from divfeat.report.summary import Grid, Objective, StudySummary


def results_row(summary: StudySummary) -> dict[str, Any]:
    """The result of a study with what produced it (design 5.7).

    Scores, differences and intervals are points; angles are given in radians, degrees and fractions of pi; what is
    missing is None. Nothing in it depends on the machine's folders or on the time of writing.
    """
    study, rules = summary.trained, summary.config.protocol
    row: dict[str, Any] = finite(
        {
            "study": summary.name,
            "preset": summary.config.preset,
            "config_hash": summary.config.identity,
            "command": study_command(summary, where=False),
            "verdict": summary.sentence,
            "winner": _winner(summary),
            "objectives": [_objective(objective) for objective in summary.objectives],
            "confirmation_seeds": list(summary.confirmed[0].seeds) if summary.confirmed else [],
            "methods": {runs.name: _method(runs) for runs in summary.confirmed},
            "as_good_as_best": _as_good(summary.grid)
            if summary.grid
            else {"status": "undetermined", "reason": summary.grid_note},
            "noise_floor": {name.name: getattr(summary.floor, name.name) for name in fields(summary.floor)},
            "detectable_difference": summary.detectable,
            "protocol": rules.to_dict() | {"trials": len(summary.trials), "search": summary.config.search.to_dict()},
            "train": study.train.to_dict(),
            "test_reads": summary.test_reads,
            "other_test_reads": list(summary.other_reads),
            "provenance": dict(summary.provenance),
            "missing": list(summary.missing),
        }
    )
    return row


def angle(radians: float) -> dict[str, float]:
    """An angle in its three units."""
    return {"radians": radians, "degrees": math.degrees(radians), "fraction_of_pi": radians / math.pi}


def _winner(summary: StudySummary) -> dict[str, Any] | None:
    if summary.winner is None or summary.winner_method is None:
        return None
    method, row = summary.winner_method, summary.winner["winner"]
    return {
        "name": row["name"],
        "method": method.name,
        "release": method.release,
        "family": method.thresholds.family,
        "angles": {name: angle(value) for name, value in method.thresholds.angles.items()},
        "trial": row["number"],
        "equals": list(summary.equals),
    }


def _objective(objective: Objective) -> dict[str, Any]:
    lost = objective.optimism
    return {
        "name": objective.name,
        "metric": objective.metric,
        "verdict": objective.verdict.sentence,
        "scores": {name: values.tolist() for name, values in objective.scores.items()},
        "comparisons": [
            {
                "baseline": found.name,
                "verdict": found.verdict,
                "mean": found.mean,
                "sd": found.sd,
                "low": found.low,
                "high": found.high,
                "level": found.level,
                "correlation": found.correlation,
                "within_margin": found.within_margin,
                "same_config": found.same_config,
                "reason": found.reason,
                "with_images": _bounds(objective.crossed.get(found.name)),
            }
            for found in objective.verdict.comparisons
        ],
        "optimism": {"search": lost.search, "selection": lost.selection, "confirmation": lost.confirmation},
    }


def _bounds(interval: Any) -> Mapping[str, float] | None:
    return None if interval is None else {"low": interval.low, "high": interval.high, "level": interval.level}


def _method(runs: Any) -> dict[str, Any]:
    terminal, done = runs.terminal
    facts = [record["provenance"] for record in runs.completed]
    return {
        "method": runs.method.to_dict(),
        "finished": done,
        "terminal_phase": terminal,
        "parameter_count": facts[0]["parameter_count"] if facts else None,
        "feature_dim": facts[0]["feature_dim"] if facts else None,
        "probe_strength": _first(runs.values("probe/strength")),
    }


def _first(values: Any) -> float | None:
    return next((float(value) for value in values if math.isfinite(value)), None)


def _as_good(grid: Grid) -> dict[str, Any]:
    interval = grid.interval
    return {
        "status": grid.as_good.status,
        "reason": grid.as_good.reason,
        "release": grid.release,
        "angles": list(grid.angles),
        "scores": grid.scores.tolist(),
        "interval": None if interval is None else [angle(value) for value in interval],
    }
