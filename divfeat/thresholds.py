"""Families of cone thresholds: a few numbers in, one angle tau+ a class out.

A family is one function of (parameters, context), one search space, one validation and one list of settings to try
first. Angles are radians inside. To add one: write a `Family`, put it in `FAMILIES` (docs/add-a-threshold-family.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from divfeat.errors import ConfigError

#: Upper end of the searched angles, the end of the paper's own sweep (HingeCE, figure 3c).
DEFAULT_HIGH = 17 / 36 * math.pi
#: The fixed angle of the paper's tables 1 and 3.
PAPER_ANGLE = 13 / 36 * math.pi
#: pi as float32 holds it, which lies above pi: a threshold tensor filled with math.pi is an angle all the same.
_LARGEST = float(torch.tensor(math.pi, dtype=torch.float32))


@dataclass(frozen=True)
class ThresholdContext:
    """What a family may look at.

    Attributes:
        class_counts: int64 [K], training images of each class.
        boundary: A class with at most this many training images is minor (HingeCE, appendix B: 50).
    """

    class_counts: Tensor
    boundary: int = 50

    @property
    def num_classes(self) -> int:
        """K."""
        return int(self.class_counts.numel())

    @property
    def minor(self) -> Tensor:
        """bool [K]: the classes with at most `boundary` training images."""
        return self.class_counts <= self.boundary


@dataclass(frozen=True)
class Dimension:
    """One searched number: uniform in [low, high] radians."""

    name: str
    low: float
    high: float


@dataclass(frozen=True)
class Family:
    """A named map from a few angles to one angle a class.

    Attributes:
        name: As in `search.family`.
        parameters: Names of the angles it needs.
        angles: (parameters, context) -> float64 tensor [K] of radians.
        tried_first: Settings worth a trial before the sampler takes over, the paper's among them.
        requires: (context) -> reason why the family makes no sense here, or None.
        summary: One line for `--help` and reports.
    """

    name: str
    parameters: tuple[str, ...]
    angles: Callable[[Mapping[str, float], ThresholdContext], Tensor]
    tried_first: tuple[Mapping[str, float], ...]
    summary: str
    requires: Callable[[ThresholdContext], str | None] = lambda context: None

    def space(self, low: float = 0.0, high: float = DEFAULT_HIGH) -> tuple[Dimension, ...]:
        """The searched box, in radians.

        Raises:
            ConfigError: an end outside [0, pi], or the two in the wrong order.
        """
        check_angle("search.low", low)
        check_angle("search.high", high)
        if not low < high:
            raise ConfigError(f"search.low={low} must lie below search.high={high} (radians)")
        return tuple(Dimension(name, low, high) for name in self.parameters)


def _none(parameters: Mapping[str, float], context: ThresholdContext) -> Tensor:
    return torch.zeros(context.num_classes, dtype=torch.float64)


def _global(parameters: Mapping[str, float], context: ThresholdContext) -> Tensor:
    return torch.full((context.num_classes,), float(parameters["tau"]), dtype=torch.float64)


def _major_minor(parameters: Mapping[str, float], context: ThresholdContext) -> Tensor:
    major, minor = (torch.tensor(float(parameters[name]), dtype=torch.float64) for name in ("tau_major", "tau_minor"))
    return torch.where(context.minor.cpu(), minor, major)


def _needs_both_groups(context: ThresholdContext) -> str | None:
    minor = int(context.minor.sum())
    if 0 < minor < context.num_classes:
        return None
    which = "no class" if minor == 0 else "every class"
    counts = f"{int(context.class_counts.min())} to {int(context.class_counts.max())} training images"
    return (
        f"{which} is minor at data.boundary={context.boundary} (classes have {counts}); "
        f"set data.boundary between those counts, or use the family 'global'"
    )


_PI = math.pi
FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("none", (), _none, ({},), "tau+ = 0 for every class: cross-entropy with a fixed frame"),
        Family(
            "global",
            ("tau",),
            _global,
            # Tables 1 and 3; no cone at all; the two ends of figure 3c's flat range.
            ({"tau": PAPER_ANGLE}, {"tau": 0.0}, {"tau": 11 / 36 * _PI}, {"tau": 5 / 12 * _PI}),
            "one angle for every class",
        ),
        Family(
            "major_minor",
            ("tau_major", "tau_minor"),
            _major_minor,
            # Section 4.2 (nothing on major classes, figure 5's best range on minor ones), then section 5's two ranges.
            (
                {"tau_major": 0.0, "tau_minor": 2 / 9 * _PI},
                {"tau_major": 0.0, "tau_minor": 5 / 18 * _PI},
                {"tau_major": 11 / 90 * _PI, "tau_minor": 1 / 4 * _PI},
                {"tau_major": 0.0, "tau_minor": 0.0},
            ),
            "one angle for major and one for minor classes",
            _needs_both_groups,
        ),
    )
}


def family_named(name: str) -> Family:
    """The family called `name`.

    Raises:
        ConfigError: unknown name; the message lists the known ones.
    """
    if name not in FAMILIES:
        raise ConfigError(f"unknown threshold family {name!r}; known: {', '.join(FAMILIES)}")
    return FAMILIES[name]


def resolve(spec: Mapping[str, Any], context: ThresholdContext) -> Tensor:
    """Angles tau+ of every class.

    Args:
        spec: ``{"family": name, **parameters}``, parameters in radians.
        context: Class counts and the like.

    Returns:
        float64 Tensor [K], radians.

    Raises:
        ConfigError: unknown family, missing or surplus parameter, angle outside [0, pi], or a family that makes no
            sense for these classes.
    """
    family = family_named(str(spec.get("family", "")))
    parameters = {name: value for name, value in spec.items() if name != "family"}
    check_parameters(family, parameters)
    reason = family.requires(context)
    if reason:
        raise ConfigError(f"threshold family {family.name!r}: {reason}")
    return family.angles(parameters, context)


def check_parameters(family: Family, parameters: Mapping[str, float]) -> None:
    """Refuse missing or surplus parameters and angles outside [0, pi].

    Raises:
        ConfigError: naming the parameter and the family.
    """
    missing = [name for name in family.parameters if name not in parameters]
    surplus = [name for name in parameters if name not in family.parameters]
    if missing or surplus:
        wanted = ", ".join(family.parameters) or "no parameters"
        problem = f"lacks {', '.join(missing)}" if missing else f"does not know {', '.join(surplus)}"
        raise ConfigError(f"threshold family {family.name!r} {problem}; it takes {wanted} (radians)")
    for name, value in parameters.items():
        check_angle(f"{family.name}.{name}", value)


def check_angle(name: str, value: float | Tensor, *, allow_zero: bool = True) -> None:
    """Refuse angles outside [0, pi] (or (0, pi]), naming the value and what was probably meant.

    Raises:
        ConfigError: some entry of `value` is not a finite angle in the range.
    """
    try:
        angles = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}={value!r} is not an angle in [0, pi] radians: give a number") from error
    bad = ~torch.isfinite(angles) | (angles < 0) | (angles > _LARGEST)
    if bad.any():
        first = float(angles[bad].flatten()[0]) if angles.ndim else float(angles)
        hint = ""
        if first > 3.5:  # below, a slip in radians
            hint = f"; angles are radians: {first:g} degrees would be {math.radians(first):.4f}"
        raise ConfigError(f"{name}={first:.10g} is not an angle in [0, pi] radians{hint}")
    if not allow_zero and (angles == 0).any():
        raise ConfigError(
            f"{name}=0 would make every negative logit the constant ||u||, so nothing pushes classes apart and the loss "
            f"cannot fall below log K; 'off' is tau_minus = pi (the default)"
        )
