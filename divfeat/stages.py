"""Checkpoints of the stages of an experiment, each under the hash of what decides it, and when they may go."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from divfeat.config import ExperimentConfig, MethodConfig
from divfeat.files import write_json
from divfeat.methods import canonical, first_stage

#: Beside the checkpoint of a first stage that a second has started from.
DONE = "done.json"


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
    return (stages / stage_key(config) / DONE).exists()


def say_first_stage_done(stages: Path, config: ExperimentConfig) -> Path:
    """Leave that word; returns the file that says it."""
    path = stages / stage_key(config) / DONE
    write_json(path, {"time": time.time()})
    return path


def checkpoint(stages: Path, key: str) -> Path:
    """Of the stage whose hash is `key`."""
    return stages / key / "checkpoint.pt"


def remove_stages(stages: Path, config: ExperimentConfig, *, shared: bool) -> None:
    """Remove the checkpoints of a run that has ended.

    Args:
        stages: Their folder.
        config: Of the run.
        shared: Whether other runs can go on from the first stage's, which then stays.
    """
    for key in ended_stages(config, shared=shared):
        shutil.rmtree(stages / key, ignore_errors=True)


def ended_stages(config: ExperimentConfig, *, shared: bool) -> set[str]:
    """Keys of the stages that nobody goes on from once the run has ended; arguments as `remove_stages`."""
    first, second = stage_key(config), second_key(config)
    return {second} - {first} if shared else {second, first}
