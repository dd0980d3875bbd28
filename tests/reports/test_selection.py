"""The report on a selection: its numbers, its bars and its escaping."""

import json
import re

import numpy as np

from curiojax.reports.selection import (
    SelectedSet,
    histogram_figure,
    summary_rows,
    write_selection_report,
)

HOSTILE = "</script><img src=x onerror=alert(1)>"


def selected(name="Promoted", wanted=True, notes=()):
    rng = np.random.default_rng(0)
    perplexity = np.append(rng.normal(2.5, 0.7, 2000), [np.nan, 50.0])
    edges = np.linspace(1.0, 5.0, 81)
    chosen = np.flatnonzero(np.abs(perplexity - 3) < 0.3)
    return SelectedSet(
        name,
        perplexity,
        rng.integers(100, 9000, len(perplexity)),
        rng.integers(0, 500, len(perplexity)),
        chosen,
        1000,
        edges,
        np.histogram(rng.normal(3, 0.25, 1000), edges)[0] if wanted else None,
        notes,
    )


def test_the_summary_counts_what_there_is():
    one = selected()
    (row,) = summary_rows([one])
    finite = one.perplexity[np.isfinite(one.perplexity)]
    assert row[:5] == ["Promoted", 2002, len(set(one.queries.tolist())), 1000, len(one.chosen)]
    assert row[5] == f"{np.median(finite):.3f}"
    assert row[6] == f"{np.median(one.perplexity[one.chosen]):.3f}"
    assert row[7] == f"{one.tokens.mean():,.1f}"


def test_bars_are_shares_of_all_records():
    values = np.array([1.1, 1.1, 1.6, 9.0])
    figure = histogram_figure(
        values,
        values[:1],
        np.array([1.0, 1.5, 2.0]),
        label="x",
        digits=2,
        wanted=np.array([1, 3]),
    )
    before, after, wanted = figure.data
    assert list(before.y) == [0.5, 0.25]  # a quarter lies outside
    assert list(after.y) == [1.0, 0.0]
    assert list(wanted.y) == [0.25, 0.75]
    assert list(before.customdata[0]) == ["1.00 to 1.50", 2]


def test_one_file_with_everything_inside(tmp_path):
    path = write_selection_report(
        tmp_path / "deep" / "report.html",
        title=f"OXA {HOSTILE}",
        sets=[selected(notes=[HOSTILE]), selected("Suppressed", wanted=False)],
        notes=[HOSTILE],
        settings=HOSTILE,
    )
    text = path.read_text(encoding="utf-8")
    assert HOSTILE not in text and not list(path.parent.glob(".*"))
    assert not re.search(r'(src|href)="(?!#|data:)', text.split("<script>")[0])
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', text)[1])
    assert list(figures) == [
        f"plot-set-{i}-{name}" for i in (0, 1) for name in ("perplexity", "length")
    ]
    assert [len(figure["data"]) for figure in figures.values()] == [3, 2, 2, 2]
