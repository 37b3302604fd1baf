"""Refinement: a search that begins in a plain threshold family and ends in a rich one that contains it.

`search.refine` names the families before the last, say `global` and `major_minor` before `per_class`; the trials are split
over these stages as their families' numbers of parameters are (1, 2 and 5 here). Every trial is one of the LAST family: what
an earlier stage proposes is lifted there, with the same angles, and noted together with what it was. So Optuna's study has
one space, numbers run on, and no stage waits for the one before it.

A stage draws in its own family, which has few numbers, from all that it and the stages before it have measured, lifted
into it: the best so far is one of the points its sampler starts from, with its score, and is not trained again. Ranges are
not narrowed: what an early stage could not express may lie anywhere. A stage first tries the settings of its family that
nobody has tried, in later stages under the way of letting go that leads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from divfeat.objectives import Direction
from divfeat.study_config import SearchConfig
from divfeat.thresholds import ThresholdContext, family_named, lift

Params = Mapping[str, Any]
Space = Mapping[str, BaseDistribution]


@dataclass(frozen=True)
class Refinement:
    """The stages of a search.

    Attributes:
        stages: Families, plain to rich; the last one's is the study's space.
        trials: To split over the stages. A study that is extended stays in the stage it has reached.
        context: Class counts, which some lifts look at.
    """

    stages: tuple[str, ...]
    trials: int
    context: ThresholdContext

    def family(self, row: Mapping[str, Any]) -> str:
        """In which a noted proposal was drawn."""
        return str(row["stage"]["family"]) if "stage" in row else self.stages[-1]

    def present(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Number of the stage that the next proposal belongs to, after these; never one before a stage begun."""
        rows = list(rows)
        made = sum(not row.get("lost") for row in rows)
        due = next((stage for stage, end in enumerate(self.ends()) if made < end), len(self.stages) - 1)
        begun = max((self.stages.index(self.family(row)) for row in rows), default=0)
        return max(due, begun)

    def ends(self) -> list[int]:
        """Trials after which each stage ends: as many a stage as its family has numbers, in proportion, at least one."""
        sizes = [len(family_named(name).parameters) for name in self.stages]
        shares = [sum(sizes[: stage + 1]) / sum(sizes) for stage in range(len(sizes))]
        ends: list[int] = []
        for stage, share in enumerate(shares):
            least = ends[-1] + 1 if ends else 1
            ends.append(max(least, min(round(share * self.trials), self.trials - len(sizes) + stage + 1)))
        return ends

    def lifted(self, params: Params, source: str, target: str, space: Space) -> dict[str, Any]:
        """Parameters with the same angles in another family, inside its space; what is no threshold goes along."""
        thresholds = family_named(source).parameters
        found: dict[str, Any] = lift({name: params[name] for name in thresholds}, source, target, self.context)
        for name, value in found.items():
            side = space[name]
            if isinstance(side, FloatDistribution):  # of a box that does not begin at 0, offsets can lead out below
                found[name] = min(max(value, side.low), side.high)
        return found | {name: value for name, value in params.items() if name not in thresholds}

    def draw(
        self,
        stage: int,
        rows: Mapping[int, Mapping[str, Any]],
        trials: Sequence[FrozenTrial],
        space: Space,
        sampler: optuna.samplers.BaseSampler,
        directions: Sequence[Direction],
    ) -> dict[str, Any]:
        """What the sampler proposes in the family of `stage`, knowing how all earlier trials went.

        Args:
            stage: Its number.
            rows: The ledger's proposals by number.
            trials: Optuna's, in the space of the last family.
            space: Of the stage's family.
            sampler: Seeded for this proposal.
            directions: Of the objectives, `maximize` or `minimize`.
        """
        target = self.stages[stage]
        study = optuna.create_study(directions=list(directions), sampler=sampler)
        for trial in trials:
            row = rows.get(trial.number)
            if row is None or trial.state in (TrialState.FAIL, TrialState.WAITING):
                continue
            source = self.family(row)
            params = row["stage"]["params"] if "stage" in row else row["params"]
            study.add_trial(
                create_trial(
                    state=trial.state,
                    values=trial.values,
                    params=self.lifted(params, source, target, space),
                    distributions=dict(space),
                    intermediate_values=trial.intermediate_values,
                    system_attrs={name: value for name, value in trial.system_attrs.items() if name != "fixed_params"},
                )
            )
        return study.ask(dict(space)).params


def refinement(search: SearchConfig, trials: int, context: ThresholdContext) -> Refinement | None:
    """The stages of a search, or None where it has but one."""
    return Refinement((*search.refine, search.family), trials, context) if search.refine else None
