"""L-BFGS for a smooth convex function (Nocedal & Wright 2006, algorithms 7.4 and 3.5) with its own stopping rule.

torch.optim.LBFGS stops on the gradient of the variable it is given, here the preconditioned one; this one asks the
function for the quantity to stop on, and keeps every vector on the device with one transfer an evaluation.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Function = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]  # point -> objective, gradient, relative gradient


class Solution(NamedTuple):
    """Where the solver stopped; `gradient` is the relative gradient there."""

    point: Tensor
    objective: float
    gradient: float
    iterations: int
    evaluations: int
    converged: bool


class _Sample(NamedTuple):
    """The function at one point of a line: objective, slope along the line, relative gradient; gradient vector."""

    objective: float
    slope: float
    relative: float
    gradient: Tensor


def minimise(function: Function, start: Tensor, *, tol: float, max_iter: int, memory: int = 10) -> Solution:
    """Minimise a convex function from `start` until its relative gradient is at most `tol`.

    Args:
        function: returns 0-d objective, gradient shaped as the point, and the 0-d relative gradient to stop on.
        start: any shape; a good scale is one where the curvature is near one.
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

    point, evaluations, iterations = start, 1, 0
    here = sample(point, torch.zeros_like(point))
    pairs: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=memory)
    while here.relative > tol and iterations < max_iter:
        direction = _direction(here.gradient, pairs)
        slope = torch.dot(direction.flatten(), here.gradient.flatten()).item()
        step, there, spent = _line_search(sample, point, direction, here, slope)
        evaluations += spent
        if there is None:
            if not pairs:
                break  # not even the gradient descends: the limit of the arithmetic
            pairs.clear()
            continue
        change, turn = step * direction, there.gradient - here.gradient
        curvature = torch.dot(change.flatten(), turn.flatten())
        if step * (there.slope - slope) > 0:
            pairs.append((change, turn, curvature))
        point, here, iterations = point + change, there, iterations + 1
    return Solution(point, here.objective, here.relative, iterations, evaluations, here.relative <= tol)


def _direction(gradient: Tensor, pairs: deque[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Minus the inverse-curvature estimate times the gradient (two-loop recursion); scalars stay on the device."""
    direction = gradient.neg()
    flat = direction.view(-1)
    weights = []
    for change, turn, curvature in reversed(pairs):
        weight = torch.dot(change.view(-1), flat) / curvature
        flat.addcmul_(turn.view(-1), weight, value=-1)
        weights.append(weight)
    if pairs:
        _, turn, curvature = pairs[-1]
        flat.mul_(curvature / torch.dot(turn.view(-1), turn.view(-1)))
    for (change, turn, curvature), weight in zip(pairs, reversed(weights), strict=True):
        flat.addcmul_(change.view(-1), weight - torch.dot(turn.view(-1), flat) / curvature)
    return direction


def _line_search(
    sample: Callable[[Tensor, Tensor], _Sample], point: Tensor, direction: Tensor, here: _Sample, slope: float
) -> tuple[float, _Sample | None, int]:
    """A step with sufficient decrease and slope (strong Wolfe, 1e-4 and 0.9); None where arithmetic allows none.

    The function is convex, so the sign of the slope tells on which side of a trial the minimum lies: a bracket with
    secant steps is enough. The decrease is asked up to rounding of the objective, which near the optimum exceeds it.
    """
    slack = 16 * torch.finfo(direction.dtype).eps * abs(here.objective)
    low, low_slope, high, high_slope = 0.0, slope, math.inf, math.inf
    step = 1.0
    for spent in range(1, 31):
        there = sample(point + step * direction, direction)
        finite = math.isfinite(there.objective) and math.isfinite(there.slope)
        decreases = finite and there.objective <= here.objective + 1e-4 * step * slope + slack
        if decreases and abs(there.slope) <= -0.9 * slope:
            return step, there, spent
        if decreases and there.slope < 0:
            low, low_slope = step, there.slope
        else:
            high, high_slope = step, there.slope if finite else math.inf
        if high == math.inf:
            step *= 4
        elif math.isfinite(high_slope) and high_slope > 0:
            share = low_slope / (low_slope - high_slope)
            step = low + min(max(share, 0.1), 0.9) * (high - low)
        else:
            step = 0.5 * (low + high)
    return 0.0, None, spent
