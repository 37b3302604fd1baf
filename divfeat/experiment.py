"""One experiment end to end: data, pretraining, features, probe, metrics. SPMD and without Ray.

`run` is what a trial calls in its own process and what Ray Train calls on every rank: ranks share training and feature
extraction, rank 0 fits the probes and measures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from divfeat.config import ExperimentConfig
from divfeat.data.batches import Batches
from divfeat.data.prepare import PreparedData, prepare
from divfeat.data.sources.request import data_root, found_file
from divfeat.errors import ConfigError
from divfeat.features import FeatureSet, extract
from divfeat.hierarchy import Hierarchy
from divfeat.losses.objective import Objective
from divfeat.methods import BuiltMethod, build_method, method_named, parts_of, train_of
from divfeat.models import FeatureExtractor, build_extractor, load_weights
from divfeat.observer import Observer, OnEpoch
from divfeat.parts import Parts
from divfeat.pretrain import CHECKPOINT_SECONDS, Learner, TrainResult, train
from divfeat.provenance import commit, device_name, versions
from divfeat.scoring import check_finite, measure
from divfeat.second import SECONDS, FirstStage
from divfeat.seeding import stream_seed
from divfeat.stages import checkpoint, say_first_stage_done, second_key, stage_key
from divfeat.thresholds import ThresholdContext

#: Training accuracy from which on training is in its terminal phase (Papyan et al. 2020 take 100 %).
TERMINAL_ACCURACY = 0.999


@dataclass
class ExperimentResult:
    """What one experiment found.

    Attributes:
        metrics: Flat names to numbers, used unchanged by Optuna, MLflow and the report; accuracies are shares in [0, 1].
        history: One mapping an epoch (`epoch`, `time` in unix milliseconds, metrics).
        per_class: One row a trained class.
        provenance: Key, hashes (`weights_hash` of the file of first weights, where there is one), parameter count, feature
            dimension, seeds, epoch policy, commit, versions, device.
        features: `train` and `val` or `test`.
        correct: bool [N] of the scored images: `fine_probe`, and `accuracy` of the classifier; and int64 `fine`, `label`, and
            `predicted` by the classifier.
        angles: With a tree of the classes, float32 [K, K] cosines between class `axes` and between class `means` of the training
            features; else empty.
        extractor: The trained network, on its device, in evaluation mode.
        axes: [D, K] class axes.
        notes: Sentences a reader of the numbers must know.
        hierarchy: Tree of the trained classes, or None.
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
    angles: dict[str, np.ndarray] = field(default_factory=dict)
    hierarchy: Hierarchy | None = None


def _as_trained(config: ExperimentConfig) -> ExperimentConfig:
    """`config` with the settings of training that its method replaces."""
    return config.model_copy(update={"train": train_of(config.method, config.train)})


def build(config: ExperimentConfig, data: PreparedData) -> tuple[Learner, BuiltMethod]:
    """Network and method, initialised from streams of `config.seed` that do not depend on each other.

    Raises:
        ConfigError: unknown backbone or method, weights, thresholds or dimensions that do not fit, a cutout above the images'
            size, cones that open in no epoch, a cosine loss that has no weight in any, or a second stage that cannot work
            on these data.
    """
    parts = parts_of(config.method)
    context = class_context(data, config.data.boundary, means=parts.frame == "class_means")
    if parts.second != "none":
        SECONDS[parts.second].check(_as_trained(config), parts, context)
    height, width = data.train.image_shape[1:]
    if config.train.cutout > min(height, width):
        raise ConfigError(f"train.cutout={config.train.cutout} is more than the images' {height} x {width} pixels")
    mean, std = data.train.channel_stats()
    extractor = build_extractor(
        config.model.backbone,
        image_shape=data.train.image_shape,
        **_neck(config, parts, len(data.class_counts)),
        feature_norm=parts.feature_norm,
        mean=mean.tolist(),
        std=std.tolist(),
        seed=stream_seed(config.seed, "weights"),
        **config.model.options,  # type: ignore[arg-type]
    )
    if config.model.weights is not None:
        load_weights(extractor.backbone, _weights(config.model.weights), config.model.weights_hash)
    method = build_method(config.method, extractor.feature_dim, context, seed=stream_seed(config.seed, "frame"))
    _check_cones_open(parts, method.objective, config.train.epochs)
    if parts.cosine_schedule == "rising" and config.train.epochs == 1:
        raise ConfigError(
            "method.cosine_schedule='rising' begins at 0, and train.epochs=1 leaves no epoch in which the cosine loss has "
            "weight: raise train.epochs, or use constant"
        )
    return Learner(extractor, method.head), method


def _weights(name: str) -> Path:
    try:
        return found_file(name, data_root())
    except ConfigError as error:
        raise ConfigError(f"model.weights={name}: {error}") from error


def _neck(config: ExperimentConfig, parts: Parts, classes: int) -> dict[str, Any]:
    """What stands between backbone and classifier, as `build_extractor` takes it."""
    model, dim = config.model, config.model.projector_dim
    if parts.neck == "transformation":  # as published it has as many dimensions as there are classes
        return {"projector": True, "neck": parts.neck, "projector_dim": dim or classes}
    if method_named(config.method.name).projector:
        return {"projector": True, "projector_dim": dim}
    if model.plain_neck == "elu":
        return {"projector": True, "neck": model.plain_neck, "projector_dim": model.hidden_units}
    return {"projector": False}


def class_context(data: PreparedData, boundary: int, *, means: bool = False) -> ThresholdContext:
    """What methods and thresholds may know of the classes.

    Args:
        data: Their images, counts and tree.
        boundary: A class with at most this many training images is minor.
        means: Whether to take the means of their training images too, pixel by pixel.
    """
    counts = torch.as_tensor(data.class_counts)
    found = None
    if means:
        sums = np.zeros((len(counts), int(np.prod(data.train.image_shape))))
        for k in range(len(counts)):
            own = data.train.images[data.train_labels == k]
            sums[k] = own.reshape(len(own), -1).mean(0, dtype=np.float64) if len(own) else np.nan
        found = torch.from_numpy(sums)
    return ThresholdContext(counts, boundary=boundary, hierarchy=data.hierarchy, class_means=found)


def _check_cones_open(parts: Parts, objective: Objective, epochs: int) -> None:
    """Refuse cones that are closed in every epoch: what trains as with none would be called a method with cones."""
    if not any(objective.cones_are_open(epoch / epochs) for epoch in range(epochs)):
        raise ConfigError(
            f"method.closed_first={parts.closed_first:g} and method.closed_last={parts.closed_last:g} leave none of "
            f"train.epochs={epochs} in which the cones are open: lower them, or raise train.epochs"
        )


def run(
    config: ExperimentConfig,
    data: PreparedData | None = None,
    on_epoch: OnEpoch | None = None,
    *,
    stages: Path | None = None,
    device: str | torch.device | None = None,
    rungs: Sequence[int] = (),
    root: Path | None = None,
    on_checkpoint: Callable[[Path], None] | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
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
        rungs: Numbers of finished epochs after which the objectives themselves are measured on validation, and before that a
            checkpoint is written.
        root: Folder of local data sets.
        on_checkpoint: Called on rank 0 with every file under `stages` as soon as it is written.
        checkpoint_seconds: Seconds between two checkpoints of a training.

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
    observer = Observer(config, data, method.tau_plus, on_epoch, set(rungs), rank)
    trained = train(
        learner,
        method.objective,
        batches,
        training,
        seed=stream_seed(config.seed, "augment"),
        tau_plus=method.tau_plus,
        moving=method.moving,
        data=data.split_hash + (learner.extractor.backbone.weights_hash or ""),
        checkpoint=checkpoint(stages, stage_key(config)) if stages else None,
        checkpoint_after=rungs,
        on_checkpoint=on_checkpoint,
        checkpoint_seconds=checkpoint_seconds,
        on_epoch=observer,
    )
    learner.eval()
    learner, second = _second(config, data, learner, stages, on_epoch, on_checkpoint, checkpoint_seconds, rank, world)
    learner.eval()
    history = trained.history + second.history
    seconds, images = trained.seconds + second.seconds, trained.images + second.images
    features = {
        "train": extract(learner, data.train, channels_last=config.train.channels_last),
        data.evaluation_name: extract(learner, data.evaluation, channels_last=config.train.channels_last),
    }
    check_finite(features)
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
        **({"weights_hash": weights} if (weights := learner.extractor.backbone.weights_hash) else {}),
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
    result.hierarchy = data.hierarchy
    result.notes += [note for note in (data.note, _late_weights(method.objective, config)) if note]
    if rank == 0:
        scores = measure(features, axes, learner.head.bias, config, data, method.tau_plus)
        result.metrics, result.per_class, result.correct = scores.metrics, scores.per_class, scores.correct
        result.angles = scores.angles
        result.notes += scores.notes
        provenance["terminal_phase"] = result.metrics["train/accuracy_eval"] >= TERMINAL_ACCURACY
    for rows, prefix in ((trained.history, "train/"), (second.history, "second/")):
        if rows:
            result.metrics.update({name: value for name, value in rows[-1].items() if name.startswith(prefix)})
    provenance["seconds"] = round(time.time() - started, 3)
    return result


def _late_weights(objective: Objective, config: ExperimentConfig) -> str:
    """That class weights were to start after the last epoch, if so: LDAM-DRW was LDAM then, which a table must not hide."""
    epochs = config.train.epochs
    if objective.class_weights is None or (epochs - 1) / epochs >= objective.deferred:
        return ""
    return (
        f"method.deferred={objective.deferred:g} lies beyond the last epoch of train.epochs={epochs}: the class weights of "
        f"{config.method.name!r} never started"
    )


def _second(
    config: ExperimentConfig,
    data: PreparedData,
    learner: Learner,
    stages: Path | None,
    on_epoch: OnEpoch | None,
    on_checkpoint: Callable[[Path], None] | None,
    checkpoint_seconds: float,
    rank: int,
    world: int,
) -> tuple[Learner, TrainResult]:
    """The network after the second stage, and how that was trained; the same network where there is none."""
    parts = parts_of(config.method)
    if parts.second == "none":
        return learner, TrainResult()
    if stages is not None and rank == 0:
        said = say_first_stage_done(stages, config)
        if on_checkpoint is not None:
            on_checkpoint(said)

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

    place = checkpoint(stages, second_key(config)) if stages else None
    first = FirstStage(
        learner,
        _as_trained(config),
        parts,
        data,
        rank,
        world,
        place,
        observer,
        fresh,
        on_checkpoint,
        checkpoint_seconds,
    )
    return SECONDS[parts.second].run(first)


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
