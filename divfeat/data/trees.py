"""The tree of a data set's labels, as its configuration names it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from divfeat.data.images import ImageSet, Level
from divfeat.data.sources.request import data_root, found_file
from divfeat.errors import ConfigError, DataError
from divfeat.hierarchy import SHIPPED, Hierarchy, shipped
from divfeat.hierarchy.aircraft import aircraft

#: Made from the labels alone: one root for all; or the set's own coarse labels above its fine ones.
FLAT, COARSE = "flat", "coarse"
#: FGVC-Aircraft's, from the annotations beside its images.
AIRCRAFT = "aircraft"


def tree_of(name: str, images: ImageSet, level: Level, root: Path | None = None) -> Hierarchy:
    """The tree of the labels of a level, in their order.

    Args:
        name: `flat`, `coarse`, `aircraft`, one of `divfeat.hierarchy.SHIPPED`, or a file (`divfeat.hierarchy.reading.load`) from
            the working directory or below the folder of local data sets.
        images: With the class names.
        level: Whose names the tree's classes are matched with; inner nodes of those names will do.
        root: Folder of local data sets; None takes the environment variable DIVFEAT_DATA.

    Raises:
        ConfigError, DataError: no such tree or file, or one of other classes: names the setting.
    """
    return tree_of_names(name, images.class_names(level), level, root, coarse=lambda: _coarse(images, level))


def tree_of_names(
    name: str,
    class_names: Sequence[str],
    level: Level,
    root: Path | None = None,
    *,
    coarse: Callable[[], Hierarchy] | None = None,
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
        if name == AIRCRAFT:
            return _aircraft(level, root).aligned(class_names)
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


def _aircraft(level: Level, root: Path | None) -> Hierarchy:
    root = data_root(root)
    if root is None:
        raise ConfigError("its annotations lie below the folder of local data sets: set DIVFEAT_DATA to it")
    return aircraft(root, "variant" if level == "fine" else "family")


def _file(name: str, root: Path | None) -> Path:
    root = data_root(root)
    try:
        return found_file(name, root)
    except ConfigError as error:
        raise ConfigError(
            f"{error}, and no tree of that name; known: {', '.join((FLAT, COARSE, AIRCRAFT, *SHIPPED))}"
            + ("" if root is not None else "; DIVFEAT_DATA names the folder that holds your data sets")
        ) from error
