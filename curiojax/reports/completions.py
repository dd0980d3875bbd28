"""The browsable list of an evaluation's completions: its data, its controls, and what fits in.

The list is made of questions; one opens to show its prompt and the samples of every model. A report
holds a small index, from which the scripts make, filter and sort the rows, and a block of JSON for
every question, which is parsed when somebody opens it or searches. So a page of some thousand
completions opens as fast as an empty one. All text goes through `page.visible` here and into the
page as text nodes there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curiojax import progress
from curiojax.reports import charts, page, tokens
from curiojax.reports.completion_rows import VERDICTS, Row, facts, sample, visible

Completions = Mapping[str, Mapping[str, Sequence[Row]]]

CAP_BYTES = 20_000_000
ENTROPY_TOP = 2.0  # nats; the colours end here, in all reports, so that they can be compared
_HEAD_CHARACTERS = 160


@dataclass(frozen=True)
class Listing:
    """Attributes:
    html: the controls and the empty list.
    blocks: elements made by `page.json_block`.
    shown, total: completions in the list, and all there are.
    """

    html: str
    blocks: list[str]
    shown: int
    total: int


@dataclass(frozen=True)
class _Question:
    benchmark: str
    id: str
    rows: list[list[Row]]  # of every model, in the order of the samples

    @property
    def completions(self) -> int:
        return sum(len(rows) for rows in self.rows)


@dataclass(frozen=True)
class _Taken:
    """A question that is shown: its entry in the index, and what opens."""

    benchmark: str
    completions: int
    entry: dict[str, Any]
    block: dict[str, Any]


def listing(
    completions: Completions,
    models: Sequence[str],
    titles: Mapping[str, str],
    *,
    cap_bytes: int = CAP_BYTES,
) -> Listing:
    """The list of all completions, or of as many as fit into `cap_bytes` of JSON.

    Args:
      completions: rows by model and benchmark, as `write_evaluation_report` takes them.
      models: names of all models, in the order of their colours.
      titles: of benchmarks, by name, in the order in which they are shown.
      cap_bytes: the questions shown are spread evenly over benchmarks (by their completions) and
        within each; one is shown with all of its samples or not at all. Of the others nothing but
        `question` and `sample` is read, so that a row may be a mapping that loads the rest.
    """
    groups = _grouped(completions, models, list(titles))
    total = sum(q.completions for group in groups.values() for q in group)
    taken = _chosen(groups, cap_bytes)
    names = [name for name in groups if any(one.benchmark == name for one in taken)]
    index = {
        "models": [page.visible(name) for name in models],
        "dots": [charts.dot_class(i) for i in range(len(models))],
        "benchmarks": [page.visible(titles.get(name, name)) for name in names],
        "verdicts": VERDICTS,
        "top": ENTROPY_TOP,
        "bins": tokens.BINS,
        "questions": [one.entry | {"b": names.index(one.benchmark)} for one in taken],
    }
    blocks = [page.json_block("completions", index)]
    blocks += [page.json_block(f"question-{i}", one.block) for i, one in enumerate(taken)]
    shown = sum(one.completions for one in taken)
    return Listing(_html(len(models), shown, total), blocks, shown, total)


def _grouped(
    completions: Completions, models: Sequence[str], order: Sequence[str]
) -> dict[str, list[_Question]]:
    """The questions of each benchmark, in the order of the rows."""
    found: dict[str, dict[str, _Question]] = {name: {} for name in order}
    for number, model in enumerate(models):
        for benchmark, rows in completions.get(model, {}).items():
            questions = found.setdefault(benchmark, {})
            for row in rows:
                key = str(row["question"])
                if key not in questions:
                    questions[key] = _Question(benchmark, key, [[] for _ in models])
                questions[key].rows[number].append(row)
    for questions in found.values():
        for question in questions.values():
            for rows in question.rows:
                rows.sort(key=lambda row: row["sample"])
    return {name: list(questions.values()) for name, questions in found.items() if questions}


def _chosen(groups: Mapping[str, Sequence[_Question]], cap_bytes: int) -> list[_Taken]:
    """What is shown, in order."""
    waiting = {name: [(i, group[i]) for i in _spread(len(group))] for name, group in groups.items()}
    taken: dict[str, dict[int, _Taken]] = {name: {} for name in groups}
    counts = dict.fromkeys(groups, 0)
    size, total = 0, sum(len(group) for group in groups.values())
    with progress.LazyBar("completions for the report") as bar:
        while names := [name for name in waiting if waiting[name]]:
            name = min(names, key=lambda name: counts[name])
            place, question = waiting[name].pop(0)
            one = _read(question)
            length = sum(len(page.json_block("question-00000", x)) for x in (one.entry, one.block))
            if size + length <= cap_bytes:
                size += length
                counts[name] += one.completions
                taken[name][place] = one
                bar(sum(map(len, taken.values())), total)
            elif taken[name]:
                # Going on to smaller ones would show the short completions rather than any.
                waiting[name] = []
    return [taken[name][place] for name in groups for place in sorted(taken[name])]


def _read(question: _Question) -> _Taken:
    """Reads every row once, for they may come from a file."""
    rows: list[list[Row]] = [[dict(row) for row in own] for own in question.rows]
    question = _Question(question.benchmark, question.id, rows)
    return _Taken(question.benchmark, question.completions, _entry(question), _block(question))


def _spread(count: int) -> list[int]:
    """0 .. count - 1, so that the first ones of it are spread evenly over all: bits reversed."""
    width = max(1, (count - 1).bit_length())
    return sorted(range(count), key=lambda i: int(f"{i:0{width}b}"[::-1], 2))


def _entry(question: _Question) -> dict[str, Any]:
    """A question in the index: what its row shows, and what the list is filtered and sorted by."""
    prompt = _any(question, "prompt")
    head = " ".join(str(prompt)[: 4 * _HEAD_CHARACTERS].split())[:_HEAD_CHARACTERS]
    return {
        "id": page.visible(question.id),
        "head": None if prompt is None else page.visible(head),
        "s": [[facts(row) for row in rows] for rows in question.rows],
    }


def _block(question: _Question) -> dict[str, Any]:
    """What is shown of a question when it is open."""
    return {
        "prompt": visible(_any(question, "prompt")),
        "truth": visible(_any(question, "ground_truth")),
        "s": [[sample(row) for row in rows] for rows in question.rows],
    }


def _any(question: _Question, key: str) -> Any:
    return next((row.get(key) for rows in question.rows for row in rows), None)


def _html(models: int, shown: int, total: int) -> str:
    if not total:
        return '<p class="empty">There are no completions to show.</p>'
    count = f"{shown:,} of {total:,} completions are in this file, all are in completions/."
    if shown < total:
        count += (
            " Those shown are spread evenly over the benchmarks, each question with all samples."
        )
    fields = [
        _field("model", "Model", _select("model")) if models > 1 else "",
        _field("benchmark", "Benchmark", _select("benchmark")),
        _field("verdict", "Verdict", _select("verdict")),
        _field("compare", "Comparison", _select("compare")) if models > 1 else "",
        _field("sort", "Sort by", _select("sort")),
        _field(
            "text",
            "Search",
            '<input type="search" id="list-text" autocomplete="off" spellcheck="false" '
            'placeholder="any text">',
        ),
    ]
    compare = ""
    if models > 1:
        compare = (
            '<p class="hint">A model counts as right on a question if at least one of its samples '
            "is correct.</p>"
        )
    return (
        f"<p>{page.escape(count)}</p>"
        '<noscript><p class="warning">The list needs JavaScript.</p></noscript>'
        f'<form class="filters" id="list-filters" role="search" aria-label="Completions">'
        f"{''.join(fields)}</form>{compare}"
        '<p class="found" id="list-found" role="status"></p>'
        '<ol class="items" id="list-items" role="list"></ol>'
        '<button type="button" class="more" id="list-more" hidden></button>'
        '<div id="list-panel" class="panel" role="status" hidden></div>'
    )


def _field(name: str, label: str, control: str) -> str:
    return f'<div class="field"><label for="list-{name}">{label}</label>{control}</div>'


def _select(name: str) -> str:
    return f'<select id="list-{name}"></select>'
