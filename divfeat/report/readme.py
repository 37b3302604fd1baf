"""Draw every figure of a page anew from what lies beside it in `results/`: `python -m divfeat.report.readme`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from divfeat.errors import DivfeatError
from divfeat.report.drawing import Drawing

_IMAGE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")


def images(page: Path) -> list[Path]:
    """The images that a page shows, as it names them."""
    return [Path(name) for name in dict.fromkeys(_IMAGE.findall(page.read_text(encoding="utf-8")))]


def redraw(page: Path, into: Path | None = None) -> list[Path]:
    """Draw the images of `page` anew, each from the JSON of its name beside it.

    Args:
        page: Markdown; it names images relative to its own folder.
        into: Folder to write them below, under the same names; default where they are.

    Returns:
        What was written.

    Raises:
        DataError: an image has no such JSON.
    """
    written = []
    for name in images(page):
        drawing, path = Drawing.load((page.parent / name).with_suffix(".json")), (into or page.parent) / name
        drawing(path)
        written.append(path)
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw every figure of the README (or another page) anew, from results/ alone; returns the exit code."""
    flags = argparse.ArgumentParser(prog="python -m divfeat.report.readme", description=main.__doc__)
    flags.add_argument("page", nargs="?", default="README.md", help="default README.md")
    given = flags.parse_args(arguments)
    try:
        for path in redraw(Path(given.page)):
            print(path)
    except (DivfeatError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
