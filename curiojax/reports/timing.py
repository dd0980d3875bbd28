"""Where the time of an RL step goes: the parts of it on top of each other, for one run."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from curiojax.reports import charts
from curiojax.reports.page import escape

# Metric, label, and how strongly the run's colour covers the area.
PARTS = (
    ("generate_seconds", "sampling", 0.85),
    ("grade_seconds", "waiting for grades", 0.65),
    ("log_probs_seconds", "log-probabilities", 0.45),
    ("update_seconds", "updates", 0.28),
    ("sync_seconds", "handing over the weights", 0.12),
)


def time_figure(name: str, run: charts.Curves) -> go.Figure | None:
    """Stacked areas of the parts of a step; None if the run has none of them."""
    parts = [part for part in PARTS if run.has(part[0])]
    if not parts:
        return None
    colour = charts.RUN_COLOURS[run.index % len(charts.RUN_COLOURS)]
    figure = go.Figure()
    for key, label, strength in parts:
        figure.add_trace(
            go.Scatter(
                x=run.steps,
                y=run.values(key),
                name=f"{escape(name)}, {escape(label)}",
                mode="lines",
                line={"color": colour, "width": 0.5},
                stackgroup="parts",
                fillcolor=charts._transparent(colour, strength),
                meta={"run": run.index, "smooth": False},
                hovertemplate="%{y:.3~g} s",
                showlegend=False,
            )
        )
    figure.update_layout(charts.layout())
    figure.update_yaxes(range=[0, top(run)], exponentformat="SI")
    return figure


def top(run: charts.Curves) -> float:
    """Upper end of the scale: a few slow steps, such as those that compile, may exceed it."""
    columns = [[v or 0.0 for v in run.values(key)] for key, _, _ in PARTS if run.has(key)]
    totals = sorted(sum(column) for column in zip(*columns, strict=True))
    return 1.3 * totals[int(0.95 * (len(totals) - 1))] or 1.0


def time_card(identifier: str, name: str, run: charts.Curves) -> str:
    """The HTML around the figure, with a key to its shades."""
    colour = charts.RUN_COLOURS[run.index % len(charts.RUN_COLOURS)]
    key = "".join(
        f'<span><svg width="22" height="10" aria-hidden="true"><rect class="fill" width="22" '
        f'height="10" style="fill:{colour};opacity:{strength}"/></svg>{escape(label)}</span>'
        for metric, label, strength in PARTS
        if run.has(metric)
    )
    caption = (
        "Writing down completions and checkpoints comes on top. Slow steps beyond the scale, such "
        "as the first one, which compiles, are cut off."
    )
    return charts.card(identifier, name, "seconds", caption, key)


def figures(runs: dict[str, charts.Curves]) -> dict[str, tuple[str, Any]]:
    """The card and the figure of every run that has one, by the identifier of the card."""
    found = {}
    for name, run in runs.items():
        figure, identifier = time_figure(name, run), f"time-{run.index}"
        if figure is not None:
            found[identifier] = time_card(identifier, name, run), figure
    return found
