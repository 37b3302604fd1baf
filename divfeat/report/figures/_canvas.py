"""The look that all figures share: Agg canvas, colours, angle axes, text that a hostile name cannot break."""

from __future__ import annotations

import math
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from divfeat.report.arrays import Floats, mean_sd
from divfeat.report.words import fraction_of_pi

#: Okabe and Ito (2008), told apart by every common form of colour blindness; yellow left out, too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES: tuple[Any, ...] = ("--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 3)))
#: Colour and marker of each way of letting go of a sample.
RELEASES = {"paper": (COLOURS[0], "o"), "theorem": (COLOURS[1], "s"), "gate": (COLOURS[2], "^")}
INK, MUTED = "#222222", "#6b6b6b"
#: The colour of the curve it shades; the others are baselines'.
SHADE = COLOURS[0]
DOTS_PER_INCH = 150

#: Where a figure goes: the PNG to write, or what takes the figure itself.
Place = str | Path | Callable[[Figure], object]


class Picture(Figure):
    """A figure that a notebook shows as the report has it, with or without pyplot's inline backend."""

    def _repr_png_(self) -> bytes:
        held = BytesIO()
        self.savefig(held, dpi=DOTS_PER_INCH, format="png")
        return held.getvalue()


def plain(text: object, limit: int = 48) -> str:
    """Text for a figure: one line, no control characters, no mathtext, not hidden from a legend, shortened."""
    line = " ".join(str(text).split())
    line = "".join(c for c in line if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn"))
    if len(line) > limit:
        line = line[: limit - 1].rstrip() + "…"
    line = line.replace("$", r"\$")
    return f" {line}" if line.startswith("_") else line  # matplotlib leaves labels with a leading "_" out


def canvas(
    rows: int = 1, columns: int = 1, *, width: float = 7.0, height: float = 4.6, **grid: Any
) -> tuple[Figure, Any]:
    """A figure of width x height inches on its own Agg canvas (no pyplot, no global state); its axes, [rows, columns]."""
    figure = Picture(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **grid)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, color="#e6e6e6", linewidth=0.7)
        ax.set_axisbelow(True)
        ax.tick_params(labelsize=9, colors=INK)
    return figure, axes


def label(ax: Axes, title: str = "", x: str = "", y: str = "") -> None:
    """Title (wrapped) and axis labels."""
    if title:
        columns = int(ax.get_window_extent().width / DOTS_PER_INCH * 13)
        ax.set_title(textwrap.fill(title, max(columns, 24)), fontsize=11, loc="left", color=INK)
    if x:
        ax.set_xlabel(x, fontsize=10)
    if y:
        ax.set_ylabel(y, fontsize=10)


def save(figure: Figure, path: Place, caption: str) -> str:
    """Write the PNG with the caption in small print below, or hand the figure over, and return the caption."""
    columns = int(figure.get_figwidth() * 16)
    figure.supxlabel(textwrap.fill(caption, columns), x=0.01, ha="left", fontsize=8, color=MUTED)
    if callable(path):
        path(figure)
    else:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DOTS_PER_INCH, format="png")
    return caption.replace(r"\$", "$")


def say_empty(ax: Axes, reason: str = "no finite value to show") -> None:
    """Words in place of data."""
    ax.text(0.5, 0.5, reason, transform=ax.transAxes, ha="center", va="center", color=MUTED, fontsize=10, wrap=True)


def size_of(ax: Axes) -> Floats:
    """Width and height of the axes in points of 1/72 inch, as what is drawn so far leaves them."""
    ax.get_figure(root=True).draw_without_rendering()  # type: ignore[union-attr]
    box = ax.get_window_extent()
    return np.array([box.width, box.height]) * 72 / DOTS_PER_INCH


def legend(ax: Axes, handles: Sequence[Any] | None = None, *, columns: int = 1, **where: Any) -> None:
    """A legend where there is something to name; by default right of the axes, so that it never covers data."""
    if handles is None:
        handles = [h for h, text in zip(*ax.get_legend_handles_labels(), strict=True) if text]
    if handles:
        where = where or {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}
        ax.legend(
            handles, [str(h.get_label()) for h in handles], fontsize=8.5, frameon=False, ncols=columns,
            borderaxespad=0.0, **where,
        )  # fmt: skip


def seeds_text(tables: Iterable[ArrayLike], what: str = "value") -> str:
    """ "5 seeds", or "3 to 5 seeds, 2 values missing": the finite values in the rows ([..., S]) that have any."""
    known = [np.isfinite(row) for table in tables for row in np.atleast_2d(np.asarray(table, dtype=np.float64))]
    found = sorted({int(row.sum()) for row in known if row.any()}) or [0]
    low, high = found[0], found[-1]
    text = f"{high} seed{'s' * (high != 1)}" if low == high else f"{low} to {high} seeds"
    missing = sum(int((~row).sum()) for row in known)
    return f"{text}, {missing} {what}{'s' * (missing != 1)} missing" if missing else text


def by_seed(values: ArrayLike, length: int) -> Floats:
    """[G] or [G, S] -> [G, S] floats.

    Raises:
        ValueError: G is not `length`, or there are more dimensions.
    """
    table = np.asarray(values, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or len(table) != length:
        raise ValueError(f"values of shape {table.shape} for {length} points: give [points] or [points, seeds]")
    return table


def baselines(ax: Axes, scores: Mapping[str, ArrayLike]) -> list[Line2D]:
    """Horizontal line (mean) and band (one sd over seeds) for each baseline; returns the legend's handles."""
    handles = []
    for place, (name, values) in enumerate(scores.items()):
        mean, sd = mean_sd(np.atleast_1d(np.asarray(values, dtype=np.float64)))
        if not np.isfinite(mean):
            continue
        colour = COLOURS[1 + place % (len(COLOURS) - 1)]
        dash = DASHES[place % len(DASHES)]
        if sd > 0:
            ax.axhspan(float(mean - sd), float(mean + sd), color=colour, alpha=0.08, linewidth=0)
        handles.append(ax.axhline(float(mean), color=colour, linestyle=dash, linewidth=1.5, label=plain(name)))
    return handles


def angle_axis(ax: Axes, degrees: Floats, name: str, *, axis: str = "x") -> None:
    """Ticks in degrees at round fractions of pi, and the fractions themselves on the opposite side."""
    finite = degrees[np.isfinite(degrees)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 85.0)
    pad = max(0.04 * (high - low), 1.0) if high > low else 6.0  # one angle still gets a round tick beside it
    step = next((s for s in (5, 10, 15, 30, 45) if (high - low) / s <= 7), 60)
    ticks = np.arange(math.ceil((low - pad) / step), math.floor((high + pad) / step) + 1) * step
    ticks = ticks[ticks >= 0]
    limits = (low - pad, high + pad)
    (ax.set_xlim if axis == "x" else ax.set_ylim)(*limits)
    (ax.set_xticks if axis == "x" else ax.set_yticks)(ticks)
    (ax.set_xlabel if axis == "x" else ax.set_ylabel)(f"{name} (degrees)", fontsize=10)
    second = ax.secondary_xaxis("top") if axis == "x" else ax.secondary_yaxis("right")
    places = [fraction_of_pi(math.radians(tick)) for tick in ticks]
    (second.set_xticks if axis == "x" else second.set_yticks)(ticks, places)
    (second.set_xlabel if axis == "x" else second.set_ylabel)("fraction of π", fontsize=8.5, color=MUTED)
    second.tick_params(labelsize=8.5, colors=MUTED)
    second.spines[:].set_color("#bbbbbb")


def frame(ax: Axes, finished: Floats) -> None:
    """Start the axis at most three quartile ranges below the bulk: a few collapsed trials would flatten all others."""
    middle, upper = np.quantile(finished, [0.25, 0.75])
    top = float(finished.max())
    low = max(float(finished.min()), float(middle - 3 * max(upper - middle, 0.02 * abs(top), 1e-6)))
    pad = 0.08 * (top - low) or max(abs(top) * 0.02, 0.5)
    ax.set_ylim(low - 1.5 * pad, top + pad)
