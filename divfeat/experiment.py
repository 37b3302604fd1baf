"""One experiment end to end: data, pretraining, features, probe, metrics. SPMD and without Ray.

`run` is what a trial calls in its own process and what Ray Train calls on every rank: ranks share training and feature
extraction, rank 0 fits the probes and measures.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from divfeat.config import ExperimentConfig, MethodConfig
from divfeat.data.batches import Batches
from divfeat.data.prepare import PreparedData, prepare
from divfeat.errors import ConfigError, NonFiniteError
from divfeat.features import FeatureSet, extract
from divfeat.files import write_json
from divfeat.losses.objective import Objective
from divfeat.methods import BuiltMethod, build_method, canonical, first_stage, method_named, parts_of, train_of
from divfeat.metrics.accuracy import accuracy_by_class
from divfeat.metrics.by_class import class_geometry
from divfeat.metrics.calibration import expected_calibration_error
from divfeat.metrics.collapse import nearest_mean_agreement
from divfeat.metrics.groups import by_boundary, by_shots
from divfeat.metrics.summary import collapse_summary
from divfeat.models import FeatureExtractor, build_extractor
from divfeat.objectives import OBJECTIVES
from divfeat.pretrain import Learner, TrainResult, train
from divfeat.probe import ProbeResult, linear_probe
from divfeat.provenance import commit, device_name, versions
from divfeat.second import SECONDS, FirstStage
from divfeat.seeding import stream_seed
from divfeat.thresholds import ThresholdContext

#: Training accuracy from which on training is in its terminal phase (Papyan et al. 2020 take 100 %).
TERMINAL_ACCURACY = 0.999
#: Images of the fixed training subset on which collapse is followed during training.
_FOLLOWED_IMAGES = 1000
#: Beside the checkpoint of a first stage that a second has started from.
_DONE = "done.json"

OnEpoch = Callable[[int, Mapping[str, float]], None]


@dataclass
class ExperimentResult:
    """What one experiment found.

    Attributes:
        metrics: Flat names to numbers, used unchanged by Optuna, MLflow and the report; accuracies are shares in [0, 1].
        history: One mapping an epoch (`epoch`, `time` in unix milliseconds, metrics).
        per_class: One row a trained class.
        provenance: Key, hashes, parameter count, feature dimension, seeds, epoch policy, commit, versions, device.
        features: `train` and `val` or `test`.
        correct: bool [N] of the scored images: `fine_probe`, and `accuracy` of the classifier; and int64 `fine`, `label`.
        extractor: The trained network, on its device, in evaluation mode.
        axes: [D, K] class axes.
        notes: Sentences a reader of the numbers must know.
    """

    metrics: dict[str, float]
    history: list[dict[str, float]]
    per_class: list[dict[str, Any]]
    provenance: dict[str, Any]
    features: dict[str, FeatureSet]
    correct: dict[str, np.ndarray]
    extractor: FeatureExtractor
    axes: Tensor
    notes: list[str] = field(default_factory=list)


def stage_key(config: ExperimentConfig) -> str:
    """Hash of what decides the first stage alone: experiments that differ in their probe, in their second stage, or in how
    they spell their method share the checkpoint."""
    return _without_probe(config, first_stage(config.method)).key


def second_key(config: ExperimentConfig) -> str:
    """Hash of what decides both stages: the same as `stage_key` where there is no second."""
    return _without_probe(config, canonical(config.method)).key


def _without_probe(config: ExperimentConfig, method: MethodConfig) -> ExperimentConfig:
    return config.model_copy(update={"probe": type(config.probe)(), "method": method})


def first_stage_done(stages: Path, config: ExperimentConfig) -> bool:
    """Whether a run has left word in `stages` that the first stage of `config` is trained: others may start beside it."""
    return (stages / stage_key(config) / _DONE).exists()


def remove_stages(stages: Path, config: ExperimentConfig, *, shared: bool) -> None:
    """Remove the checkpoints of a run that has ended.

    Args:
        stages: Their folder.
        config: Of the run.
        shared: Whether other runs can go on from the first stage's, which then stays.
    """
    first, second = stage_key(config), second_key(config)
    for key in {second} - {first} if shared else {second, first}:
        shutil.rmtree(stages / key, ignore_errors=True)


def _as_trained(config: ExperimentConfig) -> ExperimentConfig:
    """`config` with the settings of training that its method replaces."""
    return config.model_copy(update={"train": train_of(config.method, config.train)})


def build(config: ExperimentConfig, data: PreparedData) -> tuple[Learner, BuiltMethod]:
    """Network and method, initialised from streams of `config.seed` that do not depend on each other.

    Raises:
        ConfigError: unknown backbone or method, thresholds or dimensions that do not fit, a cutout above the images' size, or
            a second stage that cannot work on these data.
    """
    projector = method_named(config.method.name).projector
    parts = parts_of(config.method)
    if parts.second != "none":
        SECONDS[parts.second].check(_as_trained(config), parts, data.class_counts)
    height, width = data.train.image_shape[1:]
    if config.train.cutout > min(height, width):
        raise ConfigError(f"train.cutout={config.train.cutout} is more than the images' {height} x {width} pixels")
    mean, std = data.train.channel_stats()
    extractor = build_extractor(
        config.model.backbone,
        image_shape=data.train.image_shape,
        projector=projector,
        projector_dim=config.model.projector_dim if projector else None,
        feature_norm=parts.feature_norm,
        mean=mean.tolist(),
        std=std.tolist(),
        seed=stream_seed(config.seed, "weights"),
        **config.model.options,  # type: ignore[arg-type]
    )
    context = ThresholdContext(torch.as_tensor(data.class_counts), boundary=config.data.boundary)
    method = build_method(config.method, extractor.feature_dim, context, seed=stream_seed(config.seed, "frame"))
    return Learner(extractor, method.head), method


def run(
    config: ExperimentConfig,
    data: PreparedData | None = None,
    on_epoch: OnEpoch | None = None,
    *,
    stages: Path | None = None,
    device: str | torch.device | None = None,
    rungs: Sequence[int] = (),
    root: Path | None = None,
) -> ExperimentResult:
    """Train, extract, probe, measure.

    Args:
        config: What to run.
        data: Prepared images of `config.role`; None loads them.
        on_epoch: Called on every rank after each epoch (0-based) with that epoch's metrics; a second stage's epochs follow on
            the first's.
        stages: Folder for checkpoints; training resumes from there, and a first stage that another run has finished is taken
            over. None keeps none.
        device: Default the first GPU, else the CPU.
        rungs: Numbers of finished epochs after which the objectives themselves are measured on validation.
        root: Folder of local data sets.

    Returns:
        ExperimentResult, complete on rank 0; other ranks hold metrics of the training only.

    Raises:
        ConfigError, DataError: settings or data that cannot work.
        NonFiniteError: training diverged.
    """
    started = time.time()
    if config.role == "confirm":
        _check_selects_nothing(config, rungs)
    data = data or prepare(config.data, config.role, root=root)
    if data.role != config.role or data.config != config.data:
        raise ConfigError(f"data were prepared for {data.role!r} of another configuration than this {config.role!r}")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    rank = dist.get_rank() if world > 1 else 0
    learner, method = build(config, data)
    learner.to(device)
    training = _as_trained(config).train
    batches = Batches(
        data.train.images,
        data.train_labels,
        batch_size=config.train.batch_size,
        seed=stream_seed(config.seed, "order"),
        sampling=training.sampling,
        paired=training.mixes,
        rank=rank,
        world=world,
        device=device,
    )
    observer = _Observer(config, data, method, on_epoch, set(rungs), rank)
    trained = train(
        learner,
        method.objective,
        batches,
        training,
        seed=stream_seed(config.seed, "augment"),
        tau_plus=method.tau_plus,
        moving=method.moving,
        data=data.split_hash,
        checkpoint=stages / stage_key(config) / "checkpoint.pt" if stages else None,
        on_epoch=observer,
    )
    learner.eval()
    learner, second = _second(config, data, learner, stages, on_epoch, rank, world)
    learner.eval()
    history = trained.history + second.history
    seconds, images = trained.seconds + second.seconds, trained.images + second.images
    features = {
        "train": extract(learner, data.train, channels_last=config.train.channels_last),
        data.evaluation_name: extract(learner, data.evaluation, channels_last=config.train.channels_last),
    }
    _check_finite(features)
    axes = learner.head.axes.detach()
    provenance = {
        "key": config.key,
        "split_hash": data.split_hash,
        "published_hash": data.published_hash,
        "train_hash": data.train.content_hash,
        "evaluation_hash": data.evaluation.content_hash,
        "train_images": len(data.train),
        "evaluation_images": len(data.evaluation),
        "parameter_count": learner.extractor.parameter_count,
        "feature_dim": learner.extractor.feature_dim,
        "fine_names": list(data.train.fine_names),
        "seed": config.seed,
        "role": config.role,
        "epoch_policy": "last",
        "workers": world,
        "commit": commit(),
        "versions": versions(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "training_seconds": round(seconds, 3),
        "images_per_second": round(images / seconds, 1) if seconds else None,
    }
    result = ExperimentResult({}, history, [], provenance, features, {}, learner.extractor, axes)
    if data.note:
        result.notes.append(data.note)
    if rank == 0:
        _measure(result, config, data, method, learner.head.bias)
        provenance["terminal_phase"] = result.metrics["train/accuracy_eval"] >= TERMINAL_ACCURACY
    for rows, prefix in ((trained.history, "train/"), (second.history, "second/")):
        if rows:
            result.metrics.update({name: value for name, value in rows[-1].items() if name.startswith(prefix)})
    provenance["seconds"] = round(time.time() - started, 3)
    return result


def _second(
    config: ExperimentConfig,
    data: PreparedData,
    learner: Learner,
    stages: Path | None,
    on_epoch: OnEpoch | None,
    rank: int,
    world: int,
) -> tuple[Learner, TrainResult]:
    """The network after the second stage, and how that was trained; the same network where there is none."""
    parts = parts_of(config.method)
    if parts.second == "none":
        return learner, TrainResult()
    if stages is not None and rank == 0:
        write_json(stages / stage_key(config) / _DONE, {"time": time.time()})

    def observer(epoch: int, metrics: Mapping[str, float], learner: Learner) -> None:
        assert isinstance(metrics, dict)
        found = {name.replace("train/", "second/"): value for name, value in metrics.items()}
        metrics.clear()
        metrics.update(found, epoch=config.train.epochs + epoch, time=int(time.time() * 1000))
        if on_epoch is not None:
            on_epoch(metrics["epoch"], metrics)

    def fresh(seed: int) -> tuple[Learner, Objective]:
        other, method = build(config.model_copy(update={"seed": seed}), data)
        return other, method.objective

    checkpoint = stages / second_key(config) / "checkpoint.pt" if stages else None
    first = FirstStage(learner, _as_trained(config), parts, data, rank, world, checkpoint, observer, fresh)
    return SECONDS[parts.second].run(first)


def _check_finite(features: Mapping[str, FeatureSet]) -> None:
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


def _check_selects_nothing(config: ExperimentConfig, rungs: Sequence[int]) -> None:
    """Refuse a confirmation that would choose by the test set, before anything is loaded or trained."""
    strengths = config.probe.strengths
    if strengths is None and config.probe.solver == "lbfgs":
        raise ConfigError("a confirmation selects nothing: give probe.strengths=[x] as frozen on validation")
    for name, given in (("strengths", strengths), ("strengths_before", config.probe.strengths_before)):
        if given is not None and len(given) > 1:
            raise ConfigError(
                f"a confirmation selects nothing: give one value instead of probe.{name}={list(given)}, "
                "as frozen on validation"
            )
    if rungs:
        raise ConfigError(f"a confirmation has no rungs, which would read the test set: leave out rungs={list(rungs)}")


# --- scores -----------------------------------------------------------------------------------------------------------


def _measure(
    result: ExperimentResult, config: ExperimentConfig, data: PreparedData, method: BuiltMethod, bias: Tensor | None
) -> None:
    """Fill metrics, per-class rows and correctness from the features."""
    name = data.evaluation_name
    train_set, scored = result.features["train"], result.features[name]
    level = config.data.train_level
    train_labels, labels = train_set.labels(level), scored.labels(level)
    tau = method.tau_plus.to(train_set.after.device)
    metrics = result.metrics
    metrics["train/accuracy_eval"] = float((train_set.logits.argmax(-1) == train_labels).double().mean())
    metrics.update(collapse_summary(train_set.after, train_labels, result.axes, tau, bias=bias))
    if parts_of(config.method).second != "none":  # whose logits need not be linear in the features
        agreed = nearest_mean_agreement(train_set.after, train_labels, train_set.logits.argmax(-1))
        metrics["collapse/nc4"] = float(agreed)

    predictions = scored.logits.argmax(-1)
    classifier = classifier_scores(predictions, labels, data, config.data.boundary)
    metrics.update({f"{name}/{key}": value for key, value in classifier.items()})
    metrics[f"{name}/calibration_error"] = float(expected_calibration_error(scored.logits.softmax(-1), labels))
    result.correct["label"] = labels.cpu().numpy()
    result.correct["fine"] = scored.fine.cpu().numpy()
    result.correct["accuracy"] = (predictions == labels).cpu().numpy()

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
    result.per_class = _per_class_rows(data, method, train_set, train_labels, predictions, labels, result.axes)
    if (single := sum(row["train_images"] < 2 for row in result.per_class)) > 0:
        result.notes.append(
            f"{single} class{'es have' if single > 1 else ' has'} fewer than 2 training images: no spread of such features is "
            "defined, and tables of classes leave it empty"
        )


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


def _per_class_rows(
    data: PreparedData,
    method: BuiltMethod,
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
            "tau_plus": float(method.tau_plus[k]),
            "accuracy": by_class[k],
            **{name: values[k] for name, values in geometry.items()},
        }
        for k in range(len(data.class_counts))
    ]


# --- during training ----------------------------------------------------------------------------------------------------


class _Observer:
    """Adds collapse at log-spaced epochs and objectives at rungs to an epoch's metrics, then tells the caller."""

    def __init__(
        self,
        config: ExperimentConfig,
        data: PreparedData,
        method: BuiltMethod,
        on_epoch: OnEpoch | None,
        rungs: set[int],
        rank: int,
    ) -> None:
        self.config, self.data, self.method = config, data, method
        self.on_epoch, self.rungs, self.rank = on_epoch, rungs, rank
        epochs = config.train.epochs
        self.followed = {2**power for power in range(epochs.bit_length()) if 2**power < epochs} | {epochs}
        chosen = np.random.default_rng(stream_seed(0, "followed")).permutation(len(data.train))[:_FOLLOWED_IMAGES]
        self.subset = data.train.subset(np.sort(chosen))
        self.warm: Any = None

    def __call__(self, epoch: int, metrics: Mapping[str, float], learner: Learner) -> None:
        assert isinstance(metrics, dict)
        finished = epoch + 1
        channels_last = self.config.train.channels_last
        if finished in self.followed:
            seen = extract(learner, self.subset, channels_last=channels_last)
            if self.rank == 0:
                axes = learner.head.axes.detach()
                labels = seen.labels(self.config.data.train_level)
                tau = self.method.tau_plus.to(seen.after.device)
                found = collapse_summary(seen.after, labels, axes, tau, bias=learner.head.bias)
                metrics.update({f"followed/{name}": value for name, value in found.items()})
        if finished in self.rungs and finished < self.config.train.epochs:
            metrics.update(self._objectives(learner))
        metrics["epoch"] = epoch
        metrics["time"] = int(time.time() * 1000)
        if self.on_epoch is not None:
            self.on_epoch(epoch, metrics)

    def _objectives(self, learner: Learner) -> dict[str, float]:
        """The objectives on validation as they stand now.

        The probe starts from the last rung's, which changes its speed and, after a resume, its last digits.
        """
        config, data = self.config, self.data
        scored = extract(learner, data.evaluation, channels_last=config.train.channels_last)
        fitted = extract(learner, data.train, channels_last=config.train.channels_last)
        _check_finite({"validation": scored, "train": fitted})
        if self.rank != 0:
            return {}
        labels = scored.labels(config.data.train_level)
        scores = classifier_scores(scored.logits.argmax(-1), labels, data, config.data.boundary)
        level = config.data.probe_level
        found = linear_probe(
            (fitted.after, fitted.labels(level)),
            (scored.after, scored.labels(level)),
            strengths=config.probe.strengths,
            search=config.probe.search,
            solver=config.probe.solver,
            standardize=config.probe.standardize,
            warm_start=self.warm,
            seed=stream_seed(config.seed, "probe"),
        )
        self.warm = found if config.probe.solver == "lbfgs" else None
        assert found.val is not None
        tau = self.method.tau_plus.to(fitted.after.device)
        own = fitted.labels(config.data.train_level)
        geometry = collapse_summary(fitted.after, own, learner.head.axes.detach(), tau)
        return {
            **{f"val/{name}": value for name, value in scores.items()},
            "probe/fine_top1": found.val.top1,
            **{one.validation: geometry[one.validation] for one in OBJECTIVES.values() if one.geometry},
        }
