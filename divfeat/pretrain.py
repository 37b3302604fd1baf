"""The training loop: plain PyTorch, alone or SPMD on every rank of a process group.

The loop owns what needs the global batch: reduction, sample weights, gradient averaging. Everything random is keyed by
(seed, epoch, image), so worker count and resume do not change it. The result for a given global batch does not depend on
the number of ranks up to float rounding: batch-norm statistics go over a differentiable all-reduce (models.batchnorm) and
the loss is divided by the weight of the global batch.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from divfeat.config import TrainConfig, deciding
from divfeat.data.augment import Augment
from divfeat.data.batches import Batch, BatchStream
from divfeat.data.mix import Mix, Targets
from divfeat.errors import DataError, NonFiniteError
from divfeat.files import replacing
from divfeat.losses.functional import at_least_float32
from divfeat.losses.objective import Objective
from divfeat.models import FeatureExtractor, Head, Outputs, Taps, convert_batchnorm, with_channels_last
from divfeat.thresholds import MovingThresholds

#: Optimizer steps between checks for NaN on an accelerator, where reading a value waits for the device.
_CHECK_EVERY_STEPS = 20
#: Seconds between two checkpoints, unless something else is asked for.
CHECKPOINT_SECONDS = 30.0

#: Batch norm keeps its buffers alike itself (models.batchnorm); torch 2.15 renamed the switch.
_DDP = inspect.signature(nn.parallel.DistributedDataParallel).parameters
_NO_BUFFERS: dict[str, Any] = {"forward_sync_buffers" if "forward_sync_buffers" in _DDP else "broadcast_buffers": False}

EpochCallback = Callable[[int, Mapping[str, float], "Learner"], None]
#: (augmented uint8 images [B, C, H, W], their batch, epoch) to the images that are learned, uint8 or floats in [0, 1].
Translate = Callable[[Tensor, Batch, int], Tensor]


class Learner(nn.Module):
    """Extractor and head as one module, so that one forward pass is what DDP and torch.compile see."""

    def __init__(self, extractor: FeatureExtractor, head: Head) -> None:
        super().__init__()
        self.extractor = extractor
        self.head = head

    def forward(self, images: Tensor) -> Outputs:
        """uint8 images [B, C, H, W] to the head's outputs, float32 or wider.

        Autocast ends before the head: logits in bfloat16 would be too coarse for a loss, and the hinge, which computes
        its own in float32, would differ from CE+ETF by precision alone.
        """
        taps = self.extractor(images)
        with torch.autocast(images.device.type, enabled=False):
            outputs: Outputs = self.head(Taps(*map(at_least_float32, taps)))
        return outputs

    def parameter_groups(self, config: TrainConfig) -> list[dict[str, Any]]:
        """What the optimizer takes: parameters that learn, where they do so slower with the `multiple` of the learning rate."""
        backbone = set(self.extractor.backbone.parameters())
        neck = set(self.extractor.parameters()) - backbone
        groups: dict[float, list[nn.Parameter]] = {}
        for value in self.parameters():
            if value.requires_grad:
                multiple = config.backbone_lr if value in backbone else config.neck_lr if value in neck else 1.0
                groups.setdefault(multiple, []).append(value)
        return [{"params": values, "multiple": multiple} for multiple, values in groups.items()]


@dataclass
class TrainResult:
    """What training leaves behind.

    Attributes:
        history: One mapping an epoch, flat metric names.
        seconds: Wall time of the steps, without what `on_epoch` and checkpoints take; over all resumes.
        images: Training images passed, over all ranks and resumes.
        resumed_at: (epoch, step) where training went on, or None.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    images: int = 0
    resumed_at: tuple[int, int] | None = None


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """Learning rate of optimizer step `step` (0-based): linear warmup, then cosine to zero, steps, or constant."""
    total = config.epochs * steps_per_epoch
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "cosine":
        progress = (step - warmup) / max(1, total - warmup)
        return config.lr * 0.5 * (1.0 + math.cos(math.pi * progress))
    if config.schedule == "step":
        passed = sum(step >= share * total for share in config.milestones)
        return config.lr * config.step_factor**passed
    return config.lr


def train(
    learner: Learner,
    objective: Objective,
    batches: BatchStream,
    config: TrainConfig,
    *,
    seed: int,
    tau_plus: Tensor,
    moving: MovingThresholds | None = None,
    translation: Translate | None = None,
    data: str = "",
    checkpoint: Path | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    checkpoint_after: Collection[int] = (),
    on_checkpoint: Callable[[Path], None] | None = None,
    on_epoch: EpochCallback | None = None,
) -> TrainResult:
    """Train `learner` for `config.epochs` epochs, or what is left of them after the checkpoint.

    Args:
        learner: On its device, in float32.
        objective: On the same device.
        batches: This rank's share of every global batch; paired where `config` mixes images.
        config: Optimizer, schedule, precision.
        seed: Of the augmentation and of the mixing.
        tau_plus: [K] radians, for the share of samples inside their cone.
        moving: What moves the thresholds after each epoch but the last, or None.
        translation: What replaces images of a batch, a pure function of (epoch, draws) and the networks; or None.
        data: Hash of the training images; a checkpoint of others is refused.
        checkpoint: File written by rank 0, in the middle of long epochs too; read if present.
        checkpoint_seconds: Seconds between two checkpoints (looked at after every step on a CPU, every 20 and at the end of
            an epoch on an accelerator); one is always written after the last epoch.
        checkpoint_after: Numbers of finished epochs after whose last step one is written too, before `on_epoch` is called: who
            ends the training there loses nothing. A training that goes on from it calls `on_epoch` for that epoch again.
        on_checkpoint: Called on rank 0 with the file as soon as one is written.
        on_epoch: Called on every rank after each epoch with (epoch, metrics, learner).

    Returns:
        TrainResult; history covers the epochs before the resume too.

    Raises:
        NonFiniteError: the loss became NaN or infinite.
        DataError: the checkpoint belongs to another configuration, or to other images.
        ConfigError: images are to be mixed that `batches` does not pair.
    """
    device = next(learner.parameters()).device
    world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    rank = dist.get_rank() if world > 1 else 0
    if world > 1:
        convert_batchnorm(learner)
    if config.channels_last:
        learner.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        learner.parameter_groups(config),
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )
    state = _State(learner, optimizer, config, batches.steps_per_epoch, data, moving, on_checkpoint)
    result = TrainResult()
    if checkpoint is not None and checkpoint.exists():
        result.resumed_at = state.load(checkpoint, rank)
        result.history = list(state.history)
        if rank != 0:  # the checkpoint holds the sums of all ranks
            state.sums = {name: torch.zeros_like(value) for name, value in state.sums.items()}
    runner: nn.Module = learner
    if world > 1:
        ids = [device.index] if device.type == "cuda" else None
        runner = nn.parallel.DistributedDataParallel(learner, device_ids=ids, **_NO_BUFFERS)
    if config.compile:
        runner = torch.compile(runner)  # type: ignore[assignment]
    mean = (255 * learner.extractor.mean).round().to(torch.uint8)
    augment = Augment(config.augment, cutout=config.cutout, fill=mean, seed=seed)
    mix = Mix(config.mixup, config.cutmix, seed=seed, device=device)
    objective.to(device)
    if moving is not None:
        moving.to(device)
        tau_plus = moving.tau_plus
    tau_plus = tau_plus.to(device)
    last_save = time.monotonic()

    unfinished = state.epoch < config.epochs
    while state.epoch < config.epochs:
        epoch = state.epoch
        learner.train()
        sums = state.sums
        mark = time.monotonic()
        for batch in batches.epoch(epoch, start_step=state.step):
            for group in optimizer.param_groups:
                group["lr"] = group.get("multiple", 1.0) * learning_rate(
                    config, epoch * batches.steps_per_epoch + state.step, batches.steps_per_epoch
                )
            images, targets = mix(augment(batch.images, epoch, batch.draw), batch, epoch)
            if translation is not None:
                images = translation(images, batch, epoch)
            images = with_channels_last(images) if config.channels_last else images.contiguous()
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bfloat16"):
                outputs: Outputs = runner(images)
            features, logits = outputs.features, outputs.logits
            losses, weights = _losses(objective, outputs, targets, epoch / config.epochs)
            # DDP averages gradients over ranks; the loss is the (weighted) mean over the global batch.
            if weights is None:
                loss = losses.sum() * (world / batch.global_size)
            else:
                loss = (weights * losses).sum() * (world / _over_ranks(weights.sum(), world))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if config.clip_norm is not None:
                nn.utils.clip_grad_norm_(learner.parameters(), config.clip_norm)
            optimizer.step()
            with torch.no_grad():
                sums = _accumulate(sums, losses, features, logits, targets.main, learner.head.axes, tau_plus)
                if moving is not None:
                    moving.observe(features, targets.main, learner.head.axes)
            state.step += 1
            state.images += batch.global_size
            if _looked_at(state.step, batches.steps_per_epoch, device):
                _check_finite(losses, epoch, state.step)
                at_rung = epoch + 1 in checkpoint_after and state.step == batches.steps_per_epoch
                if checkpoint is not None and (
                    at_rung or _agreed(time.monotonic() - last_save >= checkpoint_seconds, world, device)
                ):
                    state.seconds += time.monotonic() - mark
                    state.save(checkpoint, _all_reduced(sums, world), rank, world)
                    last_save = mark = time.monotonic()
        metrics = _epoch_metrics(_all_reduced(sums, world), epoch)
        state.seconds += time.monotonic() - mark
        metrics["train/lr"] = optimizer.param_groups[0]["lr"] / optimizer.param_groups[0].get("multiple", 1.0)
        if moving is not None:
            metrics.update(moving.metrics())
        state.finish_epoch(metrics)
        result.history.append(metrics)
        if on_epoch is not None:
            on_epoch(epoch, metrics, learner)
        if (
            moving is not None and state.epoch < config.epochs
        ):  # what the last epoch was trained with is what is measured
            moving.follow(world)
            tau_plus = moving.tau_plus.to(device)
    if checkpoint is not None and unfinished:
        state.save(checkpoint, {}, rank, world)
    result.seconds, result.images = state.seconds, state.images
    return result


def _losses(objective: Objective, outputs: Outputs, targets: Targets, progress: float) -> tuple[Tensor, Tensor | None]:
    """Loss of each sample [B], and what it weighs in the mean, [B] or None where all weigh alike.

    A mixed sample's loss is the mean of its two labels' losses by their shares, each with its label's weight; the
    weights' share-weighted mean is the sample's.
    """

    def of(labels: Tensor) -> Tensor:
        return objective(outputs.features, outputs.logits, labels, progress, outputs.coarse, outputs.penalty)

    losses = of(targets.labels)
    weights = objective.weights(targets.labels, progress)
    if targets.others is None or targets.share is None:
        return losses, weights
    others = of(targets.others)
    other_weights = objective.weights(targets.others, progress)
    own, other = targets.share, 1 - targets.share
    if weights is None or other_weights is None:
        return own * losses + other * others, None
    own, other = own * weights, other * other_weights
    total = own + other
    return (own * losses + other * others) / total, total


# --- state ------------------------------------------------------------------------------------------------------------


class _State:
    """Everything a resumed run needs, and the only thing a checkpoint holds."""

    def __init__(
        self,
        learner: Learner,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        steps: int,
        data: str,
        moving: MovingThresholds | None,
        on_checkpoint: Callable[[Path], None] | None,
    ) -> None:
        self.learner, self.optimizer, self.moving = learner, optimizer, moving
        self.on_checkpoint = on_checkpoint
        self.guard = {**deciding({"train": config.to_dict()}), "steps_per_epoch": steps, "data": data}
        self.epoch = 0
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.sums: dict[str, Tensor] = {}
        self.seconds, self.images = 0.0, 0

    def finish_epoch(self, metrics: dict[str, float]) -> None:
        self.epoch, self.step, self.sums = self.epoch + 1, 0, {}
        self.history.append(metrics)

    def save(self, path: Path, sums: dict[str, Tensor], rank: int, world: int) -> None:
        """Write atomically on rank 0: a kill leaves the old checkpoint or the new one. `sums` are those of all ranks."""
        moving = self.moving.state(world) if self.moving is not None else None
        if rank != 0:
            return
        payload = {
            "guard": self.guard,
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "history": self.history,
            "sums": sums,
            "seconds": self.seconds,
            "images": self.images,
            "rng": torch.get_rng_state(),
        }
        if moving is not None:
            payload["moving"] = moving
        if torch.cuda.is_available():
            payload["rng_cuda"] = torch.cuda.get_rng_state()
        with replacing(path) as file:
            torch.save(payload, file)
        if self.on_checkpoint is not None:
            self.on_checkpoint(path)

    def load(self, path: Path, rank: int) -> tuple[int, int]:
        """Continue from `path`: returns (epoch, step)."""
        device = next(self.learner.parameters()).device
        payload: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        if payload["guard"] != self.guard:
            raise DataError(
                f"checkpoint {path} was written by another training configuration, on other images or with another tree of the "
                "classes, or from other first weights; remove it to start afresh"
            )
        self.learner.load_state_dict(payload["learner"])
        self.optimizer.load_state_dict(payload["optimizer"])
        self.epoch, self.step = payload["epoch"], payload["step"]
        self.history, self.sums = payload["history"], payload["sums"]
        self.seconds, self.images = payload["seconds"], payload["images"]
        if self.moving is not None:
            self.moving.load(payload["moving"], rank)
        torch.set_rng_state(payload["rng"].cpu())
        if torch.cuda.is_available() and "rng_cuda" in payload:
            torch.cuda.set_rng_state(payload["rng_cuda"].cpu())
        return self.epoch, self.step


# --- cheap statistics of the training batches ---------------------------------------------------------------------------


def _accumulate(
    sums: dict[str, Tensor],
    losses: Tensor,
    features: Tensor,
    logits: Tensor,
    labels: Tensor,
    axes: Tensor,
    tau_plus: Tensor,
) -> dict[str, Tensor]:
    """Add this batch's sums, on the device: no value is read back before the epoch ends. Mixed images go by one label.

    `plain` is the cross-entropy of the logits as they are, whatever the method's loss; the part of it that images inside their
    cone carry is what a gate takes away.
    """
    features = features.detach().float()
    # Not metrics.axis_cosines, whose checks and float64 belong to a measurement, not to a step.
    axes = torch.nn.functional.normalize(axes.detach().float(), dim=0)
    cosines = torch.nn.functional.normalize(features, dim=-1) @ axes
    positive = cosines.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    negative = (cosines.sum(-1) - positive) / (cosines.shape[-1] - 1)
    inside = (tau_plus[labels] > 0) & (positive > torch.cos(tau_plus[labels]))
    plain = -logits.detach().float().log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1).double()
    count = torch.ones_like(losses, dtype=torch.float64).sum()
    batch = {
        "count": count,
        "loss": losses.detach().double().sum(),
        "accuracy": (logits.detach().argmax(-1) == labels).double().sum(),
        "positive_cosine": positive.double().sum(),
        "negative_cosine": negative.double().sum(),
        "inside": inside.double().sum(),
        "norm": features.norm(dim=-1).double().sum(),
        "plain": plain.sum(),
        "plain_inside": (plain * inside).sum(),
    }
    return {name: value + sums[name] if name in sums else value for name, value in batch.items()}


def _looked_at(step: int, steps_per_epoch: int, device: torch.device) -> bool:
    """Whether to read values back after this step (1-based): an accelerator would wait for them."""
    return device.type == "cpu" or step % _CHECK_EVERY_STEPS == 0 or step == steps_per_epoch


def _over_ranks(value: Tensor, world: int) -> Tensor:
    if world > 1:
        dist.all_reduce(value)
    return value


def _agreed(due: bool, world: int, device: torch.device) -> bool:
    """Rank 0's answer on every rank, since clocks differ and what follows is collective."""
    if world == 1:
        return due
    flag = torch.tensor([due], dtype=torch.uint8, device=device)
    dist.broadcast(flag, 0)
    return bool(flag)


def _all_reduced(sums: dict[str, Tensor], world: int) -> dict[str, Tensor]:
    if world == 1:
        return sums
    packed = torch.stack(list(sums.values()))
    dist.all_reduce(packed)
    return dict(zip(sums, packed.unbind(), strict=True))


def _epoch_metrics(sums: dict[str, Tensor], epoch: int) -> dict[str, float]:
    values = dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True))
    count = values.pop("count")
    if not math.isfinite(values["loss"]):
        raise NonFiniteError(f"training loss became {values['loss']} in epoch {epoch}")
    names = {
        "loss": "train/loss",
        "accuracy": "train/accuracy",
        "positive_cosine": "train/positive_cosine",
        "negative_cosine": "train/negative_cosine",
        "inside": "train/inside_cone",
        "norm": "train/feature_norm",
        "plain": "train/cross_entropy",
        "plain_inside": "train/cross_entropy_inside",
    }
    return {names[name]: value / count for name, value in values.items()}


def _check_finite(losses: Tensor, epoch: int, step: int) -> None:
    if not torch.isfinite(losses).all():
        raise NonFiniteError(
            f"training loss became NaN or infinite in epoch {epoch}, step {step}; a lower train.lr, train.clip_norm or "
            "(release 'theorem') a smaller angle helps"
        )
