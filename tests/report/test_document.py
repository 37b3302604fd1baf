import base64
import math
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from divfeat.report.document import (
    Callout,
    Code,
    Document,
    Figure,
    Heading,
    Paragraph,
    Table,
    cell_text,
    clean,
    right_aligned,
    to_html,
    to_markdown,
    write,
)

# The smallest PNG there is: one transparent pixel.
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
VOID = {"meta", "img", "br", "hr"}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a | b || c",
    "**bold** _it_ `code` ~~gone~~ $x$ [link](javascript:alert(1)) ![i](http://x)",
    "# heading",
    "1. item",
    "- item",
    "=====",
    "> quote",
    "&lt;b&gt; &amp;",
    "line\nbreak\r\n# not a heading",
    "nul\x00 bell\x07 right-to-left\u202e override",
    "\ud800 lone surrogate",
    "back\\slash \\",
    "{title} {0} {body}",
]


class Reader(HTMLParser):
    """Checks that tags nest, and keeps text, tags and attributes."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append((self.open[-1] if self.open else "", data))


def read(page):
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def full(folder, name="accuracy"):
    figures = folder / "some figures"
    figures.mkdir(parents=True, exist_ok=True)
    (figures / "a#1.png").write_bytes(PIXEL)
    rows = [(name, 71.256, 10, "72.0 ± 0.4"), ("CE+ETF", -0.5, None, ""), ("CE", math.nan, 3, "13π/36")]
    return Document(
        f"Study {name}",
        [
            Callout(name, "good", "on ten seeds"),
            Heading(name, 3),
            Paragraph(name),
            Table(["method " + name, "score", "seeds", "with sd"], rows, caption=name),
            Figure(figures / "a#1.png", name, alt=f"curve of {name}"),
            Figure(figures / "gone.png", "not there"),
            Code("python studies/tau_search.py\n```\n" + name, "bash"),
        ],
    )


def test_write_gives_both_and_embeds_the_figure(tmp_path):
    markdown, page = write(full(tmp_path), tmp_path / "out")
    assert (markdown, page) == (tmp_path / "out" / "report.md", tmp_path / "out" / "report.html")
    text = markdown.read_text(encoding="utf-8")
    assert "(../some%20figures/a%231.png)" in text
    assert "> [!TIP]\n> **accuracy**" in text
    reader = read(page.read_text(encoding="utf-8"))
    (image,) = [attrs for tag, attrs in reader.tags if tag == "img"]
    assert image["alt"] == "curve of accuracy"
    head, _, data = image["src"].partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data) == PIXEL
    assert any("gone.png is missing" in data for _, data in reader.text)
    tags = [tag for tag, _ in reader.tags]
    assert "script" not in tags
    assert "link" not in tags
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in [a for _, a in reader.tags]
    style = next(data for tag, data in reader.text if tag == "style")
    assert "prefers-color-scheme: dark" in style


def test_numbers_are_right_aligned_in_both(tmp_path):
    document = full(tmp_path)
    assert right_aligned(document.blocks[3]) == [False, True, True, True]
    assert "| :--- | ---: | ---: | ---: |" in to_markdown(document, tmp_path)
    assert "| CE+ETF | −0.50 | – |  |" in to_markdown(document, tmp_path)
    page = to_html(document)
    assert '<td class="number">71.26</td>' in page
    assert "<td>CE+ETF</td>" in page
    assert '<th scope="col" class="number">score</th>' in page


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        ("65°", True), ("13π/36", True), ("+1.2 [−0.1, 2.5]", True), ("71 %", True), ("1e-4", True), ("12 s", True),
        ("0.5 points", True), (3, True), (2.5, True), ("ResNet-32", False), ("CE", False), ("e", False), (True, False),
        ("better", False), ("", False), (None, False), (".", False), ("3 of 4 classes", False),
    ],
)  # fmt: skip
def test_what_counts_as_a_number(cell, number):
    assert right_aligned(Table(["x"], [[cell]])) == [number]


def test_cells():
    assert [cell_text(value) for value in (1.005, -2, None, math.nan, True, "a\nb")] == [
        "1.00", "−2", "–", "–", "yes", "a b",
    ]  # fmt: skip
    assert cell_text(-math.inf) == "−inf"


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text_in_html(name, tmp_path):
    reader = read(to_html(full(tmp_path, name)))
    wanted = [tag for tag, _ in read(to_html(full(tmp_path, "plain"))).tags]
    assert [tag for tag, _ in reader.tags] == wanted
    assert ("h3", clean(name)) in reader.text
    assert ("td", clean(name)) in reader.text
    assert not any(key.startswith("on") for _, attrs in reader.tags for key in attrs)
    to_html(full(tmp_path, name)).encode("utf-8")


def inline_text(tokens):
    return ["".join(child.content for child in token.children) for token in tokens if token.type == "inline"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text_in_markdown(name, tmp_path):
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    tokens = parser.parse(to_markdown(full(tmp_path, name), tmp_path))
    plain = parser.parse(to_markdown(full(tmp_path, "plain"), tmp_path))
    assert [token.type for token in tokens] == [token.type for token in plain]
    kinds = [[child.type for child in token.children] for token in tokens if token.type == "inline"]
    assert not {"link_open", "html_inline", "code_inline", "s_open"} & {kind for row in kinds for kind in row}
    assert clean(name) in inline_text(tokens)
    (code,) = [token for token in tokens if token.type == "fence"]
    assert code.info == "bash"
    assert code.content == "python studies/tau_search.py\n```\n" + clean(name, lines=True) + "\n"


@given(st.text(max_size=60))
def test_any_text_survives_both_renderings(name):
    document = Document("t", [Paragraph("x" + name), Table(["h"], [["y" + name]])])
    reader = read(to_html(document))
    assert ("p", clean("x" + name)) in reader.text
    assert ("td", clean("y" + name)) in reader.text
    tokens = MarkdownIt("commonmark").enable("table").parse(to_markdown(document))
    shown = inline_text(tokens)
    assert clean("x" + name) in shown
    assert clean("y" + name) in shown


def test_wrong_blocks_are_refused():
    with pytest.raises(ValueError, match="row 1 has 1 cells"):
        Table(["a", "b"], [[1, 2], [3]])
    with pytest.raises(ValueError, match="level 1"):
        Heading("x", 1)
