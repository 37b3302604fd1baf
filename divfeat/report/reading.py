"""From a study's folder to its summary: the ledger is read, never MLflow or Optuna's storage.

Nothing here fails on a study that was stopped or lost runs; what is missing is said.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from divfeat.config import ExperimentConfig, MethodConfig
from divfeat.errors import DataError
from divfeat.files import read_mapping
from divfeat.methods import canonical
from divfeat.metrics.groups import by_boundary, by_shots
from divfeat.objectives import OBJECTIVES
from divfeat.record import cause_of
from divfeat.report.answers import image_weights, read_answers
from divfeat.report.arrays import finite, mean_of
from divfeat.report.bounds import bounds_kept, front_of
from divfeat.report.held import coned, measured, most_inside, taken
from divfeat.report.published import short_of_published
from divfeat.report.stability import Stability, rank_stability
from divfeat.report.summary import WINNER, Grid, Objective, OwnNumbers, RunCount, Runs, StudySummary, Trial
from divfeat.search import protocol
from divfeat.search.asha import rungs
from divfeat.search.constraints import excesses
from divfeat.search.fork import note_of
from divfeat.search.jobs import baseline, experiment, name_of, own_numbers, own_values_of
from divfeat.search.ledger import Ledger, known_study
from divfeat.search.tuning import baselines, tunable, tuned_methods
from divfeat.statistics import (
    CrossedInterval,
    as_good_as_best,
    crossed_interval,
    detectable_difference,
    noise_floor,
    optimism,
    verdict,
)
from divfeat.study_config import ExecutionConfig, StudyConfig
from divfeat.thresholds import family_named
from divfeat.validation import build

#: Provenance that the runs of one confirmation should agree on.
_SHARED = (
    "split_hash", "train_hash", "evaluation_hash", "train_images", "evaluation_images", "epoch_policy", "commit",
    "device", "workers",
)  # fmt: skip


def read_summary(folder: str | Path) -> StudySummary:
    """Everything a report says about the study in `folder`, whether it has ended or not.

    Raises:
        DataError: no study there, one that cannot be read, or whose records this version of divfeat could not find.
    """
    return _Reader(Path(folder).resolve()).summary()


class _Reader:
    def __init__(self, folder: Path) -> None:
        found = known_study(folder)
        self.config: StudyConfig = build(StudyConfig, found["config"])
        if self.config.identity != found["identity"]:
            raise DataError(
                f"{folder} was written by a divfeat with other settings, under whose keys nothing would be found; "
                "report with that version (phases/protocol.json names its commit)"
            )
        run = {name: value for name, value in (read_mapping(folder / "execution.json") or {}).items() if name != "time"}
        self.execution: ExecutionConfig = build(ExecutionConfig, run)
        self.folder, self.ledger = folder, Ledger(folder)
        self.record_of = cache(self.ledger.record)
        self.calibration = self.ledger.phase("calibrate")
        frozen = self.calibration is not None and self.calibration["lr"] is not None
        self.study = protocol.with_calibration(self.config, self.calibration or {}) if frozen else self.config
        self.winner = self.ledger.phase("winner")
        self.measures = protocol.objectives(self.config)
        self.limits = protocol.limits_of(self.study, self.record_of)
        self.decided = self.ledger.phase("tuned") or {}
        self.baselines = baselines(self.study, tuned_methods(self.decided))
        self.strengths = self._strengths()
        self.looks = self._looks()

    def summary(self) -> StudySummary:
        noise = self._on_validation(protocol.NOISE_METHOD, MethodConfig(name=protocol.NOISE_METHOD))
        floor = noise_floor(finite(noise.shown(self.measures[0])))
        rules = self.config.protocol
        arms = max(len(rules.baselines), 1)
        known = floor.seeds > 1
        confirmed = self._confirmed()
        selected = self._selected()
        grid, grid_note = self._grid()
        counts = self._counts()
        reads = self.ledger.test_reads()
        keys = {key for runs in confirmed for key in runs.keys}
        tuned = tuned_methods(self.decided)
        equals = protocol.same_baselines(self.study, self.winner["winner"], tuned) if self.winner else ()
        on_grid = grid.runs if grid else ()
        trials = tuple(self._trials())
        return StudySummary(
            folder=self.folder,
            place=self.folder,
            config=self.config,
            trained=self.study,
            execution=self.execution,
            winner=self.winner,
            outdated=self._outdated(),
            equals=equals,
            confirmed=confirmed,
            objectives=tuple(self._objective(place, confirmed, equals) for place in range(self._objectives)),
            trials=trials,
            bounds=tuple(bounds_kept(self.limits, trials, self.winner, confirmed)),
            front=front_of(self.measures, trials, noise),
            stability=self._stability(trials),
            selected=selected,
            noise=noise,
            floor=floor,
            detectable=detectable_difference(floor.sd, rules.confirm_seeds, arms, alpha=rules.alpha / self.looks)
            if known
            else math.nan,
            grid=grid,
            grid_note=grid_note,
            calibration=self.calibration,
            registered=self._registered(),
            test_reads=len(reads),
            other_reads=tuple(row["why"] for row in reads if row["key"] not in keys),
            counts=counts,
            provenance=self._provenance(confirmed, (noise, *selected)),
            missing=tuple(self._missing(confirmed, selected, noise, on_grid, counts)),
            notes=self._forked() + tuple(_notes((*confirmed, *on_grid, *selected, noise))),
            own_numbers=tuple(self._own_numbers()),
            coneless=self._coneless(),
            span=self._span(),
        )

    # --- runs -------------------------------------------------------------------------------------------------------------

    @property
    def _objectives(self) -> int:
        """Objectives there is a confirmation of."""
        return len(self.config.search.objectives) if self.winner else 0

    def _runs(
        self, name: str, method: MethodConfig, seeds: Sequence[int], experiments: Sequence[ExperimentConfig]
    ) -> Runs:
        """Runs of one method; no experiment at all means that none of its seeds can be known."""
        keys: list[str | None] = [config.key for config in experiments] or [None] * len(seeds)
        records = tuple(None if key is None else self.record_of(key) for key in keys)
        return Runs(name, canonical(method), tuple(seeds), tuple(keys), records)

    def _on_validation(self, name: str, method: MethodConfig) -> Runs:
        seeds = protocol.select_seeds(self.study)
        return self._runs(name, method, seeds, [experiment(self.study, method, seed) for seed in seeds])

    def _confirmed(self) -> tuple[Runs, ...]:
        if self.winner is None:
            return ()
        seeds, winner = protocol.confirm_seeds(self.study), MethodConfig.model_validate(self.winner["winner"]["method"])
        return tuple(
            self._runs(name, method, seeds, protocol.confirmation_experiments(self.study, method, self.strengths))
            for name, method in {WINNER: winner, **self.baselines}.items()
        )

    def _strengths(self) -> protocol.Strengths:
        """As frozen with the winner; studies begun before they were have those that the same records give."""
        if self.winner is None:
            return {}
        frozen: protocol.Strengths | None = self.winner.get("strengths")
        if frozen is not None:
            return frozen
        tuned = tuned_methods(self.decided)
        return protocol.frozen_strengths(self.study, self.winner["winner"], self.record_of, {}, tuned)

    def _selected(self) -> tuple[Runs, ...]:
        if self.winner is None:
            return ()
        methods = [(row["name"], MethodConfig.model_validate(row["method"])) for row in self.winner["candidates"]]
        methods += self.baselines.items()
        return tuple(self._on_validation(name, method) for name, method in methods)

    def _outdated(self) -> bool:
        """Whether an extended search has brought up candidates that the frozen winner was not chosen among."""
        if self.winner is None:
            return False
        frozen = {"": self.winner} | self.decided
        return any(self._went_on(name, found["candidates"]) for name, found in frozen.items())

    def _went_on(self, name: str, then: Sequence[Mapping[str, Any]]) -> bool:
        """What a search started from is no news, and was no candidate in older studies."""
        now = protocol.candidates(self.study, self.ledger.proposals(name), self.record_of, name)
        keys = [{row["key"] for row in rows} for rows in (now, then)]
        best = [{row["key"] for row in rows if "start" not in row} for rows in (now, then)]
        return not (best[0] <= keys[1] and best[1] <= keys[0])

    def _registered(self) -> dict[str, Any] | None:
        """The extractor in MLflow's registry, unless it is an earlier winner's."""
        found = self.ledger.phase("registered")
        if found is None or self.winner is None:
            return None
        method = MethodConfig.model_validate(self.winner["winner"]["method"])
        return found if found["key"] in self._on_validation(WINNER, method).keys else None

    def _looks(self) -> int:
        """Distinct winners that the confirmation's seeds and test images have judged, the present one included.

        A baseline's setting that an extension replaced was judged too, and counts.
        """
        if self.winner is None:
            return 1
        methods = [MethodConfig.model_validate(self.winner["winner"]["method"])]
        for row in self.ledger.test_reads():
            record = self.record_of(row["key"])
            if record is not None and record["status"] == "completed":
                methods.append(MethodConfig.model_validate(record["config"]["method"]))
        present, *seen = map(protocol.method_key, methods)
        own = set(map(protocol.method_key, self.baselines.values()))
        return len({present, *seen} - own | {present})

    def _own_numbers(self) -> Iterator[OwnNumbers]:
        searched = tunable(self.study)
        for name in self.config.protocol.baselines:
            parts = own_numbers(name, self.study)
            if not parts:
                continue
            found = self.decided.get(name)
            rows = self.ledger.proposals(name) if name in searched else {}
            records = [self.record_of(row["key"]) for row in rows.values()]
            done = sum(record is not None and record["status"] == "completed" for record in records)
            score = self._on_validation(name, self.baselines[name]).shown(self.measures[0])
            yield OwnNumbers(
                name,
                own_values_of(baseline(name, self.study), parts),
                own_values_of(self.baselines[name], parts) if found or name not in searched else None,
                len(rows),
                done,
                mean_of(score),
            )

    def _coneless(self) -> str | None:
        """Compared as published: a tuned one is the same method all the same."""
        key = protocol.method_key(baseline("no_cones", self.study))
        names = self.config.protocol.baselines
        return next((n for n in names if protocol.method_key(baseline(n, self.study)) == key), None)

    def _trials(self) -> Iterator[Trial]:
        metrics = protocol.objective_metrics(self.config)
        family = family_named(self.config.search.family)
        searched = family.parameters
        for number, row in sorted(self.ledger.proposals().items()):
            record = self.record_of(row["key"])
            angles = {name: row["params"][name] for name in searched}
            release = row["params"].get("release", self.config.search.releases[0]) if searched else ""
            status = "not finished" if record is None else str(record["status"])
            measure = _last_measured if status == "pruned" else protocol.metric_of
            found = [measure(record, metric) for metric in metrics]
            rows = (record or {}).get("history", ())
            last = max((row["epoch"] + 1 for row in rows if row.get(metrics[0]) is not None), default=0)
            epochs = self.config.train.epochs if status == "completed" else last
            shown = zip(self.measures, found, strict=True)
            values = tuple(math.nan if value is None else measure.scale * value for measure, value in shown)
            error = cause_of(record) if record is not None and status != "completed" else ""
            stage = row["stage"]["family"] if "stage" in row else self.config.search.family
            excess: Mapping[str, float | None] = {}
            if status == "completed":
                excess = excesses(self.limits, lambda metric, record=record: protocol.metric_of(record, metric))  # type: ignore[misc]
            kind = str((record or {}).get("error_kind") or "")
            held = (math.nan, math.nan, 0.0)
            if not family.coneless(angles):
                held = (most_inside(record), taken(record), coned(record))
            yield Trial(
                number,
                row["name"],
                row["key"],
                release,
                angles,
                status,
                values,
                error,
                stage,
                excess,
                kind,
                *held,
                epochs,
            )

    def _stability(self, trials: Sequence[Trial]) -> tuple[Stability, ...]:
        asha, metric = self.config.search.asha, self.measures[0].validation
        if asha is None:
            return ()
        end = self.config.train.epochs
        values: dict[int, dict[str, float]] = {rung: {} for rung in (*rungs(asha.first_rung, asha.reduction, end), end)}
        for trial in trials:
            record = self.record_of(trial.key)
            for row in (record or {}).get("history", ()):
                if row["epoch"] + 1 in values and row.get(metric) is not None:
                    values[row["epoch"] + 1][trial.key] = float(row[metric])
            if (value := protocol.metric_of(record, metric)) is not None:
                values[end][trial.key] = value
        return rank_stability(values)

    def _grid(self) -> tuple[Grid | None, str]:
        family, rules = family_named(self.config.search.family), self.config.protocol
        phase = self.ledger.phase("grid")
        if not family.one_angle:
            count = f"{len(family.parameters)} {'number' if family.others else 'angle'}{'s' * (len(family.parameters) != 1)}"
            return None, f"the family {family.name!r} has {count}, and the rule holds for one angle"
        if self.measures[0].plain:
            what = "geometry" if self.measures[0].geometry else "no share"
            return None, f"the rule is one of shares in points, and the first objective is {what}"
        if rules.grid_points == 0:
            return None, "the study measures no grid (protocol.grid_points = 0)"
        if phase is None:
            return None, "the grid was not measured to the end"
        own = phase.get("own")
        methods = [protocol.grid_method(self.study, float(angle), phase["release"], own) for angle in phase["angles"]]
        runs = tuple(self._on_validation(name_of(method), method) for method in methods)
        scores = np.stack([one.shown(self.measures[0]) for one in runs])
        found = as_good_as_best(scores, rules.margin, rules.alpha)
        return Grid(phase["release"], tuple(map(float, phase["angles"])), runs, scores, found), ""

    # --- what they say ------------------------------------------------------------------------------------------------------

    def _objective(self, place: int, confirmed: Sequence[Runs], equals: Sequence[str]) -> Objective:
        assert self.winner is not None
        rules, row = self.config.protocol, self.winner["winner"]
        name = self.config.search.objectives[place]
        measure = OBJECTIVES[name]
        scores = {runs.name: measure.scale * runs.values(measure.test) for runs in confirmed}
        others = {key: value for key, value in scores.items() if key != WINNER}
        found = verdict(
            scores[WINNER],
            others,
            seeds=confirmed[0].seeds,
            margin=rules.margin,
            alpha=rules.alpha,
            looks=self.looks,
            same_config=equals,
            measure=measure.short if measure.plain else "",
        )
        if reason := short_of_published(rules, confirmed):
            found = found.withheld(reason)
        crossed, note = self._crossed(name, confirmed, {one.name: one.level for one in found.comparisons})
        chosen = measure.scale * np.asarray(row["values"][place] if row.get("values") else [], dtype=np.float64)
        lost = optimism(measure.scale * row["search_values"][place], chosen, finite(scores[WINNER]))
        return Objective(name, measure.test, measure.about, scores, found, crossed, note, lost)

    def _forked(self) -> tuple[str, ...]:
        decision = self.ledger.phase("fork")
        return () if decision is None else (note_of(decision),)

    def _crossed(
        self, objective: str, confirmed: Sequence[Runs], levels: Mapping[str, float]
    ) -> tuple[dict[str, CrossedInterval], str]:
        """Intervals over seeds and test images by baseline, and why some or all are left out."""
        if OBJECTIVES[objective].plain:
            return {}, ""
        answers = {runs.name: read_answers(self.ledger, runs, objective) for runs in confirmed}
        winner = answers.pop(WINNER)
        found = {}
        for name, other in answers.items():
            if winner is None or other is None or not np.array_equal(winner.labels, other.labels):
                continue
            if winner.complete and other.complete and min(winner.correct.shape) > 1:
                weights = image_weights(objective, winner.labels, self._classes(objective, confirmed))
                found[name] = crossed_interval((winner.correct - other.correct) * weights, level=levels[name])
        left = [name for name in answers if name not in found]
        return found, f"left out for {', '.join(left)}: some seed lacks its answers image by image" if left else ""

    def _classes(self, objective: str, confirmed: Sequence[Runs]) -> list[int]:
        """The trained classes of the group that an objective is about, all where it is about no group."""
        rows: list[dict[str, Any]] = next((one["per_class"] for runs in confirmed for one in runs.completed), [])
        counts = torch.tensor([row["train_images"] for row in rows], dtype=torch.int64)
        groups = by_boundary(counts, self.config.data.boundary) | by_shots(counts)
        mask = groups.get(objective, torch.ones(len(rows), dtype=torch.bool)).tolist()
        return [row["class"] for row, inside in zip(rows, mask, strict=True) if inside]

    @cached_property
    def _started(self) -> dict[str, dict[str, Any]]:
        return self.ledger.started()

    def _span(self) -> tuple[float, float] | None:
        launched = [info["time"] for info in self._started.values() if "time" in info]
        records = map(self.record_of, self._started)
        ended = [record["finished"] for record in records if record is not None and "finished" in record]
        return (min(launched), max(ended)) if launched and ended else None

    def _counts(self) -> dict[str, RunCount]:
        statuses: dict[str, Counter[str]] = {}
        causes: dict[str, Counter[str]] = {}
        seconds: dict[str, float] = {}
        begun = sorted(self._started.items(), key=lambda item: (item[1].get("time", 0.0), item[0]))
        for key, info in begun:
            phase, record = str(info["phase"]), self.record_of(key)
            statuses.setdefault(phase, Counter())["unfinished" if record is None else record["status"]] += 1
            causes.setdefault(phase, Counter())
            seconds.setdefault(phase, 0.0)
            if record is not None:
                seconds[phase] += record["provenance"].get("seconds") or 0.0
                if record["status"] == "failed":
                    causes[phase][cause_of(record)] += 1
        return {
            phase: RunCount(
                completed=count["completed"],
                pruned=count["pruned"],
                failed=count["failed"],
                unfinished=count["unfinished"],
                seconds=seconds[phase],
                causes=dict(causes[phase]),
            )
            for phase, count in statuses.items()
        }

    def _provenance(self, confirmed: Sequence[Runs], searched: Sequence[Runs]) -> dict[str, Any]:
        def agreed(values: Iterable[Any]) -> Any:
            distinct = list(dict.fromkeys(value for value in values if value is not None))
            return distinct[0] if len(distinct) == 1 else distinct or None

        rows = [record["provenance"] for runs in confirmed or searched for record in runs.completed]
        search = [record["provenance"] for runs in searched for record in runs.completed]
        packages = sorted({name for row in rows for name in row.get("versions", {})})
        return {name: agreed(row.get(name) for row in rows) for name in _SHARED} | {
            "search_split_hash": agreed(row.get("split_hash") for row in search),
            "search_train_images": agreed(row.get("train_images") for row in search),
            "validation_images": agreed(row.get("evaluation_images") for row in search),
            "versions": {name: agreed(row.get("versions", {}).get(name) for row in rows) for name in packages},
        }

    def _missing(
        self,
        confirmed: Sequence[Runs],
        selected: Sequence[Runs],
        noise: Runs,
        on_grid: Sequence[Runs],
        counts: Mapping[str, RunCount],
    ) -> Iterator[str]:
        if self.winner is None:
            yield "No winner is frozen yet: the study has not come to the end of its selection."
        places = {"confirmation": confirmed, "selection": selected, "noise floor": (noise,), "grid": on_grid}
        for place, some in places.items():
            gaps = dict.fromkeys(gap for runs in some for gap in runs.gaps)
            if gaps:
                yield f"Without a score ({place}): {'; '.join(gaps)}."
        if unfinished := sum(count.unfinished for count in counts.values()):
            yield f"Started and not finished: {unfinished} run{'s' * (unfinished != 1)}; the same command takes them up."


def _last_measured(record: protocol.Record | None, metric: str) -> float | None:
    found = measured(record, metric)
    return found[-1] if found else None


def _notes(runs: Sequence[Runs]) -> list[str]:
    """What the runs themselves say, each note once, with the number of runs that say it."""
    unique = {record["key"]: record for one in runs for record in one.completed}
    notes = Counter(note for record in unique.values() for note in record["notes"])
    return [f"{note} ({count} of {len(unique)} runs)" for note, count in notes.items()]
