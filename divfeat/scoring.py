"""What the features of an experiment say: collapse, classifier, linear probes, and a row a class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from divfeat.config import ExperimentConfig
from divfeat.data.prepare import PreparedData
from divfeat.errors import NonFiniteError
from divfeat.features import FeatureSet
from divfeat.hierarchy import Hierarchy
from divfeat.methods import keeps_frozen_axes, parts_of
from divfeat.metrics.accuracy import accuracy_by_class
from divfeat.metrics.angular import cosines_between
from divfeat.metrics.by_class import class_geometry
from divfeat.metrics.calibration import expected_calibration_error
from divfeat.metrics.collapse import nearest_mean_agreement
from divfeat.metrics.groups import by_boundary, by_shots
from divfeat.metrics.mistakes import MistakesAccumulator
from divfeat.metrics.statistics import class_statistics
from divfeat.metrics.summary import collapse_summary
from divfeat.probe import ProbeResult, linear_probe
from divfeat.seeding import stream_seed


def check_finite(features: Mapping[str, FeatureSet]) -> None:
    """Steps look at the loss before they are taken: what the last one broke shows here, the same on every rank.

    Raises:
        NonFiniteError: a feature or logit is NaN, infinite, or too large to be squared in float32.
    """
    for name, found in features.items():
        for taps in (found.before, found.after, found.logits):
            if not bool(taps.float().square().sum(-1).isfinite().all()):
                raise NonFiniteError(
                    f"features of {name} became NaN or infinite in training; a lower train.lr, train.clip_norm or (release "
                    "'theorem') a smaller angle helps"
                )


@dataclass
class Scores:
    """What the features of an experiment say; fields as `ExperimentResult` has them."""

    metrics: dict[str, float] = field(default_factory=dict)
    per_class: list[dict[str, Any]] = field(default_factory=list)
    correct: dict[str, np.ndarray] = field(default_factory=dict)
    angles: dict[str, np.ndarray] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def measure(
    features: Mapping[str, FeatureSet],
    axes: Tensor,
    bias: Tensor | None,
    config: ExperimentConfig,
    data: PreparedData,
    tau_plus: Tensor,
) -> Scores:
    """Collapse of the training features, and how classifier and probes do on the scored images.

    Args:
        features: `train` and `val` or `test`.
        axes: [D, K] class axes.
        bias: [K] of the classifier, or None.
        config: Of the experiment.
        data: Its images.
        tau_plus: [K] radians.
    """
    result = Scores()
    name = data.evaluation_name
    train_set, scored = features["train"], features[name]
    level = config.data.train_level
    train_labels, labels = train_set.labels(level), scored.labels(level)
    tau = tau_plus.to(train_set.after.device)
    metrics = result.metrics
    metrics["train/accuracy_eval"] = float((train_set.logits.argmax(-1) == train_labels).double().mean())
    metrics.update(collapse_of(train_set.after, train_labels, axes, tau, bias, config, data))
    if parts_of(config.method).second != "none":  # whose logits need not be linear in the features
        agreed = nearest_mean_agreement(train_set.after, train_labels, train_set.logits.argmax(-1))
        metrics["collapse/nc4"] = float(agreed)

    predictions = scored.logits.argmax(-1)
    metrics.update({f"{name}/{key}": value for key, value in objective_scores(scored, config, data).items()})
    if parts_of(config.method).second != "crm":  # whose scores are risks: a softmax of them is no probability
        metrics[f"{name}/calibration_error"] = float(expected_calibration_error(scored.logits.softmax(-1), labels))
    result.correct["label"] = labels.cpu().numpy()
    result.correct["fine"] = scored.fine.cpu().numpy()
    result.correct["accuracy"] = (predictions == labels).cpu().numpy()
    result.correct["predicted"] = predictions.cpu().numpy()
    if data.hierarchy is not None:
        result.angles = class_cosines(train_set.after, train_labels, axes)

    probe = _probe(config, train_set, scored, "after")
    before = _probe(config, train_set, scored, "before") if scored.before is not scored.after else probe
    prefix = "probe" if name == "val" else "test"
    target = scored.labels(config.data.probe_level)
    for suffix, fitted, tap in (("", probe, "after"), ("_before", before, "before")):
        metrics[f"{prefix}/fine_top1{suffix}"] = fitted.top1
        metrics[f"{prefix}/fine_mean_class{suffix}"] = fitted.mean_class
        metrics[f"probe/strength{suffix}"] = fitted.strength
        metrics[f"{prefix}/unseen_top1{suffix}"] = unseen_probe(getattr(scored, tap), target, fitted.strength, config)
        if fitted.at_grid_end:
            result.notes.append(
                f"the probe's best strength ({tap} the projector) lies at the {fitted.at_grid_end} end of its grid"
            )
        if not fitted.converged:
            result.notes.append(f"the probe {tap} the projector stopped before it had converged")
    result.correct["fine_probe"] = probe.correct
    result.per_class = _per_class_rows(data, tau_plus, train_set, train_labels, predictions, labels, axes)
    if (single := sum(row["train_images"] < 2 for row in result.per_class)) > 0:
        result.notes.append(
            f"{single} class{'es have' if single > 1 else ' has'} fewer than 2 training images: no spread of such features is "
            "defined, and tables of classes leave it empty"
        )
    return result


def collapse_of(
    features: Tensor,
    labels: Tensor,
    axes: Tensor,
    tau_plus: Tensor,
    bias: Tensor | None,
    config: ExperimentConfig,
    data: PreparedData,
) -> dict[str, float]:
    """`collapse_summary` of an experiment's features, with what its method and its tree add.

    Args:
        features: [N, D].
        labels: int64 [N] at the trained level.
        axes: [D, K].
        tau_plus: [K] radians, on the features' device.
        bias: [K] of the classifier, or None.
        config: Of the experiment.
        data: Its images.
    """
    frozen = keeps_frozen_axes(config.method)
    return collapse_summary(features, labels, axes, tau_plus, bias=bias, frozen=frozen, hierarchy=data.hierarchy)


def class_cosines(features: Tensor, labels: Tensor, axes: Tensor) -> dict[str, np.ndarray]:
    """What an experiment keeps of the angles between classes: float32 [K, K] cosines between `axes`, and between the raw `means`
    of the features (NaN for a class without samples).

    Args:
        features: [N, D].
        labels: int64 [N].
        axes: [D, K].
    """
    means = class_statistics(features, labels, axes.shape[1]).means
    return {
        name: cosines_between(rows).float().cpu().numpy()
        for name, rows in (("axes", axes.detach().T), ("means", means))
    }


@dataclass(frozen=True)
class _Fitted:
    """A probe with its scores on the scored images."""

    strength: float
    top1: float
    mean_class: float
    correct: np.ndarray
    at_grid_end: str | None
    converged: bool


def _probe(config: ExperimentConfig, train_set: FeatureSet, scored: FeatureSet, tap: str) -> _Fitted:
    """Probe on one tap. In a search the strength is chosen and scored on validation; in a confirmation it is given."""
    level = config.data.probe_level
    fit = (getattr(train_set, tap), train_set.labels(level))
    score = (getattr(scored, tap), scored.labels(level))
    settings = config.probe
    strengths = settings.strengths_before if tap == "before" and settings.strengths_before else settings.strengths
    frozen = config.role == "confirm"
    found: ProbeResult = linear_probe(
        fit,
        None if frozen else score,
        score if frozen else None,
        strengths=strengths,
        search=settings.search,
        solver=settings.solver,
        standardize=settings.standardize,
        seed=stream_seed(config.seed, "probe"),
    )
    reached = found.test if frozen else found.val
    assert reached is not None
    correct = (reached.predictions == score[1]).cpu().numpy()
    return _Fitted(found.strength, reached.top1, reached.per_class, correct, found.at_grid_end, found.converged)


def unseen_probe(features: Tensor, labels: Tensor, strength: float, config: ExperimentConfig) -> float:
    """Top-1 of a probe fitted on images the backbone never saw: each half of the scored images predicted from the other.

    Halves are drawn class by class; the strength is taken as given.

    Args:
        features: [N, D] of the scored images.
        labels: int64 [N].
        strength: As the probe on the training images chose it.
        config: Solver and seed.
    """
    generator = torch.Generator().manual_seed(stream_seed(config.seed, "unseen"))
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[torch.argsort(labels.cpu()[shuffled], stable=True)].to(labels.device)
    halves = (by_class[0::2], by_class[1::2])
    hits = 0.0
    for fit, score in (halves, halves[::-1]):
        found = linear_probe(
            (features[fit], labels[fit]),
            None,
            (features[score], labels[score]),
            strengths=[strength],
            solver=config.probe.solver,
            standardize=config.probe.standardize,
            num_classes=int(labels.max()) + 1,
            seed=stream_seed(config.seed, "probe"),
        )
        assert found.test is not None
        hits += found.test.top1 * len(score)
    return hits / len(labels)


def objective_scores(scored: FeatureSet, config: ExperimentConfig, data: PreparedData) -> dict[str, float]:
    """What the classifier does on the scored images: accuracies and, with a tree, mistakes, by name without the split."""
    labels = scored.labels(config.data.train_level)
    found = classifier_scores(scored.logits.argmax(-1), labels, data, config.data.boundary)
    return found if data.hierarchy is None else found | mistake_scores(scored.logits, labels, data.hierarchy)


def classifier_scores(predictions: Tensor, labels: Tensor, data: PreparedData, boundary: int) -> dict[str, float]:
    """Accuracy, balanced accuracy, and the mean accuracy of the classes of a group, as shares in [0, 1].

    Groups are major and minor, and many, medium and few; a group without classes, or one that holds all, is left out.

    Args:
        predictions: int64 [N].
        labels: int64 [N] at the trained level.
        data: For the class counts.
        boundary: A class with at most this many training images is minor.
    """
    counts = torch.as_tensor(data.class_counts)
    by_class = accuracy_by_class(predictions, labels, len(counts)).cpu()
    present = ~torch.isnan(by_class)
    scores = {
        "accuracy": float((predictions == labels).double().mean()),
        "accuracy_balanced": float(by_class[present].mean()),
    }
    for name, mask in (by_boundary(counts, boundary) | by_shots(counts)).items():
        if 0 < int(mask.sum()) < len(counts):
            scores[f"accuracy_{name}"] = float(by_class[mask & present].mean())
    return scores


def mistake_scores(logits: Tensor, labels: Tensor, hierarchy: Hierarchy) -> dict[str, float]:
    """Severity of mistakes, hierarchical distance at 1, 5 and 20, and accuracy on each level above the classes.

    Args:
        logits: [N, K].
        labels: int64 [N].
        hierarchy: Of the K classes.
    """
    accumulator = MistakesAccumulator(hierarchy)
    accumulator.update(logits, labels)
    found = accumulator.compute()
    return {
        "mistake_severity": found.severity,
        **{f"hierarchical_distance_{k}": value for k, value in found.distance_at.items()},
        **{f"level_{level}_accuracy": value for level, value in enumerate(found.by_level[:-1], 1)},
    }


def _per_class_rows(
    data: PreparedData,
    tau_plus: Tensor,
    train_set: FeatureSet,
    train_labels: Tensor,
    predictions: Tensor,
    labels: Tensor,
    axes: Tensor,
) -> list[dict[str, Any]]:
    """One row a trained class: its size, threshold and accuracy, and the geometry of its training features."""
    by_class = accuracy_by_class(predictions, labels, len(data.class_counts)).tolist()
    geometry = {name: values.tolist() for name, values in class_geometry(train_set.after, train_labels, axes).items()}
    return [
        {
            "class": k,
            "name": data.class_names[k],
            "train_images": int(data.class_counts[k]),
            "tau_plus": float(tau_plus[k]),
            "accuracy": by_class[k],
            **{name: values[k] for name, values in geometry.items()},
        }
        for k in range(len(data.class_counts))
    ]
