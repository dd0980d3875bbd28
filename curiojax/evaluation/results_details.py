"""Tables with a row for each benchmark and model, in which something is looked up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from curiojax.evaluation.table import Results, Table, percent

_MAX_K_COLUMNS = 3


def pass_table(
    results: Sequence[Results], names: Sequence[str], titles: Mapping[str, str]
) -> Table:
    """pass@k and maj@k for a few k."""
    parts = [part for result in results for part in result["benchmarks"].values()]
    ks = sorted({int(k) for part in parts for k in part["pass"]} - {1})
    if len(ks) > _MAX_K_COLUMNS:  # the first, the last and one between; all are in the file
        ks = [ks[0], ks[len(ks) // 2], ks[-1]]
    rows = []
    for name, benchmark, part in _pairs(results, names, titles):
        if part["samples"] > 1:
            cells = [percent(part[score].get(str(k))) for score in ("pass", "maj") for k in ks]
            rows.append((name, titles[benchmark], *cells))
    caption = (
        "Percent \u00b1 standard error. pass@k: chance that one of k samples is right; maj@k: that "
        "the answer most of k samples give is right, equal texts being one answer."
    )
    columns = tuple(f"{score}@{k}" for score in ("pass", "maj") for k in ks)
    return _detail("pass@k and maj@k", ("model", "benchmark", *columns), rows, caption, results)


def faults_table(
    results: Sequence[Results], names: Sequence[str], titles: Mapping[str, str]
) -> Table:
    """Shares of completions, and numbers of questions, with something amiss."""
    rows = []
    for name, benchmark, part in _pairs(results, names, titles):
        rates, counts = part["rates"], part["counts"]
        shares = (rates["truncated"], rates["no_think_close"], rates["no_box"], rates["timeout"])
        questions = (counts["prompt_too_long"], counts["unverifiable"])
        cells = (*(f"{100 * share:.1f}" for share in shares), *questions)
        rows.append((name, titles[benchmark], *cells))
    columns = ("model", "benchmark", "cut off", "no </think>", "no box", "timeout")
    columns += ("long prompts", "unverifiable")
    caption = (
        "Percent of completions that were cut off at the limit, have no </think>, no box, or whose "
        "grading ran out of time; questions whose prompt is too long (they count as wrong), and "
        "whose ground truth cannot be verified (they are left out)."
    )
    return _detail("What was amiss", columns, rows, caption, results)


def writing_table(
    results: Sequence[Results], names: Sequence[str], titles: Mapping[str, str]
) -> Table:
    """Lengths, entropies and diversity."""
    rows = []
    for name, benchmark, part in _pairs(results, names, titles):
        entropy, diversity = part.get("entropy") or {}, part.get("diversity") or {}
        cells = (
            round(part["length"]["mean"]),
            entropy.get("token_mean"),
            diversity.get("ngram", {}).get("4"),
            diversity.get("compression_ratio"),
            diversity.get("distinct_answers"),
            diversity.get("distinct_correct"),
        )
        rows.append((name, titles[benchmark], *cells))
    columns = ("model", "benchmark", "tokens", "entropy", "diversity", "compression")
    columns += ("answers", "right answers")
    caption = (
        "Mean length; mean entropy of the generated tokens, nats; 4-gram diversity (1 minus the "
        "Jaccard similarity of two responses to a question); compression of a question's responses "
        "(higher: more alike); different answers and different right answers per question."
    )
    return _detail("Length, entropy and diversity", columns, rows, caption, results)


def _detail(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    caption: str,
    results: Sequence[Results],
) -> Table:
    """A table with a row for each benchmark and model; of one model, its name needs no column."""
    first = 1 if len(results) == 1 else 0
    cut = tuple(tuple(row[first:]) for row in rows)
    return Table(title, tuple(columns[first:]), cut, caption, detail=True)


def _pairs(
    results: Sequence[Results], names: Sequence[str], titles: Mapping[str, str]
) -> Iterable[tuple[str, str, Mapping[str, Any]]]:
    for benchmark in titles:
        for name, result in zip(names, results, strict=True):
            if benchmark in result["benchmarks"]:
                yield name, benchmark, result["benchmarks"][benchmark]
