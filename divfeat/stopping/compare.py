"""Rules of early stopping side by side: recorded curves searched again in many orders on simulated clusters."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from scipy import stats

from divfeat.errors import DataError
from divfeat.objectives import OBJECTIVES
from divfeat.search.asha import rungs
from divfeat.search.replay import Replayed, Rule, replay
from divfeat.stopping.curves import Curves

#: Rules that are compared; `none` trains everything and needs no order.
RULES: tuple[Rule, ...] = ("stop", "promote")
REDUCTIONS, SLOTS, FIRST_RUNGS = (2, 3, 4), (1, 2, 4, 8), (1, 3)
#: Of an epoch: what it costs to place a trial, also one that takes up its checkpoint and measures its rung again.
START = 0.25
#: An epoch of a trial takes 1 second, more or less by up to this, drawn a trial and order: with equal ones trials would reach
#: their rungs in the same order on every number of slots.
SPREAD = 0.25


@dataclass(frozen=True)
class Setting:
    """One way to search.

    Attributes:
        first_rung: Epochs.
        reduction: One in so many goes on.
        slots: Trials at a time.
    """

    first_rung: int
    reduction: int
    slots: int


def settings() -> Iterator[Setting]:
    """All that are compared."""
    for first_rung, reduction, slots in itertools.product(FIRST_RUNGS, REDUCTIONS, SLOTS):
        yield Setting(first_rung, reduction, slots)


def compared(curves: Curves, orders: int) -> dict[str, Any]:
    """All rules in all settings over the same orders of the trials, as JSON types; scores in the objective's shown unit.

    Raises:
        DataError: fewer than two trials were trained to the end.
    """
    trials = curves.finished
    if len(trials) < 2:
        raise DataError(f"{curves.name}: {len(trials)} trainings came to their end; a comparison needs two at least")
    scale = OBJECTIVES[curves.objective].scale
    ends = scale * np.array([values[-1] for values in trials.values()])
    return {
        "objective": curves.objective,
        "trials": len(trials),
        "diverged": len(curves.values) - len(trials),
        "epochs": curves.epochs,
        "end": {"best": float(ends.max()), "median": float(np.median(ends)), "sd": float(ends.std(ddof=1))},
        "ranks": ranks(trials, curves.epochs),
        "rows": [row(trials, setting, orders, scale) for setting in settings()],
    }


def row(trials: Mapping[str, Sequence[float]], setting: Setting, orders: int, scale: int = 1) -> dict[str, Any]:
    """Both rules in one setting, order by order.

    Args:
        trials: Curves, of one length.
        setting: How they are searched.
        orders: How many random ones; the same in every setting.
        scale: Of values, for differences that are shown.
    """
    found: dict[Rule, list[Replayed]] = {rule: [] for rule in get_args(Rule)}
    for number in range(orders):
        for rule in found:
            found[rule].append(searched(trials, rule, setting, number))
    told: dict[str, Any] = {rule: _summary(found[rule], scale, found["none"]) for rule in RULES}
    stop, promote = (np.array([scale * one.value for one in found[rule]]) for rule in RULES)
    spent = {rule: np.array([one.epochs for one in found[rule]]) for rule in RULES}
    passed = {rule: np.array([one.usage.seconds for one in found[rule]]) for rule in RULES}
    return {
        "first_rung": setting.first_rung,
        "reduction": setting.reduction,
        "slots": setting.slots,
        **told,
        "promote_minus_stop": {
            "value": float((promote - stop).mean()),
            "value_error": float((promote - stop).std(ddof=1) / np.sqrt(orders)) if orders > 1 else None,
            "no_worse": float((promote >= stop).mean()),
            "better": float((promote > stop).mean()),
            "fewer_epochs": float((spent["promote"] < spent["stop"]).mean()),
            "epochs": float((spent["promote"] / spent["stop"]).mean()),
            "wall_clock": float((passed["promote"] / passed["stop"]).mean()),
        },
    }


def searched(trials: Mapping[str, Sequence[float]], rule: Rule, setting: Setting, order: int) -> Replayed:
    """The trials in one of their orders under one rule."""
    rng, keys = random.Random(order), list(trials)
    rng.shuffle(keys)
    return replay(
        {key: trials[key] for key in keys},
        rule,
        seconds={key: rng.uniform(1 - SPREAD, 1 + SPREAD) for key in keys},
        first_rung=setting.first_rung,
        reduction=setting.reduction,
        slots=setting.slots,
        start_seconds=START,
    )


def _summary(runs: Sequence[Replayed], scale: int, everything: Sequence[Replayed]) -> dict[str, float]:
    pairs = list(zip(runs, everything, strict=True))
    regrets = scale * np.array([one.regret for one in runs])
    return {
        "regret": float(regrets.mean()),
        "regret_high": float(np.quantile(regrets, 0.9)),
        "found_best": float((regrets <= 0).mean()),
        "epochs": float(np.mean([one.epochs / all_of.epochs for one, all_of in pairs])),
        "wall_clock": float(np.mean([one.usage.seconds / all_of.usage.seconds for one, all_of in pairs])),
        "finished": float(np.mean([one.finished for one in runs])),
    }


def ranks(trials: Mapping[str, Sequence[float]], epochs: int) -> list[dict[str, float]]:
    """How early values rank all trials, which a search that stops some never sees, and how they rank the best third there.

    Kendall's tau of the values after some epochs with those at the end, of ties b.
    """
    ends = np.array([values[-1] for values in trials.values()])
    found = []
    for rung in rungs(1, 3, epochs):
        there = np.array([values[rung - 1] for values in trials.values()])
        best = np.argsort(-there, kind="stable")[: len(there) // 3]
        found.append(
            {
                "epochs": rung,
                "all": float(stats.kendalltau(there, ends).statistic),
                "best_third": float(stats.kendalltau(there[best], ends[best]).statistic),
                "place_of_the_best": int((there > there[ends.argmax()]).sum() + 1),
            }
        )
    return found
