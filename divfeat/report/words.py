"""Numbers, angles and outcomes as words: what report and screen say alike."""

from __future__ import annotations

import math

import numpy as np

from divfeat.report.figures._canvas import fraction_of_pi
from divfeat.report.summary import Floats, StudySummary


def signed(value: float) -> str:
    """A difference in points with its sign; a dash where there is none."""
    if math.isnan(value):
        return "–"
    return f"{value:+.2f}".replace("-", "−") if round(value, 2) else "0.00"


def interval(low: float, high: float) -> str:
    """'[−0.10, +0.42]'."""
    return "–" if math.isnan(low) or math.isnan(high) else f"[{signed(low)}, {signed(high)}]"


def angle_cells(radians: float) -> list[str]:
    """An angle in radians, degrees and as a fraction of pi, the last to three digits where it is no round one."""
    fraction = fraction_of_pi(radians)
    return [
        f"{radians:.4f}",
        f"{math.degrees(radians):.1f}°",
        f"{radians / math.pi:.3f}π" if "." in fraction else fraction,
    ]


def angle_text(radians: float) -> str:
    """'1.1345 rad = 65.0° = 13π/36'."""
    first, second, third = angle_cells(radians)
    return f"{first} rad = {second} = {third}"


def winner_angles(summary: StudySummary) -> dict[str, float]:
    """Angles of the winner by name; tau+ = 0 for a winner without any."""
    method = summary.winner_method
    return {} if method is None else dict(method.thresholds.angles) or {"tau": 0.0}


def as_good_text(summary: StudySummary) -> str:
    """Which thresholds are as good as the best, or why that is undetermined."""
    grid, margin = summary.grid, summary.config.protocol.margin
    if grid is None:
        return f"As good as the best: undetermined, since {summary.grid_note}."
    if grid.interval is None:
        return f"As good as the best: undetermined, since {grid.as_good.reason}."
    low, high = ("{1} ({2})".format(*angle_cells(value)) for value in grid.interval)
    seeds = grid.scores.shape[1]
    span = f"{low} alone" if low == high else f"{low} to {high}"
    return (
        f"Shown to be as good as the best: {span}, within {margin:g} points of the best of {len(grid.angles)} angles on "
        f"validation ({seeds} seeds, letting go the way '{grid.release}', simultaneous "
        f"{100 * (1 - summary.config.protocol.alpha):g} % bounds)."
    )


def terminal_text(summary: StudySummary) -> str:
    """Which methods reached the terminal phase."""
    counts = [(summary.title(runs.name), *runs.terminal) for runs in summary.confirmed if runs.completed]
    if not counts:
        return "unknown, no confirmation run finished"
    if all(reached == done for _, reached, done in counts):
        return "reached by every run"
    if not any(reached for _, reached, _ in counts):
        return "not reached by any run"
    return ", ".join(f"{name} {reached} of {done}" for name, reached, done in counts)


def mean_of(values: Floats) -> float:
    """Mean of the finite values, NaN where there is none."""
    found = values[np.isfinite(values)]
    return float(found.mean()) if found.size else math.nan


def sd_of(values: Floats) -> float:
    """Standard deviation of the finite values, NaN below two."""
    found = values[np.isfinite(values)]
    return float(found.std(ddof=1)) if found.size > 1 else math.nan
