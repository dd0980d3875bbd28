"""The figures of an evaluation report that have one point per benchmark and model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from curiojax.reports import charts, page
from curiojax.reports.evaluation_curves import Result, number_at

# plotly's name of a mark, and the same in the key: an SVG of 12 by 12.
MARKS = (
    ("circle", '<circle cx="6" cy="6" r="4.2"/>'),
    ("square", '<path d="M2.2 2.2h7.6v7.6H2.2z"/>'),
    ("diamond", '<path d="M6 .8L11.2 6 6 11.2.8 6z"/>'),
    ("triangle-up", '<path d="M6 1.4L11 10.2H1z"/>'),
    ("triangle-down", '<path d="M6 10.6L1 1.8h10z"/>'),
    ("cross", '<path d="M4.4 1h3.2v3.4H11v3.2H7.6V11H4.4V7.6H1V4.4h3.4z"/>'),
    ("hexagon", '<path d="M6 1l4.4 2.5v5L6 11 1.6 8.5v-5z"/>'),
    ("star", '<path d="M6 .6l1.5 3.6 3.9.3-3 2.5 1 3.8L6 8.7l-3.4 2.1 1-3.8-3-2.5 3.9-.3z"/>'),
    ("x", '<path d="M3 .9l3 3 3-3L11.1 3 8 6l3.1 3L9 11.1l-3-3-3 3L.9 9 4 6 .9 3z"/>'),
    ("bowtie", '<path d="M1 2l10 8V2L1 10z"/>'),
)
_SHARE = ".1~%"


def planes(results: Sequence[Result], named: Mapping[str, str]) -> tuple[str, dict[str, go.Figure]]:
    """Accuracy, entropy and diversity of the benchmarks, two at a time."""
    accuracy = (("avg", "value"), ("avg", "se"))
    entropy = (("entropy", "token_mean"), ("entropy", "token_mean_se"))
    diversity = (("diversity", "ngram", "4"), None)
    bars = "Bars are one standard error to either side."
    link = " A line joins the two models' results on a benchmark." if len(results) == 2 else ""
    both = (
        (
            "entropy-accuracy",
            "Entropy against accuracy",
            plane(results, named, accuracy, entropy),
            ("accuracy", _SHARE),
            ("entropy (nats per token)", ".2~f"),
            "Accuracy is avg@k, the share of correct samples, over questions. Entropy is that of "
            "the next-token distribution at temperature 1 over the whole vocabulary, the mean over "
            f"all sampled tokens of the benchmark. {bars}{link}",
        ),
        (
            "accuracy-diversity",
            "Accuracy against n-gram diversity",
            plane(results, named, diversity, accuracy),
            ("n-gram diversity", ".2~f"),
            ("accuracy", _SHARE),
            "As the paper's Figure 4. The paper does not define its n-gram similarity; here "
            "diversity is 1 minus the mean, over all pairs of samples of a question, of the share "
            "of 4-grams of tokens that the two have in common among those that either has, "
            f"averaged over questions. Benchmarks with one sample have none. {bars}{link}",
        ),
    )
    cards, found = [], {}
    for identifier, heading, figure, x, y, caption in both:
        if figure is None:
            continue
        figure.update_xaxes(title={"text": x[0], "standoff": 6}, tickformat=x[1])
        figure.update_yaxes(title={"text": y[0], "standoff": 6}, tickformat=y[1])
        shown = {trace.meta["benchmark"] for trace in figure.data}
        key = "".join(
            _mark(i, title) for i, (name, title) in enumerate(named.items()) if name in shown
        )
        cards.append(charts.card(identifier, heading, "", caption, key))
        found[identifier] = figure
    grid = f'<div class="grid pair large">{"".join(cards)}</div>'
    return page.section("Accuracy, entropy and diversity", grid, "planes"), found


def _mark(index: int, title: str) -> str:
    """A benchmark's entry in the key of a plane."""
    shape = MARKS[index % len(MARKS)][1]
    hollow = " class=hollow" if index // len(MARKS) % 2 else ""
    drawing = f'<svg width="12" height="12" aria-hidden="true"{hollow}>{shape}</svg>'
    return f'<span class="mark">{drawing}{page.escape(title)}</span>'


def plane(
    results: Sequence[Result],
    named: Mapping[str, str],
    x: tuple[Sequence[str], Sequence[str] | None],
    y: tuple[Sequence[str], Sequence[str] | None],
) -> go.Figure | None:
    """One point per benchmark and model; None if there is none.

    Args:
      results: of each model, in the order of their colours.
      named: titles of the benchmarks, in the order of their marks.
      x, y: where a benchmark's part of the results has the coordinate and its standard error.
    """
    figure = go.Figure()
    places: dict[str, list[tuple[float, float]]] = {}
    for index, result in enumerate(results):
        for number, (name, title) in enumerate(named.items()):
            part = result.get("benchmarks", {}).get(name)
            at = number_at(part, *x[0]), number_at(part, *y[0])
            if at[0] is None or at[1] is None:
                continue
            places.setdefault(name, []).append((at[0], at[1]))
            errors = [e and number_at(part, *e) for e in (x[1], y[1])]
            figure.add_trace(_point(result, index, number, name, title, at, errors))
    if not figure.data:
        return None
    if len(results) == 2:
        for name, ends in places.items():
            if len(ends) == 2:
                figure.add_trace(_link(name, ends))
        # Below the points.
        figure.data = figure.data[::-1]
    figure.update_layout(charts.layout() | {"hovermode": "closest"})
    return figure


def _point(
    result: Result,
    index: int,
    number: int,
    name: str,
    title: str,
    at: tuple[float | None, float | None],
    errors: Sequence[Any],
) -> go.Scatter:
    colour = charts.colour_of(index)
    hollow = charts.is_dashed(index) or number // len(MARKS) % 2 == 1
    symbol = MARKS[number % len(MARKS)][0] + ("-open" if hollow else "")
    text = f"{page.escape(result['name'])}<br>{page.escape(title)}"
    bar = {"color": colour, "thickness": 1, "width": 3}
    return go.Scatter(
        x=[at[0]],
        y=[at[1]],
        error_x={"array": [errors[0] or 0], "visible": bool(errors[0]), **bar},
        error_y={"array": [errors[1] or 0], "visible": bool(errors[1]), **bar},
        name=text,
        mode="markers",
        marker={"color": colour, "size": 10, "symbol": symbol, "line": {"width": 2 * hollow}},
        meta={"run": index, "smooth": False, "benchmark": name},
        hovertemplate=f"{text}<br>%{{x}}, %{{y}}<extra></extra>",
        showlegend=False,
        cliponaxis=False,
    )


def _link(name: str, ends: Sequence[tuple[float, float]]) -> go.Scatter:
    return go.Scatter(
        x=[x for x, _ in ends],
        y=[y for _, y in ends],
        mode="lines",
        line={"color": "rgba(128,134,145,0.55)", "width": 1, "dash": "dot"},
        # Goes with the second model.
        meta={"run": 1, "smooth": False, "benchmark": name},
        hoverinfo="skip",
        showlegend=False,
        cliponaxis=False,
    )
