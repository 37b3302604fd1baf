"""What can be known to be wrong with a study before a trial starts."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch

from divfeat.data.prepare import PreparedData, prepare
from divfeat.data.sources import find_source
from divfeat.errors import ConfigError
from divfeat.experiment import build
from divfeat.hierarchy import NAME_ONE
from divfeat.metrics.groups import by_boundary, by_shots
from divfeat.objectives import OF_TREES
from divfeat.search.jobs import SEARCH_SEED, baseline, experiment, name_of, seed_of, training_key
from divfeat.search.subjects import baseline_subject, corners, own_space, search_space, threshold_method
from divfeat.search.tuning import tunable
from divfeat.study_config import StudyConfig
from divfeat.thresholds import family_named
from divfeat.thresholds.counts import FEW, MANY


def check_study(study: StudyConfig, trials: int, root: Path | None = None) -> PreparedData:
    """Everything that can be known to be wrong before a trial starts: data, network, every baseline, every corner.

    Args:
        study: Identity.
        trials: Proposals of the search.
        root: Folder of local data sets.

    Returns:
        The search's data.

    Raises:
        ConfigError, DataError: with value, place and remedy.
    """
    _check_protocol(study, trials)
    search_space(study)
    source = study.data
    data = prepare(source, "search", root=root)
    find_source(  # told now, not after the search
        source.source, split="test", root=root, download=source.download, **source.columns, **source.lists
    )
    seed = seed_of(study, SEARCH_SEED)
    search = study.search
    families = [family_named(name) for name in (*search.refine, search.family)]
    built = False
    for family, release in itertools.product(families, search.releases):
        for corner in family.corners(search.low, search.high):
            for own in corners(own_space(search.own)):
                method = threshold_method(study, {**corner, **own, "release": release}, family.name)
                try:
                    build(experiment(study, method, seed), data)
                    built = True
                except ConfigError as error:
                    if not built:  # of the study, not of its corners
                        raise
                    corner_of = f"{name_of(method)!r}, a corner of what search.low, search.high and search.own span"
                    raise ConfigError(f"{error} (told of {corner_of})") from error
    for name in study.protocol.baselines:  # after what was asked for by name: they rest on it
        try:
            build(experiment(study, baseline(name, study), seed), data)
        except ConfigError as error:
            raise ConfigError(f"baseline {name!r} of protocol.baselines: {error}") from error
    for subject in [baseline_subject(study, name) for name in tunable(study)]:
        for corner in corners(subject.space):
            build(experiment(study, subject.method(corner), seed), data)
    _check_groups(study, data)
    return data


def _check_groups(study: StudyConfig, data: PreparedData) -> None:
    """Accuracies of a group need classes inside and outside it; distances of mistakes need a tree."""
    search, source = study.search, study.data
    counts = torch.as_tensor(data.class_counts)
    masks = by_boundary(counts, source.boundary) | by_shots(counts)
    asked = {name: f"objective {name!r}" for name in search.objectives}
    asked = {one.metric: f"constraint {one.name!r}" for one in search.constraints} | asked
    for name, what in asked.items():
        if name in OF_TREES and data.hierarchy is None:
            raise ConfigError(f"{what} needs a tree of the classes: {NAME_ONE}")
        if OF_TREES.get(name, 0) > len(counts):
            raise ConfigError(
                f"{what} looks at the first {OF_TREES[name]} of only {len(counts)} classes; use distance or severity"
            )
        if name not in masks or 0 < int(masks[name].sum()) < len(counts):
            continue
        if counts.min() == counts.max():
            raise ConfigError(
                f"{what} needs classes of different size, but each has {counts.max()} training images; make a long tail "
                "(data.imbalance), or use accuracy"
            )
        have = f"classes have {counts.min()} to {counts.max()} training images"
        if name in by_shots(counts):
            raise ConfigError(
                f"{what} needs classes of the group {name!r} and others, but {have} (many: more than {MANY}, few: "
                f"fewer than {FEW}); use minor or major with data.boundary between those"
            )
        raise ConfigError(
            f"{what} needs minor and major classes, but data.boundary={source.boundary} and {have}; set data.boundary "
            "between those"
        )


def _check_protocol(study: StudyConfig, trials: int) -> None:
    settings = study.protocol
    names = settings.baselines
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"protocol.baselines={list(names)}: give at least one, none twice")
    trained: dict[str, str] = {}
    for name in names:
        first = trained.setdefault(training_key(name, study), name)
        if first != name:
            raise ConfigError(
                f"protocol.baselines={list(names)}: {first!r} and {name!r} are one training here, and twice in the "
                "verdict it would take a second share of protocol.alpha; leave one of them out"
            )
    if any(lr <= 0 for lr in settings.learning_rates):
        raise ConfigError(f"protocol.learning_rates={list(settings.learning_rates)} must be positive")
    if any(decay < 0 for decay in settings.weight_decays):
        raise ConfigError(f"protocol.weight_decays={list(settings.weight_decays)} must not be negative")
    stages = (*study.search.refine, study.search.family)
    if trials < len(stages):
        raise ConfigError(
            f"--trials {trials} leaves some of the {len(stages)} stages of search.refine "
            f"({', '.join(stages)}) without a trial; give at least {len(stages)}"
        )
