"""Numbers and angles as words: what report, figures and screen say alike."""

from __future__ import annotations

import math
from fractions import Fraction

from divfeat.objectives import Measure
from divfeat.thresholds import Family, Number


def signed(value: float, digits: int = 2) -> str:
    """A difference in points with its sign, none for 0; a dash where there is none."""
    if math.isnan(value):
        return "–"
    shown = round(value, digits)
    return f"{shown:+.{digits}f}".replace("-", "−") if shown else f"{0:.{digits}f}"


def interval(low: float, high: float, digits: int = 2) -> str:
    """'[−0.10, +0.42]'."""
    return "–" if math.isnan(low) or math.isnan(high) else f"[{signed(low, digits)}, {signed(high, digits)}]"


def value_cell(measure: Measure, value: float) -> float | str | None:
    """A cell of a table: a share in percent as it is, geometry, which may be small, to four digits."""
    if measure.unit == "share":
        return value
    return None if math.isnan(value) else f"{value:.4g}".replace("-", "−")


def fraction_of_pi(radians: float) -> str:
    """An angle as a fraction of pi: 13π/36; to two digits where no denominator up to 36 fits."""
    ratio = radians / math.pi
    fraction = Fraction(ratio).limit_denominator(36)
    if abs(float(fraction) - ratio) > 1e-6:
        return f"{ratio:.2f}π"
    top = {0: "0", 1: "π", -1: "−π"}.get(fraction.numerator, f"{fraction.numerator}π")
    return top if fraction.denominator == 1 or fraction.numerator == 0 else f"{top}/{fraction.denominator}"


def angle_cells(radians: float) -> list[str]:
    """An angle in radians, degrees and as a fraction of pi, the last to three digits where it is no round one."""
    fraction = fraction_of_pi(radians)
    return [
        f"{radians:.4f}",
        f"{math.degrees(radians):.1f}°",
        f"{radians / math.pi:.3f}π" if "." in fraction else fraction,
    ]


def parameter_cells(family: Family, name: str, value: float) -> list[str]:
    """A parameter of a threshold family: as an angle, or, without a unit, the bare number and two empty cells."""
    return [f"{value:.4f}", "", ""] if isinstance(family.other(name), Number) else angle_cells(value)


def parameter_text(family: Family, name: str, value: float) -> str:
    """'tau = 1.1345 rad = 65.0° = 13π/36', 'bend = 0.5000'."""
    if isinstance(family.other(name), Number):
        return f"{name} = {value:.4f}"
    return f"{name} = {angle_text(value)}"


def short_angle(radians: float) -> str:
    """'65.0° (13π/36)'."""
    _, degrees, fraction = angle_cells(radians)
    return f"{degrees} ({fraction})"


def angle_text(radians: float) -> str:
    """'1.1345 rad = 65.0° = 13π/36'."""
    first, second, third = angle_cells(radians)
    return f"{first} rad = {second} = {third}"
