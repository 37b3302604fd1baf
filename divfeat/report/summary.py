"""What a study found, read from its folder alone: the ledger in, one frozen summary out.

Scores of records are shares in [0, 1]; a summary speaks in points (percent). Nothing here fails on a study that was
stopped or lost runs: what is missing is NaN in the numbers and a sentence in `missing`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from divfeat.config import OBJECTIVES, ExecutionConfig, ExperimentConfig, MethodConfig, StudyConfig, build
from divfeat.errors import DataError
from divfeat.files import read_json
from divfeat.report.provenance import RunCount, collected, run_counts, said_by_runs
from divfeat.search import protocol
from divfeat.search.jobs import baseline, canonical, experiment, name_of
from divfeat.search.ledger import FORMAT, Ledger
from divfeat.statistics import (
    AsGood,
    CrossedInterval,
    NoiseFloor,
    Optimism,
    Verdict,
    as_good_as_best,
    crossed_interval,
    detectable_difference,
    noise_floor,
    optimism,
    select_top,
    verdict,
)
from divfeat.thresholds import family_named

Floats = NDArray[np.float64]

WINNER = "winner"
#: Objectives whose score is the mean over the test images of one correct-or-not each, and the array that holds it.
_BY_IMAGE = {"fine_probe": "fine_probe", "accuracy": "accuracy"}


@dataclass(frozen=True)
class Runs:
    """One method over several seeds, as the ledger has it.

    Attributes:
        name: `winner`, a baseline's name, or what people call the method.
        method: Canonical.
        seeds: S of them.
        keys: [S], None where it is not known which experiment would belong there.
        records: [S], None where there is none.
    """

    name: str
    method: MethodConfig
    seeds: tuple[int, ...]
    keys: tuple[str | None, ...]
    records: tuple[Mapping[str, Any] | None, ...]

    def values(self, metric: str) -> Floats:
        """[S] values of a metric as recorded, NaN where missing."""
        found = [protocol.metric_of(record, metric) for record in self.records]
        return np.array([math.nan if value is None else value for value in found], dtype=np.float64)

    def points(self, metric: str) -> Floats:
        """[S] values of a share in points, NaN where missing."""
        return 100 * self.values(metric)

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
        """One phrase for each seed without a score."""
        found = []
        for seed, key, record in zip(self.seeds, self.keys, self.records, strict=True):
            if record is None:
                why = (
                    "not run: no finished selection run to take the probe's strength from" if key is None else "not run"
                )
            elif record["status"] == "completed":
                continue
            else:
                why = f"{record['status']} ({cause_of(record)})"
            found.append(f"{self.name}, seed {seed}: {why}")
        return found


@dataclass(frozen=True)
class Objective:
    """What the confirmation says on one objective; `crossed` by baseline, or `crossed_note` says why there is none."""

    name: str
    about: str
    selection_metric: str
    metric: str
    scores: Mapping[str, Floats]
    verdict: Verdict
    crossed: Mapping[str, CrossedInterval]
    crossed_note: str
    optimism: Optimism


@dataclass(frozen=True)
class Trial:
    """One proposal of the search: `values` are points by objective, for a pruned one the last that was measured."""

    number: int
    name: str
    key: str
    release: str
    angles: Mapping[str, float]
    status: str
    values: tuple[float, ...]
    error: str


@dataclass(frozen=True)
class Grid:
    """The fixed grid of a one-dimensional family: angles in radians and their runs."""

    release: str
    angles: tuple[float, ...]
    runs: tuple[Runs, ...]
    scores: Floats
    as_good: AsGood

    @property
    def interval(self) -> tuple[float, float] | None:
        """First and last angle that are as good as the best, radians; None where undetermined."""
        found = self.as_good.interval
        return None if found is None else (self.angles[found[0]], self.angles[found[1]])


@dataclass(frozen=True)
class TestReads:
    """Reads of the test set: all, and those of experiments that the present confirmation does not hold."""

    total: int
    others: tuple[str, ...]


@dataclass(frozen=True)
class StudySummary:
    """A study and what it found.

    Attributes:
        folder: Of the study.
        config: Its identity; `trained` is the same at the frozen learning rate and weight decay.
        execution: How it was last run.
        winner: Decision of the phase `winner`, None before the selection is done.
        equals: Baselines whose configuration the winner has.
        confirmed: Winner and baselines on the confirmation seeds; empty before a winner is frozen.
        objectives: Primary first; empty before a winner is frozen.
        noise: CE+ETF on the selection seeds, and its `floor` on validation in the primary objective.
        detectable: Smallest difference in points that the confirmation detects with probability 0.8 at that floor, the
            pairing left out; infinite below 5 seeds, NaN where the floor is unknown.
        grid: None with `grid_note` saying why.
        missing: Sentences on what is not there.
        notes: What the runs themselves say, with the number of runs.
    """

    folder: Path
    config: StudyConfig
    trained: StudyConfig
    execution: ExecutionConfig
    winner: Mapping[str, Any] | None
    equals: tuple[str, ...]
    confirmed: tuple[Runs, ...]
    objectives: tuple[Objective, ...]
    trials: tuple[Trial, ...]
    selected: tuple[Runs, ...]
    noise: Runs
    floor: NoiseFloor
    detectable: float
    grid: Grid | None
    grid_note: str
    calibration: Mapping[str, Any] | None
    registered: Mapping[str, Any] | None
    test_reads: TestReads
    counts: Mapping[str, RunCount]
    provenance: Mapping[str, Any]
    missing: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the study: its folder's."""
        return self.folder.name

    @property
    def primary(self) -> Objective | None:
        """The objective that decides; None before a winner is frozen."""
        return self.objectives[0] if self.objectives else None

    @cached_property
    def winner_method(self) -> MethodConfig | None:
        """Canonical."""
        return None if self.winner is None else canonical(MethodConfig.model_validate(self.winner["winner"]["method"]))

    @property
    def winner_name(self) -> str:
        """What people call the winner."""
        return "" if self.winner is None else str(self.winner["winner"]["name"])

    @property
    def metric(self) -> str:
        """The primary objective's metric on validation."""
        return OBJECTIVES[self.config.search.objectives[0]][0]

    def best_of_release(self) -> dict[str, Trial]:
        """For each way of letting go the best finished trial of the search, by the study's own rule."""
        best = {}
        for release in self.config.search.releases:
            done = [trial for trial in self.trials if trial.release == release and trial.status == "completed"]
            if done:
                best[release] = done[int(select_top(np.array([trial.values for trial in done]), 1)[0])]
        return best


def read_summary(folder: str | Path) -> StudySummary:
    """Everything a report says about the study in `folder`, whether it ended or not.

    Raises:
        DataError: no study there, or one of another version of divfeat, whose records this one could not find.
    """
    folder = Path(folder).resolve()
    ledger, config, execution = _opened(folder)
    record_of = cache(ledger.record)
    calibration = ledger.phase("calibrate")
    calibrated = calibration is not None and calibration["lr"] is not None
    trained = protocol.with_calibration(config, calibration) if calibration and calibrated else config
    winner = ledger.phase("winner")
    metric = OBJECTIVES[config.search.objectives[0]][0]

    noise_method = MethodConfig(name=protocol.NOISE_METHOD)
    selection = protocol.select_seeds(trained)

    def on_validation(name: str, method: MethodConfig) -> Runs:
        experiments = [experiment(trained, method, seed) for seed in selection]
        return runs_of(name, method, selection, experiments, record_of)

    noise = on_validation(protocol.NOISE_METHOD, noise_method)
    floor = noise_floor(_finite(noise.points(metric)))
    arms = max(len(config.protocol.baselines), 1)
    detectable = detectable_difference(floor.sd, config.protocol.confirm_seeds, arms) if floor.seeds > 1 else math.nan

    confirmed = _confirmed(trained, winner, record_of) if winner else ()
    equals = _equals(trained, winner)
    objectives = tuple(
        _objective(ledger, trained, place, name, confirmed, winner, equals)
        for place, name in enumerate(config.search.objectives)
        if winner
    )
    chosen = winner["candidates"] if winner else []
    selected = tuple(
        [on_validation(row["name"], MethodConfig.model_validate(row["method"])) for row in chosen]
        + [on_validation(name, baseline(name, trained)) for name in config.protocol.baselines if winner]
    )
    grid, grid_note = _grid(trained, ledger.phase("grid"), metric, on_validation)

    counts = run_counts(ledger.started(), record_of)
    keys = {key for runs in confirmed for key in runs.keys if key is not None}
    reads = ledger.test_reads()
    shown = [*confirmed, *(grid.runs if grid else ()), *selected, noise]
    missing = _missing(ledger, winner, confirmed, selected, noise, grid, counts)
    return StudySummary(
        folder=folder,
        config=config,
        trained=trained,
        execution=execution,
        winner=winner,
        equals=equals,
        confirmed=confirmed,
        objectives=objectives,
        trials=tuple(_trials(config, ledger, record_of)),
        selected=selected,
        noise=noise,
        floor=floor,
        detectable=detectable,
        grid=grid,
        grid_note=grid_note,
        calibration=calibration,
        registered=ledger.phase("registered"),
        test_reads=TestReads(len(reads), tuple(row["why"] for row in reads if row["key"] not in keys)),
        counts=counts,
        provenance=collected(record for runs in confirmed or [noise] for record in runs.completed)
        | {
            "search_split_hash": collected(record for runs in (noise, *selected) for record in runs.completed)[
                "split_hash"
            ]
        },
        missing=tuple(missing),
        notes=tuple(said_by_runs(record for runs in shown for record in runs.completed)),
    )


def cause_of(record: Mapping[str, Any]) -> str:
    """Why a run failed or was pruned: the last line of what it said."""
    lines = str(record.get("error") or "").strip().splitlines()
    return lines[-1].strip() if lines else str(record.get("error_kind") or "no reason recorded")


def runs_of(
    name: str,
    method: MethodConfig,
    seeds: Sequence[int],
    experiments: Sequence[ExperimentConfig],
    record_of: Callable[[str], Mapping[str, Any] | None],
) -> Runs:
    """Runs of one method; an empty list of experiments means that none of its seeds can be known."""
    keys: list[str | None] = [config.key for config in experiments] or [None] * len(seeds)
    records = [None if key is None else record_of(key) for key in keys]
    return Runs(name, canonical(method), tuple(seeds), tuple(keys), tuple(records))


# --- parts ----------------------------------------------------------------------------------------------------------------


def _opened(folder: Path) -> tuple[Ledger, StudyConfig, ExecutionConfig]:
    found = read_json(folder / "study.json")
    if found is None:
        raise DataError(f"{folder} holds no study (there is no study.json); give the folder that the study printed")
    if found.get("format") != FORMAT:
        raise DataError(f"{folder} was written in format {found.get('format')}, this divfeat reads format {FORMAT}")
    config = build(StudyConfig, found["config"])
    if config.identity != found["identity"]:
        raise DataError(
            f"{folder} was written by a version of divfeat with other settings; its phase 'protocol' names the commit, "
            "report with that one"
        )
    execution = {name: value for name, value in (read_json(folder / "execution.json") or {}).items() if name != "time"}
    return Ledger(folder), config, build(ExecutionConfig, execution)


def _confirmed(
    study: StudyConfig, winner: Mapping[str, Any], record_of: Callable[[str], Mapping[str, Any] | None]
) -> tuple[Runs, ...]:
    seeds = protocol.confirm_seeds(study)
    return tuple(
        runs_of(name, method, seeds, protocol.confirmation_experiments(study, method, record_of), record_of)
        for name, method in protocol.confirmed_methods(study, winner["winner"]).items()
    )


def _equals(study: StudyConfig, winner: Mapping[str, Any] | None) -> tuple[str, ...]:
    if winner is None:
        return ()
    method = canonical(MethodConfig.model_validate(winner["winner"]["method"]))
    return tuple(name for name in study.protocol.baselines if canonical(baseline(name, study)) == method)


def _objective(
    ledger: Ledger,
    study: StudyConfig,
    place: int,
    name: str,
    confirmed: Sequence[Runs],
    winner: Mapping[str, Any],
    equals: Sequence[str],
) -> Objective:
    selection_metric, metric, about = OBJECTIVES[name]
    scores = {runs.name: runs.points(metric) for runs in confirmed}
    others = {key: value for key, value in scores.items() if key != WINNER}
    found = verdict(
        scores[WINNER],
        others,
        seeds=confirmed[0].seeds,
        margin=study.protocol.margin,
        alpha=study.protocol.alpha,
        same_config=equals,
    )
    crossed, note = _crossed(ledger, name, confirmed, 1 - study.protocol.alpha / max(len(others), 1))
    row = winner["winner"]
    values = 100 * np.array(row["values"][place] if row.get("values") else [], dtype=np.float64)
    lost = optimism(100 * row["search_values"][place], values, _finite(scores[WINNER]))
    return Objective(name, about, selection_metric, metric, scores, found, crossed, note, lost)


def _crossed(
    ledger: Ledger, objective: str, confirmed: Sequence[Runs], level: float
) -> tuple[dict[str, CrossedInterval], str]:
    """Intervals over seeds and test images by baseline, and why some are left out."""
    array = _BY_IMAGE.get(objective)
    if array is None:
        return {}, f"left out: {objective!r} averages classes, not images, so it has no one score an image"
    tables = {runs.name: _correct(ledger, runs, array) for runs in confirmed}
    winner = tables.pop(WINNER)
    found = {}
    for name, table in tables.items():
        if winner is not None and table is not None and winner.shape == table.shape and min(table.shape) > 1:
            found[name] = crossed_interval(winner - table, level=level)
    left = [name for name in tables if name not in found]
    return found, f"left out for {', '.join(left)}: not every seed has its answers image by image" if left else ""


def _correct(ledger: Ledger, runs: Runs, array: str) -> Floats | None:
    """[S, N] correctness, or None where a seed lacks it or the images differ."""
    rows, labels = [], []
    for key, record in zip(runs.keys, runs.records, strict=True):
        path = ledger.run_folder(str(key)) / "correct.npz"
        if record is None or record["status"] != "completed" or not path.is_file():
            return None
        with np.load(path) as columns:
            rows.append(columns[array].astype(np.float64))
            labels.append(columns["fine"])
    same = all(np.array_equal(one, labels[0]) for one in labels)
    return np.stack(rows) if rows and same else None


def _trials(
    study: StudyConfig, ledger: Ledger, record_of: Callable[[str], Mapping[str, Any] | None]
) -> Iterable[Trial]:
    metrics = protocol.objective_metrics(study)
    for number, row in sorted(ledger.proposals().items()):
        record = record_of(row["key"])
        params = dict(row["params"])
        release = params.pop("release", study.search.releases[0])
        status, error = "not finished", ""
        values: list[float | None] = [None] * len(metrics)
        if record is not None:
            status = record["status"]
            values = [protocol.metric_of(record, metric) for metric in metrics]
            if status == "pruned":
                values = [_last(record, metric) for metric in metrics]
            error = "" if status == "completed" else cause_of(record)
        points = tuple(math.nan if value is None else 100 * value for value in values)
        yield Trial(number, row["name"], row["key"], release, params, status, points, error)


def _last(record: Mapping[str, Any], metric: str) -> float | None:
    found = [row[metric] for row in record["history"] if row.get(metric) is not None]
    return float(found[-1]) if found else None


def _grid(
    study: StudyConfig,
    phase: Mapping[str, Any] | None,
    metric: str,
    on_validation: Callable[[str, MethodConfig], Runs],
) -> tuple[Grid | None, str]:
    family = family_named(study.search.family)
    if len(family.parameters) != 1:
        count = len(family.parameters)
        return None, f"the family {family.name!r} has {count} angles, and the rule holds for families of one"
    if study.protocol.grid_points == 0:
        return None, "the study measures no grid (protocol.grid_points = 0)"
    if phase is None:
        return None, "the grid was not measured to the end"
    angles = tuple(float(angle) for angle in phase["angles"])
    methods = [protocol.grid_method(study, angle, phase["release"]) for angle in angles]
    runs = tuple(on_validation(name_of(method), method) for method in methods)
    scores = np.stack([one.points(metric) for one in runs])
    return Grid(
        phase["release"], angles, runs, scores, as_good_as_best(scores, study.protocol.margin, study.protocol.alpha)
    ), ""


def _missing(
    ledger: Ledger,
    winner: Mapping[str, Any] | None,
    confirmed: Sequence[Runs],
    selected: Sequence[Runs],
    noise: Runs,
    grid: Grid | None,
    counts: Mapping[str, RunCount],
) -> list[str]:
    found = []
    if winner is None:
        found.append("No winner is frozen yet: the study has not come to the end of its selection.")
    for what, some in (("confirmation", confirmed), ("selection", selected), ("noise floor", (noise,))):
        gaps = [gap for runs in some for gap in runs.gaps]
        if gaps:
            found.append(f"Without a score in the {what}: {'; '.join(dict.fromkeys(gaps))}.")
    if grid and (gaps := [gap for runs in grid.runs for gap in runs.gaps]):
        found.append(f"Without a score on the grid: {'; '.join(gaps)}.")
    if unfinished := sum(count.unfinished for count in counts.values()):
        found.append(
            f"Started and never finished: {unfinished} run{'s' * (unfinished != 1)}; the same command takes them up."
        )
    return found


def _finite(values: Floats) -> Floats:
    return values[np.isfinite(values)]
