"""The probe users call: fit on train, choose the strength on validation, score validation and test. No refit."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from divfeat.errors import ConfigError
from divfeat.probe.path import predicted
from divfeat.probe.problem import Problem
from divfeat.probe.result import Fit, ProbeResult, score
from divfeat.probe.search import PROTOCOL_STRENGTHS, best_index, coarse_to_fine, grid
from divfeat.probe.sgd import sgd
from divfeat.probe.solve import solve
from divfeat.probe.task import Pair, Task, prepare


def linear_probe(
    train: Pair,
    val: Pair | None = None,
    test: Pair | Mapping[str, Pair] | None = None,
    *,
    strengths: Sequence[float] | None = None,
    num_classes: int | None = None,
    search: Literal["coarse_to_fine", "grid"] = "coarse_to_fine",
    metric: Literal["top1", "per_class"] = "top1",
    standardize: bool = False,
    solver: Literal["lbfgs", "sgd"] = "lbfgs",
    tol: float = 1e-4,
    max_iter: int = 1000,
    dtype: torch.dtype | None = None,
    warm_start: ProbeResult | None = None,
    epochs: int = 100,
    batch_size: int = 128,
    learning_rate: float = 1.0,
    seed: int = 0,
) -> ProbeResult:
    """Multinomial logistic regression on frozen features: minimises sum_i CE_i + (strength / 2) ||W||^2, bias free.

    Protocol of Kornblith et al. (2019; 2021), followed by HingeCE section 4.1: 45 strengths, logspace(-6, 5), the best
    on validation. Here that one is scored as fitted on train alone, so validation and test keep their meaning.
    With a single strength nothing is chosen and validation may be None.

    Args:
        train: features [N, D] (tensor or array, any real dtype) and integer labels [N] in 0..K-1. The work is done on
            the features' device. Classes may be absent here; the result names them.
        val: the set that chooses the strength.
        test: one set, or several by name ("val" is taken). Scored once, with the chosen classifier.
        strengths: positive weight decays (1 / C), any order. None: the protocol's grid for L-BFGS, and for SGD plain
            cross-entropy (strength 0, which only SGD accepts: on separable data no minimum exists).
        num_classes: K; None = the largest label in any set plus one.
        search: "coarse_to_fine" fits about a third of the grid; "grid" all of it. L-BFGS only.
        metric: what is maximised on validation; ties go to the stronger regularisation.
        standardize: centre features and divide by their training deviation first (the protocol does not); constant
            features are only centred. The penalty then acts on the standardised weights.
        solver: "lbfgs", or "sgd", the paper's appendix B (its strengths are trained side by side).
        tol: relative gradient of the original problem to reach (see `Fit.gradient`); at 1e-4 the objective's relative
            error was below 1e-6 at strengths that a search picks, up to 1e-4 where small data are all but
            unregularised. Strengths that are only compared are fitted to ten times that.
        max_iter: of L-BFGS, for one strength.
        dtype: None = float64 while N * D * K <= 2^24, float32 above (and on devices without float64).
        warm_start: an earlier result of the same D and K to start from; L-BFGS only, changes speed, not the solution.
        epochs: of SGD.
        batch_size: of SGD, in samples.
        learning_rate: of SGD, constant.
        seed: of SGD's order of samples.

    Raises:
        ConfigError: an option is unknown or out of range, or several strengths come without validation.
        DataError: shapes disagree, features are not finite, labels are out of range, or train has fewer than 2 classes.
        NonFiniteError: SGD diverged.
    """
    for name, value, known in (
        ("solver", solver, ("lbfgs", "sgd")),
        ("search", search, ("coarse_to_fine", "grid")),
        ("metric", metric, ("top1", "per_class")),
    ):
        if value not in known:
            raise ConfigError(f"{name}={value!r}: must be one of {', '.join(known)}")
    if not (tol > 0 and max_iter > 0 and epochs > 0 and batch_size > 0 and 0 < learning_rate < math.inf):
        raise ConfigError(
            f"tol={tol}, max_iter={max_iter}, epochs={epochs}, batch_size={batch_size}, learning_rate={learning_rate}: "
            "all must be positive"
        )
    if dtype not in (None, torch.float32, torch.float64):
        raise ConfigError(f"dtype={dtype}: must be torch.float32, torch.float64 or None")
    if strengths is None:
        strengths = PROTOCOL_STRENGTHS if solver == "lbfgs" else (0.0,)
    ladder = sorted({float(strength) for strength in strengths})
    if not ladder or not all(math.isfinite(each) and (each > 0 or (each == 0 and solver == "sgd")) for each in ladder):
        raise ConfigError(f"strengths={ladder}: needs positive finite numbers (0 only with solver='sgd')")
    if len(ladder) > 1 and val is None:
        raise ConfigError(f"{len(ladder)} strengths and no validation to choose by; pass val, or strengths=[one]")
    if warm_start is not None and solver == "sgd":
        raise ConfigError("warm_start: the SGD recipe starts from zero; leave it out or use solver='lbfgs'")

    sets: dict[str, Pair] = dict(test) if isinstance(test, Mapping) else {"test": test} if test is not None else {}
    if val is not None:
        if "val" in sets:
            raise ConfigError("test: the name 'val' belongs to the validation set; rename that set")
        sets = {"val": val, **sets}
    task = prepare(train, sets, num_classes, dtype, standardize)
    if solver == "sgd":
        fits = _sgd(task, ladder, metric, tol, epochs, batch_size, learning_rate, seed)
    else:
        fits = _lbfgs(task, ladder, metric, tol, max_iter, search, warm_start)
    choice = _best(fits)
    chosen, weight, bias = fits[choice]
    ends: dict[int, Literal["low", "high"]] = {0: "low", len(ladder) - 1: "high"} if len(ladder) > 1 else {}
    present = set(task.classes.tolist())
    return ProbeResult(
        chosen=chosen,
        weight=weight,
        bias=bias,
        evaluated=tuple(fits[index].fit for index in sorted(fits)),
        scores={name: score(weight, bias, *pair) for name, pair in task.sets.items()},
        at_grid_end=ends.get(choice),
        absent_classes=tuple(label for label in range(task.total) if label not in present),
        solver=solver,
    )


class _Candidate(NamedTuple):
    """A fit and its classifier [D, K], [K] of the user's features."""

    fit: Fit
    weight: Tensor
    bias: Tensor


def _candidate(task: Task, metric: str, fit: Fit, weight: Tensor, bias: Tensor) -> _Candidate:
    """Bring a classifier of the task to the user's coordinates and put its validation accuracy into the row."""
    weight, bias = task.expand(weight, bias)
    if "val" in task.sets:
        fit = replace(fit, val_accuracy=getattr(score(weight, bias, *task.sets["val"]), metric))
    return _Candidate(fit, weight, bias)


def _best(fits: Mapping[int, _Candidate]) -> int:
    return best_index({index: candidate.fit.val_accuracy or 0.0 for index, candidate in fits.items()})


def _lbfgs(
    task: Task,
    ladder: Sequence[float],
    metric: str,
    tol: float,
    max_iter: int,
    search: str,
    warm_start: ProbeResult | None,
) -> dict[int, _Candidate]:
    """Fit the strengths the search asks for, each from where its neighbours point; then the best to full tolerance."""
    problem = Problem(task.features, task.labels, len(task.classes))
    first = problem.null()
    if warm_start is not None:
        expected = (task.features.shape[1], task.total)
        if tuple(warm_start.weight.shape) != expected:
            raise ConfigError(f"warm_start has weight {tuple(warm_start.weight.shape)}, these data need {expected}")
        first = problem.pack(*task.restrict(warm_start.weight, warm_start.bias))
    points: dict[int, Tensor] = {}
    fits: dict[int, _Candidate] = {}

    def fit(index: int, tolerance: float) -> float:
        start = points[index] if index in points else predicted(problem, points, ladder, index) if points else first
        solution = solve(problem, start, ladder[index], tol=tolerance, max_iter=max_iter)
        points[index] = solution.point
        before = fits[index].fit if index in fits else None
        row = Fit(
            strength=ladder[index],
            val_accuracy=None,
            objective=solution.objective,
            gradient=solution.gradient,
            iterations=solution.iterations + (before.iterations if before else 0),
            evaluations=solution.evaluations + (before.evaluations if before else 0),
            converged=solution.converged,
        )
        fits[index] = _candidate(task, metric, row, *problem.unpack(points[index]))
        return fits[index].fit.val_accuracy or 0.0

    if len(ladder) > 1:

        def compare(index: int) -> float:
            return fit(index, 10 * tol)

        if search == "grid":
            grid(len(ladder), compare)
        else:
            coarse_to_fine(len(ladder), compare, len(task.sets["val"][1]))
    # Full tolerance may move a validation sample or two, and with them the best strength: go on until it stands.
    polished: set[int] = set()
    while (choice := _best(fits) if fits else 0) not in polished:
        fit(choice, tol)
        polished.add(choice)
    if not fits[choice].fit.converged:
        warnings.warn(
            f"the probe at strength {ladder[choice]:g} stopped at relative gradient {fits[choice].fit.gradient:.1e}, "
            f"not {tol:g}, after {fits[choice].fit.iterations} iterations; raise max_iter, or pass dtype=torch.float64",
            RuntimeWarning,
            stacklevel=3,
        )
    return fits


def _sgd(
    task: Task,
    ladder: Sequence[float],
    metric: str,
    tol: float,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> dict[int, _Candidate]:
    """Train all strengths side by side and read the objective of each at its end."""
    classes = len(task.classes)
    weights, biases = sgd(
        task.features,
        task.labels,
        classes,
        ladder,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    problem = Problem(task.features, task.labels, classes)
    steps = epochs * math.ceil(len(task.features) / batch_size)
    fits = {}
    for index, (strength, weight, bias) in enumerate(zip(ladder, weights, biases, strict=True)):
        losses = torch.nn.functional.cross_entropy(task.features @ weight + bias, task.labels, reduction="none")
        penalty = strength / 2 * weight.square().sum(dtype=problem.sum_dtype)
        objective = (losses.sum(dtype=problem.sum_dtype) + penalty).item()
        gradient = problem.evaluate(problem.pack(weight, bias), strength)[2].item()
        row = Fit(strength, None, objective, gradient, steps, steps, gradient <= tol)
        fits[index] = _candidate(task, metric, row, weight, bias)
    return fits
