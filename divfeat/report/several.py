"""Several studies beside each other: read once, each under a title that tells it from the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from divfeat.errors import DataError
from divfeat.report.reading import read_summary
from divfeat.report.summary import StudySummary
from divfeat.search.ledger import known_study

Titled = tuple[str, StudySummary]


def read_several(folders: Sequence[str | Path]) -> list[Titled]:
    """The studies in `folders`, in this order, with what to call them.

    Raises:
        DataError: as `read_summary`; a study given twice, or a study and a copy of it.
    """
    found: list[StudySummary] = []
    born: dict[object, Path] = {}
    for folder in folders:
        place = Path(folder).resolve()
        if place in (other.folder for other in found):
            raise DataError(f"{place} is given twice; give each study once")
        summary, created = read_summary(place), known_study(place).get("created")
        if created is not None and (other := born.setdefault((summary.config.identity, created), place)) != place:
            raise DataError(
                f"{place} is a copy of {other} (begun in the same moment, with the same settings): its runs are the same "
                "runs, so nothing would be compared; leave one out"
            )
        found.append(summary)
    return list(zip(_titles(found), found, strict=True))


def _titles(summaries: Sequence[StudySummary]) -> list[str]:
    """The preset; of two studies of one preset their own names, of two of one name also their place among them."""
    presets = [summary.config.preset for summary in summaries]
    names = [s.name if presets.count(preset) > 1 else preset for s, preset in zip(summaries, presets, strict=True)]
    return [
        f"{name} #{names[: place + 1].count(name)}" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]
