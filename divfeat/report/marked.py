"""A block of a page between two marks, which a command writes anew."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from divfeat.errors import DataError
from divfeat.files import check_writable, write_text


@dataclass(frozen=True)
class MarkedBlock:
    """The lines of a page between `<!-- NAME:begin -->` and `<!-- NAME:end -->`."""

    name: str

    @property
    def begin(self) -> str:
        """The mark before it."""
        return f"<!-- {self.name}:begin -->"

    @property
    def end(self) -> str:
        """The mark after it."""
        return f"<!-- {self.name}:end -->"

    def rebuilt(self, text: str, block: str) -> str:
        """`text` with what stands between the two marks replaced by `block`; doing it again changes nothing.

        Raises:
            DataError: the marks are missing, doubled or in the wrong order.
        """
        begin, end = self.begin, self.end
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            raise DataError(
                f"the text needs the lines {begin} and {end} once each, in this order, around the table's place"
            )
        before, after = text[: text.index(begin)], text[text.index(end) + len(end) :]
        return f"{before}{begin}\n\n{block}\n\n{end}{after}"

    def read(self, page: Path) -> str:
        """The text of a page that has the marks; it can be asked before anything costly starts.

        Raises:
            DataError: there is no such file, or it lacks its marks: names the flag --readme.
        """
        if not page.is_file():
            raise DataError(f"--readme {page}: there is no such file")
        text = page.read_text(encoding="utf-8")
        try:
            self.rebuilt(text, "")
        except DataError as error:
            raise DataError(f"--readme {page}: {error}") from error
        return text

    def check_places(self, place: Path, page: Path | None = None) -> None:
        """Refuse places that a table and its page could not be written to; it can be asked before the studies are run, which
        takes hours.

        Raises:
            DataError: `place` is no folder or cannot be made, or `page` is missing or lacks its marks.
        """
        check_writable(place, "the table's folder")
        if page is not None:
            self.read(page)

    def show(self, page: Path, block: str, more: str, whole: Path) -> None:
        """Write `block` into the page, and after it `more` with a link to the file `whole`.

        Raises:
            DataError: as `read`.
        """
        link = Path(os.path.relpath(whole, page.parent)).as_posix()
        write_text(page, self.rebuilt(self.read(page), f"{block}\n\n{more}: [{link}]({link})."))
