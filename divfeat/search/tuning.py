"""Baselines with their own numbers searched: a baseline that was not tuned is not beaten (`protocol.tune`).

Each has its own Optuna study with as many trials as the search, on its seed, objective and sampler. Its best few are selected
as the search's are, and the setting found stands for the baseline's name from then on: selection, confirmation, report.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from divfeat.config import MethodConfig
from divfeat.search.jobs import baseline, own_numbers
from divfeat.study_config import StudyConfig

#: Baselines with other numbers than the published ones, by name.
Tuned = Mapping[str, MethodConfig]
AS_PUBLISHED: Tuned = {}


def tunable(study: StudyConfig) -> tuple[str, ...]:
    """Baselines whose own numbers this study searches."""
    rules = study.protocol
    return tuple(name for name in rules.baselines if rules.tune and own_numbers(name, study))


def tuned_methods(decision: Mapping[str, Any] | None) -> Tuned:
    """What the phase `tuned` decided, as methods; nothing before it has decided."""
    rows = {name: found["winner"] for name, found in (decision or {}).items()}
    return {name: MethodConfig.model_validate(row["method"]) for name, row in rows.items() if row is not None}


def baselines(study: StudyConfig, tuned: Tuned = AS_PUBLISHED) -> dict[str, MethodConfig]:
    """The study's baselines by name."""
    return {name: tuned[name] if name in tuned else baseline(name, study) for name in study.protocol.baselines}
