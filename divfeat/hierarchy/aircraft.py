"""FGVC-Aircraft's tree: variants in families of manufacturers, from the annotations that come with the images."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from divfeat.errors import DataError
from divfeat.hierarchy.tree import Hierarchy

#: Where torchvision puts the annotations, below the folder of local data sets.
FOLDER = Path("fgvc-aircraft-2013b") / "data"
#: From the classes upwards.
LEVELS = ("variant", "family", "manufacturer")
#: Every variant has images in the first. Labels of test images are left alone, as everywhere before a confirmation.
_SPLITS = ("train", "val")


def aircraft(root: Path, level: str = "variant") -> Hierarchy:
    """The tree of the 100 variants in 70 families of 30 manufacturers, or that of the families alone.

    It is stated nowhere: `images_variant_train.txt` and its like name the variant, the family and the manufacturer of an image,
    and are joined by image. Classes keep their names; names above them say their level (`family F-16`), since some come on two.

    Args:
        root: The folder of local data sets.
        level: What the classes are, `variant` or `family`.

    Raises:
        DataError: a file that is missing or damaged, an image that one level does not name, a name under two.
    """
    levels = LEVELS[LEVELS.index(level) :]
    named = {name: _images(root / FOLDER, name) for name in levels}
    above = [_parents(named, below, over) for below, over in pairwise(levels)]
    rows = []
    for name in dict.fromkeys(named[level].values()):
        row, at = [name], name
        for over, parents in zip(levels[1:], above, strict=True):
            at = parents[at]
            row.insert(0, f"{over} {at}")
        rows.append(row)
    return Hierarchy.from_table(rows)


def _images(folder: Path, level: str) -> dict[str, str]:
    """The name that each image has on a level."""
    found: dict[str, str] = {}
    for split in _SPLITS:
        path = folder / f"images_{level}_{split}.txt"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path} cannot be read ({error}): it comes with torchvision's FGVCAircraft; put that set below the folder of "
                "data sets, or set data.source=torchvision:FGVCAircraft and data.download=true"
            ) from error
        for number, line in enumerate(lines, 1):
            image, _, name = line.strip().partition(" ")
            if not name:
                raise DataError(f"{path}, line {number} is no image and its {level}: {line!r}; fetch the set anew")
            found[image] = name
    if not found:
        raise DataError(f"images_{level}_*.txt in {folder} name no image: fetch the set anew")
    return found


def _parents(named: Mapping[str, Mapping[str, str]], below: str, above: str) -> dict[str, str]:
    """The name on the level `above` that each name on the level `below` lies under."""
    parents: dict[str, tuple[str, str]] = {}
    for image, name in named[below].items():
        if image not in named[above]:
            raise DataError(f"image {image} has the {below} {name!r} and no {above}: images_{above}_*.txt lack it")
        over = named[above][image]
        first, witness = parents.setdefault(name, (over, image))
        if first != over:
            raise DataError(
                f"the {below} {name!r} lies under two on the level {above}, {first!r} (image {witness}) and {over!r} (image "
                f"{image}): mend the annotations, or fetch the set anew"
            )
    return {name: over for name, (over, _) in parents.items()}
