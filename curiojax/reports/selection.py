"""`write_selection_report`: what a selection by perplexity made of its candidates."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from curiojax.reports import charts, page

BEFORE, AFTER, WANTED = (charts.RUN_COLOURS[i] for i in (7, 0, 1))
_LENGTH_BINS = 60
_CSS = (
    f".before{{background:{BEFORE}}}.after{{background:{AFTER}}}.wanted{{background:{WANTED}}}"
    "@media (min-width:641px){.grid.pair{grid-template-columns:repeat(2,minmax(0,1fr))}}"
)


@dataclass(frozen=True)
class SelectedSet:
    """Candidates and what was chosen of them.

    Attributes:
      name: heading of its part.
      perplexity: float [N]; not finite where there was nothing to score.
      tokens: int [N], tokens of each response.
      queries: int [N], equal for records that answer the same query.
      chosen: int [n], indices of the chosen records.
      asked: how many were asked for.
      edges: float [bins + 1], of the histogram of perplexities.
      wanted: int [bins], records that each bin was to get; None where no shape was asked for.
      notes: what a reader must know, one sentence each.
    """

    name: str
    perplexity: np.ndarray
    tokens: np.ndarray
    queries: np.ndarray
    chosen: np.ndarray
    asked: int
    edges: np.ndarray
    wanted: np.ndarray | None = None
    notes: Sequence[str] = field(default_factory=tuple)


COLUMNS = (
    "set",
    "candidates",
    "queries",
    "asked for",
    "chosen",
    "median perplexity",
    "after",
    "mean tokens",
    "after",
)


def summary_rows(sets: Sequence[SelectedSet]) -> list[list[Any]]:
    """The rows of a table with `COLUMNS`."""
    rows = []
    for one in sets:
        cells: list[Any] = [one.name, len(one.perplexity), len(np.unique(one.queries))]
        cells += [one.asked, len(one.chosen)]
        for values, reduce in ((one.perplexity, np.median), (one.tokens, np.mean)):
            for part in (values, values[one.chosen]):
                part = part[np.isfinite(part)]
                # Text, so that a column does not give whole numbers three decimals.
                digits = 3 if values is one.perplexity else 1
                cells.append(f"{reduce(part):,.{digits}f}" if len(part) else None)
        rows.append(cells)
    return rows


def write_selection_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    sets: Sequence[SelectedSet],
    notes: Sequence[str] = (),
    settings: str = "",
) -> Path:
    """Writes a self-contained HTML file (about 5 MB, most of it plotly.js) and returns its path.

    Args:
      path: the file; it is replaced in one go.
      title: heading of the report.
      sets: what was chosen from what.
      notes: paragraphs of plain text below the heading.
      settings: shown collapsed at the end.
    """
    body = [page.section("Summary", page.table(COLUMNS, summary_rows(sets)), "summary")]
    figures: dict[str, Any] = {}
    for number, one in enumerate(sets):
        html, drawn = _part(one, f"set-{number}")
        body.append(html)
        figures |= drawn
    if settings:
        text = page.details("How this selection was made", settings)
        body.append(page.section("Settings", text, "settings-text"))
    heading = f"<h1>{page.escape(title)}</h1>{page.paragraphs(notes)}{page.contents(body)}"
    document = page.page(
        title,
        "\n".join([f"<header>{heading}</header>", *body]),
        data=[
            page.json_block("figures", figures),
            page.json_block("settings", {"smoothing_points": 1}),
        ],
        scripts=[get_plotlyjs(), page.asset("report.js")],
        css=_CSS,
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(document, encoding="utf-8")
    temporary.replace(path)
    return path


def histogram_figure(
    before: np.ndarray,
    after: np.ndarray,
    edges: np.ndarray,
    *,
    label: str,
    digits: int,
    wanted: np.ndarray | None = None,
) -> go.Figure:
    """Share of the records per bin, before and after a selection, and as it was wanted.

    Args:
      before, after: float; shares are of all of them, so values outside of the bins are missing
        from the sum.
      edges: float [bins + 1].
      label: title of the horizontal axis.
      digits: decimals of the edges where they are shown.
      wanted: int [bins].
    """
    figure = go.Figure()
    centers, widths = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    ranges = [f"{low:,.{digits}f} to {high:,.{digits}f}" for low, high in itertools.pairwise(edges)]
    for number, (name, values, colour) in enumerate(
        (("before", before, BEFORE), ("after", after, AFTER))
    ):
        counts = np.histogram(values[np.isfinite(values)], edges)[0]
        shares = counts / max(len(values), 1)
        figure.add_bar(
            x=centers.tolist(),
            y=[page.finite(share) for share in shares],
            width=widths.tolist(),
            name=name,
            marker={"color": colour, "opacity": 0.45 if name == "before" else 0.75},
            customdata=[[r, int(n)] for r, n in zip(ranges, counts, strict=True)],
            hovertemplate=f"{name}: %{{customdata[0]}}<br>%{{customdata[1]:,}} records, "
            "%{y:.2%}<extra></extra>",
            meta={"run": number},
        )
    if wanted is not None:
        figure.add_scatter(
            x=centers.tolist(),
            y=[page.finite(share) for share in wanted / max(int(wanted.sum()), 1)],
            name="wanted",
            mode="lines",
            line={"color": WANTED, "width": 2, "shape": "hvh"},
            customdata=[[r, int(n)] for r, n in zip(ranges, wanted, strict=True)],
            hovertemplate="wanted: %{customdata[0]}<br>%{customdata[1]:,} records, %{y:.2%}"
            "<extra></extra>",
            meta={"run": 2, "smooth": False},
        )
    layout = charts.layout() | {"hovermode": "closest", "barmode": "overlay", "bargap": 0}
    layout["xaxis"] |= {"title": {"text": label, "standoff": 6}, "range": [edges[0], edges[-1]]}
    figure.update_layout(layout)
    figure.update_yaxes(tickformat=".1~%", rangemode="tozero")
    return figure


def _part(one: SelectedSet, identifier: str) -> tuple[str, dict[str, Any]]:
    """The section of a set, and its figures by element id."""
    lengths = one.tokens.astype(np.float64)
    longest = int(lengths.max(initial=1))
    width = -(-(longest + 1) // _LENGTH_BINS)
    finite = one.perplexity[np.isfinite(one.perplexity)]
    outside = int(((finite < one.edges[0]) | (finite > one.edges[-1])).sum())
    caption = (
        "Share of the records in each bin of perplexity. "
        f"{outside:,} candidates lie outside of the bins."
    )
    if one.wanted is not None:
        caption += " The line is the Gaussian that was asked for."
    figures = {
        "perplexity": histogram_figure(
            one.perplexity,
            one.perplexity[one.chosen],
            one.edges,
            label="perplexity of the response",
            digits=2,
            wanted=one.wanted,
        ),
        "length": histogram_figure(
            lengths,
            lengths[one.chosen],
            np.arange(0, longest + width + 1, width, dtype=np.float64),
            label="tokens of the response",
            digits=0,
        ),
    }
    key = '<span><i class="dot before"></i>before</span><span><i class="dot after"></i>after</span>'
    wanted = '<span><i class="dot wanted"></i>wanted</span>' if one.wanted is not None else ""
    cards = charts.card(
        f"{identifier}-perplexity", "Perplexity", "share of records", caption, key + wanted
    ) + charts.card(
        f"{identifier}-length",
        "Length",
        "share of records",
        "Share of the records by tokens of the response, end-of-sequence token included.",
        key,
    )
    warned = "".join(f'<p class="warning">{page.escape(note)}</p>' for note in one.notes)
    html = page.section(one.name, f'{warned}<div class="grid large pair">{cards}</div>', identifier)
    drawn = {
        f"plot-{identifier}-{name}": json.loads(str(figure.to_json()))
        for name, figure in figures.items()
    }
    return html, drawn
