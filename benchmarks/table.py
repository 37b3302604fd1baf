"""The tables of benchmarks, from results/benchmarks: `python -m benchmarks.table` rewrites them all in docs/benchmarks.md, and
one of the rows that do worst against their goals in README.md."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.rows import read_rows
from divfeat.files import write_text

_ROOT = Path(__file__).resolve().parents[1]
PAGE, README = _ROOT / "docs" / "benchmarks.md", _ROOT / "README.md"
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
_HEAD = (
    "| what | divfeat | peer | divfeat's median | peer's median | ratio [smallest, largest pair] | goal |",
    "| :--- | :--- | :--- | ---: | ---: | ---: | :--- |",
)


def line(row: Mapping[str, Any]) -> str:
    """One row of a table."""
    return (
        f"| {row['what']} | {row['ours']} | {row['peer']} | {row['median_ours']:.3g} {row['unit']} | "
        f"{row['median_peer']:.3g} {row['unit']} | {_ratio(row)} | {_goal(row)} |"
    )


def _ratio(row: Mapping[str, Any]) -> str:
    """The median of the pairs, and the smallest and largest of them."""
    low, high = row["ratio_range"]
    return f"{row['ratio']:.3g}{'x' if row['sense'] == 'times' else ''} [{low:.3g}, {high:.3g}]"


def _goal(row: Mapping[str, Any]) -> str:
    """What was promised, and whether it was kept."""
    wanted = []
    if row["goal"] is not None:
        wanted.append(f"≥ {row['goal']:g}x" if row["sense"] == "times" else f"≤ {row['goal']:g}")
    if row["most"] is not None:
        wanted.append(f"≤ {row['most']:g} {row['unit']}")
    return f"{', '.join(wanted)}: {'met' if row['met'] else '**missed**'}" if wanted else "none set"


def about(found: Mapping[str, Any]) -> str:
    """Where a benchmark was measured, in a sentence."""
    machine = found["machine"]
    place = f"{machine['gpu']}, " if machine["gpu"] else ""
    return (
        f"`{found['command']}`, {max(len(row['pairs']) for row in found['rows'])} pairs: {place}{machine['processor']}, "
        f"{machine['cores']} cores, {machine['memory_gib']:.0f} GiB, load {machine['load_before']:.1f} before; PyTorch "
        f"{found['versions']['torch']}, commit {found['commit'][:10]}{'-dirty' if found['commit'].endswith('-dirty') else ''}."
    )


def text(benchmarks: Sequence[Mapping[str, Any]]) -> str:
    """All tables, one a benchmark, as Markdown."""
    parts = []
    for found in benchmarks:
        title = found["benchmark"] + (" (GPU)" if found["machine"]["gpu"] else "")
        parts += [f"### {title}", "", *_HEAD, *map(line, found["rows"]), "", about(found), ""]
    return "\n".join(parts)


def worst(found: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Of a benchmark the row furthest below its goal, or least above it; None where none was set."""

    def kept(row: Mapping[str, Any]) -> float:
        if row["goal"] is None:
            return float(row["most"] / row["median_ours"])
        if row["sense"] == "times":
            return float(row["ratio"] / row["goal"])
        return float(row["goal"] / row["ratio"]) if row["ratio"] else math.inf

    promised = [row for row in found["rows"] if row["met"] is not None]
    return min(promised, key=kept) if promised else None


def summary(benchmarks: Sequence[Mapping[str, Any]]) -> str:
    """A row a benchmark: the one that does worst against its goal, and how many of its goals were met."""
    lines = ["| benchmark: worst row | beside | ratio [smallest, largest pair] | goal | goals met |"]
    lines += ["| :--- | :--- | ---: | :--- | ---: |"]
    for found in benchmarks:
        row = worst(found)
        if row is None:
            continue
        goals = [each["met"] for each in found["rows"] if each["met"] is not None]
        name = found["benchmark"] + (" (GPU)" if found["machine"]["gpu"] else "")
        value = _ratio(row) if row["goal"] is not None else f"{row['median_ours']:.3g} {row['unit']}"
        lines.append(
            f"| `{name}`: {row['what']}, {row['ours']} | {row['peer']} | {value} | {_goal(row)} | "
            f"{sum(goals)} of {len(goals)} |"
        )
    places = {f"{found['machine']['processor']}, {found['machine']['cores']} cores" for found in benchmarks}
    return "\n".join(
        [
            *lines,
            "",
            f"*Medians of pairs; {'; '.join(sorted(places))}; commits and all rows in [benchmarks](docs/benchmarks.md).*",
            "",
        ]
    )


def between(page: str, content: str) -> str:
    """`page` with what stands between the two marks replaced."""
    head, rest = page.split(BEGIN)
    return f"{head}{BEGIN}\n\n{content}\n{END}{rest.split(END)[1]}"


def main() -> int:
    """Rewrite both pages; returns the exit code."""
    rows = read_rows()
    for page, content in ((PAGE, text(rows)), (README, summary(rows))):
        write_text(page, between(page.read_text(encoding="utf-8"), content))
        print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
