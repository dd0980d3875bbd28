"""Everything that is written: tables, figures, raw numbers, the report and the results in words."""

from __future__ import annotations

import base64
import csv
import importlib.util
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curiojax.errors import ConfigError
from curiojax.folders import write_text
from curiojax.reports import page
from reproduction import paper
from reproduction.figures import HEADINGS, caption, draw
from reproduction.findings import Asked, Words, in_words
from reproduction.paper_tables import build
from reproduction.plan import reads
from reproduction.records import Data, raw_rows
from reproduction.tables import Table, to_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = "results"
PRINTED = {
    "table1": [paper.TABLE1],
    "table2": [paper.TABLE2],
    "table3": [paper.TABLE3],
    "table4": list(paper.TABLE4.values()),
}
CSS = """
figure.plot { margin: 0 } figure.plot img { width: 100%; background: #fff }
.table th, .table td { padding-left: 0.6rem; padding-right: 0.6rem }
.table tbody th { min-width: 7.5rem }
@media (min-width: 60rem) {
  .table tbody th { white-space: nowrap; position: sticky; left: 0; background: var(--surface) }
}
"""


def check_matplotlib(targets: Sequence[str]) -> None:
    """Raises a `ConfigError` when figures are asked for that nothing could draw."""
    if any(target.startswith("figure") for target in targets):
        if importlib.util.find_spec("matplotlib") is None:
            raise ConfigError(
                "TARGET: figures need matplotlib; pip install -e '.[reproduce]', or name tables"
            )


def write_all(data: Data, targets: Sequence[str], output: Path, asked: Asked) -> list[Path]:
    """Writes what there is for the targets; the files, the report first."""
    folder = output / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    raw = raw_rows(data)
    tables: list[tuple[str, Table]] = []
    pictures: dict[str, bytes] = {}
    written: list[Path] = []
    drawable = importlib.util.find_spec("matplotlib") is not None
    for target in targets:
        if target.startswith("table"):
            made = build(target, data)
            if made:
                tables += [(target, table) for table in made]
                texts = "\n".join(table.markdown() for table in made)
                written.append(_write(folder / f"{target}.md", texts))
                names = {name for _, _, read in reads(target, data.worlds) for name in read}
                rows = [row for row in raw if row["run"] in names]
                text = to_json(made, rows, PRINTED[target])
                written.append(_write(folder / f"{target}.json", text))
        figure = draw(target, data) if drawable else None
        if figure is not None:
            pictures[target] = _picture(figure, "png")
            written.append(_write(folder / f"{target}.png", pictures[target]))
            written.append(_write(folder / f"{target}.svg", _picture(figure, "svg")))
    words = in_words(data, tables, asked, list(pictures))
    report = _report([table for _, table in tables], pictures, words)
    return [
        _write(folder / "report.html", report),
        _write(folder / "results.md", words.results),
        _write(folder / "summary.md", words.summary),
        _write(folder / "raw.json", json.dumps(raw, indent=1) + "\n"),
        _write(folder / "raw.csv", _csv(raw)),
        *written,
    ]


def _report(tables: Sequence[Table], pictures: Mapping[str, bytes], words: Words) -> str:
    title = "The paper's comparison, rerun"
    body = [_section(table, f"told-{number}") for number, table in enumerate(words.told)]
    for target, picture in pictures.items():
        encoded = base64.b64encode(picture).decode()
        image = f'<img alt="{page.escape(HEADINGS[target])}" src="data:image/png;base64,{encoded}">'
        note = page.paragraphs([caption(target)])
        body.append(
            page.section(HEADINGS[target], f'<figure class="plot">{image}</figure>{note}', target)
        )
    body += [_section(table, f"table-{number}") for number, table in enumerate(tables)]
    body.append(page.section("In words", page.details("results.md", words.results), "words"))
    notes = page.paragraphs([re.sub("[*`]", "", text) for text in words.lead])
    heading = f"<h1>{page.escape(title)}</h1>{notes}{page.contents(body)}"
    return page.page(title, "\n".join([f"<header>{heading}</header>", *body]), css=CSS)


def _section(table: Table, identifier: str) -> str:
    columns = [column.title for column in table.columns]
    # A difference may stand above its interval, which stays in one piece.
    cells = [[re.sub(r"(\[\S+,) ", "\\1\u00a0", cell) for cell in row] for row in table.texts()]
    return page.section(table.heading, page.table(columns, cells, table.caption), identifier)


def _picture(figure: Figure, kind: str) -> bytes:
    import matplotlib

    buffer = io.BytesIO()
    # Text stays text in SVG, and equal figures give equal files.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "curiojax"}):
        meta: Any = {"Date": None} if kind == "svg" else None
        figure.savefig(buffer, format=kind, dpi=150, metadata=meta)
    return buffer.getvalue()


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _write(path: Path, content: str | bytes) -> Path:
    if isinstance(content, str):
        write_text(path, content)
        return path
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
    return path
