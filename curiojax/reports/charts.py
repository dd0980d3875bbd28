"""The charts of a training report: which curves exist, what they mean, and their figures.

plotly, because a reader wants the number under the finger, zooms into a stretch of steps and drops
a run from all charts at once, and because its figures are vector graphics that print sharply. The
price is one copy of plotly.js in each report, about 4.6 of its 5 MB. The alternative, figures
drawn by matplotlib, makes a file of 0.5 MB with nothing to point at, and a drawing for a desk does
not fit a phone. Colours that depend on the theme are set by the style sheet, so that a report
follows the reader's light or dark setting, and prints in black on white, without being redrawn.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go

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


@dataclass(frozen=True)
class Series:
    """One metric in a chart. `style` is its line in every run's colour."""

    key: str
    label: str
    style: str = "solid"  # solid | thin | dashed | band (first the lower, then the upper edge)
    reduce: str = "mean"  # how steps are joined where there are more than a chart can show


@dataclass(frozen=True)
class Chart:
    """A chart: one or more series of every run over the steps.

    Attributes:
      zero: whether the vertical axis starts at 0.
      scale: `linear`, `percent` or `auto` (logarithmic where the values span a factor of 50).
    """

    identifier: str
    title: str
    unit: str
    series: tuple[Series, ...]
    caption: str
    zero: bool = True
    scale: str = "linear"


@dataclass(frozen=True)
class Group:
    identifier: str
    title: str
    intro: str
    charts: tuple[Chart, ...]
    large: bool = False


GROUPS = (
    Group(
        "entropy",
        "Entropy on the expert's tokens",
        "Entropy of the model's next-token distribution, over the whole vocabulary, in nats, at the "
        "positions of the expert responses it is trained on (not of its own samples). At every step "
        "the tokens are split by their entropy into the highest 20 % and the others, and each chart "
        "shows the mean of its part. The teacher's tokens are split by the teacher's own entropy, "
        "before its temperature is applied.",
        (
            Chart(
                "entropy_top20",
                "Highest 20 % of tokens",
                "nats",
                (
                    Series("entropy_top20", "model"),
                    Series("teacher_entropy_top20", "teacher", "thin"),
                ),
                "Mean entropy of the 20 % of the step's tokens at which it is highest: the positions "
                "where the model sees several continuations.",
            ),
            Chart(
                "entropy_rest",
                "Other 80 % of tokens",
                "nats",
                (
                    Series("entropy_rest", "model"),
                    Series("teacher_entropy_rest", "teacher", "thin"),
                ),
                "Mean entropy of all other tokens, at which the model is mostly certain. Note the "
                "different scale.",
            ),
        ),
        large=True,
    ),
    Group(
        "loss",
        "Loss",
        "Means over all trained tokens of a step.",
        (
            Chart(
                "sft_nll",
                "Cross-entropy",
                "nats per token",
                (Series("sft_nll", "cross-entropy"),),
                "Negative log-probability of the expert's token: all of the loss in plain SFT, and "
                "the same quantity for every method.",
            ),
            Chart(
                "sed_k2",
                "Self-exploratory distillation",
                "per token",
                (Series("sed_k2", "distillation"),),
                "Half the squared difference between the log-probabilities that the teacher, at its "
                "temperature, and the model give the expert's token.",
            ),
            Chart(
                "loss",
                "Loss",
                "per token",
                (Series("loss", "loss"),),
                "What the optimiser minimises: cross-entropy plus alpha times the distillation term. "
                "Compare its level only between runs with the same objective.",
            ),
        ),
    ),
    Group(
        "temperature",
        "Teacher temperature",
        "The teacher's logits at each token are divided by a temperature tau, chosen so that the "
        "teacher's entropy rises by a prescribed increment, within the limits of the configuration.",
        (
            Chart(
                "tau",
                "Temperature over steps",
                "tau",
                (
                    Series("tau_p10", "10 % to 90 % of tokens", "band"),
                    Series("tau_p90", "", "band"),
                    Series("tau_p50", "median"),
                    Series("tau_mean", "mean", "dashed"),
                ),
                "Median and mean over the step's tokens, and the range that holds the middle 80 %.",
                zero=False,
            ),
            Chart(
                "entropy_increment",
                "Entropy increment asked for",
                "nats",
                (Series("entropy_increment", "increment"),),
                "Mean rise of the teacher's entropy that the temperature is meant to bring about.",
            ),
            Chart(
                "teacher_entropy",
                "Entropy of model and teacher",
                "nats",
                (Series("entropy", "model"), Series("teacher_entropy", "teacher", "thin")),
                "Means over all tokens, the teacher before its temperature is applied.",
            ),
            Chart(
                "gated",
                "Gated tokens",
                "share of tokens",
                (Series("gated", "gated"),),
                "Tokens at which the teacher is nearly certain, so that no temperature is searched "
                "and the lower limit is taken.",
                scale="percent",
            ),
            Chart(
                "at_floor",
                "At the lower limit",
                "share of tokens",
                (Series("at_floor", "at the lower limit"),),
                "Tokens whose temperature is the lowest one allowed.",
                scale="percent",
            ),
            Chart(
                "at_cap",
                "At the upper limit",
                "share of tokens",
                (Series("at_cap", "at the upper limit"),),
                "Tokens whose temperature is the highest one allowed.",
                scale="percent",
            ),
        ),
    ),
    Group(
        "weight",
        "Token weight",
        "The gradient of CurioSFT is that of cross-entropy with each token multiplied by "
        "w = 1 + alpha (log p_teacher \u2212 log p_model), both of the expert's token. Below 1 a token "
        "is learnt less strongly than in plain SFT, above 1 more strongly, below 0 it is pushed down.",
        (
            Chart(
                "weight_mean",
                "Mean weight",
                "w",
                (Series("weight_mean", "mean"),),
                "Mean of w over the step's tokens; plain SFT is 1.",
                zero=False,
            ),
            Chart(
                "weight_range",
                "Smallest and largest weight",
                "w",
                (
                    Series("weight_max", "largest", reduce="max"),
                    Series("weight_min", "smallest", "dashed", reduce="min"),
                ),
                "The extremes of w among the step's tokens.",
                zero=False,
            ),
            Chart(
                "weight_shares",
                "Tokens with a low weight",
                "share of tokens",
                (
                    Series("weight_below_0.9", "w < 0.9"),
                    Series("weight_negative", "w < 0", "dashed"),
                ),
                "How many tokens are held back noticeably, and how many are pushed down.",
                scale="percent",
            ),
        ),
    ),
    Group(
        "optimiser",
        "Optimiser and speed",
        "",
        (
            Chart(
                "learning_rate",
                "Learning rate",
                "",
                (Series("learning_rate", "learning rate"),),
                "The rate used at this step.",
            ),
            Chart(
                "grad_norm",
                "Gradient norm",
                "",
                (Series("grad_norm", "gradient norm"),),
                "Global norm of the gradient before clipping.",
                scale="auto",
            ),
            Chart(
                "teacher_distance",
                "Distance to the teacher",
                "",
                (Series("teacher_distance", "distance"),),
                "Norm of the difference between the model's and the teacher's parameters.",
            ),
            Chart(
                "teacher_lag",
                "Age of the teacher",
                "steps",
                (Series("teacher_lag", "steps"),),
                "Optimiser steps since the teacher last followed the model.",
            ),
            Chart(
                "tokens_per_second",
                "Throughput",
                "trained tokens per second",
                (Series("tokens_per_second", "tokens per second"),),
                "Trained tokens over wall time; the first step compiles.",
            ),
            Chart(
                "padding_share",
                "Padding",
                "share of positions",
                (Series("padding_share", "padding"),),
                "Positions of the step's batch that hold no token.",
                scale="percent",
            ),
        ),
    ),
)


@dataclass
class Curves:
    """A run's metrics by step, joined over `stride` steps each; None marks a value that is missing."""

    steps: list[float]
    rows: list[list[Row]]
    stride: int
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
    for name, rows in runs.items():
        buckets = [list(rows[i : i + stride]) for i in range(0, len(rows), stride)]
        steps = [_REDUCE["mean"]([float(row["step"]) for row in b]) for b in buckets]
        joined[name] = Curves(steps, buckets, stride)
    return joined


def line_figure(chart: Chart, runs: Mapping[str, Curves]) -> go.Figure | None:
    """The figure of a chart, or None if no run has any of its metrics."""
    figure = go.Figure()
    extremes: list[float] = []
    for index, (name, run) in enumerate(runs.items()):
        colour = RUN_COLOURS[index % len(RUN_COLOURS)]
        for series in chart.series:
            if not run.has(series.key):
                continue
            y = run.values(series.key, series.reduce)
            extremes += [v for v in y if v is not None]
            figure.add_trace(_trace(chart, series, name, index, colour, run.steps, y))
    if not extremes:
        return None
    axis: dict[str, Any] = {"rangemode": "tozero" if chart.zero else "normal"}
    if chart.scale == "percent":
        axis["tickformat"] = ".0%" if max(extremes) >= 0.08 else ".1%"
    elif chart.scale == "auto" and min(extremes) > 0 and max(extremes) > 50 * min(extremes):
        axis = {"type": "log", "dtick": 1}
    low, high = min(extremes), max(extremes)
    if axis.get("type") != "log" and low == high:
        # plotly would zoom into the rounding of a constant; half its size either way reads as flat.
        margin = abs(high) / 2 or 1.0
        axis["range"] = (
            [0, high + margin] if chart.zero and low >= 0 else [low - margin, high + margin]
        )
    figure.update_layout(**_layout(chart.unit))
    figure.update_yaxes(**axis)
    return figure


def _trace(
    chart: Chart,
    series: Series,
    run: str,
    index: int,
    colour: str,
    x: list[float],
    y: list[float | None],
) -> go.Scatter:
    number = ".2%" if chart.scale == "percent" else ".4~g"
    label = series.label
    if series.style == "band":
        label = series.key.rsplit("_p", 1)[-1] + " %"
    text = html.escape(run) + (f", {html.escape(label)}" if len(chart.series) > 1 else "")
    line: dict[str, Any] = {"color": colour, "width": 2}
    options: dict[str, Any] = {}
    if series.style == "thin":
        line |= {"width": 1, "dash": "dot"}
    elif series.style == "dashed":
        line |= {"width": 1.5, "dash": "dash"}
    elif series.style == "band":
        line |= {"width": 0}
        if series.label == "":
            options |= {"fill": "tonexty", "fillcolor": _transparent(colour, 0.18)}
    return go.Scatter(
        x=x,
        y=y,
        name=text,
        # A line through one point is nothing to see.
        mode="lines" if sum(v is not None for v in y) > 1 or line["width"] == 0 else "markers",
        line=line,
        marker={"color": colour, "size": 8},
        meta={"run": index, "smooth": series.reduce == "mean"},
        hovertemplate=f"%{{y:{number}}}",
        showlegend=False,
        **options,
    )


HISTOGRAM_COLUMNS = 150


def tau_figure(name: str, rows: Sequence[Row], index: int) -> go.Figure | None:
    """Heat map of the temperature histogram over the steps of one run; None if it has none.

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
    low, high = max(0, used[0] - 1), min(len(edges) - 1, used[-1] + 2)
    colour = RUN_COLOURS[index % len(RUN_COLOURS)]
    by_bin = [[column[i] for column in shares] for i in range(low, high)]
    ranges = [f"{edges[i]:.3g} to {edges[i + 1]:.3g}" for i in range(low, high)]
    ticks = [0.0, 0.01, 0.05, 0.2, 0.5, 1.0]
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
            name=html.escape(name),
        )
    )
    figure.update_layout(**_layout("tau"))
    figure.update_layout(hovermode="closest")
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


def _layout(unit: str) -> dict[str, Any]:
    axis = {"zeroline": False, "ticks": "", "automargin": True, "title_standoff": 6}
    return {
        "template": None,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "font": {"family": "system-ui, sans-serif", "size": 12},
        "hovermode": "x unified",
        "hoverlabel": {"font": {"size": 12}},
        "showlegend": False,
        "xaxis": {**axis, "title": {"text": "step"}, "hoverformat": ".0f", "nticks": 7},
        "yaxis": {**axis, "title": {"text": unit}, "nticks": 6},
    }


def chart_card(chart: Chart, present: Sequence[Series]) -> str:
    """The HTML around a chart; the script draws the figure into the element with its id."""
    shown = [series for series in present if series.label]
    key = ""
    if len(shown) > 1:
        key = "".join(f"<span>{_sample(s.style)}{escape(s.label)}</span>" for s in shown)
        key = f'<div class="key">{key}</div>'
    return _card(chart.identifier, chart.title, chart.unit, chart.caption, key)


def tau_card(identifier: str, run: str, index: int) -> str:
    caption = (
        "Share of tokens by temperature, step by step; a stronger colour is a larger share "
        "(on a square-root scale)."
    )
    key = f'<div class="key"><span><i class="dot run-{index % len(RUN_COLOURS)}"></i>'
    return _card(identifier, "Distribution", "tau", caption, key + f"{escape(run)}</span></div>")


def _card(identifier: str, title: str, unit: str, caption: str, key: str) -> str:
    in_unit = f" <small>{escape(unit)}</small>" if unit else ""
    return (
        f'<figure class="card" id="card-{escape(identifier)}"><h3>{escape(title)}{in_unit}</h3>{key}'
        f'<div class="plot" id="plot-{escape(identifier)}" role="img" '
        f'aria-label="{escape(title)}"></div><figcaption>{escape(caption)}</figcaption></figure>'
    )


def _sample(style: str) -> str:
    if style == "band":
        return '<svg width="22" height="10" aria-hidden="true"><rect class="fill" width="22" height="10"/></svg>'
    return (
        f'<svg width="22" height="10" aria-hidden="true"><path class="{style}" d="M0 5H22"/></svg>'
    )
