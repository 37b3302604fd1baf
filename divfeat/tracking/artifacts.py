"""Files for a run, gathered in one folder so that they are sent in one call."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from divfeat.tracking.store import logger
from divfeat.tracking.values import plain


@contextlib.contextmanager
def staged(texts: Mapping[str, Any], files: Mapping[str, Path] | None = None) -> Iterator[str]:
    """A folder for the block, with `texts` written as JSON or YAML (by suffix) and links to `files`.

    A file that is gone is left out with a warning: MLflow only shows it, and the rest is worth more.

    Args:
        texts: Mappings by file name; what JSON lacks (NaN, tensors, paths) becomes None, lists or text.
        files: Files and folders by the path they get, relative, with "/".

    Raises:
        ValueError: A path leads out of the folder.
    """
    with tempfile.TemporaryDirectory(prefix="divfeat-") as name:
        folder = Path(name)
        for target, tree in texts.items():
            content = plain(tree)
            text = (
                yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
                if target.endswith(".yaml")
                else json.dumps(content, indent=1)
            )
            (folder / target).write_text(text, encoding="utf-8")
        for target, source in (files or {}).items():
            for path, file in _spread(target, Path(source)):
                link = folder / path
                link.parent.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(file.resolve())
        yield name


def _spread(target: str, source: Path) -> Iterator[tuple[PurePosixPath, Path]]:
    """The files under `source`, each with its path in the run (a linked folder would not be walked)."""
    path = PurePosixPath(target)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"artifact path {target!r}: must be relative and stay in the run's folder")
    if source.is_dir():
        for file in sorted(source.rglob("*")):
            if file.is_file():
                yield path / file.relative_to(source).as_posix(), file
    elif source.is_file():
        yield path, source
    else:
        logger.warning("artifact %s: no file at %s, left out", target, source)
