"""Training ResNet-32 on CIFAR-shaped images end to end, beside the canonical script at the same maths.

Same network, float32, sizes of batches, steps, kind of augmentation, optimizer. On a CPU both sides have the same cores, so the
script loads without workers; on a GPU it has workers. No Ray and no MLflow.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.canonical import LR, MOMENTUM, WEIGHT_DECAY, train_epochs
from benchmarks.loader import loader, recipe
from benchmarks.made import CLASSES, prepared
from benchmarks.rows import Row, paired, with_processor
from divfeat.config import ExperimentConfig, MethodConfig, ModelConfig, TrainConfig
from divfeat.data.batches import Batches
from divfeat.data.prepare import PreparedData
from divfeat.experiment import build
from divfeat.pretrain import train

REPEATS = 2
GOAL = 1.0
_BATCH = 128


def config_of(data: PreparedData, epochs: int, **changes: Any) -> ExperimentConfig:
    """The script's settings."""
    settings: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": _BATCH,
        "lr": LR,
        "momentum": MOMENTUM,
        "nesterov": False,
        "weight_decay": WEIGHT_DECAY,
        "augment": "crop_flip",
        "channels_last": False,
    }
    return ExperimentConfig(
        data=data.config,
        model=ModelConfig(backbone="resnet32"),
        method=MethodConfig(name="ce_no_projector"),
        train=TrainConfig(**(settings | changes)),
    )


def ready(config: ExperimentConfig, data: PreparedData, device: torch.device) -> Callable[[], Any]:
    """A function that trains, with the metrics of each epoch; what reads all images once is done before."""
    learner, method = build(config, data)
    learner.to(device)
    batches = Batches(data.train.images, data.train_labels, batch_size=_BATCH, seed=0, device=device)
    return lambda: train(learner, method.objective, batches, config.train, seed=0, tau_plus=method.tau_plus)


def kernel_seconds(config: ExperimentConfig, data: PreparedData, device: torch.device) -> float:
    """What the GPU's kernels take together in our training, by the profiler: it runs one stream, so none overlap."""
    from torch.profiler import ProfilerActivity, profile

    training = ready(config, data, device)
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        training()
        torch.cuda.synchronize()
    return sum(event.self_device_time_total for event in found.key_averages()) / 1e6


def measure(repeats: int, small: bool) -> Iterator[Row]:
    """Contiguous float32 as the script has it, with the goal; channels last and bfloat16; on a GPU how long it computes."""
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    count, epochs = (50_000, 2) if gpu else (6 * _BATCH, 1)
    data = prepared(32 if small else count, 20)
    workers = min(8, len(os.sched_getaffinity(0))) if gpu else 0
    mean, std = (values.tolist() for values in data.train.channel_stats())
    batches = loader(data.train, recipe(mean, std), batch_size=_BATCH, workers=workers)
    setting = {
        "images": len(data.train),
        "epochs": epochs,
        "batch_size": _BATCH,
        "threads": torch.get_num_threads(),
        "peer_workers": workers,
    }
    cases: tuple[tuple[str, dict[str, Any], float | None], ...] = (
        ("float32, contiguous", {}, GOAL),
        ("float32, channels last", {"channels_last": True}, None),
        ("bfloat16, channels last", {"channels_last": True, "precision": "bfloat16"}, None),
    )
    for name, changes, goal in cases:
        config = config_of(data, epochs, **changes)
        own: list[float] = []
        script: list[float] = []
        pairs = paired(
            lambda config=config, own=own: with_processor(ready(config, data, device), own),  # type: ignore[misc]
            lambda script=script: with_processor(lambda: train_epochs(batches, CLASSES, epochs, device), script),  # type: ignore[misc]
            repeats,
        )
        yield Row("ResNet-32", name, "canonical script", "s", pairs, "times", goal=goal, setting=setting)
        if not gpu:
            processor = list(zip(own[1:], script[1:], strict=True))  # without the warm-up
            yield Row("ResNet-32, processor time", name, "canonical script", "s", processor, "times", setting=setting)
        if gpu:
            busy = kernel_seconds(config, data, device)
            walls = [(busy, wall) for wall, _ in pairs]
            yield Row("the GPU computes", name, "wall time", "s", walls, "share", setting=setting)
