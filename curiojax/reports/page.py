"""The shell of a report: one HTML file with everything inside, and the escaping all parts share.

What a model wrote is untrusted. It reaches the page only through `escape` (as text) or
`json_block` (as data), and a Content-Security-Policy in the page allows exactly the scripts written
here, by their hash, and no request to anywhere, should something slip through all the same.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
import unicodedata
from collections.abc import Sequence
from importlib import resources
from typing import Any

from curiojax.progress import format_rows, is_numeric

_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Joiners are ordinary spelling in several scripts and in emoji; line breaks and tabs are layout.
_KEPT = {"\n", "\t", "\u200c", "\u200d"}
_NARROW = 43.0  # characters that fit across a phone
_PAPER = 90.0  # across a sheet of paper
_PADDING = 2.5  # of a cell


def visible(text: str) -> str:
    """`text` with every character that has no shape of its own spelled out as its code point.

    These are control characters, bidirectional overrides, zero-width spaces, lone surrogates and
    the like. Line feeds and tabs stay; CR LF counts as a line feed.
    """
    text = text.replace("\r\n", "\n")
    if text.isprintable():
        return text
    return "".join(_visible_character(c) for c in text)


def _visible_character(character: str) -> str:
    if character in _KEPT or unicodedata.category(character) not in _INVISIBLE:
        return character
    return f"\u27e8U+{ord(character):04X}\u27e9"


def escape(text: object) -> str:
    """`text` as HTML text or attribute value."""
    return html.escape(visible(str(text)), quote=True)


def finite(value: Any, digits: int = 5) -> float | None:
    """`value` rounded to `digits` significant digits; None if it is not a finite number."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return float(f"{number:.{digits}g}") if math.isfinite(number) else None


def json_block(identifier: str, data: Any) -> str:
    """A `<script type="application/json">` element that no content of `data` can end or nest."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{escape(identifier)}">{text}</script>'


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    caption: str | None = None,
    *,
    stack: bool = False,
) -> str:
    """A table; numbers are right-aligned. Narrow screens get it turned by 90 degrees if that helps.

    Where that does not help, because the rows are too many or their cells too long, `stack` gives
    narrow screens a block for every row. Paper gets what narrow screens do if the table is too
    wide for it.

    Raises:
      ValueError: a row does not have one cell per column.
    """
    if any(len(row) != len(columns) for row in rows):
        raise ValueError(f"every row of the table needs {len(columns)} cells, one per column")
    numeric = [_right_aligned([row[i] for row in rows]) for i in range(len(columns))]
    cells = format_rows(rows) if columns else []
    upright = _table_element(columns, cells, numeric)
    note = f'<p class="caption">{escape(caption)}</p>' if caption else ""
    if stack and len(columns) > 3 and rows and _turned_width(columns, cells) > _NARROW:
        narrow, kind = "".join(_stacked(columns, row) for row in cells), "stack"
    elif len(columns) > 3 and 1 <= len(rows) <= 4:
        narrow, kind = _turned(columns, cells), "table"
    else:
        return f'<div class="table">{upright}</div>{note}'
    broad = " broad" if _width(columns, cells) > _PAPER else ""
    wide = f'<div class="table wide{broad}">{upright}</div>'
    return f'{wide}<div class="{kind} narrow{broad}">{narrow}</div>{note}'


def _turned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return _table_element(
        [columns[0], *(row[0] for row in rows)],
        [[column, *(row[i] for row in rows)] for i, column in enumerate(columns) if i > 0],
        [False] + [True] * len(rows),
    )


def _width(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> float:
    """Characters across a table; its headings, and the first column, may break between words."""
    widths = []
    for i, column in enumerate(columns):
        texts = [column, *(row[i] for row in rows if i == 0)]
        words = [len(word) for text in texts for word in text.split()]
        widths.append(max(words + [len(row[i]) for row in rows if i > 0], default=0))
    return sum(width + _PADDING for width in widths)


def _turned_width(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> float:
    turned = [[row[i] for row in rows] for i in range(len(columns))]
    cells = [[column, *line] for column, line in zip(columns, turned, strict=True)]
    return _width(cells[0], cells[1:])


def _stacked(columns: Sequence[str], row: Sequence[str]) -> str:
    """One row of a table as a block of its own."""
    pairs = "".join(
        f"<div><dt>{escape(column)}</dt><dd>{_cell(text)}</dd></div>"
        for column, text in zip(columns[1:], row[1:], strict=True)
    )
    return f"<section><h3>{_cell(row[0])}</h3><dl>{pairs}</dl></section>"


def _cell(text: str) -> str:
    return "\u2013" if text == "-" else escape(text)


def _right_aligned(column: Sequence[Any]) -> bool:
    """Numbers, and text that reads like one (0:12:30, 0.49 \u00b1 0.01 (2), 5 %)."""
    values = [value for value in column if value is not None]
    like_numbers = all(re.fullmatch(r"[\d\s.,:%()+\u2212\u00b1-]+", str(v)) for v in values)
    return is_numeric(column) or (bool(values) and like_numbers)


def _table_element(
    columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool]
) -> str:
    def cell(tag: str, text: str, i: int) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        if tag == "td" and i == 0:
            tag, scope = "th", ' scope="row"'
        number = " class=number" if numeric[i] else ""
        return f"<{tag}{scope}{number}>{_cell(text)}</{tag}>"

    head = "".join(cell("th", text, i) for i, text in enumerate(columns))
    body = "".join(
        f"<tr>{''.join(cell('td', text, i) for i, text in enumerate(row))}</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def paragraphs(notes: Sequence[str]) -> str:
    """Plain text as paragraphs."""
    return "".join(f"<p>{escape(note)}</p>" for note in notes)


def section(heading: str, body: str, identifier: str) -> str:
    return f'<section id="{escape(identifier)}"><h2>{escape(heading)}</h2>{body}</section>'


def contents(parts: Sequence[str]) -> str:
    """Links to the sections in `parts`, HTML made by `section`."""
    found = re.findall(r'<section id="([^"]+)"><h2>(.*?)</h2>', "".join(parts))
    links = "".join(f'<a href="#{identifier}">{heading}</a>' for identifier, heading in found)
    return f'<nav class="contents" aria-label="Contents">{links}</nav>'


def details(summary: str, text: str) -> str:
    """A collapsed block of preformatted text."""
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"


def asset(name: str) -> str:
    """The text of a file in `curiojax/reports/assets`."""
    return (resources.files("curiojax.reports") / "assets" / name).read_text(encoding="utf-8")


def page(
    title: str, body: str, *, data: Sequence[str] = (), scripts: Sequence[str] = (), css: str = ""
) -> str:
    """The whole document.

    Args:
      title: shown in the window's title bar; `body` brings its own heading.
      body: HTML.
      data: elements made by `json_block`.
      scripts: JavaScript sources, run in this order after the body is there.
      css: added to the report's own style sheet.
    """
    sources = [_safe_script(source) for source in scripts]
    hashes = " ".join(f"'sha256-{_digest(source)}'" for source in sources) or "'none'"
    # plotly.js sets styles from scripts and fills images it made itself; nothing may be fetched.
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>
{asset("report.css")}{css}
</style>
</head>
<body>
<main>
{body}
</main>
{"".join(data)}
{"".join(f"<script>{source}</script>" for source in sources)}
</body>
</html>
"""


def _safe_script(source: str) -> str:
    return source.replace("\r\n", "\n").replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _digest(source: str) -> str:
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
