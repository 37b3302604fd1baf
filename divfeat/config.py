"""Typed, validated configurations: what decides a result (identity, hashed) apart from how it is run (execution).

Unknown keys are errors, every error names key, value and remedy, and a configuration is frozen once made.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_serializer, model_validator
from pydantic.fields import FieldInfo

from divfeat.errors import ConfigError, unknown
from divfeat.objectives import EPOCH_METRICS, OBJECTIVES

Release = Literal["paper", "theorem", "gate"]
Level = Literal["coarse", "fine"]
Loss = Literal["cross_entropy", "dot_regression"]
Second = Literal["none", "crt", "lws", "tau_norm", "ncm", "post_hoc", "m2m", "oltr"]
Tail = Literal["exponential", "step"]
Sampling = Literal["natural", "balanced", "square_root"]
Policy = Literal["none", "flip", "crop_flip", "autoaugment", "randaugment"]

#: Samplers that keep no state besides the trials, so that they can take over those of a plainer family.
REFINING = ("tpe", "gp", "random")
#: Samplers that propose away from what misses a constraint; `qmc` and `random` follow no trial, `cmaes` would be misled.
MODELS_CONSTRAINTS = ("tpe", "gp", "nsga2")
#: Arguments of `build_extractor` that other settings decide -> what a user should set instead.
_NOT_OPTIONS: dict[str, str] = {
    "backbone": "set model.backbone",
    "image_shape": "it follows the data; set data.image_size",
    "projector": "it follows the method; set method.name (ce_no_projector has none)",
    "projector_dim": "set model.projector_dim",
    "feature_norm": "set method.feature_norm",
    "mean": "it is measured on the training images",
    "std": "it is measured on the training images",
    "seed": "set seed",
}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return self.model_dump(mode="json")


_COLUMNS = ("image_column", "fine_column", "coarse_column")
_LISTS = ("train_list", "val_list", "test_list")


class DataConfig(_Frozen):
    """Which images, which labels, which split (design: validation never comes from the test set)."""

    source: str = Field(description="digits, torchvision:NAME, parquet:PATH, folder:PATH or lists:PATH")
    train_level: Level = Field("fine", description="labels the network is trained on")
    probe_level: Level = Field("fine", description="labels the linear probe predicts")
    image_size: int | None = Field(None, ge=8, description="pixels; needed where images differ in size")
    image_column: str | None = Field(None, description="Parquet column of the images; default img or image")
    fine_column: str | None = Field(None, description="of the fine labels; default fine_label or label")
    coarse_column: str | None = Field(None, description="of the coarse labels; default coarse_label, if there is one")
    train_list: str | None = Field(None, description="file of 'path label' lines, for the source lists:PATH")
    val_list: str | None = Field(None, description="the same; validation is these images, and nothing is held out")
    test_list: str | None = Field(None, description="the same")
    download: bool = Field(False, description="let torchvision download the set")
    train_size: int | None = Field(None, ge=1, description="train on a stratified subset of this many images")
    imbalance: float | None = Field(None, ge=1, description="long tail: largest over smallest class count")
    tail: Tail = Field("exponential", description="long tail: counts that fall from class to class, or in one step")
    n_max: int | None = Field(None, ge=1, description="long tail: images of the largest class; default all")
    boundary: int = Field(50, ge=0, description="a class with at most this many training images is minor")
    val_per_class: int | None = Field(
        None, ge=1, description="validation images of each fine class; under a tail, of each trained class"
    )
    val_fraction: float | None = Field(None, gt=0, lt=1, description="or this share of the training images")
    seed: int = Field(0, ge=0, description="of subset, tail and split")
    expected_split: str | None = Field(
        None, pattern="^[0-9a-f]{16}$", description="refuse a published training set with another hash than this"
    )

    @model_validator(mode="after")
    def _one_validation_rule(self) -> DataConfig:
        if [self.val_per_class, self.val_fraction, self.val_list].count(None) != 2:
            raise ValueError("give exactly one of val_per_class and val_fraction (or val_list, with the source lists)")
        if self.imbalance is not None and self.val_list is not None:
            raise ValueError(
                "imbalance takes validation from what the tail leaves out: give val_per_class, not val_list"
            )
        if self.imbalance is not None and self.train_size is not None:
            raise ValueError("imbalance and train_size exclude each other; use n_max to make a long tail smaller")
        if self.imbalance is None and self.n_max is not None:
            raise ValueError("n_max belongs to a long tail; set imbalance too, or use train_size")
        if self.imbalance is None and self.tail != "exponential":
            raise ValueError(f"tail={self.tail!r} belongs to a long tail; set imbalance too")
        return self

    @property
    def columns(self) -> dict[str, str | None]:
        """The Parquet columns, as `load_source` and `find_source` take them."""
        return {name: getattr(self, name) for name in _COLUMNS}

    @property
    def lists(self) -> dict[str, str | None]:
        """The list files, as `load_source` and `find_source` take them."""
        return {name: getattr(self, name) for name in _LISTS}


class ModelConfig(_Frozen):
    """The network."""

    backbone: str = Field(description="name of a backbone, e.g. resnet32")
    projector_dim: int | None = Field(
        None, ge=1, description="features after the projector; default the backbone's width"
    )
    options: dict[str, int | float | str | bool] = Field(default_factory=dict, description="passed to the backbone")

    @field_validator("options")
    @classmethod
    def _options_of_the_backbone(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name in _NOT_OPTIONS:
                raise ValueError(f"{name!r} is no option of a backbone: {_NOT_OPTIONS[name]}")
        return value


class ThresholdSpec(_Frozen):
    """A family and its angles in radians."""

    family: str = "none"
    angles: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> ThresholdSpec:
        from divfeat.thresholds import check_parameters, family_named

        check_parameters(family_named(self.family), self.angles)
        return self

    def spec(self) -> dict[str, Any]:
        """As `divfeat.thresholds.resolve` takes it."""
        return {"family": self.family, **self.angles}


#: Parts of a method that came after the first keys were in use.
_PARTS = (
    *("logit_adjustment", "scale", "margin", "focal", "class_balanced", "deferred", "loss", "feature_norm"),
    *("closed_first", "closed_last"),
    *("mixup", "cutmix", "sampling"),
    *("second", "second_epochs", "second_lr", "exponent", "prior_strength"),
    *("m2m_start", "m2m_beta", "m2m_gamma", "m2m_lambda", "centroid_loss"),
)


class MethodConfig(_Frozen):
    """A method by name with its own settings.

    The name fills in what is left at None (divfeat.methods.METHODS); a value given here replaces the name's, and 0 switches
    a part off. Parts combine freely where that has a meaning, and are refused with the reason where it has none.
    """

    name: str = "hinge_ce"
    thresholds: ThresholdSpec = ThresholdSpec()
    release: Release = "paper"
    closed_first: float | None = Field(None, ge=0, lt=1, description="share of the epochs before the cones open")
    closed_last: float | None = Field(None, ge=0, lt=1, description="share of the epochs after the cones have closed")
    label_smoothing: float | None = Field(None, ge=0, lt=1, description="default: the method's own")
    logit_adjustment: float | None = Field(None, ge=0, description="tau of + tau log prior on the logits in the loss")
    scale: float | None = Field(None, ge=0, description="logits are scale * cosine: features and axes are normalised")
    margin: float | None = Field(None, ge=0, le=2, description="LDAM's, in cosines: the rarest class's; needs scale")
    focal: float | None = Field(None, ge=0, description="gamma of (1 - p)^gamma on the loss")
    class_balanced: float | None = Field(None, ge=0, lt=1, description="beta of weights (1 - beta) / (1 - beta^n)")
    deferred: float | None = Field(None, ge=0, lt=1, description="share of the epochs before class weights start")
    loss: Loss | None = Field(None, description="default: the method's own, mostly cross_entropy")
    feature_norm: bool | None = Field(None, description="batch norm on the features, after the projector")
    mixup: float | None = Field(None, ge=0, description="replaces train.mixup; default the method's own, mostly none")
    cutmix: float | None = Field(None, ge=0, description="replaces train.cutmix, as mixup does")
    sampling: Sampling | None = Field(None, description="replaces train.sampling, as mixup does")
    second: Second | None = Field(None, description="second stage, after the training; divfeat.second")
    second_epochs: int | None = Field(None, ge=0, description="of crt, lws and oltr")
    second_lr: float | None = Field(None, gt=0, description="learning rate of crt, lws and oltr")
    exponent: float | None = Field(None, ge=0, description="p of tau_norm's w_k / ||w_k||^p")
    prior_strength: float | None = Field(None, ge=0, description="tau of post_hoc's v - tau log prior")
    m2m_start: float | None = Field(None, ge=0, lt=1, description="share of the epochs before images are translated")
    m2m_beta: float | None = Field(None, ge=0, lt=1, description="seeds are kept with 1 - beta^(n_seed - n_target)")
    m2m_gamma: float | None = Field(
        None, ge=0, lt=1, description="least probability of the target by the first network"
    )
    m2m_lambda: float | None = Field(None, ge=0, description="weight of the second network's logit of the seed's class")
    centroid_loss: float | None = Field(None, ge=0, description="weight of oltr's loss on distances to class centroids")

    @model_serializer(mode="wrap")
    def _what_is_given(self, serialize: Any) -> dict[str, Any]:
        """Without parts that are not given: keys from before there was a part stay what they were."""
        return {name: value for name, value in serialize(self).items() if value is not None or name not in _PARTS}


class TrainConfig(_Frozen):
    """SGD with Nesterov momentum; one epoch policy: the last epoch counts, never the best."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(128, ge=2, description="images over all workers")
    lr: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(5e-4, ge=0)
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    milestones: tuple[float, ...] = Field((0.5, 0.75), description="step schedule: shares of the epochs")
    step_factor: float = Field(0.1, gt=0, le=1)
    warmup_epochs: float = Field(0.0, ge=0)
    clip_norm: float | None = Field(None, gt=0)
    sampling: Sampling = Field("natural", description="shares of the classes in an epoch; copies of an image count")
    augment: Policy = Field("none", description="autoaugment and randaugment crop and flip first")
    cutout: int = Field(
        0, ge=0, multiple_of=2, description="pixels; side of a square in the mean colour on each image, 0 for none"
    )
    mixup: float = Field(
        0.0, ge=0, description="alpha of Beta(alpha, alpha), the weights of mixed images; 0 mixes none"
    )
    cutmix: float = Field(0.0, ge=0, description="the same for CutMix; with both each image draws one of the two")
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = True
    compile: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum > 0")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs={self.warmup_epochs} must be shorter than epochs={self.epochs}")
        if any(not 0 < share < 1 for share in self.milestones) or list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"milestones={list(self.milestones)} must be increasing shares of the epochs in (0, 1)")
        return self

    @property
    def mixes(self) -> bool:
        """Whether images are mixed in pairs."""
        return self.mixup > 0 or self.cutmix > 0


class ProbeConfig(_Frozen):
    """The linear probe."""

    search: Literal["coarse_to_fine", "grid"] = "coarse_to_fine"
    strengths: tuple[float, ...] | None = Field(None, description="weight decays; default the 45-point protocol grid")
    strengths_before: tuple[float, ...] | None = Field(None, description="before the projector; default `strengths`")
    solver: Literal["lbfgs", "sgd"] = "lbfgs"
    standardize: bool = False

    @model_validator(mode="after")
    def _positive_strengths(self) -> ProbeConfig:
        for name in ("strengths", "strengths_before"):
            strengths = getattr(self, name)
            if strengths is None:
                continue
            if not strengths:
                raise ValueError(f"{name}=[]: give at least one weight decay, or null for the protocol's grid")
            if any(strength < 0 or (strength == 0 and self.solver == "lbfgs") for strength in strengths):
                raise ValueError(f"{name}={list(strengths)} must be positive (0 only with solver 'sgd')")
        return self


class ExperimentConfig(_Frozen):
    """One training and its scores; its hash is the key of its record.

    `role` says what it may see: `search` trains on the training part and is scored on validation; `confirm` trains on the
    whole published training set, selects nothing, and is the only role that reads the test set.
    """

    data: DataConfig
    model: ModelConfig
    method: MethodConfig = MethodConfig()
    train: TrainConfig
    probe: ProbeConfig = ProbeConfig()
    seed: int = Field(0, ge=0)
    role: Literal["search", "confirm"] = "search"

    @property
    def key(self) -> str:
        """16 hexadecimal digits: two experiments with the same key are the same experiment."""
        return digest(deciding(self.to_dict()))


class AshaConfig(_Frozen):
    """Asynchronous successive halving; rungs measure the objective itself."""

    first_rung: int = Field(4, ge=1, description="epochs")
    reduction: int = Field(3, ge=2)


class ConstraintConfig(_Frozen):
    """A bound that a trial's validation metric keeps; shares in percent or points, geometry as it is."""

    metric: str = Field(description="name of an objective")
    at_least: float | None = None
    at_most: float | None = None
    than: str | None = Field(None, description="ce_etf: its mean on the selection seeds is added to the bound")

    @model_validator(mode="after")
    def _one_bound(self) -> ConstraintConfig:
        if self.metric not in OBJECTIVES:
            raise ConfigError(unknown("metric of a constraint", self.metric, OBJECTIVES))
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"constraint on {self.metric!r}: give exactly one of at_least and at_most")
        if self.than not in (None, "ce_etf"):
            raise ValueError(
                f"than={self.than!r}: only ce_etf is measured before the search; give ce_etf, or leave it out"
            )
        share = self.than is None and OBJECTIVES[self.metric].unit == "share"
        if share and (0 < self.bound < 1 or not 0 <= self.bound <= 100):
            raise ValueError(
                f"constraint on {self.metric!r}: {self.bound:g} would be {self.bound:g} %; bounds of a share are percent, "
                "from 1 to 100, or 0"
            )
        return self

    @property
    def bound(self) -> float:
        """In percent, points or as it is; added to CE+ETF's mean where there is a `than`."""
        found = self.at_most if self.at_least is None else self.at_least
        assert found is not None
        return found

    @property
    def name(self) -> str:
        """`major >= ce_etf - 1`, `log_norm <= 5`: what reports and Optuna call it."""
        relation = "<=" if self.at_least is None else ">="
        if self.than is None:
            return f"{self.metric} {relation} {self.bound:g}"
        return f"{self.metric} {relation} {self.than} {'-' if self.bound < 0 else '+'} {abs(self.bound):g}"


class StopConfig(_Frozen):
    """A reason to end a training of the search early; values as recorded, so shares lie in [0, 1]."""

    metric: str = Field(description="of an epoch, e.g. train/feature_norm or followed/collapse/nc1")
    above: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def _one_side(self) -> StopConfig:
        if self.metric not in EPOCH_METRICS:
            raise ConfigError(unknown("metric of an epoch", self.metric, EPOCH_METRICS))
        if (self.above is None) == (self.below is None):
            raise ValueError(f"stop on {self.metric!r}: give exactly one of above and below")
        return self

    def reached(self, metrics: Mapping[str, float]) -> str | None:
        """Why an epoch with these metrics is a training's last, or None where it is not."""
        value = metrics.get(self.metric)
        if value is None:
            return None
        if self.above is not None and value > self.above:
            return f"{self.metric} = {value:.4g} above {self.above:g}"
        if self.below is not None and value < self.below:
            return f"{self.metric} = {value:.4g} below {self.below:g}"
        return None


class SearchConfig(_Frozen):
    """What is searched, and how."""

    method: MethodConfig = Field(
        MethodConfig(),
        description="whose thresholds: hinge_ce, hinge_la, or one with further parts, by name or mapping",
    )
    own: tuple[str, ...] = Field((), description="parts of it whose values are searched together with the thresholds")
    family: str = "global"
    refine: tuple[str, ...] = Field(
        (), description="plainer families searched first, in this order (divfeat.search.refine)"
    )
    releases: tuple[Release, ...] = ("gate", "paper", "theorem")
    objectives: tuple[str, ...] = ("fine_probe",)
    sampler: Literal["tpe", "gp", "cmaes", "nsga2", "qmc", "random"] = "tpe"
    low: float = 0.0
    high: float = Field(17 / 36 * math.pi, description="radians")
    asha: AshaConfig | None = None
    constraints: tuple[ConstraintConfig, ...] = Field((), description="bounds that the winner keeps on validation")
    stop: tuple[StopConfig, ...] = Field((), description="reasons to end a training of the search early")

    @field_validator("method", mode="before")
    @classmethod
    def _method_by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("family")
    @classmethod
    def _family(cls, value: str) -> str:
        from divfeat.thresholds import family_named

        return family_named(value).name

    @model_validator(mode="after")
    def _consistent(self) -> SearchConfig:
        from divfeat.thresholds import family_named

        family_named(self.family).space(self.low, self.high)
        self._check_method()
        self._check_stages()
        for name in self.objectives:
            if name not in OBJECTIVES:
                raise ConfigError(unknown("objective", name, OBJECTIVES))
        if not 1 <= len(set(self.objectives)) == len(self.objectives) <= 2:
            raise ValueError(f"objectives={list(self.objectives)}: give one, or two different ones")
        if not self.releases or len(set(self.releases)) != len(self.releases):
            raise ValueError(f"releases={list(self.releases)}: give at least one, none twice")
        if self.asha and len(self.objectives) > 1:
            raise ValueError("asha compares trials by one number; it cannot stop trials of two objectives. Drop one")
        if self.sampler == "cmaes" and len(self.objectives) > 1:
            raise ValueError("sampler 'cmaes' handles one objective; use nsga2, tpe, gp, qmc or random for two")
        self._check_constraints()
        return self

    def _check_constraints(self) -> None:
        for field, given in (("constraints", self.constraints), ("stop", self.stop)):
            if len(set(given)) != len(given):
                raise ValueError(f"{field}: give none twice")
        if self.constraints and self.asha:
            raise ValueError(
                "asha compares trials by the objective alone, and would stop those that keep the constraints for others that "
                "do not. Drop one"
            )
        if self.constraints and self.sampler == "cmaes":
            raise ValueError(
                "sampler 'cmaes' ignores constraints; use tpe, gp or nsga2 (qmc and random follow no trial)"
            )

    def _check_method(self) -> None:
        from divfeat.methods import METHODS, method_named, parts_of
        from divfeat.ranges import RANGES

        parts = parts_of(self.method)
        if not method_named(self.method.name).hinge:
            hinged = " or ".join(name for name, method in METHODS.items() if method.hinge)
            raise ValueError(f"method={self.method.name!r} has no thresholds to search; use {hinged}")
        if self.method.thresholds != ThresholdSpec() or self.method.release != "paper":
            raise ValueError("method: its thresholds and release are what is searched; leave them out")
        if len(set(self.own)) != len(self.own):
            raise ValueError(f"own={list(self.own)}: name no part twice")
        for name in self.own:
            if name not in RANGES:
                raise ConfigError(unknown("part with a searched range", name, RANGES))
            if not RANGES[name].holds(getattr(parts, name)):
                raise ValueError(
                    f"own={list(self.own)}: the first value of {name} is {getattr(parts, name)}, outside the searched range "
                    f"{RANGES[name]}; set method.{name} to one inside"
                )

    def _check_stages(self) -> None:
        from divfeat.thresholds import family_named

        stages = [family_named(name) for name in (*self.refine, self.family)]
        for index, plain in enumerate(stages[:-1]):
            for rich in stages[index + 1 :]:
                if plain.name not in rich.lifts:
                    known = ", ".join(rich.lifts) or "no other"
                    raise ValueError(
                        f"refine={list(self.refine)}: each family must be contained in those after it, but {rich.name!r} does "
                        f"not contain {plain.name!r}; it contains {known}"
                    )
        if self.refine and self.sampler not in REFINING:
            raise ValueError(
                f"refine needs a sampler that starts from any trials: {', '.join(REFINING)}, not {self.sampler!r}"
            )


class ProtocolConfig(_Frozen):
    """Fixed before the search (design 5); every number here is part of the study's identity."""

    baselines: tuple[str, ...] = ("ce", "ce_no_projector", "ce_etf", "hinge_fixed")
    tune: bool = Field(
        False, description="search the baselines' own numbers on validation, with as many trials as ours"
    )
    learning_rates: tuple[float, ...] = Field((), description="tried with CE before the search; empty keeps train.lr")
    weight_decays: tuple[float, ...] = Field(
        (), description="tried with CE before the search; empty keeps the preset's"
    )
    select_top: int = Field(3, ge=1, description="proposals tried again")
    # Seeds of selection are 1000, 1001, ..., those of confirmation 2000, 2001, ... (divfeat.search.jobs).
    select_seeds: int = Field(3, ge=2, le=1000, description="further seeds, on validation")
    grid_points: int = Field(8, ge=0, description="angles of the as-good-as-the-best grid; 0 leaves it out")
    confirm_seeds: int = Field(5, ge=2, le=1000, description="new seeds on test")
    margin: float = Field(0.5, gt=0, description="points that count as equivalent")
    alpha: float = Field(0.05, gt=0, lt=1)
    published_ce: float | None = Field(
        None,
        gt=0,
        lt=100,
        description="percent on test published for CE with this recipe; far under it no verdict is given",
    )

    @property
    def plain_baseline(self) -> str | None:
        """The baseline that published rows call CE: without the projector, if that is one."""
        return next((name for name in ("ce_no_projector", "ce") if name in self.baselines), None)

    @model_validator(mode="after")
    def _published_is_compared(self) -> ProtocolConfig:
        if self.published_ce is not None and self.plain_baseline is None:
            raise ValueError(
                f"published_ce={self.published_ce:g} is compared with CE's accuracy: add ce_no_projector or ce to "
                "protocol.baselines"
            )
        return self


class StudyConfig(_Frozen):
    """Identity of a study: everything that decides its results, apart from how many trials it has got so far."""

    preset: str = "digits"
    data: DataConfig
    model: ModelConfig
    train: TrainConfig
    probe: ProbeConfig = ProbeConfig()
    search: SearchConfig = Field(default_factory=SearchConfig)  # not made here: its validation reads the methods
    protocol: ProtocolConfig = ProtocolConfig()
    seed: int = Field(0, ge=0)

    @property
    def identity(self) -> str:
        """16 hexadecimal digits over every field but the preset's name."""
        return digest({name: value for name, value in deciding(self.to_dict()).items() if name != "preset"})

    @model_validator(mode="after")
    def _consistent(self) -> StudyConfig:
        if self.search.asha and self.search.asha.first_rung >= self.train.epochs:
            raise ValueError(
                f"search.asha.first_rung={self.search.asha.first_rung} must be below train.epochs={self.train.epochs}"
            )
        if 0 < self.protocol.grid_points < 8:
            raise ValueError(
                f"protocol.grid_points={self.protocol.grid_points}: the as-good rule needs at least 8, or 0"
            )
        return self


class ExecutionConfig(_Frozen):
    """How a study is run; none of it changes a result."""

    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    trials: int = Field(20, ge=1, description="proposals of the search, and for each baseline that is tuned")
    max_concurrent: int | None = Field(None, ge=1, description="trials at a time; default what the machine holds")
    workers_per_trial: int = Field(1, ge=1)
    gpus_per_worker: float = Field(0.0, ge=0)
    cpus_per_worker: float = Field(1.0, gt=0)
    address: str | None = None
    storage_path: str = "runs"
    tracking_uri: str | None = None
    time_budget: float | None = Field(None, gt=0, description="seconds")
    max_failed_share: float = Field(0.5, gt=0, le=1, description="of a phase's runs before the study gives up")


# --- hashing ----------------------------------------------------------------------------------------------------------


#: Settings that only let a set be fetched, or refuse one: they decide no result.
_NEVER = ("download", "expected_split")
#: Settings that came after the first studies, by section: at their default they are no part of a key, so that the keys of
#: finished work stay what they are.
_LATER: dict[str, tuple[type[BaseModel], tuple[str, ...]]] = {
    "data": (DataConfig, (*_COLUMNS, *_LISTS, "tail")),
    "train": (TrainConfig, ("sampling", "cutout", "mixup", "cutmix")),
    "search": (SearchConfig, ("refine", "constraints", "stop", "method", "own")),
    "protocol": (ProtocolConfig, ("published_ce", "tune")),
}


def deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` (JSON types, sections as mappings) without what decides no result: see `_NEVER` and `_LATER`."""
    kept = dict(settings)
    for section, (model, names) in _LATER.items():
        if section in settings:
            defaults = {name: _plain(model.model_fields[name].default) for name in names}
            kept[section] = {
                name: value
                for name, value in settings[section].items()
                if name not in _NEVER and not (name in defaults and value == defaults[name])
            }
    return kept


def _plain(value: Any) -> Any:
    """A default as JSON has it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return list(value) if isinstance(value, tuple) else value


def digest(value: Any) -> str:
    """16 hexadecimal digits of the canonical JSON of `value`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# --- validation -----------------------------------------------------------------------------------------------------------


def build(model: type[Any], settings: Any, prefix: str = "") -> Any:
    """Validate `settings` as `model`.

    Raises:
        ConfigError: one line a problem, each with key, value and what is expected.
    """
    try:
        return model.model_validate(settings)
    except pydantic.ValidationError as error:
        raise ConfigError("\n".join(_explain(model, problem, prefix) for problem in error.errors())) from error


def _explain(model: type[BaseModel], problem: Any, prefix: str) -> str:
    location = [str(part) for part in problem["loc"]]
    where = prefix + ".".join(location)
    if problem["type"] == "extra_forbidden":
        return unknown("setting", where, _fields_at(model, location[:-1]), prefix=where.rpartition(".")[0])
    if problem["type"] == "missing":
        return f"setting {where} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error" or not location:
        return f"{where}: {message}" if where else message
    value = repr(problem.get("input"))
    field = _fields_at(model, location[:-1]).get(location[-1])
    meaning = f" ({field.description})" if field is not None and field.description else ""
    return f"setting {where}={value[:80]}: {message[0].lower()}{message[1:]}{meaning}"


def _fields_at(model: type[BaseModel], location: list[str]) -> dict[str, FieldInfo]:
    """Fields of the nested model at `location`, by name."""
    current: Any = model
    for part in location:
        if part.isdigit():  # a place in a list of the models found already
            continue
        fields = getattr(current, "model_fields", {})
        if part not in fields:
            return {}
        annotation = fields[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        current = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
    return dict(getattr(current, "model_fields", {}))
