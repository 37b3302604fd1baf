"""The table of all benchmarks: `python -m benchmarks.table` rewrites it in docs/benchmarks.md, from results/benchmarks."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.rows import read_rows
from divfeat.files import write_text

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
_HEAD = (
    "| what | divfeat | peer | divfeat's median | peer's median | ratio [smallest, largest pair] | goal |",
    "| :--- | :--- | :--- | ---: | ---: | ---: | :--- |",
)


def line(row: Mapping[str, Any]) -> str:
    """One row of a table."""
    low, high = row["ratio_range"]
    sign = "x" if row["sense"] == "times" else ""
    return (
        f"| {row['what']} | {row['ours']} | {row['peer']} | {row['median_ours']:.3g} {row['unit']} | "
        f"{row['median_peer']:.3g} {row['unit']} | {row['ratio']:.3g}{sign} [{low:.3g}, {high:.3g}] | {_goal(row)} |"
    )


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


def between(page: str, content: str) -> str:
    """`page` with what stands between the two marks replaced."""
    head, rest = page.split(BEGIN)
    return f"{head}{BEGIN}\n\n{content}\n{END}{rest.split(END)[1]}"


def main() -> int:
    """Rewrite the page; returns the exit code."""
    write_text(PAGE, between(PAGE.read_text(encoding="utf-8"), text(read_rows())))
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
