"""What a probe answers: the classifier, its scores, and every strength that was tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Score:
    """Accuracy on one labelled set.

    Attributes:
        top1: share of samples predicted right, 0 to 1.
        per_class: mean over the set's classes of the class's accuracy (scikit-learn's balanced accuracy).
        predictions: int64 Tensor[N].
        unseen: samples whose class has no training sample; they count as wrong.
    """

    top1: float
    per_class: float
    predictions: Tensor
    unseen: int


@dataclass(frozen=True)
class Fit:
    """One strength that was tried.

    Attributes:
        strength: coefficient of ||W||^2 / 2.
        val_accuracy: the selection metric on validation, 0 to 1; None without validation.
        objective: sum of cross-entropies plus penalty, in nats.
        gradient: relative gradient at the solution: ||dF/d(W, b)|| / ||P - Y||_F in units of that ratio at W = 0.
        iterations: solver iterations in all (SGD: steps).
        evaluations: of objective and gradient (SGD: steps).
        converged: whether `gradient` came down to the tolerance asked.
    """

    strength: float
    val_accuracy: float | None
    objective: float
    gradient: float
    iterations: int
    evaluations: int
    converged: bool


@dataclass(frozen=True)
class ProbeResult:
    """The chosen classifier, `logits = features @ weight + bias`, and how it was found.

    Attributes:
        chosen: the row of `evaluated` of the classifier; its numbers are also properties here.
        weight: Tensor[D, K] for the features as passed (standardisation is folded in).
        bias: Tensor[K], of zero sum; -inf, the infimum, for classes without a training sample.
        evaluated: one row a strength tried, weakest first.
        scores: by set name: "val", "test", or the names given.
        at_grid_end: "low" (weakest) or "high" where the best strength is an end of the grid, which should then be
            widened; None inside it or where one strength was given.
        absent_classes: classes below num_classes without a training sample.
        solver: "lbfgs" or "sgd".
    """

    chosen: Fit
    weight: Tensor
    bias: Tensor
    evaluated: tuple[Fit, ...]
    scores: Mapping[str, Score]
    at_grid_end: Literal["low", "high"] | None
    absent_classes: tuple[int, ...]
    solver: str

    @property
    def strength(self) -> float:
        """The chosen coefficient of ||W||^2 / 2; C = 1 / strength."""
        return self.chosen.strength

    @property
    def objective(self) -> float:
        """Sum of cross-entropies plus penalty at the solution, in nats (of standardised features if asked)."""
        return self.chosen.objective

    @property
    def converged(self) -> bool:
        """Whether the chosen fit reached the tolerance; SGD usually does not."""
        return self.chosen.converged

    @property
    def iterations(self) -> int:
        """Iterations over all strengths tried."""
        return sum(fit.iterations for fit in self.evaluated)

    @property
    def evaluations(self) -> int:
        """Evaluations of objective and gradient over all strengths tried."""
        return sum(fit.evaluations for fit in self.evaluated)

    @property
    def val(self) -> Score | None:
        """The score on validation, if one was given."""
        return self.scores.get("val")

    @property
    def test(self) -> Score | None:
        """The score on the test set passed as a plain pair, if one was."""
        return self.scores.get("test")

    def logits(self, features: Tensor) -> Tensor:
        """Tensor[..., N, K] of the features Tensor[..., N, D]."""
        return features.to(self.weight) @ self.weight + self.bias


def score(weight: Tensor, bias: Tensor, features: Tensor, labels: Tensor) -> Score:
    """Accuracies of the classifier on features [N, D] with labels [N] in 0..K-1; a class of bias -inf is unseen."""
    # In slices: the logits of a large set with many classes would outgrow its features.
    predictions = torch.cat([(part @ weight + bias).argmax(1) for part in features.split(65536)])
    right = predictions == labels
    counts = torch.bincount(labels, minlength=len(bias))
    hits = torch.bincount(labels[right], minlength=len(bias))
    recalls = hits[counts > 0].float() / counts[counts > 0]
    return Score(
        top1=int(right.sum()) / len(labels),
        per_class=float(recalls.mean()),
        predictions=predictions,
        unseen=int((~bias.isfinite())[labels].sum()),
    )
