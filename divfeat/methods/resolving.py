"""From a method's configuration to its parts, and to the plainest spelling of the same training."""

from __future__ import annotations

from dataclasses import fields, replace

from divfeat.config import MethodConfig, TrainConfig
from divfeat.methods.checks import check_parts
from divfeat.methods.table import METHODS, SECOND_SETTINGS, method_named, with_second
from divfeat.parts import OFF, Parts
from divfeat.second import SECONDS
from divfeat.thresholds import family_named

#: Second stages after which the first one's axes stand: these move scores by class, or train both again.
_KEEPING = ("none", "crm", "post_hoc", "m2m")
#: Parts that replace a setting of `TrainConfig`.
_OF_TRAINING = ("mixup", "cutmix", "sampling")


def parts_of(config: MethodConfig) -> Parts:
    """The method's own parts, and over them those that the configuration gives.

    Raises:
        ConfigError: unknown name, or parts that mean nothing together.
    """
    method = method_named(config.name)
    given = {field.name: getattr(config, field.name) for field in fields(Parts)}
    base = method.parts
    if config.second is not None and config.second != base.second:
        base = with_second(base, config.second)
    parts = replace(base, **{name: value for name, value in given.items() if value is not None})
    check_parts(config.name, method, parts, given)
    # What nothing reads is off, so that one training has one spelling: the start of weights, numbers of another frame or head.
    unread = {"deferred": not parts.class_balanced, "pair_margin": parts.levels != "hafeature"}
    unread |= dict.fromkeys(("gamma", "s_min"), parts.frame != "hierarchy")
    return replace(parts, **{name: getattr(OFF, name) for name, off in unread.items() if off})


def keeps_frozen_axes(config: MethodConfig) -> bool:
    """Whether the axes that are scored with at the end are frozen ones, which features were drawn to: no second stage's own.

    Raises:
        ConfigError: unknown name, or parts that mean nothing together.
    """
    return method_named(config.name).frame and parts_of(config).second in _KEEPING


def train_of(config: MethodConfig, train: TrainConfig) -> TrainConfig:
    """`train` with what the method replaces in it.

    Raises:
        ConfigError: unknown name, or parts that mean nothing together.
    """
    parts = parts_of(config)
    replaced = {name: getattr(parts, name) for name in _OF_TRAINING}
    return train.model_copy(update={name: value for name, value in replaced.items() if value is not None})


def spelled_out(config: MethodConfig, train: TrainConfig) -> MethodConfig:
    """The method, canonical, with all it is trained with: the same for two that one study trains alike."""
    resolved = train_of(config, train)
    return canonical(config.model_copy(update={name: getattr(resolved, name) for name in _OF_TRAINING}))


def first_stage(method: MethodConfig) -> MethodConfig:
    """`method` without its second stage, by its plainest name: what trains alike in the first stage is equal here.

    Raises:
        ConfigError: unknown name, or parts that mean nothing together.
    """
    return canonical(method.model_copy(update=dict.fromkeys(SECOND_SETTINGS) | {"second": "none"}))


def epochs_of(method: MethodConfig, epochs: int) -> int:
    """Epochs of both stages, where the first has `epochs`."""
    parts = parts_of(method)
    return epochs if parts.second == "none" else epochs + SECONDS[parts.second].epochs(parts, epochs)


def canonical(method: MethodConfig) -> MethodConfig:
    """`method` by its plainest name, so that two spellings of one training share its key.

    A hinge without cones clamps nothing, whenever that is, and is CE+ETF, bit for bit. Of the names with the same head and
    hinge it gets the one with the most parts alike (on or off, then in value; the first of several), and only the values that
    differ: None, which leaves a setting to `train`, cannot be given over a name's own. What a name replaces in `train` is
    always told, so that no key of `etf_dr` from before it mixed images stands for one that does.

    Raises:
        ConfigError: unknown name, or parts that mean nothing together.
    """
    projector, frame, hinge = method_named(method.name).structure
    no_cone = family_named(method.thresholds.family).coneless(method.thresholds.angles)
    parts = parts_of(method)
    structure = (projector or parts.neck != "linear", frame, hinge and not no_cone)
    if no_cone:
        parts = replace(parts, closed_first=0.0, closed_last=0.0)
    differing = {
        name: parts.other_than(known.parts)
        for name, known in METHODS.items()
        if known.structure == structure and known.parts.second in ("none", parts.second)
    }
    fitting = [name for name, values in differing.items() if None not in values.values()]
    name = min(fitting, key=lambda name: (len(parts.on ^ METHODS[name].parts.on), len(differing[name])))
    cones = {"thresholds": method.thresholds, "release": method.release} if hinge and not no_cone else {}
    given = differing[name] | {part: value for part in _OF_TRAINING if (value := getattr(parts, part)) is not None}
    if "second" in given:  # whose published settings would fill in what is not given
        given |= {setting: getattr(parts, setting) for setting in SECONDS[parts.second].settings}
    return MethodConfig(name=name, **cones, **given)
