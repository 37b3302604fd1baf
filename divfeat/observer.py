"""What is measured while a network trains: collapse as it comes, and the objectives at rungs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from divfeat.config import ExperimentConfig
from divfeat.data.prepare import PreparedData
from divfeat.features import extract
from divfeat.objectives import OBJECTIVES
from divfeat.pretrain import Learner
from divfeat.probe import linear_probe
from divfeat.scoring import check_finite, collapse_of, objective_scores
from divfeat.seeding import stream_seed

#: Images of the fixed training subset on which collapse is followed during training.
_FOLLOWED_IMAGES = 1000

OnEpoch = Callable[[int, Mapping[str, float]], None]


class Observer:
    """Adds collapse at log-spaced epochs and objectives at rungs to an epoch's metrics, then tells the caller.

    Args:
        config: Of the experiment.
        data: Its images.
        tau_plus: [K] radians, in force when it is read.
        on_epoch: Told the epoch (0-based) and its metrics, or None.
        rungs: Numbers of finished epochs after which the objectives themselves are measured on validation.
        rank: Of this process; others than 0 take part in the extraction only.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        data: PreparedData,
        tau_plus: Tensor,
        on_epoch: OnEpoch | None,
        rungs: set[int],
        rank: int,
    ) -> None:
        self.config, self.data, self.tau_plus = config, data, tau_plus
        self.on_epoch, self.rungs, self.rank = on_epoch, rungs, rank
        epochs = config.train.epochs
        self.followed = {2**power for power in range(epochs.bit_length()) if 2**power < epochs} | {epochs}
        chosen = np.random.default_rng(stream_seed(0, "followed")).permutation(len(data.train))[:_FOLLOWED_IMAGES]
        self.subset = data.train.subset(np.sort(chosen))
        self.warm: Any = None

    def __call__(self, epoch: int, metrics: Mapping[str, float], learner: Learner) -> None:
        """After an epoch: adds to its metrics."""
        assert isinstance(metrics, dict)
        finished = epoch + 1
        channels_last = self.config.train.channels_last
        if finished in self.followed:
            seen = extract(learner, self.subset, channels_last=channels_last)
            if self.rank == 0:
                axes = learner.head.axes.detach()
                labels = seen.labels(self.config.data.train_level)
                tau = self.tau_plus.to(seen.after.device)
                found = collapse_of(seen.after, labels, axes, tau, learner.head.bias, self.config, self.data)
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
        check_finite({"validation": scored, "train": fitted})
        if self.rank != 0:
            return {}
        scores = objective_scores(scored, config, data)
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
        tau = self.tau_plus.to(fitted.after.device)
        own = fitted.labels(config.data.train_level)
        geometry = collapse_of(fitted.after, own, learner.head.axes.detach(), tau, None, config, data)
        return {
            **{f"val/{name}": value for name, value in scores.items()},
            "probe/fine_top1": found.val.top1,
            **{one.validation: geometry[one.validation] for one in OBJECTIVES.values() if one.geometry},
        }
