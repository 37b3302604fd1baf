"""The thresholds that a study found, as JSON for somebody's own training loop, and the lines that use them there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from divfeat.errors import DataError
from divfeat.files import check_writable, write_json
from divfeat.methods import OF_CONES, method_named, parts_of
from divfeat.report.commands import study_command
from divfeat.report.outcomes import class_rows, winner_family
from divfeat.report.reading import read_summary
from divfeat.report.summary import WINNER, StudySummary

#: Of the file; another number, another layout.
FORMAT = 1

_HEAD = """\
# features [N, D]; labels [N]; axes [D, K]: frozen, a simplex ETF whose columns have length 1
import json, torch
cones = json.load(open({place!r}, encoding="utf-8"))
tau = torch.tensor(cones["tau_plus"])[labels]  # radians
logits, norm = features @ axes, features.detach().norm(dim=1)
"""
_OWN = """\
own = logits.gather(1, labels[:, None])[:, 0]
inside = (tau > 0) & (own > norm * torch.cos(tau))
"""
_LEFT_OUT = """\
loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none").masked_fill(inside, 0.0).mean()
"""
_OTHERS = """\
floor = norm * torch.cos(torch.arccos(torch.tensor(-1 / (logits.shape[1] - 1))) - tau)
logits = torch.where((tau > 0)[:, None], torch.maximum(logits, floor[:, None]), logits)
"""
_CLAMPED = """\
logits = logits.scatter(1, labels[:, None], torch.where(inside, norm * torch.cos(tau), own)[:, None])
"""
_PLAIN = """\
loss = torch.nn.functional.cross_entropy(logits, labels)
"""
#: Way of letting go -> its lines after the head (HingeCE, equations 7 and 8, as `divfeat.losses.hinge` has them).
_LOSS = {
    "none": _PLAIN,
    "gate": _OWN + _LEFT_OUT,
    "paper": _OWN + _CLAMPED + _PLAIN,
    "theorem": _OWN + _OTHERS + _CLAMPED + _PLAIN,
}


def export_thresholds(folder: str | Path, place: Path) -> dict[str, Any]:
    """Write the winner's thresholds as JSON to the file `place`.

    Args:
        folder: Of a study with a frozen winner.
        place: File to write, its folder made where it is missing.

    Returns:
        What was written: `tau_plus` [K] radians in the order of the labels, `classes` with names and training images, the way of
        letting go (`release`, "none" without cones), `open` as shares of the epochs, `besides` (other parts of the loss that the
        winner has, which are no cones), and what produced them.

    Raises:
        DataError: no study there, no winner yet, thresholds that move, or a file that cannot be written.
    """
    content = thresholds_of(read_summary(folder))
    if place.is_dir():
        raise DataError(f"the exported file {place} is a folder; name a file in it")
    check_writable(place.parent, "the exported file's folder")
    write_json(place, content)
    return content


def thresholds_of(summary: StudySummary) -> dict[str, Any]:
    """As `export_thresholds` writes them."""
    method = summary.winner_method
    if summary.winner is None or method is None:
        raise DataError(f"{summary.folder} has no winner yet; run the study to its selection's end")
    family = winner_family(summary)
    if family.moves:
        raise DataError(
            f"the winner of {summary.folder} has thresholds of the family {family.name!r}, which move during training: there are "
            "no angles to export; search another family (search.family)"
        )
    count = len(summary.winner["candidates"])
    chosen = [runs for runs in summary.selected[:count] if runs.method == method]
    rows = class_rows([runs for runs in (summary.confirmed_as(WINNER), *chosen) if runs is not None])
    if not rows:
        raise DataError(f"no run of the winner of {summary.folder} has finished; run the study on")
    parts = parts_of(method)
    coned = method_named(method.name).hinge and any(row["tau_plus"] > 0 for row in rows)
    return {
        "format": FORMAT,
        "unit": "radians",
        "tau_plus": [row["tau_plus"] for row in rows],
        "release": method.release if coned else "none",
        "open": [parts.closed_first, 1.0 - parts.closed_last],
        "family": family.name,
        "angles": dict(method.thresholds.angles),
        "besides": {name: getattr(parts, name) for name in sorted(parts.on) if name not in OF_CONES},
        "classes": [{"class": row["class"], "name": row["name"], "train_images": row["train_images"]} for row in rows],
        "study": summary.name,
        "config_hash": summary.config.identity,
        "command": study_command(summary, where=False),
        "verdict": summary.sentence,
    }


def example(content: Mapping[str, Any], place: Path) -> str:
    """Lines of plain PyTorch that read `place` and make the loss of a batch."""
    lines = _HEAD.format(place=str(place)) + _LOSS[content["release"]]
    first, last = content["open"]
    if content["release"] != "none" and (first, last) != (0.0, 1.0):
        lines += (
            f"# these cones are open from {first:.4g} to {last:.4g} of the epochs; before and after that, tau is 0\n"
        )
    if content["besides"]:
        told = ", ".join(f"{name}={value}" for name, value in content["besides"].items())
        lines += f"# besides its cones the winner has {told}, which these lines leave out\n"
    return lines
