"""Jobs: experiments to be placed, each known by the key of its configuration, so that phases share what they have in common."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from divfeat.config import ExperimentConfig, MethodConfig, Release, ThresholdSpec
from divfeat.data.trees import FLAT
from divfeat.errors import ConfigError, unknown
from divfeat.methods import METHODS, OF_CONES, Method, canonical, method_named, parts_of, spelled_out
from divfeat.study_config import StudyConfig
from divfeat.thresholds import PAPER_ANGLE, Number, Offset, family_named
from divfeat.validation import digest

#: First seeds of the streams that must not share a training: search, further seeds on validation, new seeds on test.
SEARCH_SEED, SELECT_SEED, CONFIRM_SEED = 0, 1_000, 2_000
_SEEDS_PER_STUDY = 10_000
#: Between the paper's two ranges for minor classes, 7/36..1/4 pi (section 5) and 1/6..5/18 pi (figure 5).
PAPER_MINOR = 2 / 9 * math.pi
#: Angles that a name tells one by one.
_MOST_ANGLES = 6
#: Baselines made from the searched method.
_OF_THE_SEARCH = ("hinge_fixed", "no_cones")


@dataclass(frozen=True)
class Job:
    """One experiment to place.

    Attributes:
        experiment: What to run.
        phase: Phase of the protocol that asked for it first.
        name: What people call it, e.g. `ce_etf` or `gate 65.0 deg`.
        number: Optuna's trial number for a proposal.
        rungs: Finished epochs after which the objectives are measured.
    """

    experiment: ExperimentConfig
    phase: str
    name: str
    number: int | None = None
    rungs: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """Key of the experiment."""
        return self.experiment.key


def seed_of(study: StudyConfig, stream: int, index: int = 0) -> int:
    """Seed number `index` of a stream; no two studies with different seeds share one."""
    return study.seed * _SEEDS_PER_STUDY + stream + index


def experiment(
    study: StudyConfig, method: MethodConfig, seed: int, role: str = "search", **changes: Any
) -> ExperimentConfig:
    """The experiment of `method` in this study.

    Args:
        study: Everything else.
        method: Made canonical first, so that equal trainings have equal keys.
        seed: Of weights, order and augmentation.
        role: `search` or `confirm`.
        changes: Replaced fields, e.g. `train` or `probe`.
    """
    fields: dict[str, Any] = {
        "data": study.data,
        "model": study.model,
        "method": canonical(method),
        "train": study.train,
        "probe": study.probe,
        "seed": seed,
        "role": role,
    }
    return ExperimentConfig(**(fields | changes))


def baseline(name: str, study: StudyConfig) -> MethodConfig:
    """A baseline by name, its own numbers as published or as `protocol.own` has them: a method without thresholds, or one with
    the paper's fixed thresholds.

    `no_cones` is the searched method (`search.method`) without thresholds. `hinge_fixed` is the searched method, by default
    HingeCE, and `hinge_la` HingeCE with logit adjustment, at tau+ = 13/36 pi for every class (tables 1 and 3); on a
    long tail, the best threshold of figure 5 (2/9 pi, between both ranges the paper gives) on minor classes and none on
    major ones (section 4.2), wherever the search too gives classes different angles. That there is a tail the
    configuration tells before a class is counted: it cuts one, or it searches a family that follows the counts (or refines
    one), which is refused where they are alike.

    Raises:
        ConfigError: unknown name, or one that says no angles.
    """
    known = [*[m for m in METHODS if m != "hinge_ce"], *_OF_THE_SEARCH]
    if name == "hinge_ce":
        raise ConfigError(
            "baseline 'hinge_ce' has no angles of its own; use hinge_fixed (the paper's), or ce_etf (without cones)"
        )
    if name not in known:
        raise ConfigError(unknown("baseline", name, known))
    method = study.search.method if name in _OF_THE_SEARCH else _named(name, study)
    if name == "no_cones" or not method_named(method.name).hinge:
        return method
    families = [family_named(name) for name in (*study.search.refine, study.search.family)]
    has_tail = study.data.imbalance is not None or any(family.by_count for family in families)
    if has_tail and families[-1].varies:
        thresholds = ThresholdSpec(family="major_minor", angles={"tau_major": 0.0, "tau_minor": PAPER_MINOR})
    else:
        thresholds = ThresholdSpec(family="global", angles={"tau": PAPER_ANGLE})
    return method.model_copy(update={"thresholds": thresholds, "release": "paper"})


def _named(name: str, study: StudyConfig) -> MethodConfig:
    return MethodConfig.model_validate({"name": name, **study.protocol.own.get(name, {})})


def every_baseline(study: StudyConfig) -> tuple[str, ...]:
    """Names of all baselines that mean something beside each other: of two names of one training here the first, and what belongs
    to tables over a tree where there is one."""
    known = [name for name, method in METHODS.items() if not method.tree or _says_something(method, study)]
    return distinct([name for name in (*known, *_OF_THE_SEARCH) if name != "hinge_ce"], study)


def every_tree_baseline(study: StudyConfig) -> tuple[str, ...]:
    """Names of the baselines of tables over a tree: the plain network and the methods of such tables that have no thresholds, on
    the plain network first, frozen axes last; of two names of one training here the first."""
    known = [
        name
        for name, method in METHODS.items()
        if not method.hinge and ((method.tree and _says_something(method, study)) or name == "ce_no_projector")
    ]
    return distinct(sorted(known, key=lambda name: METHODS[name].structure), study)


def _says_something(method: Method, study: StudyConfig) -> bool:
    """Whether there is a tree, and for a method that is cross-entropy by another name on a flat one, not that."""
    return study.data.hierarchy is not None and not (
        method.parts.nothing_on_an_even_tree and study.data.hierarchy == FLAT
    )


def distinct(names: Sequence[str], study: StudyConfig) -> tuple[str, ...]:
    """Of baselines that this study trains alike under different names the first.

    Raises:
        ConfigError: unknown name.
    """
    keys = [training_key(name, study) for name in names]
    first = {key: name for key, name in zip(reversed(keys), reversed(names), strict=True)}
    return tuple(name for name, key in zip(names, keys, strict=True) if first[key] == name)


def training_key(name: str, study: StudyConfig) -> str:
    """Of a baseline as published: the same for two that this study trains alike."""
    return digest(spelled_out(baseline(name, study), study.train).to_dict())


def own_numbers(name: str, study: StudyConfig) -> tuple[str, ...]:
    """Parts whose values are searched where the baseline `name` is tuned; none of what is fixed by definition."""
    if name in _OF_THE_SEARCH:
        return tuple(part for part in study.search.own if part not in OF_CONES) if name == "no_cones" else ()
    return method_named(name).searched


def searched_method(
    study: StudyConfig, thresholds: ThresholdSpec, release: Release, own: Mapping[str, float]
) -> MethodConfig:
    """The searched method at these thresholds, with the values of the parts that are searched together with them."""
    return study.search.method.model_copy(update={"thresholds": thresholds, "release": release, **own})


def own_values_of(method: MethodConfig, names: Iterable[str]) -> dict[str, float]:
    """What `method` has in these parts."""
    parts = parts_of(method)
    return {name: getattr(parts, name) for name in names}


def numbers_in_short(values: Mapping[str, object]) -> str:
    """`margin=0.31 scale=18.2`."""
    return " ".join(f"{part}={_short(value)}" for part, value in values.items())


def name_of(method: MethodConfig) -> str:
    """What people call a method: `ce_etf`, `gate 65.0 deg`, `hinge_la paper 0.0/40.0 deg`, `ldam scale=20`."""
    method = canonical(method)
    named = method_named(method.name)
    words = [method.name]
    if named.hinge:
        words = [
            *([] if method.name == "hinge_ce" else words),
            f"{method.release} {angles_in_short(method.thresholds)}".strip(),
        ]
    changed = parts_of(method).other_than(named.parts)
    return " ".join([*words, *([numbers_in_short(changed)] if changed else [])])


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def angles_in_short(thresholds: ThresholdSpec) -> str:
    """`0.0/40.0 deg`, offsets with their sign, what is no angle by its name: `0.0/40.0 deg, bend 1.00`.

    In the family's order, which a record on disk does not keep.
    """
    family = family_named(thresholds.family)
    degrees, others = [], []
    for name in family.parameters:
        value = thresholds.angles[name]
        match family.other(name):
            case None:
                degrees.append(f"{math.degrees(value):.1f}")
            case Offset():
                degrees.append(f"{math.degrees(value):+.1f}")
            case Number():
                others.append(f"{name} {value:.2f}")
    if len(degrees) > _MOST_ANGLES:
        low, high = min(thresholds.angles.values()), max(thresholds.angles.values())
        return f"{family.name} {math.degrees(low):.1f} to {math.degrees(high):.1f} deg"
    return ", ".join([*([f"{'/'.join(degrees)} deg"] if degrees else []), *others])
