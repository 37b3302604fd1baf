"""A document's blocks on the screen."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as Screen
from rich.text import Text

from divfeat.report.document import (
    Block,
    Callout,
    Code,
    Figure,
    Heading,
    Paragraph,
    Table,
    cell_text,
    clean,
    right_aligned,
)


def print_blocks(blocks: Sequence[Block], console: Console) -> None:
    """Print text and tables, of a figure its path; nothing is read as markup."""
    for block in blocks:
        match block:
            case Heading(text, level):
                console.print(Text(f"\n{clean(text)}", style="bold" if level > 2 else "bold underline"))
            case Paragraph(text):
                console.print(Text(clean(text)))
            case Table():
                console.print(_that_fits(block, console))
                if block.caption:
                    console.print(Text(clean(block.caption), style="dim"))
            case Figure(path, caption):
                console.print(Text(f"{clean(caption)}: {path}"))
            case Callout(verdict, _, detail):
                console.print(Text(" ".join(filter(None, [clean(verdict), clean(detail)]))))
            case Code(text):
                console.print(Text(clean(text, lines=True)))


def _that_fits(table: Table, console: Console) -> Screen:
    """The table; where it is too wide, one with rows and columns exchanged if that is narrower."""
    found = _screen(table)
    unbounded = console.options.update(max_width=10_000)
    width = Measurement.get(console, unbounded, found).maximum
    if width <= console.width:
        return found
    headers, *rows = zip(table.headers, *(map(cell_text, row) for row in table.rows), strict=True)
    turned = _screen(Table(headers, rows))
    return turned if Measurement.get(console, unbounded, turned).maximum < width else found


def _screen(table: Table) -> Screen:
    found = Screen()
    for place, (header, right) in enumerate(zip(table.headers, right_aligned(table), strict=True)):
        found.add_column(Text(clean(header)), justify="right" if right else "left", overflow="fold", no_wrap=place == 0)
    for row in table.rows:
        found.add_row(*(Text(cell_text(cell)) for cell in row))
    return found
