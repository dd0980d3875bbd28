"""`write_comparison_report`: several methods, each with one run or one for every seed."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from curiojax.errors import ConfigError
from curiojax.reports import catalogue, charts, page, training
from curiojax.reports.catalogue import Chart, Group, Series

# What tells a page of ours from a file that somebody else put there.
MARK = '<meta name="generator" content="curiojax comparison">'

PLANES_CSS = """
.planes { grid-template-columns: 1fr; }
.planes .card .plot { height: 26rem; }
"""

# Those whose noise over seeds is drawn.
AVERAGED = ("entropy", "entropy_top20", "entropy_rest", "sft_nll")


@dataclass(frozen=True)
class Point:
    """A place in the plane of the two scores: means over seeds and standard errors, if known."""

    x: float
    y: float
    x_error: float | None = None
    y_error: float | None = None


@dataclass(frozen=True)
class Plane:
    """What every method keeps at the accuracy it reached.

    Attributes:
      x_title, y_title: what the scores are.
      paths: of the methods, by name: the end, and before it the checkpoints on the way, if any.
      caption: shown below the figure.
    """

    x_title: str
    y_title: str
    paths: Mapping[str, Sequence[Point]]
    caption: str


def write_comparison_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    runs: Mapping[str, Sequence[Sequence[charts.Row]]],
    tables: Mapping[str, Mapping[str, Any]],
    planes: Sequence[Plane] = (),
    notes: Sequence[str] = (),
    config_text: str | None = None,
) -> Path:
    """Writes a self-contained HTML file and returns its path.

    Args:
      path: the file; it is replaced in one go, if it is a comparison.
      title: heading of the report.
      runs: for each method, in the order of its colours, the `metrics.jsonl` of each of its runs.
      tables: by heading, {"columns": [str], "rows": [[cell]], "caption": str or None}.
      planes: figures of what is kept at which accuracy.
      notes: paragraphs of plain text below the heading.
      config_text: shown collapsed at the end.

    Raises:
      ConfigError: the path holds something else.
    """
    check_target(path)
    joined = {name: over_seeds(seeds) for name, seeds in runs.items()}
    curve_html, figures, window = training.curves(joined, _groups(runs))
    body = [
        page.section(heading, page.table(t["columns"], t["rows"], t.get("caption")), f"table-{i}")
        for i, (heading, t) in enumerate(tables.items())
    ]
    cards = []
    for number, plane in enumerate(planes):
        figure = plane_figure(plane, list(runs))
        if figure is not None and curve_html:
            identifier = f"plane-{number}"
            figures[f"plot-{identifier}"] = training.plain(figure)
            heading = f"{plane.y_title} against {plane.x_title}"
            cards.append(charts.card(identifier, heading, "", plane.caption, ""))
    if cards:
        # Inside the curves' element, so that the toolbar stays in sight.
        last = curve_html.rindex("</div>")
        grid = f'<div class="grid planes">{"".join(cards)}</div>'
        section = page.section("What is kept at which accuracy", grid, "planes")
        curve_html = curve_html[:last] + section + curve_html[last:]
    body.append(curve_html)
    if config_text:
        configuration = page.details("The resolved configuration", config_text)
        body.append(page.section("Configuration", configuration, "configuration"))
    heading = f"<h1>{page.escape(title)}</h1>{page.paragraphs(notes)}{page.contents(body)}"
    document = page.page(
        title,
        "\n".join([f"<header>{heading}</header>", *body]),
        data=[
            page.json_block("figures", figures),
            page.json_block("token-data", {}),
            page.json_block("settings", {"smoothing_points": window}),
        ],
        scripts=[get_plotlyjs(), page.asset("report.js")] if figures else [page.asset("report.js")],
        css=charts.run_css() + PLANES_CSS,
    )
    return training.save(path, document.replace("<head>", f"<head>\n{MARK}", 1))


def check_target(
    path: str | os.PathLike[str], *, field: str = "--output", mark: str = MARK
) -> None:
    """Raises a `ConfigError` when the path holds something that is no comparison of ours.

    Args:
      field: names the path in errors.
      mark: what such a comparison has near its beginning.
    """
    path = Path(path)
    if path.is_dir():
        raise ConfigError(f"{field}: {path} is a folder; name an HTML file in it")
    if not path.exists():
        return
    with path.open("rb") as file:
        if mark.encode() not in file.read(200):
            raise ConfigError(f"{field}: {path} exists and is no comparison; name another file")


def over_seeds(seeds: Sequence[Sequence[charts.Row]]) -> list[dict[str, Any]]:
    """One row per step: the mean of every metric over the runs that have it.

    Of those in `AVERAGED` also `<key>_low` and `<key>_high`, one standard error to either side,
    where there are two runs or more.
    """
    by_step: dict[float, list[charts.Row]] = {}
    for rows in seeds:
        for row in charts.clean(rows):
            by_step.setdefault(row["step"], []).append(row)
    joined = []
    for step, rows in sorted(by_step.items()):
        line: dict[str, Any] = {"step": step}
        for key in dict.fromkeys(key for row in rows for key in row if key != "step"):
            values = [v for row in rows if (v := page.finite(row.get(key), 8)) is not None]
            if not values:
                continue
            mean = math.fsum(values) / len(values)
            line[key] = mean
            if key in AVERAGED and len(values) > 1:
                variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
                error = math.sqrt(variance / len(values))
                line |= {f"{key}_low": mean - error, f"{key}_high": mean + error}
        joined.append(line)
    return joined


def plane_figure(plane: Plane, order: Sequence[str]) -> go.Figure | None:
    """Each method's end, with error bars, and the way there where it is known."""
    figure = go.Figure()
    for name, path in plane.paths.items():
        if not path:
            continue
        index = order.index(name)
        colour = charts.colour_of(index)
        hollow = charts.is_dashed(index)
        end = len(path) - 1
        bar = {"color": colour, "thickness": 1, "width": 3}
        figure.add_trace(
            go.Scatter(
                x=[page.finite(p.x) for p in path],
                y=[page.finite(p.y) for p in path],
                error_x={"array": [p.x_error for p in path], **bar},
                error_y={"array": [p.y_error for p in path], **bar},
                name=page.escape(name),
                mode="lines+markers" if end else "markers",
                line={"color": colour, "width": 1.5},
                marker={
                    "color": colour,
                    "size": [11 if i == end else 5 for i in range(end + 1)],
                    "symbol": "circle-open" if hollow else "circle",
                    "line": {"width": 2 if hollow else 0, "color": colour},
                },
                meta={"run": index, "smooth": False},
                hovertemplate=f"{page.escape(name)}<br>%{{x:.3f}}, %{{y:.3f}}<extra></extra>",
                showlegend=False,
                cliponaxis=False,
            )
        )
    if not figure.data:
        return None
    figure.update_layout(charts.layout() | {"hovermode": "closest"})
    figure.update_xaxes(title={"text": plane.x_title, "standoff": 6}, hoverformat=".3f")
    figure.update_yaxes(title={"text": plane.y_title, "standoff": 6})
    return figure


def _groups(runs: Mapping[str, Sequence[Any]]) -> list[Group]:
    """The charts of a comparison: those that mean the same for every method."""
    several = any(len(seeds) > 1 for seeds in runs.values())
    entropy, loss = catalogue.GROUPS[0], catalogue.GROUPS[1]
    weight = next(group for group in catalogue.GROUPS if group.identifier == "weight")
    noise = " The band is one standard error over the seeds to either side." if several else ""
    intro = entropy.intro.partition("The teacher's tokens")[0].strip()
    own = [_alone(chart, noise) for chart in entropy.charts]
    nll = next(chart for chart in loss.charts if chart.identifier == "sft_nll")
    kept = [c for c in weight.charts if c.identifier in ("weight_mean", "weight_shares")]
    return [
        Group("entropy", "Entropy over the steps", intro, tuple(own), large=True),
        Group("loss", loss.title, "Means over all trained tokens.", (_alone(nll, noise),)),
        Group("weight", weight.title, weight.intro, tuple(kept)),
    ]


def _alone(chart: Chart, noise: str) -> Chart:
    """The chart with its first series only, and the noise of that."""
    key = chart.series[0].key
    series = (
        Series(f"{key}_low", "standard error", "error"),
        Series(f"{key}_high", "", "error"),
        Series(key, "mean" if noise else "model"),
    )
    identifier, title, unit = chart.identifier, chart.title, chart.unit
    return Chart(identifier, title, unit, series, chart.caption + noise, chart.zero, chart.scale)
