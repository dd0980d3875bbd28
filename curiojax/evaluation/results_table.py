"""Tables of evaluation results, shaped like the paper's Tables 2 and 3.

A `Table` is plain data, for `progress.print_table` and `reports.page.table` alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curiojax.errors import ConfigError

GROUP_TITLES = {
    "math": "Mathematics (in distribution)",
    "general": "General reasoning (out of distribution)",
    "own": "Own benchmarks",
}

_MAX_K_COLUMNS = 3

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A table as plain data.

    Attributes:
      title: what it is.
      columns: their names, one per cell of every row.
      rows: cells are texts, numbers, or None for what is not known.
      caption: how to read it.
      detail: a row for each benchmark, to look something up in; reports put it further down.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    caption: str
    detail: bool = False


def results_tables(results: Sequence[Results]) -> list[Table]:
    """Tables of one or several models, a row for each.

    Returns:
      for each group of benchmarks avg@k and its mean; the means over groups, if there are several;
      entropies along demonstrations, if there are any;
      avg@k by the second verifier, if there is one; pass@k and maj@k, if there are several samples;
      rates of what was amiss; lengths, entropies and diversity.

    Raises:
      ConfigError: without a result.
    """
    if not results:
        raise ConfigError("results: none were given; give at least one results.json")
    names = labels(results)
    titles = _titles(results)
    groups = [
        (group, members)
        for group in GROUP_TITLES
        if (members := [b for b in titles if any(_group(r, b) == group for r in results)])
    ]
    tables = [_average_table(results, names, group, members) for group, members in groups]
    if len(groups) > 1:
        tables.append(_means_table(results, names, [group for group, _ in groups], titles))
    if any(result.get("expert_tokens") for result in results):
        tables.append(_expert_table(results, names))
    strict = [b for b in titles if any(_part(r, b).get("strict") for r in results)]
    if strict:
        tables.append(_strict_table(results, names, strict))
    if any(part["samples"] > 1 for r in results for part in r["benchmarks"].values()):
        tables.append(_pass_table(results, names, titles))
    tables.append(_faults_table(results, names, titles))
    tables.append(_writing_table(results, names, titles))
    return tables


def labels(results: Sequence[Results]) -> list[str]:
    """The models' names; those that occur before get a number: `base`, `base (2)`."""
    seen: dict[str, int] = {}
    names = []
    for result in results:
        name = result["name"]
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names


def percent(score: Mapping[str, Any] | None) -> str | None:
    """A score and its standard error in percent, `29.4 ± 2.9`; None where there is none."""
    if score is None or score["value"] is None:
        return None
    return f"{100 * score['value']:.1f} \u00b1 {100 * score['se']:.1f}"


def _average_table(
    results: Sequence[Results], names: Sequence[str], group: str, members: Sequence[str]
) -> Table:
    titles = _titles(results)
    several = len(members) > 1
    rows, fewer = [], False
    for name, result in zip(names, results, strict=True):
        cells = [percent(_part(result, b).get("avg")) for b in members]
        if several:
            mean, partial = _mean(result, group, members)
            cells.append(mean)
            fewer |= partial
        rows.append((name, *cells))
    notes = [
        f"Percent of correct samples (avg@k, {_samples(results, members)}), mean over questions "
        "\u00b1 standard error over questions."
    ]
    if several:
        notes.append("Mean: unweighted, over benchmarks.")
    notes += [_FEWER] * fewer + _cut_short(results, members)
    columns = ("model", *(titles[b] for b in members), *(("mean",) if several else ()))
    return Table(GROUP_TITLES[group], columns, tuple(rows), " ".join(notes))


def _means_table(
    results: Sequence[Results],
    names: Sequence[str],
    groups: Sequence[str],
    titles: Mapping[str, str],
) -> Table:
    rows, fewer = [], False
    for name, result in zip(names, results, strict=True):
        cells = []
        for group in (*groups, "all"):
            members = [
                b for b in titles if group == "all" or any(_group(r, b) == group for r in results)
            ]
            mean, partial = _mean(result, group, members)
            cells.append(mean)
            fewer |= partial
        entropy = result.get("entropy") or {}
        rows.append((name, *cells, entropy.get("token_mean")))
    caption = "Unweighted means of avg@k over benchmarks, in percent \u00b1 standard error; "
    caption += "entropy: nats, mean over the tokens generated on all benchmarks, at temperature 1."
    columns = ("model", *(GROUP_TITLES[g].partition(" (")[0] for g in groups), "all", "entropy")
    return Table("Means", columns, tuple(rows), " ".join([caption] + [_FEWER] * fewer))


def _expert_table(results: Sequence[Results], names: Sequence[str]) -> Table:
    keys = ("entropy", "entropy_top20", "entropy_rest", "probability", "tokens", "groups")
    rows = []
    for name, result in zip(names, results, strict=True):
        found = result.get("expert_tokens") or {}
        rows.append((name, *(found.get(key) for key in keys)))
    caption = (
        "Entropy in nats along the text of demonstrations, of the fifth of tokens where it is "
        "highest and of the rest; mean probability of the demonstrated token."
    )
    columns = ("model", "entropy", "top 20 %", "rest", "probability", "tokens", "groups")
    return Table("Expert tokens", columns, tuple(rows), caption)


def _strict_table(
    results: Sequence[Results], names: Sequence[str], members: Sequence[str]
) -> Table:
    titles = _titles(results)
    rows = []
    for name, result in zip(names, results, strict=True):
        strict = [_part(result, b).get("strict") or {} for b in members]
        rows.append((name, *(percent(s.get("avg")) for s in strict)))
    graders = {
        str(part["strict_verifier"]) for r in results for b in members if (part := _part(r, b))
    }
    caption = f"avg@k as above, by the verifier {', '.join(sorted(graders))}."
    columns = ("model", *(titles[b] for b in members))
    return Table("By the second verifier", columns, tuple(rows), caption)


def _pass_table(
    results: Sequence[Results], names: Sequence[str], titles: Mapping[str, str]
) -> Table:
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


def _faults_table(
    results: Sequence[Results], names: Sequence[str], titles: Mapping[str, str]
) -> Table:
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


def _writing_table(
    results: Sequence[Results], names: Sequence[str], titles: Mapping[str, str]
) -> Table:
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


_FEWER = "In parentheses: over fewer benchmarks than in other rows."


def _mean(result: Results, group: str, members: Sequence[str]) -> tuple[str | None, bool]:
    """A mean as text, and whether it leaves out a benchmark of another row."""
    mean = result["means"].get(group)
    if mean is None:
        return None, False
    partial = not set(members) <= set(mean["benchmarks"])
    text = percent(mean["avg"])
    return f"({text})" if partial else text, partial


def _part(result: Results, benchmark: str) -> Mapping[str, Any]:
    return result["benchmarks"].get(benchmark, {})


def _group(result: Results, benchmark: str) -> str | None:
    return _part(result, benchmark).get("group")


def _titles(results: Sequence[Results]) -> dict[str, str]:
    """Titles of all benchmarks, in the order in which they first appear."""
    titles: dict[str, str] = {}
    for result in results:
        for benchmark, part in result["benchmarks"].items():
            titles.setdefault(benchmark, part["title"])
    return titles


def _pairs(
    results: Sequence[Results], names: Sequence[str], titles: Mapping[str, str]
) -> Iterable[tuple[str, str, Mapping[str, Any]]]:
    for benchmark in titles:
        for name, result in zip(names, results, strict=True):
            if benchmark in result["benchmarks"]:
                yield name, benchmark, result["benchmarks"][benchmark]


def _samples(results: Sequence[Results], members: Sequence[str]) -> str:
    """`k = 8`, or by benchmark where they differ: `k = 8; MMLU-Pro 1`."""
    counts = {
        b: sorted({_part(r, b)["samples"] for r in results if b in r["benchmarks"]})
        for b in members
    }
    text = {b: " or ".join(map(str, values)) for b, values in counts.items()}
    usual = max(text.values(), key=list(text.values()).count)
    titles = _titles(results)
    others = [f"{titles[b]} {value}" for b, value in text.items() if value != usual]
    return "; ".join([f"k = {usual}", *others])


def _cut_short(results: Sequence[Results], members: Sequence[str]) -> list[str]:
    titles = _titles(results)
    notes = {}
    for result in results:
        for b in members:
            part = _part(result, b)
            if part and part["questions"] < part["available"]:
                notes[f"{titles[b]}: {part['questions']} of {part['available']} questions."] = None
    return list(notes)
