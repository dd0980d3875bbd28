"""The figures of a training report, and the cards around them.

plotly, because a reader wants the number under the finger, zooms into a stretch of steps and drops
a run from all charts at once, and because its figures are vector graphics that print sharply. The
price is a copy of plotly.js in each report, 4.8 of its about 5.2 MB. Figures drawn by matplotlib
would make a far smaller file, but with nothing to point at and laid out for one width, which is
not a phone's. Colours that depend on the theme are set by the style sheet, so that a report
follows the reader's light or dark setting, and prints in black on white, without being redrawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go

from curiojax.reports.catalogue import Chart, Series
from curiojax.reports.page import escape, finite

Row = Mapping[str, Any]
Runs = Mapping[str, Sequence[Row]]

# Middle lightness: each has a contrast of 3 or more on white and on the dark background.
RUN_COLOURS = (
    "#2a78d6",
    "#d96b0b",
    "#16936f",
    "#c2429b",
    "#8a7a2c",
    "#7a63d9",
    "#c9403d",
    "#667889",
)
MAX_POINTS = 600


def colour_of(index: int) -> str:
    """A run's colour; the colours repeat, with dashed lines and rings every second time."""
    return RUN_COLOURS[index % len(RUN_COLOURS)]


def is_dashed(index: int) -> bool:
    return index // len(RUN_COLOURS) % 2 == 1


def dot_class(index: int) -> str:
    """The style sheet's name for the mark of a run."""
    return f"dot run-{index % (2 * len(RUN_COLOURS))}"


def run_css() -> str:
    """The style sheet's part that `dot_class` refers to."""
    dots = [f".run-{i}{{background:{colour}}}" for i, colour in enumerate(RUN_COLOURS)]
    rings = [
        f".run-{i}{{border:0.2rem solid {colour}}}"
        for i, colour in enumerate(RUN_COLOURS, start=len(RUN_COLOURS))
    ]
    return "".join(dots + rings)


@dataclass
class Curves:
    """A run's metrics by step, joined over `stride` steps each; None marks a missing value.

    `index` is the run's place among all runs of the report, which decides its colour.
    """

    steps: list[float]
    rows: list[list[Row]]
    stride: int
    index: int = 0
    _cache: dict[tuple[str, str], list[float | None]] = field(default_factory=dict)

    def values(self, key: str, reduce: str = "mean") -> list[float | None]:
        if (key, reduce) not in self._cache:
            join = _REDUCE[reduce]
            joined = []
            for bucket in self.rows:
                numbers = [v for row in bucket if (v := finite(row.get(key), 8)) is not None]
                joined.append(finite(join(numbers)) if numbers else None)
            self._cache[key, reduce] = joined
        return self._cache[key, reduce]

    def has(self, key: str) -> bool:
        return any(value is not None for value in self.values(key))

    @property
    def stage(self) -> str:
        """`rl` where completions were rewarded, else `sft`."""
        return "rl" if self.has("reward") else "sft"

    def is_constant(self, key: str, other: float | str) -> bool:
        """Whether a metric is a number, or another metric, all along, but for rounding."""
        values = self.values(key)
        wanted = self.values(other) if isinstance(other, str) else [other] * len(values)
        return all(
            a is None or b is None or abs(a - b) < 1e-6 for a, b in zip(values, wanted, strict=True)
        )


_REDUCE: dict[str, Callable[[list[float]], float]] = {
    "mean": lambda x: math.fsum(x) / len(x),
    "min": min,
    "max": max,
}


def clean(rows: Sequence[Row]) -> list[Row]:
    """The rows that are optimiser steps, in order; of a step recorded twice, the last one."""
    by_step = {step: row for row in rows if (step := finite(row.get("step"), 15)) is not None}
    return [by_step[step] for step in sorted(by_step)]


def curves(runs: Runs) -> dict[str, Curves]:
    """`clean` rows of each run, joined so that no run has more than `MAX_POINTS` points."""
    longest = max((len(rows) for rows in runs.values()), default=0)
    stride = max(1, math.ceil(longest / MAX_POINTS))
    joined = {}
    for index, (name, rows) in enumerate(runs.items()):
        buckets = [list(rows[i : i + stride]) for i in range(0, len(rows), stride)]
        steps = [_REDUCE["mean"]([float(row["step"]) for row in b]) for b in buckets]
        joined[name] = Curves(steps, buckets, stride, index)
    return joined


def present(chart: Chart, runs: Mapping[str, Curves]) -> list[Series]:
    """The series of a chart that any run has, and that say something about one."""
    found = []
    for series in chart.series:
        having = [run for run in runs.values() if run.has(series.key)]
        omit = series.omit
        if having and (omit is None or not all(r.is_constant(series.key, omit) for r in having)):
            found.append(series)
    return found


def line_figure(chart: Chart, runs: Mapping[str, Curves]) -> go.Figure | None:
    """The figure of a chart, or None if no run has any of its metrics."""
    figure = go.Figure()
    extremes: list[float] = []
    chosen = present(chart, runs)
    for name, run in runs.items():
        index = run.index
        for series in chosen:
            if not run.has(series.key):
                continue
            y = run.values(series.key, series.reduce)
            extremes += [v for v in y if v is not None]
            figure.add_trace(_trace(chart, series, name, index, run.steps, y))
    if not extremes:
        return None
    low, high = min(extremes), max(extremes)
    axis: dict[str, Any] = {"rangemode": "tozero" if chart.zero else "normal"}
    if chart.scale == "percent":
        axis["tickformat"] = f".{sum(high < limit for limit in (0.08, 0.008, 0.0008))}%"
    elif chart.scale == "auto" and low > 0 and high > 50 * low:
        axis = {"type": "log", "dtick": 1}
    axis |= {"exponentformat": "e"} if high < 0.01 else {"exponentformat": "SI"}
    if axis.get("type") != "log" and low == high:
        # plotly would zoom into the rounding of a constant; half its size either way reads as flat.
        margin = abs(high) / 2 or 1.0
        bottom = 0 if chart.zero and low >= 0 else low - margin
        axis["range"] = [bottom, high + margin]
    figure.update_layout(layout())
    figure.update_yaxes(**axis)
    return figure


def _trace(
    chart: Chart,
    series: Series,
    run: str,
    index: int,
    x: list[float],
    y: list[float | None],
) -> go.Scatter:
    colour = colour_of(index)
    number = ".2%" if chart.scale == "percent" else ".4~g"
    label = series.label
    if series.style == "band":
        label = series.key.rsplit("_p", 1)[-1] + " %"
    text = escape(run) + (f", {escape(label)}" if len(chart.series) > 1 else "")
    line: dict[str, Any] = {"color": colour, "width": 2}
    if is_dashed(index):
        line |= {"dash": "5px,3px"}
    fill: dict[str, Any] = {}
    if series.style == "thin":
        line |= {"width": 1, "dash": "dot"}
    elif series.style == "dashed":
        line |= {"width": 1.5, "dash": "dash"}
    elif series.style == "band":
        line |= {"width": 0}
        if series.label == "":
            fill = {"fill": "tonexty", "fillcolor": _transparent(colour, 0.18)}
    # A line through one point is nothing to see.
    mode = "lines" if sum(v is not None for v in y) > 1 or line["width"] == 0 else "markers"
    size = 8
    if mode == "lines" and chart.points:
        mode, size = "lines+markers", 6
    return go.Scatter(
        x=x,
        y=y,
        name=text,
        mode=mode,
        line=line,
        marker={"color": colour, "size": size},
        meta={"run": index, "smooth": series.smooth},
        showlegend=False,
        cliponaxis=False,
        hovertemplate=f"%{{y:{number}}}",
        **fill,
    )


HISTOGRAM_COLUMNS = 150


def tau_figure(name: str, rows: Sequence[Row], index: int) -> go.Figure | None:
    """Heat map of the temperature histogram over the steps of one run.

    None if the run has no histogram, or if all its tokens share one bin: nothing to look at.
    Colour is the square root of the share of tokens: most share one value, and on a linear scale
    nothing else would be seen.
    """
    rows = [row for row in rows if _histogram(row) is not None]
    if not rows:
        return None
    stride = max(1, math.ceil(len(rows) / HISTOGRAM_COLUMNS))
    edges = _histogram(rows[0])[0]  # type: ignore[index]
    steps, shares = [], []
    for start in range(0, len(rows), stride):
        bucket = [_histogram(row) for row in rows[start : start + stride]]
        same = [counts for e, counts in (h for h in bucket if h) if e == edges]
        totals = [math.fsum(column) for column in zip(*same, strict=True)]
        if not same or math.fsum(totals) <= 0:
            continue
        steps.append(math.fsum(r["step"] for r in rows[start : start + stride]) / len(bucket))
        shares.append([total / math.fsum(totals) for total in totals])
    if not shares:
        return None
    used = [i for i in range(len(edges) - 1) if any(column[i] > 0 for column in shares)]
    if len(used) < 2:
        return None
    low, high = max(0, used[0] - 1), min(len(edges) - 1, used[-1] + 2)
    colour = colour_of(index)
    by_bin = [[column[i] for column in shares] for i in range(low, high)]
    ranges = [f"{edges[i]:.3g} to {edges[i + 1]:.3g}" for i in range(low, high)]
    ticks = [0.0, 0.05, 0.2, 0.5, 1.0]
    figure = go.Figure(
        go.Heatmap(
            x=steps,
            y=[(edges[i] + edges[i + 1]) / 2 for i in range(low, high)],
            z=[[finite(math.sqrt(share), 4) for share in row] for row in by_bin],
            text=[[f"{share:.2%}" for share in row] for row in by_bin],
            customdata=[[label] * len(steps) for label in ranges],
            zmin=0,
            zmax=1,
            # Transparent where nothing is, so that it sits on a light and on a dark page.
            colorscale=[[0, _transparent(colour, 0)], [1, _transparent(colour, 1)]],
            hovertemplate="step %{x:.0f}<br>tau %{customdata}<br>%{text} of tokens<extra></extra>",
            colorbar={
                "tickvals": [math.sqrt(t) for t in ticks],
                "ticktext": [f"{t:.0%}" for t in ticks],
                "thickness": 10,
                "outlinewidth": 0,
                "len": 1,
            },
            meta={"run": index},
            name=escape(name),
        )
    )
    figure.update_layout(layout() | {"hovermode": "closest"})
    return figure


def _histogram(row: Row) -> tuple[list[float], list[float]] | None:
    histogram = row.get("tau_histogram")
    if not isinstance(histogram, Mapping):
        return None
    edges = [finite(e) for e in histogram.get("edges") or []]
    counts = [finite(c, 12) for c in histogram.get("counts") or []]
    if len(edges) != len(counts) + 1 or not counts or None in edges or None in counts:
        return None
    return edges, counts  # type: ignore[return-value]


def _transparent(colour: str, alpha: float) -> str:
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r},{g},{b},{alpha:g})"


def layout() -> dict[str, Any]:
    """What all figures share; colours that depend on the theme are left to the style sheet."""
    axis = {"zeroline": False, "ticks": "", "automargin": True}
    return {
        "template": None,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 8, "r": 16, "t": 8, "b": 8},
        "font": {"family": "system-ui, sans-serif", "size": 12},
        "hovermode": "x unified",
        "hoverlabel": {"font": {"size": 12}},
        "showlegend": False,
        "xaxis": {
            **axis,
            "title": {"text": "step", "standoff": 6},
            "hoverformat": ".0f",
            "nticks": 7,
            "spikethickness": 1,
        },
        "yaxis": {**axis, "nticks": 6},
    }


def chart_card(chart: Chart, present: Sequence[Series]) -> str:
    """The HTML around a chart; the script draws the figure into the element with its id."""
    shown = [series for series in present if series.label]
    key = ""
    if len(shown) > 1:
        key = "".join(f"<span>{_sample(s.style)}{escape(s.label)}</span>" for s in shown)
    return card(chart.identifier, chart.title, chart.unit, chart.caption, key)


def tau_card(identifier: str, run: str, index: int) -> str:
    caption = (
        "Share of tokens by temperature, step by step; a stronger colour is a larger share "
        "(on a square-root scale)."
    )
    key = f'<span><i class="{dot_class(index)}"></i>{escape(run)}</span>'
    return card(identifier, "Distribution", "tau", caption, key)


def card(identifier: str, title: str, unit: str, caption: str, key: str) -> str:
    """The HTML around one figure; `key` is HTML."""
    name, in_unit = escape(title), f" <small>{escape(unit)}</small>" if unit else ""
    return (
        f'<figure class="card" id="card-{escape(identifier)}"><h3>{name}{in_unit}</h3>'
        f'<div class="key">{key}</div>'
        f'<div class="plot" id="plot-{escape(identifier)}" role="img" aria-label="{name}"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _sample(style: str) -> str:
    if style == "band":
        shape = '<rect class="fill" width="22" height="10"/>'
    else:
        shape = f'<path class="{style}" d="M0 5H22"/>'
    return f'<svg width="22" height="10" aria-hidden="true">{shape}</svg>'
