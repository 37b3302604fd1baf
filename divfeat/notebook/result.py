"""What a study found, as one object: tables, figures, winner and verdict."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from divfeat.config import MethodConfig
from divfeat.errors import ConfigError, unknown
from divfeat.methods import method_named
from divfeat.notebook import tables
from divfeat.report.build import threshold_lines
from divfeat.report.commands import mlflow_server, tracking_uri
from divfeat.report.document import Block, Code, Heading, Paragraph, blocks_to_html, blocks_to_markdown
from divfeat.report.export import export_thresholds, thresholds_of
from divfeat.report.findings import comparisons
from divfeat.report.group_words import thresholds_answer
from divfeat.report.outcomes import winner_angles, winner_family
from divfeat.report.plots import applicable
from divfeat.report.reading import read_summary
from divfeat.report.summary import StudySummary
from divfeat.search.ledger import Ledger
from divfeat.study_config import ExecutionConfig, StudyConfig
from divfeat.thresholds import Number

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Winner:
    """What won on validation.

    Attributes:
        name: What people call it, such as `gate 57.9/0.7 deg`.
        method: Its configuration.
        release: Its way of letting go, "none" where no class has a cone.
        family: Of its thresholds.
        parameters: The family's numbers by name: radians where they are angles or offsets, plain where they have no unit.
        radians: Those of them that are angles or offsets.
        degrees: The same in degrees.
        key: Of its trial's experiment.
        number: Of its trial.
    """

    name: str
    method: MethodConfig = field(repr=False)
    release: str
    family: str
    parameters: Mapping[str, float]
    radians: Mapping[str, float]
    degrees: Mapping[str, float]
    key: str
    number: int


class Figures(Mapping[str, "Figure"]):
    """The report's figures by name, each drawn anew when it is asked for."""

    def __init__(self, summary: StudySummary) -> None:
        self._drawn = {name: draw for name, _, draw in applicable(summary)}

    def __getitem__(self, name: str) -> Figure:
        taken: list[Figure] = []
        self._drawn[name](taken.append)
        return taken[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._drawn)

    def __len__(self) -> int:
        return len(self._drawn)

    def __repr__(self) -> str:
        return f"figures: {', '.join(self) or 'none'}"


class StudyResult:
    """A study as it stood when it was read; frames and figures are made from its folder when they are asked for.

    Args:
        summary: What its report says.

    Attributes:
        summary: The same, with everything that has no name here.
    """

    def __init__(self, summary: StudySummary) -> None:
        self.summary = summary

    # --- the study -----------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Of the study, its folder and its MLflow experiment."""
        return self.summary.name

    @property
    def folder(self) -> Path:
        """Of the study."""
        return self.summary.folder

    @property
    def config(self) -> StudyConfig:
        """What makes the study this one."""
        return self.summary.config

    @property
    def execution(self) -> ExecutionConfig:
        """How it was last run."""
        return self.summary.execution

    @property
    def report(self) -> Path | None:
        """The report to open in a browser; `report.md` and the figures lie beside it. None before one was written."""
        path = self.folder / "report" / "report.html"
        return path if path.is_file() else None

    @property
    def mlflow_uri(self) -> str:
        """For `mlflow.set_tracking_uri`; without a password."""
        return tracking_uri(self.summary)

    @property
    def model_uri(self) -> str | None:
        """Of the winner's registered feature extractor, for `mlflow.pyfunc.load_model`: uint8 [N, C, H, W] -> float32 [N, D].

        None where none is registered.
        """
        found = self.summary.registered
        return None if found is None else f"models:/{found['model']}/{found['version']}"

    # --- what was found --------------------------------------------------------------------------------------------------

    @property
    def verdict(self) -> str:
        """On the primary objective, in a sentence; it says so where there is none yet."""
        return self.summary.sentence

    @property
    def answers(self) -> list[str]:
        """What thresholds do to groups of classes, in sentences; none where the classes form no groups."""
        return thresholds_answer(self.summary)

    @property
    def winner(self) -> Winner | None:
        """None before one is frozen."""
        method = self.summary.winner_method
        if self.summary.winner is None or method is None:
            return None
        row, family = self.summary.winner["winner"], winner_family(self.summary)
        found = winner_angles(self.summary)
        radians = {name: value for name, value in found.items() if not isinstance(family.other(name), Number)}
        return Winner(
            name=str(row["name"]),
            method=method,
            release=method.release if method_named(method.name).hinge else "none",
            family=family.name,
            parameters=found,
            radians=radians,
            degrees={name: math.degrees(value) for name, value in radians.items()},
            key=str(row["key"]),
            number=int(row["number"]),
        )

    @property
    def thresholds(self) -> pd.DataFrame:
        """A row a trained class: its name, training images, and the winner's `tau_plus` in radians and `degrees`.

        Raises:
            DataError: no winner yet, or thresholds that move during training.
        """
        import pandas as pd

        found = thresholds_of(self.summary)
        frame = pd.DataFrame(found["classes"]).set_index("class")
        frame["tau_plus"] = [float(value) for value in found["tau_plus"]]
        frame["degrees"] = [math.degrees(value) for value in found["tau_plus"]]
        return frame

    def export(self, place: str | Path) -> dict[str, Any]:
        """Write the winner's thresholds as JSON, radians, for another training loop: see `export_thresholds`."""
        return export_thresholds(self.folder, Path(place))

    # --- frames ------------------------------------------------------------------------------------------------------------

    @property
    def trials(self) -> pd.DataFrame:
        """See `tables.trials`: shares in [0, 1], angles in radians."""
        return tables.trials(self.summary)

    @property
    def runs(self) -> pd.DataFrame:
        """See `tables.runs`: every experiment of every phase."""
        return tables.runs(self.summary)

    @property
    def confirmation(self) -> pd.DataFrame:
        """See `tables.confirmation`: winner and baselines, seed by seed."""
        return tables.confirmation(self.summary)

    @property
    def differences(self) -> pd.DataFrame:
        """See `tables.differences`: winner minus baseline with intervals and verdicts, in points."""
        return tables.differences(self.summary)

    @property
    def paired(self) -> pd.DataFrame:
        """See `tables.paired`: the differences seed by seed."""
        return tables.paired(self.summary)

    @property
    def group_differences(self) -> pd.DataFrame:
        """See `tables.group_differences`: by groups of classes, in points."""
        return tables.group_differences(self.summary)

    @property
    def classes(self) -> pd.DataFrame:
        """See `tables.classes`: each class in each run of the confirmation."""
        return tables.classes(self.summary)

    def epochs(self, keys: Iterable[str] | None = None) -> pd.DataFrame:
        """Curves over epochs, 0-based: see `tables.epochs`.

        Args:
            keys: Of runs, such as `result.trials["key"]`; None takes every run of the study.
        """
        return tables.epochs(self.summary, Ledger(self.folder).started() if keys is None else keys)

    # --- figures -------------------------------------------------------------------------------------------------------------

    @property
    def figures(self) -> Figures:
        """The report's figures by name."""
        return Figures(self.summary)

    def figure(self, name: str) -> Figure:
        """One of them.

        Raises:
            ConfigError: the study has no such figure; the message lists those it has.
        """
        found = self.figures
        if name not in found:
            raise ConfigError(unknown("figure", name, found))
        return found[name]

    # --- shown ---------------------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"study {self.name}: {self.verdict}"

    def _repr_html_(self) -> str:
        return blocks_to_html(self._blocks())

    def _repr_markdown_(self) -> str:
        return blocks_to_markdown(self._blocks())

    def _blocks(self) -> list[Block]:
        """Verdict, a table an objective, thresholds, where the rest is."""
        summary = self.summary
        blocks: list[Block] = [Heading(f"Study {self.name}", 4), Paragraph(self.verdict)]
        for place, objective in enumerate(summary.objectives):
            if place:
                blocks.append(Paragraph(objective.verdict.sentence))
            blocks.append(comparisons(objective))
        said = (*self.answers, *threshold_lines(summary), *summary.missing)
        blocks += [Paragraph(line.strip()) for line in said]
        blocks.append(Code("\n".join(self._places())))
        return blocks

    def _places(self) -> Iterator[str]:
        """Where the rest is, seen from the kernel's folder: that is how a notebook opens files, and where it can be shown."""
        if self.report is not None:
            yield f"report  {os.path.relpath(self.report)}"
        database = f"sqlite:///{os.path.relpath(self.folder / 'mlflow.db')}"
        yield f"MLflow  {mlflow_server(self.summary) or shlex.join(['mlflow', 'ui', '--backend-store-uri', database])}"


def open_study(folder: str | Path) -> StudyResult:
    """The study in `folder`, finished, stopped or running, whoever runs it; nothing is run and nothing written.

    Raises:
        DataError: no study there, or one that cannot be read.
    """
    return StudyResult(read_summary(folder))
