"""Studies of the same images: what was changed between two of them, and what became of each method that both confirmed.

Two studies are a pair where their confirmations saw the same split and share an objective; each study is held against the
first such one given before it. Differences are paired by seed. The intervals of all pairs hold together (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from divfeat.objectives import OBJECTIVES, Measure
from divfeat.report.arrays import Floats, finite
from divfeat.report.published import short_of_published
from divfeat.report.several import Titled
from divfeat.report.summary import Runs, StudySummary
from divfeat.search.jobs import name_of
from divfeat.search.ledger import differences
from divfeat.statistics import MIN_SEEDS, ZERO_SPREAD, Comparison, listed, verdict
from divfeat.study_config import deciding


@dataclass(frozen=True)
class MethodPair:
    """One method in both studies, by one objective.

    Attributes:
        method: `winner`, or a baseline's name.
        objective: Name of the objective.
        configurations: What people call it in the reference and in the study.
        repeated: Whether both have the very same experiments, so that only chance and the program can set them apart.
        scores: [S] of the reference and of the study over the seeds that both have, points or plain numbers.
        comparison: Study minus reference; None where no difference can be shown.
        why_not: The reason, where there is none; else "".
    """

    method: str
    objective: str
    configurations: tuple[str, str]
    repeated: bool
    scores: tuple[Floats, Floats]
    comparison: Comparison | None
    why_not: str

    @property
    def measure(self) -> Measure:
        """What is compared."""
        return OBJECTIVES[self.objective]


@dataclass(frozen=True)
class Pair:
    """A study beside an earlier one of the same images.

    Attributes:
        study: Its title.
        reference: That of the other.
        changes: Lines `a.b: reference -> study`, of the settings, of how both were run and of what was confirmed under one name.
        methods: Confirmed in both.
        alone: Methods that only one of them confirmed, with its title.
        margin: Of equivalence, points: the smaller of both studies'.
    """

    study: str
    reference: str
    changes: tuple[str, ...]
    methods: tuple[MethodPair, ...]
    alone: tuple[tuple[str, str], ...]
    margin: float


@dataclass(frozen=True)
class Pairs:
    """All pairs of some studies.

    Attributes:
        pairs: In the order of the studies.
        unpaired: Title -> why the study is held against none given before it; without those that another is held against.
        level: At which all intervals of all pairs hold together; NaN where there is none.
        count: Of those intervals.
        looks: Winners that the same seeds and images had judged, at most, in one study.
    """

    pairs: tuple[Pair, ...]
    unpaired: Mapping[str, str]
    level: float
    count: int
    looks: int


@dataclass(frozen=True)
class _Matched:
    """A method of both studies, not yet compared: at which level depends on how many there are."""

    objective: str
    old: Runs
    new: Runs

    @property
    def measure(self) -> Measure:
        return OBJECTIVES[self.objective]

    @property
    def seeds(self) -> list[int]:
        return [seed for seed in self.old.seeds if seed in self.new.seeds]

    @property
    def scores(self) -> tuple[Floats, Floats]:
        return self._of_seeds(self.old), self._of_seeds(self.new)

    @property
    def repeated(self) -> bool:
        ours, theirs = ([runs.keys[runs.seeds.index(seed)] for seed in self.seeds] for runs in (self.old, self.new))
        return bool(ours) and ours == theirs and None not in ours

    @property
    def why_not(self) -> str:
        """Why there is no difference to show; else ""."""
        if not self.seeds:
            ranges = [f"{runs.seeds[0]} to {runs.seeds[-1]}" for runs in (self.old, self.new)]
            return f"no seed in common ({ranges[0]}, and {ranges[1]})"
        first, second = self.scores
        return "" if np.isfinite(second - first).any() else "no seed has a score in both"

    def _of_seeds(self, runs: Runs) -> Floats:
        values = self.measure.scale * runs.values(self.measure.test)
        return values[[runs.seeds.index(seed) for seed in self.seeds]]


def pairs_of(studies: Sequence[Titled]) -> Pairs:
    """Every study but the first against the first one before it that saw the same images and has an objective of it."""
    partners: list[tuple[Titled, Titled]] = []
    unpaired = {}
    for place, one in enumerate(studies[1:], 1):
        earlier = studies[:place]
        known = _split(one) is not None
        partner = next(
            (other for other in earlier if known and _split(other) == _split(one) and _shared(other, one)), None
        )
        if partner is None:
            unpaired[one[0]] = _why_alone(one, earlier)
        else:
            partners.append((partner, one))
    matched = [_matched(old, new) for old, new in partners]
    count = sum(not method.why_not for methods in matched for method in methods)
    involved = [summary for pair in partners for _, summary in pair]
    looks = max((objective.verdict.looks for summary in involved for objective in summary.objectives), default=1)
    alpha = min((summary.config.protocol.alpha for summary in involved), default=math.nan)
    pairs = []
    for (old, new), methods in zip(partners, matched, strict=True):
        margin = min(summary.config.protocol.margin for _, summary in (old, new))
        note = _withheld(old) or _withheld(new)
        compared = tuple(_compared(one, margin, alpha, looks * count, note) for one in methods)
        pairs.append(
            Pair(
                new[0],
                old[0],
                (*_changes(old[1], new[1]), *dict.fromkeys(_renamed(methods))),
                compared,
                _alone(old, new),
                margin,
            )
        )
    references = {old[0] for old, _ in partners}
    alone = {title: reason for title, reason in unpaired.items() if title not in references}
    return Pairs(tuple(pairs), alone, 1 - alpha, count, looks)


# --- which studies ----------------------------------------------------------------------------------------------------------


def _split(study: Titled) -> str | None:
    """Hash of the confirmation's images, training and test; None before one of its runs has finished."""
    found = study[1].provenance["split_hash"] if study[1].confirmed else None
    return found if isinstance(found, str) and any(runs.completed for runs in study[1].confirmed) else None


def _shared(first: Titled, second: Titled) -> list[str]:
    """Objectives of both, in the order of the first."""
    return [name for name in first[1].config.search.objectives if name in second[1].config.search.objectives]


def _why_alone(study: Titled, earlier: Sequence[Titled]) -> str:
    if _split(study) is None:
        return "no run of its confirmation has finished, so nothing can be paired by seed"
    same = [title for title, summary in earlier if _split((title, summary)) == _split(study)]
    if same:
        return f"the same images as {listed(same)}, but another objective, and different objectives are not compared"
    shown = study[1].provenance["evaluation_hash"]
    if tested := [t for t, s in earlier if _split((t, s)) and s.provenance["evaluation_hash"] == shown]:
        return f"the same test images as {listed(tested)}, but other training images"
    return "no study given before it was tested on the same images"


# --- what was changed -------------------------------------------------------------------------------------------------------


def _changes(old: StudySummary, new: StudySummary) -> list[str]:
    """Settings that decide a result, then how both were run."""
    settings = differences(deciding(old.config.to_dict()), deciding(new.config.to_dict()))
    return [line.strip() for line in (*settings, *differences(_ran(old), _ran(new)))]


def _renamed(methods: Sequence[_Matched]) -> Iterator[str]:
    """What goes by one name and is not the same: the winner, tuned baselines, strengths of the probe that scores."""
    for one in methods:
        old, new = name_of(one.old.method), name_of(one.new.method)
        if old != new:
            yield f"{one.old.name}: {old} -> {new}"
        elif one.objective == "fine_probe":
            strengths = [sorted(set(finite(runs.values("probe/strength")))) for runs in (one.old, one.new)]
            told = [" or ".join(f"{value:g}" for value in some) for some in strengths]
            if told[0] != told[1] and all(told):
                yield f"{one.old.name}, strength of its probe: {told[0]} -> {told[1]}"


def _ran(summary: StudySummary) -> dict[str, Any]:
    facts = summary.provenance
    frozen = summary.calibration is not None and {
        "lr": summary.trained.train.lr,
        "weight_decay": summary.trained.train.weight_decay,
    }
    return {
        "trials": len(summary.trials),
        "commit": commit_of(summary),
        "device": facts["device"],
        "workers": facts["workers"],
        "frozen": frozen or None,
        "versions": dict(facts["versions"]),
    }


def commit_of(summary: StudySummary) -> str:
    """Of the runs of the confirmation, or of the selection before there are any: 8 digits, several with commas."""
    found = summary.provenance["commit"]
    commits = found if isinstance(found, list) else [found] if found else []
    return ", ".join(commit[:8] + "-dirty" * commit.endswith("-dirty") for commit in commits) or "unknown"


# --- what became of each method -----------------------------------------------------------------------------------------------


def _matched(old: Titled, new: Titled) -> list[_Matched]:
    names = [runs.name for runs in old[1].confirmed]
    both = [(old[1].confirmed_as(name), new[1].confirmed_as(name)) for name in names]
    return [
        _Matched(objective, ours, theirs)
        for objective in _shared(old, new)
        for ours, theirs in both
        if ours is not None and theirs is not None
    ]


def _compared(one: _Matched, margin: float, alpha: float, looks: int, note: str) -> MethodPair:
    names, measure = (name_of(one.old.method), name_of(one.new.method)), one.measure
    found = None
    if not one.why_not:
        first, second = one.scores
        judged = verdict(
            second,
            {one.old.name: first},
            seeds=one.seeds,
            margin=margin,
            alpha=alpha,
            looks=looks,
            measure=measure.short if measure.plain else "",
        )
        (found,) = (judged.withheld(note) if note else judged).comparisons
        found = replace(found, reason=note or _reason(found))
    return MethodPair(one.old.name, one.objective, names, one.repeated, one.scores, found, one.why_not)


def _reason(one: Comparison) -> str:
    """Why a comparison of two studies has no verdict, or none with an interval; else ""."""
    missing = [str(seed) for seed, value in zip(one.seeds, one.differences, strict=True) if math.isnan(value)]
    if missing:
        return f"no score in one of the two for seed{'s' * (len(missing) > 1)} {listed(missing)}"
    if len(one.seeds) < MIN_SEEDS:
        return f"a verdict needs at least {MIN_SEEDS} seeds in common"
    if one.sd <= ZERO_SPREAD:
        return "the same score in every seed" if abs(one.mean) <= ZERO_SPREAD else "the same difference in every seed"
    return ""


def _withheld(study: Titled) -> str:
    """Why a study's recipe allows no verdict; else ""."""
    title, summary = study
    found = short_of_published(summary.config.protocol, summary.confirmed)
    return f"{title}: {found}" if found else ""


def _alone(old: Titled, new: Titled) -> tuple[tuple[str, str], ...]:
    names = [(title, {runs.name for runs in summary.confirmed}) for title, summary in (old, new)]
    (first, ours), (second, theirs) = names
    return (*((name, first) for name in sorted(ours - theirs)), *((name, second) for name in sorted(theirs - ours)))
