"""What a family of cone thresholds is: parameters with their ranges, a map to one angle a class, and its validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from divfeat.errors import ConfigError
from divfeat.hierarchy import Hierarchy

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
        own_angles: [K, bins], how many training features of each class lay at each angle from its axis in the last epoch, in
            bins of equal width from 0 to pi; None before there is one.
        hierarchy: Tree of the classes, or None.
        class_means: [K, M], means of the training images of each class, or None where nothing asks for them.
    """

    class_counts: Tensor
    boundary: int = 50
    own_angles: Tensor | None = None
    hierarchy: Hierarchy | None = None
    class_means: Tensor | None = None

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
    """One searched number: uniform in [low, high], radians for angles and offsets."""

    name: str
    low: float
    high: float


@dataclass(frozen=True)
class Offset:
    """A parameter that is added to angles: radians of either sign.

    Attributes:
        name: Of the parameter.
        reach: Searched up to this share of the width of the box of angles, on either side of 0.
    """

    name: str
    reach: float

    def searched(self, low: float, high: float) -> Dimension:
        """Its range where angles are searched in [low, high] radians."""
        reach = self.reach * (high - low)
        return Dimension(self.name, -reach, reach)

    def check(self, name: str, value: float) -> None:
        """Refuse what is no finite number of at most half a turn.

        Raises:
            ConfigError: naming the value.
        """
        _in_range(name, value, -math.pi, math.pi, "an offset of at most pi radians to either side")


@dataclass(frozen=True)
class Number:
    """A parameter without a unit, in a range of its own."""

    name: str
    low: float
    high: float

    def searched(self, low: float, high: float) -> Dimension:
        """Its own range, whatever that of the angles is."""
        return Dimension(self.name, self.low, self.high)

    def check(self, name: str, value: float) -> None:
        """Refuse what lies outside the range.

        Raises:
            ConfigError: naming the value.
        """
        _in_range(name, value, self.low, self.high, f"a number from {self.low:g} to {self.high:g}")


Parameters = Mapping[str, float]
#: (parameters of a simpler family, context) -> parameters that give the same angles.
Lift = Callable[[Parameters, ThresholdContext], dict[str, float]]


def _all_zero(parameters: Parameters) -> bool:
    return all(value == 0 for value in parameters.values())


@dataclass(frozen=True)
class Family:
    """A named map from a few numbers to one angle a class.

    Attributes:
        name: As in `search.family`.
        parameters: Names of the numbers it needs; angles, unless named in `others`.
        angles: (parameters, context) -> float64 tensor [K] of radians.
        tried_first: Settings worth a trial before the sampler takes over, the paper's among them.
        summary: One line for `--help` and reports.
        requires: (context) -> reason why the family makes no sense here, or None.
        others: The parameters that are not angles, with their ranges.
        lifts: Simpler family -> map of its parameters to those that give the same angles here. With it a refinement goes on
            from what that family has measured.
        coneless: Whether parameters leave no class a cone.
        varies: Whether classes may have different angles.
        by_count: Whether the angles follow the class counts.
        moves: Whether the angles follow the features during training (`divfeat.thresholds.moving`).
        widest: Largest `search.high` that it can be searched with, radians.
        unsearchable: Why it can be set but not searched, or "".
    """

    name: str
    parameters: tuple[str, ...]
    angles: Callable[[Parameters, ThresholdContext], Tensor]
    tried_first: tuple[Parameters, ...]
    summary: str
    requires: Callable[[ThresholdContext], str | None] = lambda context: None
    others: tuple[Offset | Number, ...] = ()
    lifts: Mapping[str, Lift] = field(default_factory=dict)
    coneless: Callable[[Parameters], bool] = _all_zero
    varies: bool = True
    by_count: bool = True
    moves: bool = False
    widest: float = math.pi
    unsearchable: str = ""

    @property
    def one_angle(self) -> bool:
        """Whether a grid over one angle covers it."""
        return len(self.parameters) == 1 and not self.others

    def other(self, name: str) -> Offset | Number | None:
        """The parameter `name` where it is no angle, else None."""
        return next((parameter for parameter in self.others if parameter.name == name), None)

    def shown(self, parameters: Parameters) -> dict[str, float]:
        """Parameters as people read and plot them: angles and offsets as `<name>_deg` in degrees, numbers as they are.

        The one angle of all classes, `tau`, is `tau_plus_deg`. In the family's order; what is missing is left out.
        """
        found = {}
        for name in self.parameters:
            if name not in parameters:
                continue
            if isinstance(self.other(name), Number):
                found[name] = float(parameters[name])
            else:
                found[f"{'tau_plus' if name == 'tau' else name}_deg"] = round(math.degrees(parameters[name]), 4)
        return found

    @property
    def closed(self) -> dict[str, float]:
        """Its angles and offsets at 0: no class has a cone."""
        return {name: 0.0 for name in self.parameters if not isinstance(self.other(name), Number)}

    def space(self, low: float = 0.0, high: float = DEFAULT_HIGH) -> tuple[Dimension, ...]:
        """The searched box: angles in [low, high] radians, other parameters in their own ranges.

        Raises:
            ConfigError: an end outside [0, pi], the two in the wrong order, or a family that is not searched (so widely).
        """
        check_angle("search.low", low)
        check_angle("search.high", high)
        if not low < high:
            raise ConfigError(f"search.low={low} must lie below search.high={high} (radians)")
        if self.unsearchable:
            raise ConfigError(f"threshold family {self.name!r} cannot be searched: {self.unsearchable}")
        if high > self.widest:
            raise ConfigError(
                f"search.high={high:.10g}: threshold family {self.name!r} adds offsets to its angles and keeps them within "
                f"{self.widest:.10g} radians ({math.degrees(self.widest):g} degrees); lower search.high to that"
            )
        found = []
        for name in self.parameters:
            other = self.other(name)
            found.append(other.searched(low, high) if other else Dimension(name, low, high))
        return tuple(found)

    def corners(self, low: float, high: float) -> tuple[dict[str, float], dict[str, float]]:
        """The two corners of the box: every parameter at its lower end, and every one at its upper end."""
        box = self.space(low, high)
        return {side.name: side.low for side in box}, {side.name: side.high for side in box}

    def check(self, parameters: Parameters) -> None:
        """Refuse missing or surplus parameters and values outside their ranges.

        Raises:
            ConfigError: naming the parameter and the family.
        """
        missing = [name for name in self.parameters if name not in parameters]
        surplus = [name for name in parameters if name not in self.parameters]
        if missing or surplus:
            wanted = ", ".join(self.parameters) or "no parameters"
            problem = f"lacks {', '.join(missing)}" if missing else f"does not know {', '.join(surplus)}"
            raise ConfigError(f"threshold family {self.name!r} {problem}; it takes {wanted} (radians)")
        for name, value in parameters.items():
            other = self.other(name)
            if other is None:
                check_angle(f"{self.name}.{name}", value)
            else:
                other.check(f"{self.name}.{name}", value)


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


def _in_range(name: str, value: float, low: float, high: float, wanted: str) -> None:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}={value!r} is not {wanted}") from error
    if not low <= number <= high:  # NaN too
        raise ConfigError(f"{name}={number:.10g} is not {wanted}")
