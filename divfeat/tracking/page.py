"""What MLflow's pages show beside runs: links into its UI, descriptions, saved views of the table and the charts.

A saved view is a tag of the experiment in which MLflow's UI keeps filter, order, columns, groups and charts (seen in 3.17; the
menu `Views`). It is the only place on the server for them: without it each browser has its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

NOTE = "mlflow.note.content"
"""Tag that holds a description, Markdown; of an experiment and of a run alike."""

KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Tag that makes an experiment one of trainings, not of language-model applications."""

#: MLflow 3 shows what belongs to language models unless an address asks for trainings.
_TRAINING = "workflowType=machine_learning"
_WIDTHS = {"attributes.`Run Name`": 250}
_WIDTH = 130


@dataclass(frozen=True)
class Place:
    """Where a study is in MLflow; links are relative to the server's root, and the same for `mlflow ui`.

    Attributes:
        experiment: Its id.
        run: Id of the study's run.
    """

    experiment: str
    run: str

    @property
    def study(self) -> str:
        """Page of the study's run."""
        return f"#/experiments/{self.experiment}/runs/{self.run}?{_TRAINING}"

    def artifact(self, path: str) -> str:
        """Preview of one of its files."""
        return f"#/experiments/{self.experiment}/runs/{self.run}/artifacts/{quote(path)}?{_TRAINING}"

    def view(self, key: str, *, charts: bool = False) -> str:
        """The table of runs, or its charts, in a saved view."""
        mode = "&compareRunsMode=CHART" if charts else ""
        return f"#/experiments/{self.experiment}/runs?viewStateShareKey={key}&{_TRAINING}{mode}"


@dataclass(frozen=True)
class View:
    """A saved view.

    Attributes:
        key: Names it in links.
        name: In the menu `Views`.
        search: Filter, as in the search field.
        order: Column it is sorted by, as of `metric`, `param` and `tag`.
        ascending: Smallest first.
        columns: Shown, from left to right.
        charts: As of the functions below; the UI adds one of each metric below them.
        group: Tag by whose values runs are put together, with their means, or None.
        folded: Its values whose runs are not shown one by one at first.
    """

    key: str
    name: str
    search: str
    order: str
    ascending: bool
    columns: Sequence[str]
    charts: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    group: str | None = None
    folded: Sequence[str] = ()

    def tag(self, place: int) -> dict[str, str]:
        """The experiment's tag that saves it, as number `place` of the menu, which shows the newest first."""
        keys = [{"mode": "tag", "groupByData": self.group}]
        state = {
            "searchFilter": self.search,
            "orderByKey": self.order,
            "orderByAsc": self.ascending,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "datasetsFilter": [],
            "modelVersionFilter": "All Runs",
            "selectedColumns": list(self.columns),
            "columnOrder": ["attributes.`Run Name`", *self.columns, "runDateAndNestInfo", "duration"],
            "columnWidths": _WIDTHS | dict.fromkeys(self.columns, _WIDTH),
            "runsHiddenMode": "SHOW_ALL",
            "useGroupedValuesInCharts": True,
            "hideEmptyCharts": True,
            "groupBy": {"aggregateFunction": "average", "groupByKeys": keys} if self.group else None,
            "groupsExpanded": {f"tag.{self.group}.{value}": False for value in self.folded},
            "isAccordionReordered": True,  # ours stays above the sections that the UI makes
            "compareRunSections": [
                {"uuid": self.key, "name": self.name, "display": True, "isReordered": False, "deleted": False}
            ],
            "compareRunCharts": [
                {
                    "uuid": f"{self.key}-{number}",
                    "metricSectionId": self.key,
                    "deleted": False,
                    "isGenerated": False,
                    "runsCountToCompare": 100,
                    **chart,
                }
                for number, chart in enumerate(self.charts)
            ],
        }
        made = 1_000_000 - place
        saved = {"name": self.name, "createdAt": made, "updatedAt": made, "state": json.dumps(state)}
        return {f"mlflow.sharedViewState.{self.key}": json.dumps(saved)}


def metric(name: str) -> str:
    """Column of a metric."""
    return f"metrics.`{name}`"


def param(name: str) -> str:
    """Column of a param."""
    return f"params.`{name}`"


def tag(name: str) -> str:
    """Column of a tag."""
    return f"tags.`{name}`"


def parallel(params: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    """Parallel coordinates; the last metric gives the colours."""
    return {"type": "PARALLEL", "selectedParams": list(params), "selectedMetrics": list(metrics), "showAllRuns": False}


def scatter(x: tuple[str, str], y: tuple[str, str]) -> dict[str, Any]:
    """A point a run; an axis is (`PARAM` or `METRIC`, name)."""
    return {"type": "SCATTER", "xaxis": _axis(x), "yaxis": _axis(y)}


def contour(x: tuple[str, str], y: tuple[str, str], z: tuple[str, str]) -> dict[str, Any]:
    """Levels of `z` over a plane; axes as of `scatter`."""
    return {"type": "CONTOUR", "xaxis": _axis(x), "yaxis": _axis(y), "zaxis": _axis(z)}


def bars(name: str) -> dict[str, Any]:
    """A bar a run, or a group of runs, of a metric without a curve."""
    return {"type": "BAR", "metricKey": name}


def lines(name: str) -> dict[str, Any]:
    """A metric over the epochs, a line a run."""
    return {
        "type": "LINE",
        "metricKey": name,
        "selectedMetricKeys": [name],
        "xAxisKey": "step",
        "lineSmoothness": 0,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "range": {},
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "selectedXAxisMetricKey": "",
    }


def _axis(of: tuple[str, str]) -> dict[str, str]:
    kind, key = of
    return {"key": key, "type": kind}
