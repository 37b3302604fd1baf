"""L-BFGS for a smooth convex function (Nocedal & Wright 2006, algorithms 7.4 and 3.5) with its own stopping rule.

torch.optim.LBFGS takes no preconditioner and stops on the largest entry of the gradient; this one starts its recursion
from a given inverse Hessian, stops on a quantity the function supplies, and makes one transfer an evaluation.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Linear = Callable[[Tensor], Tensor]  # a symmetric positive map, shaped as the point
Function = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]  # point -> objective, gradient, relative gradient


class Solution(NamedTuple):
    """Where the solver stopped: `gradient` is the relative gradient there, `stalled` that no step descends any more."""

    point: Tensor
    objective: float
    gradient: float
    iterations: int
    evaluations: int
    converged: bool
    stalled: bool


class _Sample(NamedTuple):
    """The function at one point of a line: objective, slope along the line, relative gradient; gradient vector."""

    objective: float
    slope: float
    relative: float
    gradient: Tensor


class _Pair(NamedTuple):
    """One step taken: its change of point and of gradient, their product, and the scale it gives the inverse."""

    change: Tensor
    turn: Tensor
    curvature: Tensor
    scale: Tensor


def minimise(
    function: Function, start: Tensor, inverse: Linear, *, tol: float, max_iter: int, memory: int = 10
) -> Solution:
    """Minimise a convex function from `start` until its relative gradient is at most `tol`.

    Args:
        function: returns 0-d objective, gradient shaped as the point, and the 0-d relative gradient to stop on.
        start: any shape.
        inverse: multiplies by an approximate inverse Hessian, fixed.
        tol: dimensionless.
        max_iter: directions, not evaluations.
        memory: pairs kept.
    """

    def sample(point: Tensor, direction: Tensor) -> _Sample:
        objective, gradient, relative = function(point)
        slope = torch.dot(gradient.flatten(), direction.flatten())
        # One transfer for the three numbers: on a GPU each waits for the device.
        numbers = torch.stack([objective, slope.to(objective), relative.to(objective)]).tolist()
        return _Sample(numbers[0], numbers[1], numbers[2], gradient)

    point, evaluations, iterations, stalled = start, 1, 0, False
    here = sample(point, torch.zeros_like(point))
    pairs: deque[_Pair] = deque(maxlen=memory)
    while here.relative > tol and iterations < max_iter:
        direction = _direction(here.gradient, pairs, inverse)
        slope = torch.dot(direction.flatten(), here.gradient.flatten()).item()
        step, there, spent = _line_search(sample, point, direction, here, slope)
        evaluations += spent
        if there is None:
            if not pairs:
                stalled = True  # not even the preconditioned gradient descends: the limit of the arithmetic
                break
            pairs.clear()
            continue
        change, turn = step * direction, there.gradient - here.gradient
        if there.slope > slope:
            curvature = torch.dot(change.flatten(), turn.flatten())
            pairs.append(_Pair(change, turn, curvature, curvature / torch.dot(turn.flatten(), inverse(turn).flatten())))
        point, here, iterations = point + change, there, iterations + 1
    return Solution(
        point,
        here.objective,
        here.relative,
        iterations,
        evaluations,
        here.relative <= tol,
        stalled or math.isnan(here.relative),
    )


def _direction(gradient: Tensor, pairs: deque[_Pair], inverse: Linear) -> Tensor:
    """Minus the inverse-curvature estimate times the gradient (two-loop recursion); scalars stay on the device."""
    direction = gradient.neg()
    weights = []
    for pair in reversed(pairs):
        weight = torch.dot(pair.change.flatten(), direction.flatten()) / pair.curvature
        direction.addcmul_(pair.turn, weight, value=-1)
        weights.append(weight)
    direction = inverse(direction)
    if pairs:
        direction = direction * pairs[-1].scale
    for pair, weight in zip(pairs, reversed(weights), strict=True):
        direction.addcmul_(pair.change, weight - torch.dot(pair.turn.flatten(), direction.flatten()) / pair.curvature)
    return direction


def _line_search(
    sample: Callable[[Tensor, Tensor], _Sample], point: Tensor, direction: Tensor, here: _Sample, slope: float
) -> tuple[float, _Sample | None, int]:
    """A step with sufficient decrease and slope (strong Wolfe, 1e-4 and 0.9); None where arithmetic allows none.

    The function is convex, so the sign of the slope tells on which side of a trial the minimum lies: a bracket with
    secant steps is enough. The decrease is asked up to rounding of the objective, which near the optimum exceeds it.
    """
    slack = 16 * torch.finfo(direction.dtype).eps * abs(here.objective)
    low, low_slope, high = 0.0, slope, math.inf
    step = 1.0
    for spent in range(1, 41):
        there = sample(point + step * direction, direction)
        decreases = there.objective <= here.objective + 1e-4 * step * slope + slack  # False for NaN
        if decreases and abs(there.slope) <= -0.9 * slope:
            return step, there, spent
        share = 0.5
        if decreases and there.slope < 0:
            low, low_slope = step, there.slope
        else:
            high = step
            if 0 < there.slope < math.inf:
                # Where the objective rose, the slope says little: the secant would creep down from far above.
                share = min(max(low_slope / (low_slope - there.slope), 0.1), 0.9 if decreases else 0.5)
        step = 4 * step if high == math.inf else low + share * (high - low)
    return 0.0, None, spent
