"""Proposals: Optuna asked and told directly, with its storage a projection of the ledger.

Ray's own Optuna searcher tells stopped trials as complete and leaves NaN trials running; here a pruned trial is told as
pruned with its intermediate values, a failed one as failed, and none is left running.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from divfeat.search import protocol
from divfeat.search.asha import rungs
from divfeat.search.constraints import excesses
from divfeat.search.jobs import SEARCH_SEED, Job, experiment, name_of, seed_of
from divfeat.search.ledger import Ledger
from divfeat.search.refine import Refinement
from divfeat.search.subjects import Subject, search_space, threshold_method, threshold_subject, tried_first
from divfeat.seeding import stream_seed
from divfeat.study_config import StudyConfig
from divfeat.thresholds import family_named

#: Trials a model-based sampler sees before it models: the settings tried first count.
_STARTUP_TRIALS = 8


def make_sampler(name: str, seed: int, study_seed: int) -> optuna.samplers.BaseSampler:
    """An Optuna sampler by name, made anew for every trial from (study seed, trial number): resuming changes nothing.

    CMA-ES, NSGA-II and QMC keep their state in the storage; QMC's scrambling must stay the study's own.
    """
    if name == "tpe":
        return optuna.samplers.TPESampler(
            seed=seed,
            multivariate=True,
            constant_liar=True,
            n_startup_trials=_STARTUP_TRIALS,
        )
    if name == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=_STARTUP_TRIALS)
    if name == "cmaes":
        return optuna.samplers.CmaEsSampler(
            seed=seed, n_startup_trials=_STARTUP_TRIALS, warn_independent_sampling=False
        )
    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=10)
    if name == "qmc":
        return optuna.samplers.QMCSampler(
            seed=study_seed,
            scramble=True,
            independent_sampler=optuna.samplers.RandomSampler(seed=seed),  # else one and the same draw for ever
            warn_independent_sampling=False,
            warn_asynchronous_seeding=False,
        )
    return optuna.samplers.RandomSampler(seed=seed)


class Proposals:
    """Asks Optuna for experiments and tells it how they went.

    Args:
        study: Space, sampler, seeds.
        ledger: Truth; proposals are noted there before they run.
        storage: Optuna storage URL; opens in optuna-dashboard.
        name: Of the Optuna study.
        subject: What is varied; None for the study's own search.
        refinement: Stages of the search; needed where the study has `search.refine`.

    Raises:
        ConfigError: the sampler cannot search this space.
    """

    def __init__(
        self,
        study: StudyConfig,
        ledger: Ledger,
        storage: str,
        name: str,
        refinement: Refinement | None = None,
        subject: Subject | None = None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        # Multivariate TPE, GP and metric names are marked experimental in Optuna; the range in pyproject.toml is tested.
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        if study.search.refine and refinement is None and subject is None:
            raise ValueError(f"search.refine={list(study.search.refine)} needs its Refinement")
        self.study, self.ledger, self.refinement = study, ledger, refinement
        self.subject = subject or threshold_subject(study)
        self.space = self.subject.space
        self.metrics = protocol.objective_metrics(study)
        self.directions = [measure.direction for measure in protocol.objectives(study)]
        self.limits = protocol.limits_of(study, ledger.record)
        self.optuna = optuna.create_study(
            storage=storage, study_name=name, load_if_exists=True, directions=self.directions
        )
        self.optuna.set_metric_names(list(study.search.objectives))
        # Nobody else writes them while a study runs, and reading them again for each trial would take ever longer.
        self._noted = ledger.proposals(self.subject.name, lost=True)
        self._live = {number: row for number, row in self._noted.items() if not row.get("lost")}
        self._describe()
        self._reconcile()

    def _describe(self) -> None:
        """Attributes of the study: what the dashboard's numbers are, so that nobody reads a share as percent."""
        said = {
            "angles": "parameters are radians; attributes of a trial tell them in degrees (`..._deg`)",
            "trials": "called as in MLflow by their number (`search 007 ...`); `key` is the experiment's; `cause` says why one "
            "was pruned or failed",
            "values at epochs": "the objective where successive halving measures it; without it there are none",
        }
        for measure, name in zip(protocol.objectives(self.study), self.study.search.objectives, strict=True):
            unit = "a share of 1" if measure.unit == "share" else "without a unit"
            said[f"objective {name}"] = f"{measure.about}, on validation; {unit}; {measure.direction}"
        known = self.optuna.user_attrs
        for name, text in said.items():
            if known.get(name) != text:
                self.optuna.set_user_attr(name, text)

    def __len__(self) -> int:
        """Proposals that count towards `--trials`: not those that a fault since mended took away."""
        return len(self._rows())

    def ask(self) -> Job:
        """The next experiment, noted in the ledger before anybody runs it."""
        trials = self._trials()
        self._seed_sampler(len(trials))
        if not any(trial.state == TrialState.WAITING for trial in trials):
            if self.refinement is not None:
                self._refine(self.refinement, trials)
            elif self.study.search.promote:
                copy = optuna.create_study(sampler=self.optuna.sampler, directions=self.directions)
                copy.add_trials(self._seen(trials))
                self.optuna.enqueue_trial(copy.ask(dict(self.space)).params)
        return self._note(self.optuna.ask())

    def _seen(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """Trials as a sampler is to see them: one that may wait at a rung for ever as pruned there, with its values so far.

        Optuna's storage has it as running until it is decided, of which a sampler learns nothing, or takes it for a bad one.
        """
        if not self.study.search.promote:
            return trials
        rows, found = self._rows(), []
        for trial in trials:
            row = rows.get(trial.number) if trial.state == TrialState.RUNNING else None
            values = self._rung_values(self.ledger.events(row["key"])) if row is not None else {}
            if values:
                seen = create_trial(
                    state=TrialState.PRUNED,
                    params=trial.params,
                    distributions=trial.distributions,
                    user_attrs=trial.user_attrs,
                    intermediate_values=values,
                )
                seen.number = trial.number
                trial = seen
            found.append(trial)
        return found

    def _refine(self, refinement: Refinement, trials: list[FrozenTrial]) -> None:
        """Enqueue what the present stage proposes; nothing where the last stage leaves it to the study's own sampler."""
        rows = self._rows(lost=True)
        number = refinement.present(rows.values())
        family, last = refinement.stages[number], number == len(refinement.stages) - 1
        space = search_space(self.study, family)
        for setting in tried_first(self.study, family, self._leading_release(trials) if number else None):
            stage = {"family": family, "params": setting}
            lifted = refinement.lifted(setting, family, refinement.stages[-1], self.space)
            key = self.job(len(trials), lifted, stage).key
            if not any(row["key"] == key or _same(row["params"], lifted, number == 0) for row in rows.values()):
                break
        else:
            if last:
                return
            params = refinement.draw(number, rows, self._seen(trials), space, self.optuna.sampler, self.directions)
            stage = {"family": family, "params": params}
            lifted = refinement.lifted(params, family, refinement.stages[-1], self.space)
        self.optuna.enqueue_trial(lifted, user_attrs={"stage": stage})

    def _leading_release(self, trials: list[FrozenTrial]) -> str:
        """The way of letting go of the best trial so far, by the first objective; a feasible one goes before others."""
        done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        sign = protocol.objectives(self.study)[0].sign

        def rank(trial: FrozenTrial) -> tuple[float, float]:
            return -sum(max(missed, 0.0) for missed in trial.constraints.values()), sign * trial.values[0]

        best = max(done, key=rank, default=None)
        first = self.study.search.releases[0]
        return first if best is None else str(best.params.get("release", first))

    def job(self, number: int, params: Mapping[str, Any], stage: Mapping[str, Any] | None = None) -> Job:
        """The experiment that the parameters of trial `number` stand for; of a refinement, as its stage drew it."""
        method = (
            threshold_method(self.study, stage["params"], stage["family"]) if stage else self.subject.method(params)
        )
        config = experiment(self.study, method, seed_of(self.study, SEARCH_SEED))
        return Job(config, self.subject.phase, name_of(method), number, self.rungs)

    @property
    def rungs(self) -> tuple[int, ...]:
        """Finished epochs at which running trials are compared."""
        asha = self.study.search.asha
        return () if asha is None else rungs(asha.first_rung, asha.reduction, self.study.train.epochs)

    def pending(self) -> list[Job]:
        """Proposals without a record, in order: what a resumed study runs first."""
        jobs = [self.job(number, row["params"], row.get("stage")) for number, row in self._rows().items()]
        return [job for job in jobs if self.ledger.record(job.key) is None]

    def values(self, record: Mapping[str, Any]) -> list[float] | None:
        """The objectives of a completed record, None where it lacks one, or what a constraint is about."""
        values = [protocol.metric_of(record, metric) for metric in self.metrics]
        missing = None in values or None in self.excess(record).values()
        return None if missing else values  # type: ignore[return-value]

    def excess(self, record: Mapping[str, Any]) -> dict[str, float | None]:
        """Constraint -> how far a completed record misses it, at most 0 where it keeps it."""
        return excesses(self.limits, lambda metric: protocol.metric_of(record, metric))

    def tell(self, number: int, record: Mapping[str, Any]) -> None:
        """Tell Optuna how trial `number` ended: complete, pruned with its rungs, or failed. Telling twice is harmless."""
        frozen = self._trials()[number]
        if frozen.state.is_finished():
            return
        trial = optuna.trial.Trial(self.optuna, frozen._trial_id)
        values = self.values(record)
        self._say(trial, {"cause": cause} if (cause := record["error"]) else {})
        if record["status"] == "pruned" or values is not None:
            self._report_rungs(trial, frozen, record, values)
        if values is not None:
            self._set_constraints(trial, frozen, record)
            self.optuna.tell(number, values if len(values) > 1 else values[0])
        elif record["status"] == "pruned":
            self.optuna.tell(number, state=TrialState.PRUNED)
        else:
            self.optuna.tell(number, state=TrialState.FAIL)

    def _set_constraints(self, trial: optuna.trial.Trial, frozen: FrozenTrial, record: Mapping[str, Any]) -> None:
        for name, missed in self.excess(record).items():
            if missed is not None and name not in frozen.constraints:  # the latter: told before a crash
                trial.set_constraint(name, missed)

    def _say(self, trial: optuna.trial.Trial, more: Mapping[str, Any]) -> None:
        """User attributes for who reads the dashboard: names as everywhere else, angles in degrees, why a trial ended."""
        row = self._rows(lost=True)[trial.number]
        method = self.job(trial.number, row["params"], row.get("stage")).experiment.method
        family = family_named(method.thresholds.family)
        said = {"name": row["name"], "key": row["key"]} | family.shown(method.thresholds.angles) | dict(more)
        known = trial.user_attrs
        for name, value in said.items():
            if known.get(name) != value:
                trial.set_user_attr(name, value)

    def _report_rungs(
        self, trial: optuna.trial.Trial, frozen: FrozenTrial, record: Mapping[str, Any], values: list[float] | None
    ) -> None:
        """The objective at the rungs, and at the end of a training that went all the way: what the dashboard draws.

        Without halving the objective is measured at the end alone, and there is nothing to draw.
        """
        if len(self.metrics) > 1 or not self.rungs:
            return  # Optuna keeps no intermediate values of multi-objective trials
        found = self._rung_values(record["history"])
        if values is not None:
            found[self.study.train.epochs] = values[0]
        for epochs, value in found.items():
            if epochs not in frozen.intermediate_values:  # told before a crash
                trial.report(value, epochs)

    def rung_table(self) -> dict[int, dict[str, float]]:
        """The first objective at every rung reached so far, by key: what a resumed halving goes on from."""
        table: dict[int, dict[str, float]] = {}
        for row in self._rows().values():
            record = self.ledger.record(row["key"])
            history = self.ledger.events(row["key"]) if record is None else record["history"]
            for epochs, value in self._rung_values(history).items():
                table.setdefault(epochs, {})[row["key"]] = value
        return table

    def _rung_values(self, history: Iterable[Mapping[str, Any]]) -> dict[int, float]:
        rows = {int(row["epoch"]) + 1: row for row in history}
        found = {epochs: rows.get(epochs, {}).get(self.metrics[0]) for epochs in self.rungs}
        return {epochs: value for epochs, value in found.items() if value is not None}

    def _rows(self, *, lost: bool = False) -> dict[int, dict[str, Any]]:
        return self._noted if lost else self._live

    def _trials(self) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False)

    def _seed_sampler(self, number: int) -> None:
        own = (self.subject.name,) if self.subject.name else ()
        seed = stream_seed(self.study.seed, "sampler", *own, number) % 2**32
        self.optuna.sampler = make_sampler(self.study.search.sampler, seed, self.study.seed)

    def _note(self, trial: optuna.trial.Trial) -> Job:
        """Draw what the trial lacks and write it into the ledger."""
        for name, values in self.space.items():
            if isinstance(values, FloatDistribution):
                trial.suggest_float(name, values.low, values.high, log=values.log)
            elif isinstance(values, CategoricalDistribution):
                trial.suggest_categorical(name, values.choices)
        stage = trial.user_attrs.get("stage")
        job = self.job(trial.number, trial.params, stage)
        row = {"params": trial.params, "key": job.key, "name": job.name} | ({"stage": stage} if stage else {})
        self.ledger.write_proposal(trial.number, row, self.subject.name)
        for rows in (self._noted, self._live):
            rows[trial.number] = {"number": trial.number, **row}
            if trial.number < max(rows):  # killed between ask and note: it comes late
                in_order = dict(sorted(rows.items()))
                rows.clear()
                rows.update(in_order)
        self._say(trial, {})
        return job

    def _reconcile(self) -> None:
        """Bring Optuna's storage in line with the ledger: after a crash, with the storage lost or an older copy of it."""
        noted = self._rows(lost=True)
        for number in range(len(self._trials()), max(noted, default=-1) + 1):  # unknown to Optuna: tell it again
            known = noted.get(number)
            self.optuna.add_trial(
                create_trial(state=TrialState.RUNNING, params=known["params"], distributions=dict(self.space))
                if known
                else create_trial(state=TrialState.FAIL)
            )
        for setting in [] if self.refinement else self.subject.first[len(self._trials()) :]:
            self.optuna.enqueue_trial(dict(setting))
        while any(trial.state == TrialState.WAITING and trial.number in noted for trial in self._trials()):
            self.optuna.ask(dict(self.space))  # an older copy: take up what was enqueued, in the same order
        running = [trial for trial in self._trials() if trial.state == TrialState.RUNNING]
        for trial in running:
            if trial.number not in noted:  # killed between ask and note: the same draw again
                self._seed_sampler(trial.number)
                self._note(optuna.trial.Trial(self.optuna, trial._trial_id))
        noted = self._rows(lost=True)
        for trial in running:
            row = noted[trial.number]
            record = self.ledger.record(row["key"])
            if row.get("lost"):
                self.optuna.tell(trial.number, state=TrialState.FAIL)
            elif record is not None:
                self.tell(trial.number, record)
        self._propose_again(row for row in noted.values() if row.get("lost"))

    def _propose_again(self, lost: Iterable[Mapping[str, Any]]) -> None:
        """Enqueue what was lost, unless it has been proposed again since: the paper's own settings are among it."""
        live = [row["params"] for row in self._rows().values()]
        waiting = [trial.system_attrs["fixed_params"] for trial in self._trials() if trial.state == TrialState.WAITING]
        for row in lost:
            for again in (live, waiting):
                if row["params"] in again:
                    again.remove(row["params"])
                    break
            else:
                self.optuna.enqueue_trial(row["params"], {"stage": row["stage"]} if "stage" in row else None)


def _same(one: Mapping[str, Any], other: Mapping[str, Any], with_release: bool) -> bool:
    """Whether two trials have the same numbers (a lift may round), and the same way of letting go where that counts."""
    if with_release and one.get("release") != other.get("release"):
        return False
    return all(math.isclose(one[name], value, abs_tol=1e-9) for name, value in other.items() if name != "release")


def storage_url(folder: Path) -> str:
    """The study's own sqlite file."""
    return f"sqlite:///{folder / 'optuna.db'}"
