"""A trained network on a few digits with a long tail, and what a second stage is handed."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from divfeat import experiment
from divfeat.config import ExperimentConfig
from divfeat.data.prepare import PreparedData, prepare
from divfeat.methods import parts_of
from divfeat.pretrain import Learner
from divfeat.second import SECONDS, FirstStage
from divfeat.settings import merge
from divfeat.validation import build

BASE: dict[str, Any] = {
    "data": {"source": "digits", "imbalance": 10, "n_max": 60, "boundary": 20, "val_per_class": 8},
    "model": {"backbone": "digits_cnn"},
    "train": {"epochs": 5, "batch_size": 50, "lr": 0.1, "augment": "crop_flip"},
    "probe": {"strengths": [0.01]},
}


def config(*changes: dict[str, Any], **settings: Any) -> ExperimentConfig:
    merged = BASE
    for change in (*changes, settings):
        merged = merge(merged, change)
    return build(ExperimentConfig, merged)


@lru_cache
def data(role: Any = "search") -> PreparedData:
    return prepare(config().data, role)


def first_stage(made: ExperimentConfig, seed: int = 0) -> FirstStage:
    """An untrained network stands for a trained one; its statistics of batch norm are those of a few batches."""
    learner, _ = experiment.build(made, data())
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in learner.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=source))
        learner.train()
        for start in range(0, 150, 50):
            learner(torch.tensor(data().train.images[start : start + 50]))
    learner.eval()

    def fresh(seed: int) -> tuple[Learner, Any]:
        other, built = experiment.build(made.model_copy(update={"seed": seed}), data())
        return other, built.objective

    return FirstStage(learner, made, parts_of(made.method), data(), 0, 1, None, None, fresh)


def second_stage(made: ExperimentConfig) -> tuple[FirstStage, Learner, Any]:
    """What the second stage of `made` starts from, and what it ends with."""
    first = first_stage(made)
    learner, trained = SECONDS[first.parts.second].run(first)
    return first, learner.eval(), trained
