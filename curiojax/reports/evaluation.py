"""`write_evaluation_report`: the report of one evaluation, or of several side by side."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from curiojax.errors import ConfigError
from curiojax.reports import charts, evaluation_curves, evaluation_planes, page, tokens, training
from curiojax.reports.completions import CAP_BYTES, Completions, listing

# By this a page of several models is known as ours, and may be replaced.
COMPARISON_MARK = '<meta name="generator" content="curiojax evaluate compare">'


def write_evaluation_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    results: Sequence[Mapping[str, Any]],
    tables: Sequence[Mapping[str, Any]],
    completions: Completions,
    notes: Sequence[str] = (),
    cap_bytes: int = CAP_BYTES,
) -> Path:
    """Writes a self-contained HTML file (about 5 MB and the completions) and returns its path.

    Args:
      path: the file; it is replaced in one go.
      title: heading of the report.
      results: what `results.json` holds of each model, in the order of their colours. What one
        lacks is left out of the figures.
      tables: {"title": str, "columns": [str], "rows": [[cell]], "caption": str or None} on top;
        those with "detail": True below the list of completions.
      completions: of each model (by its `name` in `results`) and benchmark, the rows of the list:
        {"question": str, "prompt": str or None if private, "ground_truth": str or None if private,
        "sample": int, "text": str, "pieces": [str] or None, "entropies": [nats] or None, as many
        as pieces, "extracted": str or None, "correct": bool, "status": str, "finish": str,
        "tokens": int}. A row may be a mapping that reads most of this from a file: nothing but
        `question` and `sample` is asked of those that do not fit into the list.
      notes: paragraphs of plain text below the heading.
      cap_bytes: most that the list of completions may add to the file.

    Raises:
      ConfigError: two models have the same name.
      ValueError: a row of a table does not have one cell per column.
    """
    models = [str(result["name"]) for result in results]
    if len(set(models)) < len(models):
        double = next(name for name in models if models.count(name) > 1)
        raise ConfigError(f"name: two models are called {double!r}; give each a name of its own")
    models += [name for name in completions if name not in models]
    titles = _titles(results)
    parts = [
        page.section(
            table["title"],
            page.table(table["columns"], table["rows"], table.get("caption"), stack=True),
            f"table-{i}",
        )
        for i, table in enumerate(tables)
    ]
    # Scores, pictures, answers; what is looked up comes after what is looked at.
    body = [part for part, table in zip(parts, tables, strict=True) if not table.get("detail")]
    sections, figures = _figures(results)
    if sections:
        legend = _legend(models) if len(results) > 1 else ""
        missing = '<noscript><p class="warning">The charts need JavaScript.</p></noscript>'
        body.append(f'<div class="curves">{legend}{missing}{"".join(sections)}</div>')
    found = listing(completions, models, titles, cap_bytes=cap_bytes)
    body.append(page.section("Completions", found.html, "completions-list"))
    body += [part for part, table in zip(parts, tables, strict=True) if table.get("detail")]
    settings = "".join(page.details(str(r["name"]), _settings(r)) for r in results)
    if settings:
        body.append(page.section("Settings", settings, "settings-text"))
    heading = f"<h1>{page.escape(title)}</h1>{page.paragraphs(notes)}{page.contents(body)}"
    scripts = [page.asset("report.js")]
    if figures:
        scripts.insert(0, get_plotlyjs())
    if found.total:
        scripts += [page.asset("completion.js"), page.asset("completions.js")]
    document = page.page(
        title,
        "\n".join([f"<header>{heading}</header>", *body]),
        data=[
            page.json_block("figures", figures),
            page.json_block("settings", {"smoothing_points": 1}),
            *found.blocks,
        ],
        scripts=scripts,
        css=charts.run_css() + tokens.token_css() + page.asset("evaluation.css"),
    )
    if len(results) > 1:
        document = document.replace("<head>", f"<head>\n{COMPARISON_MARK}", 1)
    return training.save(path, document)


def _titles(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The benchmarks of all results, by name, in the order in which they first appear."""
    found: dict[str, str] = {}
    for result in results:
        for name, part in result.get("benchmarks", {}).items():
            found.setdefault(name, str(part.get("title") or name))
    return found


def _figures(results: Sequence[Mapping[str, Any]]) -> tuple[list[str], dict[str, Any]]:
    """The sections with figures, as HTML, and the figures by element id."""
    named = _titles(results)
    sections, drawn = [], {}
    for make in (
        evaluation_planes.planes,
        evaluation_curves.pass_curves,
        evaluation_curves.lengths,
    ):
        section, found = make(results, named)
        if found:
            sections.append(section)
            drawn |= {f"plot-{name}": training.plain(figure) for name, figure in found.items()}
    return sections, drawn


def _legend(models: Sequence[str]) -> str:
    """The legend of all figures, which switches models off and on."""
    chips = "".join(
        f'<button type="button" class="chip" data-run="{i}" aria-pressed="true">'
        f'<i class="{charts.dot_class(i)}"></i>{page.escape(name)}</button>'
        for i, name in enumerate(models)
    )
    return f'<nav class="toolbar" aria-label="Models">{chips}</nav>'


def _settings(result: Mapping[str, Any]) -> str:
    """Which model was evaluated how, as JSON."""
    parts = {key: result[key] for key in ("model", "settings", "software") if key in result}
    return json.dumps(parts, indent=2, ensure_ascii=False, default=str)
