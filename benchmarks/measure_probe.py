"""The linear probe over the 45 strengths of its protocol, beside scikit-learn's LogisticRegression at equal tolerance.

Both sides stop where the gradient of the same objective, relative to the residual and to the null model, is at most a
thousandth (`Fit.gradient`). scikit-learn has another stopping rule: for each strength the loosest `tol` that reaches
the bound is looked up beforehand, which it has over a user who must guess. It starts each fit from its neighbour's
solution, or from zero where that is faster. Both score validation after each fit.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor

from benchmarks.rows import Row, in_turn, seconds
from divfeat.probe import PROTOCOL_STRENGTHS, ProbeResult, linear_probe
from divfeat.probe.search import best_index

REPEATS = 3
_TOL = 1e-4  # `linear_probe`'s default: strengths that are only compared are fitted to ten times that
_MAX_ITER = 1000
Data = tuple[Tensor, Tensor]


class Case(NamedTuple):
    """Features to probe, `what` they are, and on how many cores."""

    what: str
    train: Data
    val: Data
    threads: int


def cones(size: int, dim: int, classes: int, dtype: torch.dtype, *, noise: float = 1.5) -> tuple[Data, Data]:
    """Train and a fifth as much validation: rectified features about class axes, their spectrum decaying, classes overlapping."""
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.arange(1, dim + 1).double() ** -0.5
    axes = torch.randn(classes, dim, generator=generator).double() * spectrum
    rotation = torch.linalg.qr(torch.randn(dim, dim, generator=generator).double())[0]

    def draw(count: int) -> Data:
        labels = torch.arange(count) % classes
        spread = torch.randn(count, dim, generator=generator).double() * spectrum * noise
        return torch.relu((axes[labels] + spread) @ rotation + 0.3).to(dtype), labels

    return draw(size), draw(size // 5)


def digits(dtype: torch.dtype, *, epochs: int = 20) -> tuple[Data, Data]:
    """Features [N, 128] of digits by a small net trained on five coarse classes of two digits each."""
    found = load_digits()
    images = torch.from_numpy(found.data).float() / 16
    labels = torch.from_numpy(found.target).long()
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(labels), generator=generator)
    fit, val = order[:1400], order[1400:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = torch.nn.Sequential(
            torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 128), torch.nn.ReLU()
        )
        head = torch.nn.Linear(128, 5)
    optimiser = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.1, momentum=0.9)
    for _ in range(epochs):
        for batch in fit[torch.randperm(len(fit), generator=generator)].split(64):
            loss = torch.nn.functional.cross_entropy(head(body(images[batch])), labels[batch] // 2)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        features = body(images).to(dtype)
    return (features[fit], labels[fit]), (features[val], labels[val])


def relative_gradient(train: Data, strength: float, weight: Tensor, bias: Tensor) -> tuple[float, float]:
    """Objective and `Fit.gradient` of a classifier, from their definitions in float64."""
    features, labels = train[0].double().cpu(), train[1].cpu()
    weight, bias = weight.double().cpu(), bias.double().cpu()
    targets = torch.nn.functional.one_hot(labels).double()

    def ratio(weight: Tensor, bias: Tensor) -> tuple[float, float]:
        logits = features @ weight + bias
        residual = logits.softmax(1) - targets
        gradient = torch.cat([features.T @ residual + strength * weight, residual.sum(0)[None]])
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        objective = float(loss + strength / 2 * weight.square().sum())
        return objective, float(gradient.norm() / residual.norm())

    objective, here = ratio(weight, bias)
    return objective, here / ratio(torch.zeros_like(weight), targets.mean(0).log())[1]


class _Try(NamedTuple):
    """A fit at one tolerance, its seconds, its objective and `Fit.gradient`."""

    model: LogisticRegression
    took: float
    objective: float
    gradient: float

    @property
    def enough(self) -> bool:
        return self.gradient <= 10 * _TOL


class Peer:
    """scikit-learn over the strengths, from strong to weak.

    Args:
        case: The data.
        warm: Whether a fit starts where its neighbour's ended.
    """

    def __init__(self, case: Case, warm: bool) -> None:
        self.case, self.warm = case, warm
        self.tolerances: list[float] = []
        self.reached: dict[int, tuple[float, float]] = {}
        self._train = (case.train[0].numpy(), case.train[1].numpy())
        self._val = (case.val[0].numpy(), case.val[1].numpy())

    def _fit(self, index: int, tolerance: float, before: LogisticRegression | None) -> LogisticRegression:
        model = LogisticRegression(
            C=1 / PROTOCOL_STRENGTHS[index], tol=tolerance, max_iter=_MAX_ITER, warm_start=self.warm
        )
        if self.warm and before is not None:
            model.classes_ = before.classes_
            model.coef_, model.intercept_ = before.coef_.copy(), before.intercept_.copy()
        return model.fit(*self._train)

    def calibrate(self, most: float) -> float:
        """Find each strength's tolerance; returns the seconds that the accepted fits took, or more than `most`."""
        spent, tolerance, kept = 0.0, 1e-3, None
        for index in reversed(range(len(PROTOCOL_STRENGTHS))):
            before = kept.model if kept else None
            kept = self._try(index, tolerance, before)
            if kept.enough:
                while tolerance < 1 and (looser := self._try(index, 2 * tolerance, before)).enough:
                    kept, tolerance = looser, 2 * tolerance
            else:
                same = 0
                # Three halvings without another iteration: it stops at the limit of its arithmetic, not at `tol`.
                while not kept.enough and same < 3 and kept.model.n_iter_[0] < _MAX_ITER:
                    tolerance /= 2
                    tighter = self._try(index, tolerance, before)
                    same = same + 1 if tighter.model.n_iter_[0] == kept.model.n_iter_[0] else 0
                    kept = tighter
            self.tolerances.append(tolerance)
            self.reached[index] = (kept.objective, kept.gradient)
            spent += kept.took
            if spent > most:
                break
        return spent

    def _try(self, index: int, tolerance: float, before: LogisticRegression | None) -> _Try:
        found: list[LogisticRegression] = []
        took = seconds(lambda: found.append(self._fit(index, tolerance, before)))
        weight = torch.from_numpy(np.ascontiguousarray(found[0].coef_.T))
        bias = torch.from_numpy(found[0].intercept_)
        return _Try(found[0], took, *relative_gradient(self.case.train, PROTOCOL_STRENGTHS[index], weight, bias))

    def run(self) -> None:
        """All strengths to their tolerances, each scored on validation."""
        before, self.scores = None, {}
        for index, tolerance in zip(reversed(range(len(PROTOCOL_STRENGTHS))), self.tolerances, strict=True):
            before = self._fit(index, tolerance, before)
            self.scores[index] = float(before.score(*self._val))


def cases(small: bool) -> Iterator[Case]:
    """What is measured; sizes of a small study's features."""
    if small:
        yield Case("cones, 120 x 6, 3 classes", *cones(120, 6, 3, torch.float64), threads=1)
        return
    yield Case("digits' features, 1,400 x 128, 10 classes", *digits(torch.float64), threads=1)
    # On one core: scikit-learn took several times as long on two cores as on one, which would flatter us.
    yield Case("cones, 10,000 x 64, 10 classes", *cones(10_000, 64, 10, torch.float64), threads=1)
    yield Case("cones, 1,500 x 128, 50 classes", *cones(1_500, 128, 50, torch.float32, noise=1.0), threads=1)


def measure(repeats: int, small: bool) -> Iterator[Row]:
    """Two rows a case, of the whole grid and of coarse to fine; on the GPU where there is one, scikit-learn on the CPU."""
    threads = torch.get_num_threads()
    try:
        for case in cases(small):
            torch.set_num_threads(case.threads)
            with threadpool_limits(case.threads), warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                yield from _measure(case, repeats)
    finally:
        torch.set_num_threads(threads)


def _measure(case: Case, repeats: int) -> Iterator[Row]:
    peers = [Peer(case, warm) for warm in (True, False)]
    taken = [peers[0].calibrate(float("inf"))]
    taken.append(peers[1].calibrate(taken[0]))  # given up as soon as it is slower
    peer = peers[int(taken[1] < taken[0])]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train, val = ((part[0].to(device), part[1].to(device)) for part in (case.train, case.val))
    results: dict[str, ProbeResult] = {}

    def ours(search: Any) -> None:
        results[search] = linear_probe(
            train, val, search=search, dtype=case.train[0].dtype, tol=_TOL, max_iter=_MAX_ITER
        )

    ours("grid")  # warm-up
    sides = [partial(seconds, partial(ours, search)) for search in ("grid", "coarse_to_fine")]
    measured = in_turn([*sides, partial(seconds, peer.run)], repeats, warm_up=False)
    for column, (search, goal) in enumerate({"grid": 2.0, "coarse_to_fine": 10.0}.items()):
        pairs = [(each[column], each[2]) for each in measured]
        dtype = str(case.train[0].dtype).removeprefix("torch.")
        yield Row(
            f"{case.what}, {dtype}, {case.threads} core{'s' if case.threads > 1 else ''}",
            {"grid": "all 45 strengths", "coarse_to_fine": "coarse to fine"}[search] + f" on {device}",
            f"scikit-learn's 45, {'warm' if peer.warm else 'cold'}",
            "s",
            pairs,
            "times",
            goal=goal,
            setting=_setting(case, results[search], results["grid"], peer, taken),
        )


def _setting(case: Case, found: ProbeResult, grid: ProbeResult, peer: Peer, taken: Sequence[float]) -> dict[str, Any]:
    """What both sides reached: gradients, objectives, chosen strengths and their accuracy on validation."""
    chosen = best_index(peer.scores)
    objectives = [(fit.objective, peer.reached[index][0]) for index, fit in enumerate(grid.evaluated)]
    assert found.val is not None
    return {
        "threads": case.threads,
        "bound_on_gradient": 10 * _TOL,
        "largest_gradient_ours": max(fit.gradient for fit in found.evaluated),
        "largest_gradient_peer": max(gradient for _, gradient in peer.reached.values()),
        "peer_short_of_bound": sum(gradient > 10 * _TOL for _, gradient in peer.reached.values()),
        "chosen_gradient_recomputed": relative_gradient(case.train, found.strength, found.weight, found.bias)[1],
        "objective_ours_over_peer": [min(a / b for a, b in objectives), max(a / b for a, b in objectives)],
        "strengths_fitted": len(found.evaluated),
        "evaluations_ours": found.evaluations,
        "chosen_ours": found.strength,
        "chosen_peer": PROTOCOL_STRENGTHS[chosen],
        "val_accuracy_ours": found.val.top1,
        "val_accuracy_peer": peer.scores[chosen],
        "peer_calibration_s": {"warm": taken[0], "cold, until it was slower": taken[1]},
    }
