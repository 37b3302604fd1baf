"""Configuration of a study: what decides its results (identity, hashed) apart from how it is run (execution)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from divfeat.config import (
    LATER,
    NEVER,
    DataConfig,
    MethodConfig,
    ModelConfig,
    ProbeConfig,
    Release,
    ThresholdSpec,
    TrainConfig,
)
from divfeat.errors import ConfigError, unknown
from divfeat.objectives import EPOCH_METRICS, OBJECTIVES
from divfeat.storage import PATIENCE_SECONDS, is_uri, parse
from divfeat.validation import Frozen, Later, build, digest, without

#: Samplers that keep no state besides the trials, so that they can take over those of a plainer family.
REFINING = ("tpe", "gp", "random")
#: Samplers that learn from values at rungs, or from nothing.
PROMOTING = ("tpe", "random")
#: Samplers that propose away from what misses a constraint; `qmc` and `random` follow no trial, `cmaes` would be misled.
MODELS_CONSTRAINTS = ("tpe", "gp", "nsga2")


class AshaConfig(Frozen):
    """Asynchronous successive halving; rungs measure the objective itself."""

    first_rung: int = Field(4, ge=1, description="epochs")
    reduction: int = Field(3, ge=2)


class ConstraintConfig(Frozen):
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
        share = OBJECTIVES[self.metric].unit == "share"
        if share and self.than is not None and abs(self.bound) > 100:
            raise ValueError(
                f"constraint on {self.metric!r}: no two shares differ by {abs(self.bound):g} points; give -100 to 100"
            )
        if share and self.than is None and (0 < self.bound < 1 or not 0 <= self.bound <= 100):
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


class StopConfig(Frozen):
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


class SearchConfig(Frozen):
    """What is searched, and how."""

    method: MethodConfig = Field(
        MethodConfig(),
        description="whose thresholds: hinge_ce, hinge_la, hinge_haf, or one with further parts, by name or mapping",
    )
    own: tuple[str, ...] = Field((), description="parts of it whose values are searched together with the thresholds")
    family: str = "global"
    refine: tuple[str, ...] = Field(
        (), description="plainer families searched first, in this order (divfeat.search.refine)"
    )
    releases: tuple[Release, ...] = Field(("gate", "paper", "theorem"), description="ways of letting go of a sample")
    objectives: tuple[str, ...] = Field(("fine_probe",), description="names of one measure, or of two")
    sampler: Literal["tpe", "gp", "cmaes", "nsga2", "qmc", "random"] = "tpe"
    low: float = 0.0
    high: float = Field(17 / 36 * math.pi, description="radians")
    asha: AshaConfig | None = None
    promote: bool = Field(
        False,
        description="asha pauses every trial at a rung and lets the best go on, instead of stopping the others for good",
    )
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
        if self.promote and self.asha is None:
            raise ValueError(
                "promote=true says how asha goes on; give asha={first_rung: 4, reduction: 3} too, or drop it"
            )
        if self.promote and self.sampler not in PROMOTING:
            raise ValueError(
                f"promote=true with sampler {self.sampler!r}, which learns from finished trials alone while most are paused; use "
                f"{' or '.join(PROMOTING)}"
            )
        if self.sampler == "cmaes" and len(self.objectives) > 1:
            raise ValueError("sampler 'cmaes' handles one objective; use nsga2, tpe, gp, qmc or random for two")
        self._check_constraints()
        return self

    def _check_constraints(self) -> None:
        for field, given in (("constraints", self.constraints), ("stop", self.stop)):
            if len(set(given)) != len(given):
                raise ValueError(f"{field}: give none twice")
        for low, high in itertools.permutations(self.constraints, 2):
            same = (low.metric, low.than) == (high.metric, high.than)
            if same and low.at_least is not None and high.at_most is not None and low.at_least > high.at_most:
                raise ValueError(
                    f"constraints: no trial keeps both {low.name!r} and {high.name!r}; change one of the bounds"
                )
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
        from divfeat.methods import METHODS, OF_CONES, method_named, parts_of
        from divfeat.ranges import RANGES

        parts = parts_of(self.method)
        if not method_named(self.method.name).hinge:
            hinged = " or ".join(name for name, method in METHODS.items() if method.hinge)
            raise ValueError(f"method={self.method.name!r} has no thresholds to search; use {hinged}")
        if self.method.thresholds != ThresholdSpec() or self.method.release != "paper":
            raise ValueError("method: its thresholds and release are what is searched; leave them out")
        if self.family == "none" and (
            closed := [part for part in OF_CONES if part in self.own or getattr(parts, part)]
        ):
            raise ValueError(
                f"{' and '.join(closed)}: the family 'none' has no cones to close; leave that out, or set search.family"
            )
        if len(set(self.own)) != len(self.own):
            raise ValueError(f"own={list(self.own)}: name no part twice")
        for name in self.own:
            if name not in RANGES:
                raise ConfigError(unknown("part with a searched range", name, RANGES))
            if not RANGES[name].holds(getattr(parts, name)):
                raise ValueError(
                    f"own={list(self.own)}: the first value of {name} is {getattr(parts, name)}, outside the searched range "
                    f"{RANGES[name]}; set search.method.{name} to one inside"
                )
        for ends in ("low", "high"):
            searched = {name: RANGES[name].turned(getattr(RANGES[name], ends)) for name in self.own}
            try:
                parts_of(self.method.model_copy(update=searched))
            except ConfigError as error:
                values = ", ".join(f"{name}={value:g}" for name, value in searched.items())
                raise ValueError(f"own={list(self.own)}: the search comes to {values}, where {error}") from error

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


class ProtocolConfig(Frozen):
    """Fixed before the search (design 5); every number here is part of the study's identity."""

    baselines: tuple[str, ...] = Field(
        ("ce", "ce_no_projector", "ce_etf", "hinge_fixed"), description="names of methods, hinge_fixed or no_cones"
    )
    tune: bool = Field(
        False, description="search the baselines' own numbers on validation, with as many trials as ours"
    )
    own: dict[str, dict[str, float]] = Field(
        default_factory=dict,
        description="name of a method -> its own numbers where it stands as a baseline, in place of the name's",
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
        ge=1,
        lt=100,
        description="percent on test published for CE with this recipe; far under it no verdict is given",
    )

    @model_validator(mode="after")
    def _own_numbers_of_methods(self) -> ProtocolConfig:
        from divfeat.methods import method_named, parts_of
        from divfeat.ranges import RANGES

        for name, values in self.own.items():
            known = method_named(name).searched
            for part, value in values.items():
                if part not in known:
                    has = f"it has {', '.join(known)}" if known else "it has none"
                    raise ValueError(f"own: {part!r} is no number of {name!r}'s own that could be given here; {has}")
                if self.tune and not RANGES[part].holds(value):
                    raise ValueError(
                        f"own: {part}={value:g} of {name!r} lies outside the range that protocol.tune searches, {RANGES[part]}; "
                        "give one inside, or tune=false"
                    )
            try:
                parts_of(build(MethodConfig, {"name": name, **values}))
            except ConfigError as error:
                raise ValueError(f"own: baseline {name!r} with {values}: {error}") from error
        return self

    @model_validator(mode="after")
    def _published_is_compared(self) -> ProtocolConfig:
        if self.published_ce is not None and plain_of(self.baselines) is None:
            raise ValueError(
                f"published_ce={self.published_ce:g} is compared with CE's accuracy: add ce_no_projector or ce to "
                "protocol.baselines"
            )
        return self


def plain_of(methods: Sequence[str]) -> str | None:
    """Of these the one that published rows call CE: without the projector, if that is one; None of none."""
    return next((name for name in ("ce_no_projector", "ce") if name in methods), None)


class StudyConfig(Frozen):
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


class ExecutionConfig(Frozen):
    """How a study is run; none of it changes a result."""

    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    trials: int = Field(20, ge=1, description="proposals of the search, and for each baseline that is tuned")
    max_concurrent: int | None = Field(None, ge=1, description="trials at a time; default what the machine holds")
    workers_per_trial: int = Field(1, ge=1)
    fewest_workers: int | None = Field(
        None, ge=1, description="of a trial while nodes are missing; default all of them, or it waits"
    )
    gpus_per_worker: float = Field(0.0, ge=0)
    cpus_per_worker: float = Field(1.0, gt=0)
    address: str | None = None
    wait_for_nodes: float | None = Field(
        None,
        ge=0,
        description="seconds without a place for any trial; default 1800 under an autoscaler, else 0 at first, 600 later",
    )
    storage_path: str = Field(
        "runs", description="folder of all studies, or shared storage: file:///..., s3://..., gs://..."
    )
    home: str = Field("runs", description="with shared storage: folder of all studies on this machine's own disk")
    storage_patience: float = Field(
        PATIENCE_SECONDS, ge=0, description="seconds that shared storage may be away before the study stops"
    )
    tracking_uri: str | None = None
    time_budget: float | None = Field(None, gt=0, description="seconds of one session")
    gpu_hours: float | None = Field(
        None, gt=0, description="of the whole study: GPUs that its trials hold, times hours"
    )
    max_cost: float | None = Field(None, gt=0, description="of the whole study: nodes times their prices")
    prices: dict[str, float] = Field(
        default_factory=dict,
        description="node type -> price of an hour, in any currency; `other` for all that are not named",
    )
    checkpoint_seconds: float = Field(30.0, gt=0, description="between two checkpoints of a training")
    max_failed_share: float = Field(0.5, gt=0, le=1, description="of a phase's runs before the study gives up")
    max_failed_in_row: int = Field(8, ge=2, description="runs that fail one after another before the study gives up")
    progress_timeout: float | None = Field(
        None,
        gt=0,
        description="seconds of silence after which a trial is taken to hang; default what others need, 20 times",
    )

    @field_validator("storage_path")
    @classmethod
    def _storage_is_of_a_known_kind(cls, storage: str) -> str:
        if is_uri(storage):
            parse(storage)
        return storage

    @field_validator("prices")
    @classmethod
    def _prices_are_none_below_zero(cls, prices: dict[str, float]) -> dict[str, float]:
        for kind, price in prices.items():
            if not (math.isfinite(price) and price >= 0):
                raise ValueError(f"the price of {kind!r} is {price}: an hour of a node costs a number of at least 0")
        return prices

    @model_validator(mode="after")
    def _fewest_are_not_more(self) -> ExecutionConfig:
        if self.fewest_workers is not None and self.fewest_workers > self.workers_per_trial:
            raise ValueError(
                f"fewest_workers={self.fewest_workers} is more than workers_per_trial={self.workers_per_trial}: give the number "
                "that a trial goes on with while nodes are missing, at most --workers-per-trial"
            )
        return self

    @model_validator(mode="after")
    def _money_needs_prices(self) -> ExecutionConfig:
        if self.max_cost is not None and not self.prices:
            raise ValueError(
                f"max_cost={self.max_cost:g} needs prices: give what an hour of each node type costs, e.g. "
                "--set 'execution.prices={head: 0.10, gpu: 1.20}', or {other: 0.50} for nodes of any type"
            )
        if self.gpu_hours is not None and self.gpus_per_worker == 0:
            raise ValueError(
                f"gpu_hours={self.gpu_hours:g}, but trials take no GPU and would never spend it; give --gpus-per-worker too"
            )
        return self


def deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` of a study (JSON types, sections as mappings) without what decides no result."""
    later: Later = {
        **LATER,
        "search": (SearchConfig, ("refine", "constraints", "stop", "method", "own", "promote")),
        "protocol": (ProtocolConfig, ("published_ce", "tune", "own")),
    }
    return without(settings, NEVER, later)
