"""What a study found, as one frozen summary: scores in points (percent), angles in radians, missing numbers NaN."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from divfeat.config import MethodConfig
from divfeat.methods import canonical
from divfeat.objectives import OBJECTIVES, Measure
from divfeat.record import cause_of
from divfeat.report.arrays import Floats
from divfeat.report.stability import Stability
from divfeat.search.constraints import Limit, feasible_top, violation
from divfeat.search.protocol import recorded
from divfeat.statistics import AsGood, CrossedInterval, NoiseFloor, Optimism, Verdict, listed
from divfeat.study_config import ExecutionConfig, StudyConfig

WINNER = "winner"

_OUTDATED = (
    "The search went on after this winner was frozen; the verdict is of the earlier winner. The same command goes on."
)


@dataclass(frozen=True)
class Runs:
    """One method over several seeds, as the ledger has it.

    Attributes:
        name: `winner`, a baseline's name, or what people call the method.
        method: Canonical.
        seeds: S of them.
        keys: [S], None where it cannot be known which experiment belongs there.
        records: [S], None where there is none.
    """

    name: str
    method: MethodConfig
    seeds: tuple[int, ...]
    keys: tuple[str | None, ...]
    records: tuple[Mapping[str, Any] | None, ...]

    def values(self, metric: str) -> Floats:
        """[S] values of a metric as recorded, NaN where missing."""
        found = [recorded(record, metric) for record in self.records]
        return np.array([math.nan if value is None else value for value in found], dtype=np.float64)

    def points(self, metric: str) -> Floats:
        """[S] values of a share in points, NaN where missing."""
        return 100 * self.values(metric)

    def shown(self, measure: Measure) -> Floats:
        """[S] values of a measure on validation as they are shown, points or plain numbers; NaN where missing."""
        return measure.scale * self.values(measure.validation)

    @property
    def completed(self) -> list[Mapping[str, Any]]:
        """Records of the runs that finished."""
        return [record for record in self.records if record is not None and record["status"] == "completed"]

    @property
    def terminal(self) -> tuple[int, int]:
        """How many finished runs reached the terminal phase (training accuracy >= 99.9 %), and how many finished."""
        done = self.completed
        return sum(bool(record["provenance"].get("terminal_phase")) for record in done), len(done)

    @property
    def gaps(self) -> list[str]:
        """One phrase for each reason why seeds have no score, such as `ce, seeds 3 and 4: not run`."""
        seeds: dict[str, list[str]] = {}
        for seed, key, record in zip(self.seeds, self.keys, self.records, strict=True):
            if record is None:
                why = "not run" if key else "not run, since no selection run gave the probe's strength"
            elif record["status"] == "completed":
                continue
            else:
                why = f"{record['status']} ({cause_of(record)})"
            seeds.setdefault(why, []).append(str(seed))
        return [f"{self.name}, seed{'s' * (len(some) > 1)} {listed(some)}: {why}" for why, some in seeds.items()]


@dataclass(frozen=True)
class Objective:
    """What the confirmation says on one objective; `crossed` by baseline, `crossed_note` says why one has none."""

    name: str
    metric: str
    about: str
    scores: Mapping[str, Floats]
    verdict: Verdict
    crossed: Mapping[str, CrossedInterval]
    crossed_note: str
    optimism: Optimism

    @property
    def measure(self) -> Measure:
        """What it compares, with its unit."""
        return OBJECTIVES[self.name]

    @property
    def on_these_images(self) -> str:
        """Which of "better" and "worse" the interval over seeds and images does not repeat, in a sentence; "" for none.

        A verdict is over seeds, on the test images at hand. In drawn studies of methods that are equal over all images, it is
        false in up to a fifth of them (docs/trust.md), and that interval hardly ever.
        """
        names = [
            one.name
            for one in self.verdict.comparisons
            if one.verdict in ("better", "worse")
            and (images := self.crossed.get(one.name)) is not None
            and images.low <= 0 <= images.high
        ]
        if not names:
            return ""
        return (
            "This holds for these test images; with the images drawn anew as well, no difference is shown against "
            f"{listed(names)}."
        )


@dataclass(frozen=True)
class Trial:
    """One proposal of the search.

    Attributes:
        number: Optuna's.
        name: What people call the method.
        key: Of its experiment.
        release: Its way of letting go; "" in a family without angles, where there is nothing to let go of.
        angles: The family's parameters by name, radians; of a refinement those of its last family, with the same angles.
        status: `completed`, `pruned`, `failed` or `not finished`.
        values: By objective, points or plain numbers, for a pruned trial the last that were measured; NaN where there is none.
        error: Cause of a failure or a pruning, else "".
        family: In which it was drawn: of a refinement, that of its stage.
        excess: Constraint -> how far a completed trial misses it, at most 0 where it keeps it; None where that is unknown.
        error_kind: As its record has it.
        inside: Largest share over its epochs of training images within their class's cone, percent; NaN without cones, and
            where no epoch tells.
        taken: Share of the whole training's cross-entropy that such images carried, percent: what a gate takes away. NaN
            likewise, and in records of before it was measured.
        coned: Share of the training images whose class has a cone, 0 without cones; NaN where the run did not finish.
        epochs: After which the first of `values` was measured: trials compare at equal ones only. 0 where there is none.
    """

    number: int
    name: str
    key: str
    release: str
    angles: Mapping[str, float]
    status: str
    values: tuple[float, ...]
    error: str
    family: str = ""
    excess: Mapping[str, float | None] = field(default_factory=dict)
    error_kind: str = ""
    inside: float = math.nan
    taken: float = math.nan
    coned: float = math.nan
    epochs: int = 0

    @property
    def hollow(self) -> bool:
        """Whether its cones never held a hundredth of the images of the classes that have one: cones as good as none."""
        return self.inside < self.coned

    @property
    def feasible(self) -> bool:
        """Whether it finished and keeps every constraint."""
        return self.status == "completed" and violation(self.excess) == 0

    @property
    def stopped(self) -> bool:
        """Whether a reason of `search.stop` ended it, not the comparison with other trials."""
        return self.status == "pruned" and self.error_kind == "stop"

    @property
    def outcome(self) -> str:
        """Its status in words that tell what it is worth."""
        if self.status == "completed" and not self.feasible:
            return "infeasible"
        return "stopped" if self.stopped else self.status


@dataclass(frozen=True)
class Bound:
    """A constraint and how it was kept.

    Attributes:
        limit: With its bound.
        infeasible: Completed trials that miss it.
        selection: By how much the winner misses it in the means over the selection seeds, at most 0 where it keeps it; NaN
            where that is unknown.
        confirmation: The same on the confirmation seeds and their metrics of the test, relative to CE+ETF there.
    """

    limit: Limit
    infeasible: int
    selection: float
    confirmation: float


@dataclass(frozen=True)
class Front:
    """The Pareto front of a search for two objectives, over its completed trials that keep the constraints.

    Attributes:
        trials: Numbers, by falling first objective.
        reference: [2] corner from which the hypervolume is counted, as recorded; NaN where CE+ETF has no value.
        hypervolume: In units of the objectives as recorded; NaN without a reference.
    """

    trials: tuple[int, ...]
    reference: tuple[float, float]
    hypervolume: float


@dataclass(frozen=True)
class OwnNumbers:
    """What became of a baseline's own numbers.

    Attributes:
        name: Of the baseline.
        published: Values by part.
        found: Those it is confirmed with; None before they are frozen.
        trials: Proposals; 0 where they are not searched.
        completed: How many of them finished.
        score: Mean of the primary objective over the selection seeds, points or a plain number; NaN where there is none.
    """

    name: str
    published: Mapping[str, float]
    found: Mapping[str, float] | None
    trials: int
    completed: int
    score: float


@dataclass(frozen=True)
class Grid:
    """The fixed grid of a one-dimensional family: G angles, their runs, scores [G, S] on validation."""

    release: str
    angles: tuple[float, ...]
    runs: tuple[Runs, ...]
    scores: Floats
    as_good: AsGood

    @property
    def interval(self) -> tuple[float, float] | None:
        """First and last angle that are as good as the best; None where undetermined."""
        found = self.as_good.interval
        return None if found is None else (self.angles[found[0]], self.angles[found[1]])

    @property
    def apart(self) -> tuple[float, ...]:
        """Angles as good as the best that no contiguous range joins to it."""
        found = self.as_good.interval
        if found is None:
            return ()
        places = np.flatnonzero(self.as_good.good)
        return tuple(self.angles[place] for place in places if not found[0] <= place <= found[1])


@dataclass(frozen=True)
class RunCount:
    """Runs that a phase was the first to need, by how they ended.

    `seconds` are those of completed runs, the only ones that say; `causes` are those of failures with their number.
    """

    completed: int = 0
    pruned: int = 0
    failed: int = 0
    unfinished: int = 0
    seconds: float = 0.0
    causes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class StudySummary:
    """A study and what it found.

    Attributes:
        folder: Of the study.
        place: The same, as lines to copy name it.
        config: Its identity; `trained` is the same at the frozen learning rate and weight decay.
        execution: How it was last run.
        winner: Decision of the phase `winner`, None before one is frozen.
        outdated: The search went on since, and other candidates lead: the winner is an earlier one.
        equals: Baselines whose configuration the winner has.
        confirmed: Winner and baselines on the confirmation seeds; empty before a winner is frozen.
        objectives: Primary first; empty before a winner is frozen.
        trials: Proposals in order.
        bounds: Constraints of the search; `front` its Pareto front, None for one objective.
        stability: How trials rank at the rungs and at the end; empty without halving.
        selected: Candidates and baselines on the selection seeds, validation.
        noise: CE+ETF on the selection seeds; `floor` is its spread in the primary objective.
        detectable: Difference in points that the confirmation detects with probability 0.8 at that floor, pairing left
            out; infinite below 5 seeds, NaN where the floor is unknown.
        grid: None, with `grid_note` saying why.
        calibration: Decision of the phase `calibrate`, None where nothing was tried.
        registered: The extractor in MLflow's registry: model, key, seed; None where there is none.
        test_reads: Reads of the test set; `other_reads` are those of experiments that are not in `confirmed`.
        counts: By phase, in the order the phases began.
        provenance: Of the confirmation: a value where its runs agree, a list where they do not.
        missing: Sentences on what is not there.
        notes: What the runs themselves say, with their number.
        own_numbers: Of the baselines that have any.
        coneless: The baseline that is the searched method without cones, or None: against it one sees what thresholds do.
        span: When its first run was launched and its last one ended, seconds since 1970; None before one has.
    """

    folder: Path
    place: Path
    config: StudyConfig
    trained: StudyConfig
    execution: ExecutionConfig
    winner: Mapping[str, Any] | None
    outdated: bool
    equals: tuple[str, ...]
    confirmed: tuple[Runs, ...]
    objectives: tuple[Objective, ...]
    trials: tuple[Trial, ...]
    bounds: tuple[Bound, ...]
    front: Front | None
    stability: tuple[Stability, ...]
    selected: tuple[Runs, ...]
    noise: Runs
    floor: NoiseFloor
    detectable: float
    grid: Grid | None
    grid_note: str
    calibration: Mapping[str, Any] | None
    registered: Mapping[str, Any] | None
    test_reads: int
    other_reads: tuple[str, ...]
    counts: Mapping[str, RunCount]
    provenance: Mapping[str, Any]
    missing: tuple[str, ...]
    notes: tuple[str, ...]
    own_numbers: tuple[OwnNumbers, ...]
    coneless: str | None
    span: tuple[float, float] | None

    @property
    def name(self) -> str:
        """Of the study: its folder's."""
        return self.folder.name

    @property
    def primary(self) -> Objective | None:
        """The objective that decides; None before a winner is frozen."""
        return self.objectives[0] if self.objectives else None

    @property
    def metric(self) -> str:
        """The primary objective's metric on validation."""
        return self.measure.validation

    @property
    def measure(self) -> Measure:
        """The primary objective's."""
        return OBJECTIVES[self.config.search.objectives[0]]

    @property
    def score_name(self) -> str:
        """The primary objective's score in two or three words."""
        return self.measure.short

    @property
    def sentence(self) -> str:
        """The verdict on the primary objective, and whether it is still that of the study."""
        if self.primary is None:
            return "No verdict: no winner is frozen yet."
        if not any(np.isfinite(scores).any() for scores in self.primary.scores.values()):
            text = "No verdict: the confirmation has no score yet."
        else:
            text = self.primary.verdict.sentence
        return f"{_OUTDATED} {text}" if self.outdated else text

    @cached_property
    def winner_method(self) -> MethodConfig | None:
        """Canonical."""
        return None if self.winner is None else canonical(MethodConfig.model_validate(self.winner["winner"]["method"]))

    def title(self, name: str) -> str:
        """`winner` with what people call it, any other name as it is."""
        return f"{WINNER} ({self.winner['winner']['name']})" if name == WINNER and self.winner else name

    def confirmed_as(self, name: str) -> Runs | None:
        """The confirmation's runs called `name`."""
        return next((runs for runs in self.confirmed if runs.name == name), None)

    @property
    def baselines_on_validation(self) -> tuple[Runs, ...]:
        """The baselines among `selected`."""
        count = len(self.config.protocol.baselines)
        return self.selected[len(self.selected) - count :] if self.selected else ()

    def best_of_release(self) -> dict[str, Trial]:
        """For each way of letting go the best finished trial of the search, by the study's own rule."""
        best: dict[str, Trial] = {}
        for release in self.config.search.releases:
            done = [trial for trial in self.trials if trial.release == release and trial.status == "completed"]
            signs = [OBJECTIVES[name].sign for name in self.config.search.objectives]
            values = np.array([trial.values for trial in done]).reshape(len(done), len(signs)) * signs
            order = feasible_top(values, [violation(trial.excess) for trial in done], 1)
            if order.size:
                best[release] = done[int(order[0])]
        return best
