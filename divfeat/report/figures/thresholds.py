"""Figures over the cone threshold tau+: accuracy, diversity, and the plane of two thresholds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from divfeat.report.arrays import Floats, mean_sd
from divfeat.report.figures._canvas import (
    COLOURS,
    INK,
    MUTED,
    SHADE,
    Place,
    angle_axis,
    baselines,
    by_seed,
    canvas,
    label,
    legend,
    plain,
    save,
    say_empty,
    seeds_text,
)
from divfeat.statistics import listed

TAU = "cone threshold τ⁺"


def _sorted_grid(tau_plus: ArrayLike, values: ArrayLike) -> tuple[Floats, Floats]:
    degrees = np.degrees(np.asarray(tau_plus, dtype=np.float64).reshape(-1))
    table = by_seed(values, len(degrees))
    order = np.argsort(degrees, kind="stable")
    return degrees[order], table[order]


def _curve(ax: Axes, degrees: Floats, table: Floats, name: str) -> None:
    """Mean with its line, and one faint point a seed where there is more than one."""
    mean, _ = mean_sd(table)
    ax.plot(degrees, mean, "o-", color=COLOURS[0], linewidth=1.8, markersize=5, label=name, zorder=4)
    if table.shape[1] > 1:
        places = np.repeat(degrees, table.shape[1])
        ax.plot(places, table.ravel(), "o", color=COLOURS[0], markersize=3.2, alpha=0.35, markeredgewidth=0, zorder=3,
                label="one seed")  # fmt: skip


def _seeds_caption(table: Floats, references: Iterable[ArrayLike]) -> str:
    """What points, lines and bands are, and over how many seeds."""
    caption = f"Mean and single values over {seeds_text([table])}"
    references = list(references)
    if any(np.isfinite(np.asarray(values, dtype=np.float64)).any() for values in references):
        caption += f"; baselines: mean and one standard deviation over {seeds_text(references)}"
    return f"{caption}."


def accuracy_by_threshold(
    tau_plus: ArrayLike,
    accuracy: ArrayLike,
    path: Place,
    *,
    baseline_accuracy: Mapping[str, ArrayLike] | None = None,
    as_good: tuple[float, float] | None = None,
    as_good_note: str = "",
    method: str = "HingeCE",
    metric: str = "validation accuracy",
) -> str:
    """Accuracy against tau+, as figure 3c of the HingeCE paper, with the as-good-as-the-best range shaded.

    Args:
        tau_plus: [G] radians, any order.
        accuracy: [G, S] or [G] percent; NaN = missing.
        path: PNG to write, or what takes the figure.
        baseline_accuracy: name -> [S] percent, drawn as a line (mean) and band (one sd).
        as_good: first and last threshold of the range, radians; None draws none.
        as_good_note: said in the caption, such as why the range is undetermined.
        method: legend entry of the curve.
        metric: name of the vertical axis, without unit.

    Returns:
        The caption, also printed on the figure.

    Raises:
        ValueError: not one value, or one row of seeds, for each threshold.
    """
    degrees, table = _sorted_grid(tau_plus, accuracy)
    figure, axes = canvas()
    ax = axes[0, 0]
    handles = []
    if as_good is not None:
        low, high = np.degrees(as_good)
        thin = 0.4 * (high - low < 0.8)
        handles.append(
            ax.axvspan(low - thin, high + thin, color=SHADE, alpha=0.13, linewidth=0, label="as good as the best")
        )
    lines = baselines(ax, baseline_accuracy or {})
    if np.isfinite(table).any():
        _curve(ax, degrees, table, plain(method))
    else:
        say_empty(ax)
    curve = [line for line in ax.get_lines() if line not in lines]
    angle_axis(ax, degrees, TAU)
    label(ax, f"{plain(metric)[:1].upper()}{plain(metric)[1:]} against the cone threshold", y=f"{plain(metric)} (%)")
    legend(ax, [*curve, *handles, *lines])
    caption = _seeds_caption(table, (baseline_accuracy or {}).values())
    return save(figure, path, f"{caption} {plain(as_good_note, 300)}".strip())


def diversity_by_threshold(
    tau_plus: ArrayLike,
    nc1: ArrayLike,
    numerical_rank: ArrayLike,
    path: Place,
    *,
    baseline_diversity: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    method: str = "HingeCE",
) -> str:
    """NC1 and numerical rank of the training features against tau+, as figure 4 of the HingeCE paper.

    Args:
        tau_plus: [G] radians.
        nc1: [G, S] or [G]; drawn on a log scale where it spans more than a decade.
        numerical_rank: [G, S] or [G].
        path: PNG to write, or what takes the figure.
        baseline_diversity: name -> (NC1 [S], numerical rank [S]).
        method: legend entry of the curve.

    Returns:
        The caption, also printed on the figure.

    Raises:
        ValueError: not one value, or one row of seeds, for each threshold.
    """
    references = baseline_diversity or {}
    figure, axes = canvas(1, 2, width=9.6, height=4.4)
    both: Floats = np.zeros(())
    for place, (values, name) in enumerate(((nc1, "NC1"), (numerical_rank, "numerical rank"))):
        ax = axes[0, place]
        degrees, table = _sorted_grid(tau_plus, values)
        both = both + table
        shown = table[np.isfinite(table)]
        lines = baselines(ax, {key: pair[place] for key, pair in references.items()})
        if shown.size:
            _curve(ax, degrees, table, plain(method))
            if name == "NC1" and shown.min() > 0 and shown.max() > 10 * shown.min():
                ax.set_yscale("log")
        else:
            say_empty(ax)
        angle_axis(ax, degrees, TAU)
        what = "within-class variability" if place == 0 else "directions a class spans"
        label(ax, f"{name[:1].upper()}{name[1:]}: {what}", y=f"{name} (no unit)")
        if place == 1:
            legend(ax, [line for line in ax.get_lines() if line not in lines] + lines)
    caption = _seeds_caption(both, [np.add(*map(np.asarray, pair)) for pair in references.values()])
    return save(figure, path, f"Training features; larger means more diverse. {caption}")


def two_thresholds(
    tau_first: ArrayLike,
    tau_second: ArrayLike,
    objective: ArrayLike,
    path: Place,
    *,
    names: tuple[str, str] = ("τ⁺ of major classes", "τ⁺ of minor classes"),
    metric: str = "validation accuracy",
    margin: float = 0.5,
    infeasible: ArrayLike | None = None,
    suffix: str = " (%)",
    minimize: bool = False,
    besides: Sequence[str] = (),
) -> str:
    """The objective over the plane of two thresholds (as those of `major_minor`): trials, contours, the best.

    Args:
        tau_first: [T] radians, horizontal.
        tau_second: [T] radians, vertical.
        objective: [T]; NaN = failed or pruned, drawn as a cross.
        path: PNG to write, or what takes the figure.
        names: of the two thresholds.
        metric: what the colour shows.
        margin: within which the caption counts a trial as near the best.
        infeasible: bool [T], finished trials that break a constraint: ringed, and never the best; None: there are none.
        suffix: its unit.
        minimize: whether less of it is what the search looks for.
        besides: other numbers in which trials differ; then nothing is interpolated between them.

    Returns:
        The caption, also printed on the figure.
    """
    x, y = (np.degrees(np.asarray(values, dtype=np.float64).reshape(-1)) for values in (tau_first, tau_second))
    z = np.asarray(objective, dtype=np.float64).reshape(-1)
    placed = np.isfinite(x) & np.isfinite(y)
    done = placed & np.isfinite(z)
    broken = done & (np.zeros(len(z), dtype=bool) if infeasible is None else np.asarray(infeasible, dtype=bool))
    rivals = done & ~broken
    found = ""
    figure, axes = canvas(width=7.0, height=5.6)
    ax = axes[0, 0]
    handles, between = [], False
    if done.any():
        # Colours run over the better nine tenths: one collapsed trial would otherwise leave the rest in one shade.
        low, high = (
            (float(z[done].min()), float(np.quantile(z[done], 0.9)))
            if minimize
            else (float(np.quantile(z[done], 0.1)), float(z[done].max()))
        )
        flat = 0.5 * (high <= low)
        colours = {"cmap": "cividis", "vmin": low - flat, "vmax": high + flat}
        if not besides and done.sum() >= 12 and np.ptp(x[done]) > 1 and np.ptp(y[done]) > 1:
            between = _contours(ax, x[done], y[done], z[done].clip(low, high), colours)
        points = ax.scatter(x[done], y[done], c=z[done], s=46, edgecolors="white", linewidths=0.8, zorder=3, **colours)
        cut = (
            ("max" if z[done].max() > high else "neither")
            if minimize
            else ("min" if z[done].min() < low else "neither")
        )
        bar = figure.colorbar(points, ax=ax, pad=0.03, extend=cut)
        bar.set_label(f"{plain(metric)}{suffix}", fontsize=10)
        bar.ax.tick_params(labelsize=9)
    if rivals.any():
        best = int(np.flatnonzero(rivals)[(-z if minimize else z)[rivals].argmax()])
        near = rivals & (np.abs(z - z[best]) <= margin)
        value, unit = (f"{z[best]:.1f} %", " points") if suffix else (f"{z[best]:.4g}", "")
        found = (
            f"Best: {value} at {x[best]:.0f}° and {y[best]:.0f}°; {int(near.sum())} of {int(rivals.sum())} trials lie "
            f"within {margin:g}{unit} of it, at {_span(x[near])} and {_span(y[near])}. "
        )
        handles += ax.plot(x[best], y[best], "*", color=COLOURS[1], markersize=17, markeredgecolor="white", zorder=5,
                           label=f"best: {x[best]:.0f}° and {y[best]:.0f}°, {z[best]:.1f}")  # fmt: skip
    if broken.any():
        handles += ax.plot(x[broken], y[broken], "o", color=INK, markersize=10, markerfacecolor="none", markeredgewidth=1.1,
                           zorder=4, label="breaks a constraint")  # fmt: skip
    if not done.any():
        say_empty(ax, "no finished trial")
    if (placed & ~done).any():
        missing = placed & ~done
        handles += ax.plot(x[missing], y[missing], "x", color=MUTED, markersize=6, zorder=3, label="failed or pruned")
    angle_axis(ax, x, plain(names[0]))
    angle_axis(ax, y, plain(names[1]), axis="y")
    label(ax, f"{plain(metric)[:1].upper()}{plain(metric)[1:]} over two thresholds")
    if handles:
        legend(ax, handles, columns=2, loc="upper left", bbox_to_anchor=(0.0, -0.14))
    count = int(done.sum())
    trials = f"{count} finished trial{'s' * (count != 1)}, one seed each"
    if between:
        trials += "; contours interpolate between trials"
    if besides:
        trials += f"; they differ in {listed([plain(name) for name in besides])} too"
    return save(figure, path, f"{found}{trials}.")


def _span(degrees: Floats) -> str:
    """'37° to 49°', '40°'."""
    low, high = (f"{value:.0f}°" for value in (degrees.min(), degrees.max()))
    return low if low == high else f"{low} to {high}"


def _contours(ax: Axes, x: Floats, y: Floats, z: Floats, colours: dict) -> bool:
    """Whether there was a triangle to interpolate over: not where all trials lie on one line."""
    try:
        ax.tricontourf(x, y, z, levels=10, alpha=0.35, **colours)
    except (RuntimeError, ValueError):
        return False
    return True
