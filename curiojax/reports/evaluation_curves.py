"""The figures of an evaluation report that each benchmark has: pass@k, and lengths of responses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from curiojax.reports import charts, page

Result = Mapping[str, Any]
_SHARE = ".1~%"


def number_at(part: Mapping[str, Any] | None, *keys: str) -> float | None:
    """A number in nested mappings; None if any of it is missing."""
    value: Any = part
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return page.finite(value)


def pass_curves(
    results: Sequence[Result], named: Mapping[str, str]
) -> tuple[str, dict[str, go.Figure]]:
    cards, found = [], {}
    for name, title in named.items():
        parts = [result.get("benchmarks", {}).get(name) for result in results]
        figure = pass_figure([str(r["name"]) for r in results], parts)
        if figure is None:
            continue
        identifier = f"pass-{list(named).index(name)}"
        one = next(part for part in parts if part)
        caption = f"{one.get('questions', 0):,} questions, {one.get('samples', 0):,} samples each."
        cards.append(charts.card(identifier, title, "share of questions", caption, _LINES))
        found[identifier] = figure
    intro = (
        "<p>Pass@k is the probability that at least one of k samples is correct: the unbiased "
        "estimate 1 \u2212 C(n \u2212 c, k) / C(n, k) for c correct ones of n, averaged over "
        "questions; the band is one standard error to either side. Maj@k is the probability that "
        "the most frequent answer of k samples is correct. The axis of k is logarithmic.</p>"
    )
    grid = f'<div class="grid">{"".join(cards)}</div>'
    return page.section("Pass@k", intro + grid, "pass"), found


_LINES = (
    '<span><svg width="22" height="10" aria-hidden="true"><rect class="fill" width="22" '
    'height="10"/><path d="M0 5H22"/></svg>pass@k</span>'
    '<span><svg width="22" height="10" aria-hidden="true"><path class="dashed" d="M0 5H22"/></svg>'
    "maj@k</span>"
)


def pass_figure(
    models: Sequence[str], parts: Sequence[Mapping[str, Any] | None]
) -> go.Figure | None:
    """Pass@k with its standard error and maj@k over k; None if nobody has two samples."""
    figure = go.Figure()
    ticks: set[int] = set()
    for index, (model, part) in enumerate(zip(models, parts, strict=True)):
        points = _scores(part, "pass")
        if len(points) < 2:
            continue
        ticks |= {k for k, _, _ in points}
        colour = charts.colour_of(index)
        fill = charts._transparent(colour, 0.18)
        line: dict[str, Any] = {"color": colour, "width": 2}
        if charts.is_dashed(index):
            line |= {"dash": "5px,3px"}
        low = [max(0.0, value - error) for _, value, error in points]
        high = [min(1.0, value + error) for _, value, error in points]
        name, ks = page.escape(model), [k for k, _, _ in points]
        shared = {"meta": {"run": index, "smooth": False}, "showlegend": False, "x": ks}
        edge = shared | {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
        figure.add_scatter(y=low, **edge)
        figure.add_scatter(y=high, fill="tonexty", fillcolor=fill, **edge)
        figure.add_scatter(
            y=[value for _, value, _ in points],
            customdata=[f"{error:.1%}" for _, _, error in points],
            name=f"{name}, pass@k",
            mode="lines+markers",
            line=line,
            marker={"size": 5, "color": colour},
            hovertemplate="%{y:.1%} \u00b1 %{customdata}",
            cliponaxis=False,
            **shared,
        )
        majority = _scores(part, "maj")
        if len(majority) > 1:
            figure.add_scatter(
                y=[value for _, value, _ in majority],
                name=f"{name}, maj@k",
                mode="lines",
                line={"color": colour, "width": 1.5, "dash": "dash"},
                hovertemplate="%{y:.1%}",
                **shared | {"x": [k for k, _, _ in majority]},
            )
    if not figure.data:
        return None
    layout = charts.layout()
    layout["xaxis"] |= {
        "type": "log",
        "title": {"text": "k", "standoff": 6},
        "tickvals": sorted(ticks),
        "ticktext": [f"{k}" for k in sorted(ticks)],
        "unifiedhovertitle": {"text": "k = %{x:d}"},
    }
    figure.update_layout(layout)
    figure.update_yaxes(tickformat=_SHARE)
    return figure


def _scores(part: Mapping[str, Any] | None, kind: str) -> list[tuple[int, float, float]]:
    """k, score and standard error, by k."""
    found = (part or {}).get(kind) or {}
    points = []
    for k in sorted(found, key=int):
        value = number_at(found, k, "value")
        if value is not None:
            points.append((int(k), value, number_at(found, k, "se") or 0.0))
    return points


def lengths(
    results: Sequence[Result], named: Mapping[str, str]
) -> tuple[str, dict[str, go.Figure]]:
    cards, found = [], {}
    for name, title in named.items():
        parts = [result.get("benchmarks", {}).get(name) for result in results]
        figure = length_figure([str(r["name"]) for r in results], parts)
        if figure is None:
            continue
        identifier = f"length-{list(named).index(name)}"
        key = "".join(_length_key(i, part) for i, part in enumerate(parts) if part)
        totals = {int(n) for part in parts if (n := number_at(part, "counts", "completions"))}
        caption = f"{' and '.join(f'{n:,}' for n in sorted(totals))} responses."
        unit = figure.layout.meta["unit"]
        cards.append(charts.card(identifier, title, unit, caption, key))
        found[identifier] = figure
    intro = (
        "<p>Tokens of the responses, the end-of-sequence token included. Truncated responses "
        "reached the limit and were cut there; the hatched part of the bars is theirs.</p>"
    )
    grid = f'<div class="grid">{"".join(cards)}</div>'
    return page.section("Response length", intro + grid, "lengths"), found


def _length_key(index: int, part: Mapping[str, Any]) -> str:
    mean, cut = number_at(part, "length", "mean"), number_at(part, "rates", "truncated")
    facts = [] if mean is None else [f"mean {mean:,.0f}"]
    facts += [] if cut is None else [f"{cut:.1%} truncated"]
    return f'<span><i class="{charts.dot_class(index)}"></i>{", ".join(facts)}</span>'


def length_figure(
    models: Sequence[str], parts: Sequence[Mapping[str, Any] | None]
) -> go.Figure | None:
    """Histograms of the tokens of the responses; None if nobody has one.

    Where the models' bins are not all equally wide, heights are shares per 1,000 tokens.
    """
    histograms = [_histogram(part) for part in parts]
    widths = [b - a for h in histograms if h for a, b in itertools.pairwise(h[0])]
    if not widths:
        return None
    even = max(widths) - min(widths) < 1e-6 * max(widths)
    figure = go.Figure()
    for index, (model, part, histogram) in enumerate(zip(models, parts, histograms, strict=True)):
        if histogram is None or part is None:
            continue
        edges, counts = histogram
        colour, total = charts.colour_of(index), math.fsum(counts)
        scale = [total * (1.0 if even else (b - a) / 1000) for a, b in itertools.pairwise(edges)]
        shares = [count / unit for count, unit in zip(counts, scale, strict=True)]
        ranges = [f"{a:,.0f} to {b:,.0f}" for a, b in itertools.pairwise(edges)]
        shared = {
            "name": page.escape(model),
            "meta": {"run": index, "smooth": False},
            "showlegend": False,
        }
        bars = {
            "x": [(a + b) / 2 for a, b in itertools.pairwise(edges)],
            "width": [b - a for a, b in itertools.pairwise(edges)],
        }
        figure.add_bar(
            **bars,
            y=[page.finite(share) for share in shares],
            marker={
                "color": charts._transparent(colour, 0.5 if len(models) == 1 else 0.35),
                "line": {"width": 1, "color": colour},
            },
            customdata=[
                [r, int(n), f"{n / total:.1%}"] for r, n in zip(ranges, counts, strict=True)
            ],
            hovertemplate=f"{page.escape(model)}<br>%{{customdata[0]}} tokens<br>"
            "%{customdata[1]:,} responses, %{customdata[2]}<extra></extra>",
            **shared,
        )
        cut = _cut(counts, number_at(part, "counts", "truncated") or 0.0)
        if any(cut):
            figure.add_bar(
                **bars,
                y=[page.finite(c / unit) for c, unit in zip(cut, scale, strict=True)],
                marker={
                    "color": "rgba(0,0,0,0)",
                    "line": {"width": 1, "color": colour},
                    "pattern": {
                        "shape": "/" if index % 2 == 0 else "\\",
                        "fgcolor": colour,
                        "bgcolor": "rgba(0,0,0,0)",
                        "size": 5,
                    },
                },
                hoverinfo="skip",
                **shared,
            )
    layout = charts.layout() | {"hovermode": "closest", "barmode": "overlay", "bargap": 0}
    layout["xaxis"] |= {"title": {"text": "tokens", "standoff": 6}, "rangemode": "tozero"}
    layout["meta"] = {"unit": "share of responses" + ("" if even else " per 1,000 tokens")}
    figure.update_layout(layout)
    figure.update_yaxes(tickformat=_SHARE, rangemode="tozero")
    return figure


def _histogram(part: Mapping[str, Any] | None) -> tuple[list[float], list[float]] | None:
    found = ((part or {}).get("length") or {}).get("histogram") or {}
    edges = [v for e in found.get("edges") or [] if (v := page.finite(e, 12)) is not None]
    counts = [v for c in found.get("counts") or [] if (v := page.finite(c, 12)) is not None]
    if len(edges) != len(counts) + 1 or math.fsum(counts) <= 0:
        return None
    return edges, counts


def _cut(counts: Sequence[float], truncated: float) -> list[float]:
    """How many responses of each bin were cut: the longest, as far as a histogram can tell."""
    cut = [0.0] * len(counts)
    for i in reversed(range(len(counts))):
        cut[i] = min(counts[i], truncated)
        truncated -= cut[i]
    return cut
