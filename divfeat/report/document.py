"""A small document: blocks rendered to one Markdown file and to one self-contained HTML page.

All text is plain: nothing in it is read as markup, so a class or study may have any name.
"""

from __future__ import annotations

import base64
import html
import math
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from divfeat.files import write_text

Cell = str | int | float | None
Tone = Literal["good", "bad", "warning", "neutral"]


@dataclass(frozen=True)
class Heading:
    """A heading below the title, level 2 (default) to 6."""

    text: str
    level: int = 2

    def __post_init__(self) -> None:
        if not 2 <= self.level <= 6:
            raise ValueError(f"heading level {self.level}: 1 is the title's; use 2 to 6")


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table; floats are printed to two decimals, None and NaN as a dash, number columns right-aligned."""

    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""

    def __post_init__(self) -> None:
        for place, row in enumerate(self.rows):
            if len(row) != len(self.headers):
                raise ValueError(f"row {place} has {len(row)} cells, but the table has {len(self.headers)} columns")


@dataclass(frozen=True)
class Figure:
    """A PNG file; `alt` (by default the caption) is what a screen reader says."""

    path: str | Path
    caption: str
    alt: str = ""


@dataclass(frozen=True)
class Callout:
    """The one thing to read: a verdict, with a tone and optional detail below."""

    verdict: str
    tone: Tone = "neutral"
    detail: str = ""


@dataclass(frozen=True)
class Code:
    """Text to copy, such as a command or a configuration."""

    text: str
    language: str = ""


Block = Heading | Paragraph | Table | Figure | Callout | Code


@dataclass(frozen=True)
class Document:
    """A title and its blocks, in order."""

    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)


def write(document: Document, folder: str | Path) -> tuple[Path, Path]:
    """Write report.md and report.html into the folder; returns both paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    markdown, page = folder / "report.md", folder / "report.html"
    write_text(markdown, to_markdown(document, folder))
    write_text(page, to_html(document))
    return markdown, page


# --- text --------------------------------------------------------------------------------------------------------

# A sign, a digit, and nothing but what belongs to numbers: 12.3 ± 0.4, 65°, 13π/36, [−0.1, 0.2], 1e-4, 71 %.
_NUMBER = re.compile(r"(?=.*\d)[\[(<>≤≥~±+\-−]*[\d.][\d.,eE+\-−±×%°π/\s()\[\]]*(?:points|s|h|min)?")
_DASH = "–"


def clean(text: object, *, lines: bool = False) -> str:
    """Printable text: no control, format (bidirectional) or lone surrogate characters; one line unless `lines`."""
    kept = "".join(c for c in str(text) if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs"))
    return kept if lines else " ".join(kept.split())


def cell_text(cell: Cell) -> str:
    """A cell as plain text."""
    if cell is None:
        return _DASH
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float):
        return _DASH if math.isnan(cell) else f"{cell:.2f}".replace("-", "−")
    return str(cell).replace("-", "−") if isinstance(cell, int) else clean(cell)


def right_aligned(table: Table) -> list[bool]:
    """Which columns hold nothing but numbers (and gaps)."""

    def numeric(cell: Cell) -> bool:
        return (isinstance(cell, (int, float)) and not isinstance(cell, bool)) or bool(_NUMBER.fullmatch(clean(cell)))

    places = range(len(table.headers))
    columns = [[row[place] for row in table.rows if row[place] not in (None, "", _DASH)] for place in places]
    return [bool(column) and all(map(numeric, column)) for column in columns]


# --- Markdown ----------------------------------------------------------------------------------------------------


def to_markdown(document: Document, folder: str | Path = ".") -> str:
    """The document as GitHub-flavoured Markdown; figures are linked relative to the folder the file will lie in."""
    return f"# {_escape(document.title)}\n\n{blocks_to_markdown(document.blocks, folder)}".rstrip() + "\n"


def blocks_to_markdown(blocks: Sequence[Block], folder: str | Path = ".") -> str:
    """Blocks alone, for a place in another text; figures are linked as in `to_markdown`."""
    return "\n\n".join(_markdown_block(block, Path(folder)) for block in blocks)


def _markdown_block(block: Block, folder: Path) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_escape(text)}"
        case Paragraph(text):
            return _escape(text)
        case Table():
            return _markdown_table(block)
        case Figure(path, caption, alt):
            where = quote(Path(os.path.relpath(path, folder)).as_posix())
            return f"![{_escape(alt or caption)}]({where})" + (f"\n\n*{_escape(caption)}*" if caption else "")
        case Callout(verdict, tone, detail):
            kind = {"good": "TIP", "bad": "CAUTION", "warning": "WARNING", "neutral": "NOTE"}[tone]
            lines = [f"> [!{kind}]", f"> **{_escape(verdict)}**", *([">", f"> {_escape(detail)}"] if detail else [])]
            return "\n".join(lines)
        case Code(text, language):
            body = clean(text, lines=True)
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", body)), default=0))
            return f"{fence}{re.sub(r'[^A-Za-z0-9+-]', '', language)}\n{body}\n{fence}"


def _markdown_table(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    rows = [line([_escape(header) for header in table.headers])]
    rows.append(line(["---:" if right else ":---" for right in right_aligned(table)]))
    rows += [line([_escape(cell_text(cell)) for cell in row]) for row in table.rows]
    return "\n".join(rows) + (f"\n\n*{_escape(table.caption)}*" if table.caption else "")


def _escape(text: object) -> str:
    """Plain text that no Markdown reader takes for markup: emphasis, links, HTML, tables, math, lists, headings."""
    line = re.sub(r"([\\`*_\[\]|~$!#])", r"\\\1", clean(text))
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", re.sub(r"^([-+=])", r"\\\1", line))


# --- HTML --------------------------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; --ink: #1d1d1f; --paper: #fff; --muted: #5f6368; --line: #dcdfe3; --soft: #f5f6f8;
  --good: #00734f; --bad: #b34700; --warning: #8a6100; --neutral: #005a9c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --paper: #16181b; --muted: #a0a6ad; --line: #3a3f45;
  --soft: #212428; --good: #4cc9a0; --bad: #ff9a5c; --warning: #f0c04c; --neutral: #6cb6ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 56rem; padding: 1.25rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.2rem; } h3 { font-size: 1.05rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; min-width: 50%; }
caption { caption-side: bottom; text-align: left; padding-top: .5rem; }
caption, figcaption { color: var(--muted); font-size: .88rem; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { border-bottom-width: 2px; } th.number, td.number { text-align: right; white-space: nowrap; }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
.missing { padding: 2rem; background: var(--soft); color: var(--muted); border-radius: 6px; }
.callout { margin: 1.25rem 0; padding: .8rem 1rem; background: var(--soft); border-left: 5px solid var(--tone);
  border-radius: 6px; }
.callout p { margin: .2rem 0; } .callout .verdict { font-weight: 650; }
pre { padding: .8rem 1rem; background: var(--soft); border-radius: 6px; overflow-x: auto; font-size: .86rem; }
@media print { body { max-width: none; } }
""".strip()

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""


def to_html(document: Document) -> str:
    """The document as one HTML page with all inside: no script, no request; a missing figure is named instead."""
    return _PAGE.format(title=_text(document.title), style=_STYLE, body=blocks_to_html(document.blocks))


def blocks_to_html(blocks: Sequence[Block]) -> str:
    """Blocks alone, for a place in another page."""
    return "\n".join(_html_block(block) for block in blocks)


def _text(text: object) -> str:
    return html.escape(clean(text))


def _html_block(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{_text(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{_text(text)}</p>"
        case Table():
            return _html_table(block)
        case Figure(path, caption, alt):
            return (
                f"<figure>\n{_image(Path(path), alt or caption)}\n<figcaption>{_text(caption)}</figcaption>\n</figure>"
            )
        case Callout(verdict, tone, detail):
            below = f"\n<p>{_text(detail)}</p>" if detail else ""
            verdict_line = f'<p class="verdict">{_text(verdict)}</p>'
            return f'<aside class="callout" style="--tone: var(--{tone})">\n{verdict_line}{below}\n</aside>'
        case Code(text, _):
            return f"<pre><code>{html.escape(clean(text, lines=True))}</code></pre>"


def _image(path: Path, alt: str) -> str:
    if not path.is_file():
        return f'<div class="missing">Figure {_text(path.name)} is missing.</div>'
    return f'<img alt="{_text(alt)}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'


def _html_table(table: Table) -> str:
    kinds = [' class="number"' if right else "" for right in right_aligned(table)]

    def line(tag: str, cells: Sequence[str]) -> str:
        end = tag.split()[0]
        inside = "".join(f"<{tag}{kind}>{_text(cell)}</{end}>" for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr>{inside}</tr>"

    body = "\n".join(line("td", list(map(cell_text, row))) for row in table.rows)
    caption = f"<caption>{_text(table.caption)}</caption>\n" if table.caption else ""
    head = line('th scope="col"', list(table.headers))
    return f'<div class="scroll">\n<table>\n{caption}<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>'
