"""The figures of an evaluation report that have one point per benchmark and model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Axis:
    """What a plane shows along one direction.

    Attributes:
      name: as in what the pointer shows; `title` adds the unit.
      value, error: where a benchmark's part of the results has it, and its standard error.
      ticks, digits: formats of the labels and of a point's numbers.
    """

    name: str
    title: str
    value: tuple[str, ...]
    error: tuple[str, ...] | None
    ticks: str
    digits: str


ACCURACY = Axis("accuracy", "accuracy", ("avg", "value"), ("avg", "se"), ".1~%", ".1%")
ENTROPY = Axis(
    "entropy",
    "entropy (nats per token)",
    ("entropy", "token_mean"),
    ("entropy", "token_mean_se"),
    ".2~f",
    ".3f",
)
DIVERSITY = Axis("diversity", "n-gram diversity", ("diversity", "ngram", "4"), None, ".2~f", ".3f")

# Identifier, heading, horizontal and vertical axis, what the caption says.
PLANES = (
    (
        "entropy-accuracy",
        "Entropy against accuracy",
        ACCURACY,
        ENTROPY,
        "Accuracy is avg@k, the share of correct samples, averaged over questions. Entropy is that "
        "of the next-token distribution at temperature 1 over the whole vocabulary, the mean over "
        "all sampled tokens of the benchmark.",
    ),
    (
        "accuracy-diversity",
        "Accuracy against n-gram diversity",
        DIVERSITY,
        ACCURACY,
        "As the paper's Figure 4. The paper does not define its n-gram similarity; here diversity "
        "is 1 minus the mean, over all pairs of samples of a question, of the share of 4-grams of "
        "tokens that the two have in common among those that either has, averaged over questions. "
        "Benchmarks with one sample per question have none.",
    ),
)


def planes(results: Sequence[Result], named: Mapping[str, str]) -> tuple[str, dict[str, go.Figure]]:
    """The section with all of `PLANES` that there is data for, and their figures."""
    bars = " Bars are one standard error to either side."
    if len(results) == 2:
        bars += " A line joins the two models' results on a benchmark."
    cards, found = [], {}
    for identifier, heading, x, y, caption in PLANES:
        shown = [n for n in named if any(_place(r, n, x, y) for r in results)]
        if shown:
            key = "".join(_mark(i, named[n]) for i, n in enumerate(named) if n in shown)
            cards.append(charts.card(identifier, heading, "", caption + bars, key))
            found[identifier] = plane_figure(results, named, x, y)
    grid = f'<div class="grid pair large">{"".join(cards)}</div>'
    return page.section("Accuracy, entropy and diversity", grid, "planes"), found


def plane_figure(
    results: Sequence[Result], named: Mapping[str, str], x: Axis, y: Axis
) -> go.Figure:
    """One point per benchmark and model; of two models, a line joins those of a benchmark.

    Args:
      results: of each model, in the order of their colours.
      named: titles of the benchmarks, in the order of their marks.
    """
    figure = go.Figure()
    for name in named if len(results) == 2 else ():
        ends = [place for r in results if (place := _place(r, name, x, y))]
        if len(ends) == 2:
            figure.add_trace(_link(ends))
    for index, result in enumerate(results):
        for number, name in enumerate(named):
            if _place(result, name, x, y):
                figure.add_trace(_point(result, index, name, named[name], number, x, y))
    figure.update_layout(charts.layout() | {"hovermode": "closest"})
    for update, axis in ((figure.update_xaxes, x), (figure.update_yaxes, y)):
        title = {"text": axis.title, "standoff": 6}
        update(title=title, tickformat=axis.ticks, hoverformat=axis.digits)
    return figure


def _place(result: Result, name: str, x: Axis, y: Axis) -> tuple[float, float] | None:
    part = result.get("benchmarks", {}).get(name)
    across, up = number_at(part, *x.value), number_at(part, *y.value)
    return None if across is None or up is None else (across, up)


def _point(
    result: Result, index: int, name: str, title: str, number: int, x: Axis, y: Axis
) -> go.Scatter:
    place, part = _place(result, name, x, y), result["benchmarks"][name]
    assert place is not None
    colour = charts.colour_of(index)
    hollow = charts.is_dashed(index) or number // len(MARKS) % 2 == 1
    errors = [axis.error and number_at(part, *axis.error) for axis in (x, y)]
    bars = [
        {"array": [error], "color": colour, "thickness": 1, "width": 3} if error else {}
        for error in errors
    ]
    text = f"{page.escape(result['name'])}<br>{page.escape(title)}"
    return go.Scatter(
        x=[place[0]],
        y=[place[1]],
        error_x=bars[0],
        error_y=bars[1],
        name=text,
        mode="markers",
        marker={
            "color": colour,
            "size": 10,
            "symbol": MARKS[number % len(MARKS)][0] + ("-open" if hollow else ""),
            "line": {"width": 2 if hollow else 0},
        },
        meta={"run": index, "smooth": False},
        hovertemplate=f"{text}<br>{x.name} %{{x}}<br>{y.name} %{{y}}<extra></extra>",
        showlegend=False,
        cliponaxis=False,
    )


def _link(ends: Sequence[tuple[float, float]]) -> go.Scatter:
    return go.Scatter(
        x=[x for x, _ in ends],
        y=[y for _, y in ends],
        mode="lines",
        line={"color": "rgba(128,134,145,0.55)", "width": 1, "dash": "dot"},
        # Goes with the second model.
        meta={"run": 1, "smooth": False},
        hoverinfo="skip",
        showlegend=False,
        cliponaxis=False,
    )


def _mark(index: int, title: str) -> str:
    """A benchmark's entry in the key of a plane."""
    shape = MARKS[index % len(MARKS)][1]
    hollow = " class=hollow" if index // len(MARKS) % 2 else ""
    drawing = f'<svg width="12" height="12" aria-hidden="true"{hollow}>{shape}</svg>'
    return f'<span class="mark">{drawing}{page.escape(title)}</span>'
