"""What `compare` found, as tables between two marks of a page and as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.colors import to_rgb

from divfeat.errors import DataError
from divfeat.objectives import OBJECTIVES
from divfeat.report.figures._canvas import COLOURS, canvas, label, legend, plain, save
from divfeat.stopping.compare import RULES

BEGIN, END = "<!-- early-stopping:begin -->", "<!-- early-stopping:end -->"
_SAID = {"stop": "stop only", "promote": "promotion"}
#: In the figure.
_MARKERS = "osD^v"


def text(found: Mapping[str, Any]) -> str:
    """Tables of all recorded sets as Markdown: what was recorded, how early values rank, and the two rules side by side."""
    parts = []
    for name, one in found["sets"].items():
        unit = OBJECTIVES[one["objective"]]
        points = "points" if unit.unit == "share" else "units"
        end = one["end"]
        parts += [
            f"### {name}",
            "",
            f"{one['trials']} trials of {one['epochs']} epochs ({one['diverged']} more diverged and are left out), "
            f"{unit.short}{unit.suffix}: best {end['best']:.2f}, median {end['median']:.2f}, standard deviation over trials "
            f"{end['sd']:.2f}.",
            "",
            "| after epochs | tau with the end, all trials | tau of the best third there | place there of the best at the end |",
            "| ---: | ---: | ---: | ---: |",
            *(
                f"| {row['epochs']} | {row['all']:.2f} | {row['best_third']:.2f} | {row['place_of_the_best']} |"
                for row in one["ranks"]
            ),
            "",
            sentence(one),
            "",
        ]
        for first_rung in dict.fromkeys(row["first_rung"] for row in one["rows"]):
            parts += [
                f"First rung after {first_rung} epoch{'s' * (first_rung > 1)}; each cell stop only / promotion:",
                "",
                f"| one in | slots | regret ({points}) | worst tenth from | found the best (%) | epochs (%) | wall-clock (%) | "
                "promotion no worse (%) | its value minus the other's |",
                "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
                *(_line(row) for row in one["rows"] if row["first_rung"] == first_rung),
                "",
            ]
    return "\n".join(parts)


def sentence(one: Mapping[str, Any]) -> str:
    """In how many settings of a set promotion spent less, and in how many its winner was no worse."""
    rows = one["rows"]
    shares = [row["promote_minus_stop"]["epochs"] for row in rows]
    fewer, kept = (sum(holds(row) for row in rows) for holds in (spends_less, no_worse))
    both = sum(spends_less(row) and no_worse(row) for row in rows)
    by_promotion, by_stopping = beaten(rows, "stop", "promote"), beaten(rows, "promote", "stop")
    more = [row["stop"]["finished"] / row["promote"]["finished"] for row in rows]
    return (
        f"Promotion trained fewer epochs in {fewer} of {len(rows)} settings ({100 * min(shares):.0f} to "
        f"{100 * max(shares):.0f} % of stop-only's), its winner was no worse in the mean over orders, within two standard "
        f"errors, in {kept}; both at once in {both}. Stop-only trained {min(more):.1f} to {max(more):.1f} times as many trials "
        "to the end. Across settings, with as many slots: "
        f"{by_promotion} of {len(rows)} settings of stop-only are beaten by one of promotion, with fewer epochs and no more "
        f"regret in the mean; {by_stopping} of promotion's by one of stop-only."
    )


def beaten(rows: Sequence[Mapping[str, Any]], rule: str, by: str) -> int:
    """Settings of a rule that some setting of another rule beats, with as many slots: fewer epochs and no more regret."""
    return sum(
        any(
            other["slots"] == row["slots"]
            and other[by]["epochs"] < row[rule]["epochs"]
            and other[by]["regret"] <= row[rule]["regret"]
            for other in rows
        )
        for row in rows
    )


def spends_less(row: Mapping[str, Any]) -> bool:
    """Whether promotion trained fewer epochs in the mean."""
    return bool(row["promote"]["epochs"] < row["stop"]["epochs"])


def no_worse(row: Mapping[str, Any]) -> bool:
    """Whether promotion's winner ends as high in the mean, within two standard errors over the orders."""
    both = row["promote_minus_stop"]
    return bool(both["value"] >= -2 * (both["value_error"] or 0.0))


def _line(row: Mapping[str, Any]) -> str:
    stop, promote, both = row["stop"], row["promote"], row["promote_minus_stop"]

    def pair(field: str, scale: float = 1.0, digits: int = 2) -> str:
        return f"{scale * stop[field]:.{digits}f} / {scale * promote[field]:.{digits}f}"

    error = "" if both["value_error"] is None else f" ± {both['value_error']:.2f}"
    cells = [
        row["reduction"],
        row["slots"],
        pair("regret"),
        pair("regret_high"),
        pair("found_best", 100, 0),
        pair("epochs", 100, 0),
        pair("wall_clock", 100, 0),
        f"{100 * both['no_worse']:.0f}",
        f"{both['value']:+.2f}{error}",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def between(page: str, content: str) -> str:
    """`page` with what stands between the two marks replaced.

    Raises:
        DataError: it has no such marks.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise DataError(f"the page has no pair of marks {BEGIN} and {END}: put them where the tables belong")
    head, rest = page.split(BEGIN)
    return f"{head}{BEGIN}\n\n{content}\n{END}{rest.split(END)[1]}"


def figure(found: Mapping[str, Any], path: Path) -> str:
    """Regret against the epochs that it cost, a point a rule, reduction and number of slots, a panel a set and first rung.

    Returns:
        The caption.
    """
    sets: Sequence[tuple[str, Mapping[str, Any]]] = list(found["sets"].items())
    rungs = list(dict.fromkeys(row["first_rung"] for _, one in sets for row in one["rows"]))
    drawn, axes = canvas(len(rungs), len(sets), width=5.2 * len(sets) + 1.6, height=3.4 * len(rungs))
    for place, (name, one) in enumerate(sets):
        for line, first_rung in enumerate(rungs):
            ax = axes[line, place]
            rows = [row for row in one["rows"] if row["first_rung"] == first_rung]
            for colour, rule in zip(COLOURS, RULES, strict=False):
                for marker, reduction in zip(_MARKERS, dict.fromkeys(row["reduction"] for row in rows), strict=False):
                    some = [row[rule] for row in rows if row["reduction"] == reduction]
                    ax.scatter(
                        [100 * each["epochs"] for each in some],
                        [each["regret"] for each in some],
                        s=30,
                        marker=marker,
                        facecolors=[(*to_rgb(colour), 0.15 + 0.2 * slots) for slots in range(len(some))],
                        edgecolors=colour,
                        label=f"{_SAID[rule]}, one in {reduction}",
                    )
            label(
                ax,
                f"{plain(name)}, first rung after {first_rung}",
                "epochs trained (% of all)",
                "mean regret of the winner",
            )
    legend(axes[0, -1])
    return save(
        drawn,
        path,
        "What the winner lacks to the best of all trials, against the epochs that were trained; means over "
        f"{found['orders']} orders of the trials. The more trials at a time, the fuller the mark.",
    )
