"""What one search of a study varies: the thresholds of the searched method, or the own numbers of a baseline."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from divfeat.config import MethodConfig, ThresholdSpec
from divfeat.errors import ConfigError
from divfeat.methods import parts_of
from divfeat.ranges import RANGES
from divfeat.search.jobs import baseline, own_numbers, own_values_of, searched_method
from divfeat.study_config import StudyConfig
from divfeat.thresholds import family_named

Params = Mapping[str, Any]


@dataclass(frozen=True)
class Subject:
    """A search's space and what its points mean.

    Attributes:
        phase: Of the protocol: `search` or `tune`.
        space: Parameter -> distribution.
        first: Settings tried before the sampler takes over.
        method: Parameters -> the method to train.
        name: Of the baseline, "" for the study's own search; its proposals and random draws are kept under it.
    """

    phase: str
    space: Mapping[str, BaseDistribution]
    first: Sequence[Params]
    method: Callable[[Params], MethodConfig]
    name: str = ""


def search_space(study: StudyConfig, name: str | None = None) -> dict[str, BaseDistribution]:
    """The family's numbers (angles in radians), the method's own that are searched, and of several ways of letting go one.

    Args:
        study: Family, box, ways of letting go.
        name: Of another family than the study's.

    Raises:
        ConfigError: the sampler cannot search this space.
    """
    family = family_named(name or study.search.family)
    space: dict[str, BaseDistribution] = {
        dimension.name: FloatDistribution(dimension.low, dimension.high)
        for dimension in family.space(study.search.low, study.search.high)
    } | own_space(study.search.own)
    if study.search.sampler == "cmaes" and len(space) < 2:
        raise ConfigError(
            f"sampler 'cmaes' needs two numbers or more, the family {family.name!r} has {len(space)}; "
            "use search.sampler=tpe (or gp, qmc, random)"
        )
    if len(study.search.releases) > 1 and family.parameters:
        space["release"] = CategoricalDistribution(study.search.releases)
    return space


def tried_first(study: StudyConfig, name: str | None = None, release: str | None = None) -> list[dict[str, Any]]:
    """The family's settings inside the searched box: the first one under every way of letting go, the others under one.

    The method's own numbers are those it starts from.

    Args:
        study: Family, box, ways of letting go.
        name: Of another family than the study's.
        release: The one way of letting go for all of them.

    Under `theorem` an angle is at most 45 degrees: beyond half the angle between axes the loss cannot fall below log K
    (`divfeat.losses.theorem_tau_minus`), and that half is above 45 degrees for any number of classes on a simplex. On other
    frames it is at most half of `search.high`, which has been checked to stay below the angle between axes.
    """
    family = family_named(name or study.search.family)
    box = {side.name: side for side in family.space(study.search.low, study.search.high)}
    releases = (release,) if release else study.search.releases
    own = own_params(study.search.method, study.search.own)
    rows: list[dict[str, Any]] = []
    narrow = math.pi / 4
    if parts_of(study.search.method).frame != "simplex":
        narrow = min(narrow, study.search.high / 2)
    for index, setting in enumerate(family.tried_first):
        if any(not box[name].low <= value <= box[name].high for name, value in setting.items()):
            continue
        for way in releases if index == 0 and setting else releases[:1]:
            widest = narrow if way == "theorem" else math.pi
            values = {
                name: value if family.other(name) else max(box[name].low, min(value, widest))
                for name, value in setting.items()
            }
            rows.append(values | own | ({"release": way} if len(study.search.releases) > 1 and setting else {}))
    return rows


def threshold_method(study: StudyConfig, params: Mapping[str, Any], name: str | None = None) -> MethodConfig:
    """The searched method that parameters stand for, in the study's family or another."""
    family = family_named(name or study.search.family)
    spec = ThresholdSpec(family=family.name, angles={number: params[number] for number in family.parameters})
    release = params.get("release", study.search.releases[0])
    return searched_method(study, spec, release, own_values(params, study.search.own))


def threshold_subject(study: StudyConfig) -> Subject:
    """The study's own search.

    Raises:
        ConfigError: the sampler cannot search this space.
    """
    return Subject("search", search_space(study), tried_first(study), lambda params: threshold_method(study, params))


def baseline_subject(study: StudyConfig, name: str) -> Subject:
    """The search over a baseline's own numbers, the published values first.

    Raises:
        ConfigError: the sampler cannot search so few numbers.
    """
    published, numbers = baseline(name, study), own_numbers(name, study)
    if study.search.sampler == "cmaes" and len(numbers) < 2:
        raise ConfigError(
            f"sampler 'cmaes' needs two numbers or more, the baseline {name!r} has {len(numbers)} of its own; use "
            "search.sampler=tpe (or gp, qmc, random), or protocol.tune=false"
        )

    def method(params: Params) -> MethodConfig:
        return published.model_copy(update=own_values(params, numbers))

    return Subject("tune", own_space(numbers), [own_params(published, numbers)], method, name)


# --- numbers of a method's own ---------------------------------------------------------------------------------------------


def own_space(names: Iterable[str]) -> dict[str, BaseDistribution]:
    """Distributions of the searched numbers of these parts."""
    sides = {name: RANGES[name] for name in names}
    return {side.parameter(name): FloatDistribution(side.low, side.high, log=side.log) for name, side in sides.items()}


def corners(space: Mapping[str, BaseDistribution]) -> list[dict[str, float]]:
    """All numbers of a space at their lower ends, and all at their upper ends; the one point of an empty space."""
    sides = {name: side for name, side in space.items() if isinstance(side, FloatDistribution)}
    ends = [{name: side.low for name, side in sides.items()}, {name: side.high for name, side in sides.items()}]
    return ends if sides else ends[:1]


def own_params(method: MethodConfig, names: Iterable[str]) -> dict[str, float]:
    """The searched numbers that stand for what `method` has."""
    values = own_values_of(method, names)
    return {RANGES[name].parameter(name): RANGES[name].turned(value) for name, value in values.items()}


def own_values(params: Params, names: Iterable[str]) -> dict[str, float]:
    """Values of the parts that searched numbers stand for."""
    return {name: RANGES[name].turned(params[RANGES[name].parameter(name)]) for name in names}
