"""`write_comparison_report`: the tables and curves of several training runs, side by side."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from curiojax.errors import ConfigError
from curiojax.reports import catalogue, catalogue_rl, charts, page, training
from curiojax.reports.catalogue import Chart, Group

# What tells a page of ours from a file that somebody else put there.
MARK = '<meta name="generator" content="curiojax comparison">'


def write_comparison_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    runs: charts.Runs,
    tables: Mapping[str, Mapping[str, Any]],
) -> Path:
    """Writes a self-contained HTML file and returns its path.

    Args:
      path: the file; it is replaced in one go, if it is a comparison.
      title: heading of the report.
      runs: for each run, in the order of its colours, the objects of its `metrics.jsonl`.
      tables: by heading, {"columns": [str], "rows": [[cell]], "caption": str or None}.

    Raises:
      ConfigError: the path holds something else.
    """
    check_target(path)
    runs = {name: charts.clean(rows) for name, rows in runs.items()}
    curve_html, figures, window = training.curves(runs, _groups())
    body = [
        page.section(heading, page.table(t["columns"], t["rows"], t.get("caption")), f"table-{i}")
        for i, (heading, t) in enumerate(tables.items())
    ]
    body.append(curve_html)
    heading = f"<h1>{page.escape(title)}</h1>{page.contents(body)}"
    document = page.page(
        title,
        "\n".join([f"<header>{heading}</header>", *body]),
        data=[
            page.json_block("figures", figures),
            page.json_block("token-data", {}),
            page.json_block("settings", {"smoothing_points": window}),
        ],
        scripts=[get_plotlyjs(), page.asset("report.js")] if figures else [page.asset("report.js")],
        css=charts.run_css(),
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


def _groups() -> list[Group]:
    """The charts of a comparison: those that mean the same for every method of a stage."""
    entropy, loss = catalogue.GROUPS[0], catalogue.GROUPS[1]
    weight = next(group for group in catalogue.GROUPS if group.identifier == "weight")
    intro = entropy.intro.partition("The teacher's tokens")[0].strip()
    own = [_alone(chart) for chart in entropy.charts]
    nll = next(chart for chart in loss.charts if chart.identifier == "sft_nll")
    kept = [c for c in weight.charts if c.identifier in ("weight_mean", "weight_shares")]
    reward, completions = catalogue_rl.GROUPS[:2]
    return [
        Group("entropy", entropy.title, intro, tuple(own), large=True, stage="sft"),
        Group("loss", loss.title, "Means over all trained tokens.", (nll,), stage="sft"),
        Group("weight", weight.title, weight.intro, tuple(kept)),
        reward,
        completions,
    ]


def _alone(chart: Chart) -> Chart:
    """The chart without the teacher's series."""
    return dataclasses.replace(chart, series=chart.series[:1])
