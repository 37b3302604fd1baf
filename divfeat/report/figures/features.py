"""Features of three classes on the plane through their means (Müller, Kornblith and Hinton, 2019)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from numpy.typing import ArrayLike

from divfeat.report.arrays import Floats
from divfeat.report.figures._canvas import COLOURS, MUTED, Place, canvas, label, plain, save, say_empty

MARKERS = ("o", "^", "s", "D", "v")
#: Fine classes drawn in each coarse one, one marker each, and images drawn of each fine class.
MOST_FINE, MOST_IMAGES = len(MARKERS), 80


def plane_coordinates(features: ArrayLike, labels: ArrayLike, classes: Sequence[int]) -> Floats:
    """Coordinates on the plane through three class means ("When does label smoothing help?", section 2).

    The plane's basis is orthonormal, so distances within it are those of the features, divided by the mean distance
    between the three projected means: 1 is that distance, and plots of features of any norm can be laid side by side.
    The origin is the middle of the three means, the first of them points up, the second lies to its right.

    Args:
        features: [N, D].
        labels: [N] coarse classes.
        classes: the three to go through.

    Returns:
        [N, 2]; collapsed or collinear means leave a plane of which part is arbitrary, and a scale of 1 at worst.

    Raises:
        ValueError: a class has no sample, or the shapes do not fit.
    """
    points, owner = np.asarray(features, dtype=np.float64), np.asarray(labels)
    if points.ndim != 2 or owner.shape != points.shape[:1] or len(classes) != 3:
        raise ValueError(f"features {points.shape}, labels {owner.shape}, {len(classes)} classes: give [N, D], [N], 3")
    if missing := [c for c in classes if not (owner == c).any()]:
        raise ValueError(f"class {missing[0]} has no sample; choose classes that occur")
    means = np.stack([points[owner == c].mean(axis=0) for c in classes])
    # SVD, unlike Gram-Schmidt, gives an orthonormal pair also where the means coincide.
    _, _, rows = np.linalg.svd(means - means.mean(axis=0), full_matrices=True)
    basis = np.zeros((points.shape[1], 2))
    basis[:, : min(2, len(rows))] = rows[:2].T
    centre = means.mean(axis=0)
    flat, corner = (points - centre) @ basis, (means - centre) @ basis
    sides = np.linalg.norm(corner - np.roll(corner, 1, axis=0), axis=1)
    scale = float(sides.mean()) or 1.0
    turn = math.pi / 2 - math.atan2(corner[0, 1], corner[0, 0])
    rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    flat, corner = flat @ rotation / scale, corner @ rotation / scale
    return flat * np.array([-1.0 if corner[1, 0] < 0 else 1.0, 1.0])


def feature_projection(
    panels: Mapping[str, Mapping[str, ArrayLike]],
    path: Place,
    *,
    coarse_names: Mapping[int, str] | None = None,
    fine_names: Mapping[int, str] | None = None,
) -> str:
    """Three coarse classes, coloured by fine class, one panel a method (figures 1 and 6 of the HingeCE paper).

    The three are those with most samples in the first panel.

    Args:
        panels: method -> {"features": [N, D], "coarse": [N], "fine": [N]}.
        path: PNG to write, or what takes the figure.
        coarse_names: class -> name; a class without one is drawn by its number.
        fine_names: class -> name, likewise.

    Returns:
        The caption, also printed on the figure.
    """
    count = max(len(panels), 1)
    figure, axes = canvas(1, count, width=4.7 * count + 1.6, height=5.6)
    handles: list[Line2D] = []
    classes: list[int] = []
    for first in list(panels.values())[:1]:
        found, sizes = np.unique(np.asarray(first["coarse"]), return_counts=True)
        classes = sorted(found[np.argsort(-sizes, kind="stable")][:3].tolist())
    corners: list[Floats] = []
    for ax, (name, panel) in zip(axes[0], panels.items(), strict=False):
        features, coarse, fine = (np.asarray(panel[key]) for key in ("features", "coarse", "fine"))
        kept = np.isfinite(features.astype(np.float64)).all(axis=1) & np.isin(coarse, classes)
        features, coarse, fine = features[kept], coarse[kept], fine[kept]
        label(ax, plain(name, 60))
        ax.set_aspect("equal", adjustable="datalim")
        if len(np.unique(coarse)) < 3:
            say_empty(ax, "needs finite features\nof three coarse classes")
            continue
        flat = plane_coordinates(features, coarse, classes)
        handles = []
        for hue, group in enumerate(classes):
            mine = flat[coarse == group]
            middle = mine.mean(axis=0)
            radius = float(np.quantile(np.linalg.norm(mine - middle, axis=1), 0.95))
            ax.add_patch(
                Circle(tuple(middle), radius, fill=False, linestyle="--", color=MUTED, linewidth=1.0, zorder=4)
            )
            title = plain((coarse_names or {}).get(group, f"class {group}"), 24)
            way = middle / (np.linalg.norm(middle) or 1.0)
            anchor = middle + np.array([0.0, (radius + 0.09) * (1 if way[1] > 0.3 else -1)])
            ax.text(*anchor, title, ha="center", va="center", fontsize=9.5, weight="bold", color=COLOURS[hue], zorder=6)
            corners += [
                mine.min(axis=0),
                mine.max(axis=0),
                middle - radius,
                middle + radius,
                anchor - 0.1,
                anchor + 0.1,
            ]
            members = np.unique(fine[coarse == group])[:MOST_FINE]
            for shade, member in enumerate(members):
                drawn = _spread(flat[(coarse == group) & (fine == member)], MOST_IMAGES)
                colour, marker = _tint(COLOURS[hue], shade, len(members)), MARKERS[shade % len(MARKERS)]
                text = plain((fine_names or {}).get(int(member), f"fine class {member}"), 24)
                ax.scatter(*drawn.T, s=15, color=[colour], marker=marker, linewidths=0.3, edgecolors="white", alpha=0.8)
                handles.append(Line2D([], [], color=colour, marker=marker, linestyle="", markersize=5, label=text))
    for ax in axes[0]:
        if corners:  # the same room in every panel
            ax.update_datalim(corners)
            ax.autoscale_view()
        ax.locator_params(nbins=5)
        label(ax, x="first direction (1 = between class means)")
    label(axes[0, 0], y="second direction (same unit)")
    if handles:
        figure.legend(handles=handles, loc="outside right upper", fontsize=8, frameon=False)
    caption = (
        "Plane through the means of three coarse classes (Müller, Kornblith and Hinton, 2019); shade and marker: fine "
        f"class; at most {MOST_IMAGES} images of up to {MOST_FINE} fine classes each; dashed circle: 95 % of all images of the "
        "coarse class. One seed."
    )
    return save(figure, path, caption)


def _spread(points: Floats, most: int) -> Floats:
    """At most that many rows, evenly spaced through the order they came in."""
    return points if len(points) <= most else points[np.linspace(0, len(points) - 1, most).astype(int)]


def _tint(colour: str, shade: int, shades: int) -> tuple[float, float, float]:
    """One hue from dark to pale."""
    place = 2 * shade / (shades - 1) if shades > 1 else 1.0
    red, green, blue = (
        0.5 * part + 0.5 * part * place if place <= 1 else part + 0.55 * (1 - part) * (place - 1)
        for part in to_rgb(colour)
    )
    return red, green, blue
