"""One strength solved: L-BFGS, preconditioned as far as its difficulty warrants."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from divfeat.probe.lbfgs import Linear, Solution, minimise
from divfeat.probe.problem import Problem

#: Numbers the inverse blocks may hold (K (R + 1)^2): 1 GiB of float64.
_BLOCK_NUMBERS = 2**27


def solve(problem: Problem, start: Tensor, strength: float, *, tol: float, max_iter: int) -> Solution:
    """Minimise the objective at one strength from a packed `start` [R + 1, K].

    Begins with the diagonal inverse Hessian, enough at the strengths that win. Once as many iterations are spent as its
    blocks cost, it is worth their price (weak regularisation, a bad start): they are built where the solver stands, and
    again whenever the same number has passed.
    """

    def function(point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return problem.evaluate(point, strength)

    size, classes = start.shape
    patience = max(20, size // 2)
    inverse: Linear = partial(torch.mul, problem.diagonal(start, strength))
    solution = minimise(function, start, inverse, tol=tol, max_iter=min(patience, max_iter))
    while not (solution.converged or solution.stalled or solution.iterations >= max_iter):
        if classes * size**2 <= _BLOCK_NUMBERS:
            inverse = partial(_by_class, problem.blocks(solution.point, strength))
        else:
            inverse = partial(torch.mul, problem.diagonal(solution.point, strength))
        left = min(patience, max_iter - solution.iterations)
        more = minimise(function, solution.point, inverse, tol=tol, max_iter=left)
        solution = more._replace(
            iterations=solution.iterations + more.iterations, evaluations=solution.evaluations + more.evaluations
        )
    return solution


def _by_class(blocks: Tensor, vector: Tensor) -> Tensor:
    """Multiply each class's column of `vector` [R + 1, K] by its block [R + 1, R + 1]."""
    return torch.bmm(blocks, vector.T[..., None])[..., 0].T.contiguous()
