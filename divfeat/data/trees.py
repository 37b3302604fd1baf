"""The tree of a data set's labels, as its configuration names it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from divfeat.data.images import ImageSet, Level
from divfeat.data.sources.request import data_root, places
from divfeat.errors import ConfigError, DataError
from divfeat.hierarchy import SHIPPED, Hierarchy, shipped

#: Made from the labels alone: one root for all; or the set's own coarse labels above its fine ones.
FLAT, COARSE = "flat", "coarse"


def tree_of(name: str, images: ImageSet, level: Level, root: Path | None = None) -> Hierarchy:
    """The tree of the labels of a level, in their order.

    Args:
        name: `flat`, `coarse`, one of `divfeat.hierarchy.SHIPPED`, or a file (`divfeat.hierarchy.reading.load`) from the working
            directory or below the folder of local data sets.
        images: With the class names.
        level: Whose names the tree's classes are matched with; inner nodes of those names will do.
        root: Folder of local data sets; None takes the environment variable DIVFEAT_DATA.

    Raises:
        ConfigError, DataError: no such tree or file, or one of other classes: names the setting.
    """
    return tree_of_names(name, images.class_names(level), root, coarse=lambda: _coarse(images, level))


def tree_of_names(
    name: str, class_names: Sequence[str], root: Path | None = None, *, coarse: Callable[[], Hierarchy] | None = None
) -> Hierarchy:
    """The same without the images, which only `coarse` needs: None refuses it.

    Raises:
        ConfigError, DataError: as `tree_of`.
    """
    try:
        if name == FLAT:
            return Hierarchy.flat(class_names)
        if name == COARSE:
            if coarse is None:
                raise ConfigError("which coarse label is above a class, only the images tell")
            return coarse()
        return (shipped(name) if name in SHIPPED else Hierarchy.load(_file(name, root))).of(class_names)
    except (ConfigError, DataError) as error:
        raise type(error)(f"data.hierarchy={name}: {error}") from error


def _coarse(images: ImageSet, level: Level) -> Hierarchy:
    if level != "fine":
        raise ConfigError(
            "the set's coarse labels have no tree above them; set data.train_level=fine, or name a tree of them"
        )
    coarse = images.class_names("coarse")
    return Hierarchy.from_table(
        [(coarse[group], name) for group, name in zip(images.fine_to_coarse, images.class_names("fine"), strict=True)]
    )


def _file(name: str, root: Path | None) -> Path:
    root = data_root(root)
    tried = places(name, root)
    for place in tried:
        if place.is_file():
            return place
    raise ConfigError(
        f"there is no file at {' nor '.join(str(place.absolute()) for place in tried)}, and no tree of that name; known: "
        f"{', '.join((FLAT, COARSE, *SHIPPED))}"
        + ("" if root is not None else "; DIVFEAT_DATA names the folder that holds your data sets")
    )
