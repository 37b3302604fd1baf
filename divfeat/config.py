"""Configuration of an experiment: data, model, method, training, probe; what decides its result is hashed to its key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_serializer, model_validator

from divfeat.validation import Frozen, Later, digest, without

Release = Literal["paper", "theorem", "gate"]
Level = Literal["coarse", "fine"]
Loss = Literal["cross_entropy", "dot_regression"]
Second = Literal["none", "crt", "lws", "tau_norm", "ncm", "post_hoc", "m2m", "oltr", "crm"]
Frame = Literal["simplex", "hierarchy", "orthonormal", "class_means"]
Neck = Literal["linear", "transformation"]
PlainNeck = Literal["none", "elu"]
Levels = Literal["none", "flamingo", "hafeature"]
CosineSchedule = Literal["constant", "rising", "falling"]
Tail = Literal["exponential", "step"]
Sampling = Literal["natural", "balanced", "square_root"]
Policy = Literal["none", "flip", "crop_flip", "autoaugment", "randaugment"]

#: Arguments of `build_extractor` that other settings decide -> what a user should set instead.
_NOT_OPTIONS: dict[str, str] = {
    "backbone": "set model.backbone",
    "image_shape": "it follows the data; set data.image_size",
    "projector": "it follows the method; set method.name (ce_no_projector has none)",
    "projector_dim": "set model.projector_dim",
    "neck": "set method.neck",
    "feature_norm": "set method.feature_norm",
    "mean": "it is measured on the training images",
    "std": "it is measured on the training images",
    "seed": "set seed",
}


_COLUMNS = ("image_column", "fine_column", "coarse_column")
_LISTS = ("train_list", "val_list", "test_list")


class DataConfig(Frozen):
    """Which images, which labels, which split (design: validation never comes from the test set)."""

    source: str = Field(description="digits, torchvision:NAME, parquet:PATH, folder:PATH or lists:PATH")
    train_level: Level = Field("fine", description="labels the network is trained on")
    probe_level: Level = Field("fine", description="labels the linear probe predicts")
    image_size: int | None = Field(None, ge=8, description="pixels; needed where images differ in size")
    crop_bottom: int = Field(
        0, ge=0, description="pixels cut off at the bottom before that: 20 for FGVC-Aircraft's banner"
    )
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
    hierarchy: str | None = Field(
        None,
        description="tree of the trained labels: flat, coarse (the set's own), aircraft, cifar10, cifar100, or a file",
    )
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


class ModelConfig(Frozen):
    """The network."""

    backbone: str = Field(description="name of a backbone, e.g. resnet32")
    projector_dim: int | None = Field(
        None, ge=1, description="features after the projector; default the backbone's width"
    )
    options: dict[str, int | float | str | bool] = Field(default_factory=dict, description="passed to the backbone")
    plain_neck: PlainNeck = Field(
        "none",
        description="what follows the backbone in methods without a projector; elu: HAFrame's type I network of larger images "
        "(max-pool, batch norm, linear layer, batch norm, ELU)",
    )
    hidden_units: int = Field(600, ge=1, description="features after plain_neck=elu")
    weights: str | None = Field(
        None,
        description="file of the backbone's first weights, as torchvision's: from the working directory or DIVFEAT_DATA",
    )
    weights_hash: str | None = Field(
        None, pattern="^[0-9a-f]{16}$", description="refuse a file whose SHA-256 begins otherwise"
    )

    @field_validator("options")
    @classmethod
    def _options_of_the_backbone(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name in _NOT_OPTIONS:
                raise ValueError(f"{name!r} is no option of a backbone: {_NOT_OPTIONS[name]}")
        return value

    @model_validator(mode="after")
    def _nothing_alone(self) -> ModelConfig:
        if self.hidden_units != type(self).model_fields["hidden_units"].default and self.plain_neck == "none":
            raise ValueError(
                f"hidden_units={self.hidden_units} belongs to plain_neck=elu; set that too, or leave it out"
            )
        if self.weights_hash is not None and self.weights is None:
            raise ValueError(f"weights_hash={self.weights_hash} is of no file: set weights too, or leave it out")
        return self


class ThresholdSpec(Frozen):
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
    *("frame", "gamma", "s_min", "neck", "cosine", "cosine_schedule"),
    *("soft_labels", "hierarchical_ce", "levels", "pair_margin"),
    *("second", "second_epochs", "second_lr", "exponent", "prior_strength"),
    *("m2m_start", "m2m_beta", "m2m_gamma", "m2m_lambda", "centroid_loss"),
)


class MethodConfig(Frozen):
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
    frame: Frame | None = Field(None, description="of frozen axes; default simplex; divfeat.axes")
    gamma: float | None = Field(None, ge=0, description="of the frame hierarchy: how fast cosines fall with distance")
    s_min: float | Literal["exact", "grid"] | None = Field(
        None,
        description="of the frame hierarchy: least cosine; exact (closed form), grid (the published search), a number",
    )
    neck: Neck | None = Field(
        None,
        description="linear (the projector, where the method has one) or transformation (HAFrame's type II network)",
    )
    cosine: float | None = Field(None, ge=0, lt=1, description="alpha of (1 - alpha) CE + alpha L_COS, on frozen axes")
    cosine_schedule: CosineSchedule | None = Field(
        None, description="of alpha: constant, or linear in the finished epochs, rising from 0 or falling to it"
    )
    soft_labels: float | None = Field(
        None, ge=0, description="beta of targets exp(-beta d / d_max); 0 for one-hot ones"
    )
    hierarchical_ce: float | None = Field(None, ge=0, description="alpha of weights exp(-alpha (depth - 1)); 0 is CE")
    levels: Levels | None = Field(None, description="classifiers for every level of the tree: flamingo or hafeature")
    pair_margin: float | None = Field(
        None, ge=0, description="of hafeature's pairs; above log 2, as the published 3, no pair reaches it"
    )
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


class TrainConfig(Frozen):
    """SGD with Nesterov momentum; one epoch policy: the last epoch counts, never the best."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(128, ge=2, description="images over all workers")
    lr: float = Field(0.1, gt=0)
    backbone_lr: float = Field(1.0, gt=0, description="learning rate of the backbone as a multiple of lr")
    neck_lr: float = Field(
        1.0,
        gt=0,
        description="of what lies between backbone and classifier (projector, transformation layer), likewise",
    )
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


class ProbeConfig(Frozen):
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


class ExperimentConfig(Frozen):
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


#: Settings that only let a set be fetched, or refuse one: they decide no result.
NEVER = ("download", "expected_split", "weights_hash")
LATER: Later = {
    "data": (DataConfig, (*_COLUMNS, *_LISTS, "tail", "hierarchy", "crop_bottom")),
    "model": (ModelConfig, ("plain_neck", "hidden_units", "weights")),
    "train": (TrainConfig, ("sampling", "cutout", "mixup", "cutmix", "backbone_lr", "neck_lr")),
}


def deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` of an experiment (JSON types, sections as mappings) without what decides no result."""
    return without(settings, NEVER, LATER)
