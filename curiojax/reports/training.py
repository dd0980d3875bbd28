"""`write_training_report`: the report of one or several training runs."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from curiojax.progress import format_duration
from curiojax.reports import (
    catalogue,
    catalogue_held_out,
    catalogue_hybrid,
    catalogue_prefix,
    catalogue_rl,
    charts,
    page,
    timing,
    tokens,
)

# What both stages have comes last.
GROUPS = (
    *catalogue.GROUPS[:-1],
    *catalogue_rl.GROUPS[:2],
    *catalogue_hybrid.GROUPS,
    *catalogue_prefix.GROUPS,
    *catalogue_rl.GROUPS[2:],
    catalogue.GROUPS[-1],
)


def write_training_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    runs: charts.Runs,
    table: Mapping[str, Any] | None = None,
    token_view: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    config_text: str | None = None,
) -> Path:
    """Writes a self-contained HTML file (about 5 MB, most of it plotly.js) and returns its path.

    Args:
      path: the file; it is replaced in one go.
      title: heading of the report.
      runs: for each run, in the order of its colours, the objects of its `metrics.jsonl`. Objects
        without a `step` are ignored, as are metrics a run does not have and values that are not
        finite (they leave a gap).
      table: {"columns": [str], "rows": [[cell]], "caption": str or None}, shown on top.
      token_view: see `curiojax.reports.tokens.token_view`.
      notes: paragraphs of plain text below the heading.
      config_text: shown collapsed at the end.

    Raises:
      ValueError: a row of `table` does not have one cell per column.
    """
    runs = {name: charts.clean(rows) for name, rows in runs.items()}
    body = []
    if table and table.get("columns"):
        summary = page.table(table["columns"], table["rows"], table.get("caption"))
        body.append(page.section("Summary", summary, "summary"))
    body.append(page.section("Runs", _glance(steps_of(runs)), "runs"))
    curve_html, figures, window = curves(runs, (*catalogue_held_out.groups(runs), *GROUPS))
    body.append(curve_html)
    token_data: dict[str, Any] = {}
    if token_view:
        token_html, token_data = tokens.token_view(token_view)
        body.append(page.section("One expert response, token by token", token_html, "token-view"))
    if config_text:
        configuration = page.details("The resolved configuration", config_text)
        body.append(page.section("Configuration", configuration, "configuration"))
    heading = f"<h1>{page.escape(title)}</h1>{page.paragraphs(notes)}{page.contents(body)}"
    body.insert(0, f"<header>{heading}</header>")
    scripts = [page.asset("report.js")]
    if figures:
        scripts.insert(0, get_plotlyjs())
    document = page.page(
        title,
        "\n".join(body),
        data=[
            page.json_block("figures", figures),
            page.json_block("token-data", token_data),
            page.json_block("settings", {"smoothing_points": window}),
        ],
        scripts=scripts,
        css=charts.run_css() + (tokens.token_css() if token_view else ""),
    )
    return save(path, document)


def save(path: str | os.PathLike[str], document: str) -> Path:
    """Writes a page, replacing the file in one go."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(document, encoding="utf-8")
    temporary.replace(path)
    return path


def _glance(runs: charts.Runs) -> str:
    """What each run amounted to, from its metrics."""
    if not any(runs.values()):
        return '<p class="empty">No training steps were recorded.</p>'
    means = {
        "sft_nll": "cross-entropy",
        "reward": "reward",
        "entropy": "entropy",
        "entropy_top20": "entropy, highest 20\u00a0%",
        "entropy_rest": "entropy, other 80\u00a0%",
    }
    rl = [any("reward" in row for row in steps) for steps in runs.values()]
    if not any(rl):
        means.pop("reward")
    elif all(rl):
        means.pop("sft_nll")
    columns = ["run", "steps", "trained tokens", "time", *means.values()]
    rows = []
    warnings = []
    for name, steps in runs.items():
        seconds = [s for row in steps if (s := page.finite(row.get("step_seconds"))) is not None]
        trained = [t for row in steps if (t := page.finite(row.get("tokens"), 15)) is not None]
        last = steps[-max(1, math.ceil(len(steps) / 10)) :]
        rows.append(
            [
                name,
                len(steps),
                int(math.fsum(trained)) if trained else None,
                format_duration(math.fsum(seconds)) if seconds else None,
                *(_mean(last, key) for key in means),
            ]
        )
        lost = sum(1 for row in steps if "loss" in row and page.finite(row["loss"]) is None)
        skipped = sum(1 for row in steps if row.get("skipped"))
        if lost:
            warnings.append(f"{name}: steps without a finite loss: {lost:,}.")
        if skipped:
            warnings.append(
                f"{name}: updates skipped for a gradient that is not finite: {skipped:,}."
            )
    tokens_of = "the expert's tokens"
    if any(rl):
        tokens_of = "its own completions" if all(rl) else f"{tokens_of}, in RL on its own"
    names = "Entropy is" if all(rl) else "Cross-entropy and entropy are"
    caption = (
        f"{names} in nats per token, means over the last tenth of the run's steps, measured on "
        f"{tokens_of}. Time is the sum of the steps' wall time."
    )
    listed = "".join(f'<p class="warning">{page.escape(text)}</p>' for text in warnings)
    return page.table(columns, rows, caption) + listed


def _mean(rows: Sequence[charts.Row], key: str) -> float | None:
    numbers = [v for row in rows if (v := page.finite(row.get(key), 8)) is not None]
    return math.fsum(numbers) / len(numbers) if numbers else None


def curves(runs: charts.Runs, chosen: Sequence[catalogue.Group]) -> tuple[str, dict[str, Any], int]:
    """The charts' HTML, their figures by element id, and the points a smoothed one averages."""
    joined = charts.curves(steps_of(runs))
    figures: dict[str, Any] = {}
    groups = []
    for group in chosen:
        cards = []
        shown = {n: run for n, run in joined.items() if group.stage in (None, run.stage)}
        if group.only is not None:
            seldom = {n: [row for row in rows if group.only in row] for n, rows in runs.items()}
            shown = charts.curves(seldom)
        if group.identifier == "time":
            for identifier, (card, figure) in timing.figures(shown).items():
                cards.append(card)
                figures[f"plot-{identifier}"] = plain(figure)
        for chart in group.charts:
            figure = charts.line_figure(chart, shown)
            if figure is None:
                continue
            cards.append(charts.chart_card(chart, charts.present(chart, shown)))
            figures[f"plot-{chart.identifier}"] = plain(figure)
            if chart.identifier == "tau":
                for index, (name, rows) in enumerate(runs.items()):
                    heat = charts.tau_figure(name, rows, index)
                    if heat is not None:
                        identifier = f"tau-distribution-{index}"
                        cards.append(charts.tau_card(identifier, name, index))
                        figures[f"plot-{identifier}"] = plain(heat)
        if cards:
            intro = f"<p>{page.escape(group.intro)}</p>" if group.intro else ""
            grid = f'<div class="grid{" large" if group.large else ""}">{"".join(cards)}</div>'
            groups.append(page.section(group.title, intro + grid, f"curves-{group.identifier}"))
    if not figures:
        return "", {}, 1
    stride = max(run.stride for run in joined.values())
    points = max(len(run.steps) for run in joined.values())
    window = 2 * round(points / 100) + 1  # 1 (off) up to 50 points
    return (
        f'<div class="curves">{_toolbar(runs, stride, window)}'
        '<noscript><p class="warning">The charts need JavaScript.</p></noscript>'
        f"{''.join(groups)}</div>",
        figures,
        window,
    )


def steps_of(runs: charts.Runs) -> charts.Runs:
    """The rows that are of a step; one of step 0 holds what was measured before the first."""
    return {name: [row for row in rows if row.get("step") != 0] for name, rows in runs.items()}


def plain(figure: go.Figure) -> dict[str, Any]:
    """A figure as the report keeps it."""
    return json.loads(str(figure.to_json()))


def _toolbar(runs: charts.Runs, stride: int, window: int) -> str:
    """The legend of all charts, which switches runs off and on, and the smoothing."""
    chips = "".join(
        f'<button type="button" class="chip" data-run="{i}" aria-pressed="true">'
        f'<i class="{charts.dot_class(i)}"></i>{page.escape(name)}</button>'
        for i, name in enumerate(runs)
    )
    smooth = ""
    if window > 1:
        smooth = (
            '<label class="smooth"><input type="checkbox" id="smooth" checked>'
            f"<span>smooth: mean over {window * stride} steps</span></label>"
        )
    joined = f'<span class="hint">each point joins {stride} steps</span>' if stride > 1 else ""
    return f'<nav class="toolbar" aria-label="Runs">{chips}{smooth}{joined}</nav>'
