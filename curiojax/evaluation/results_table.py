"""Tables of evaluation results, shaped like the paper's Tables 2 and 3.

The scores, a row for each model; `results_details` has the tables with a row for each benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from curiojax.errors import ConfigError
from curiojax.evaluation.results_details import faults_table, pass_table, writing_table
from curiojax.evaluation.table import Results, Table, percent

GROUP_TITLES = {
    "math": "Mathematics (in distribution)",
    "general": "General reasoning (out of distribution)",
    "own": "Own benchmarks",
}


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
        tables.append(pass_table(results, names, titles))
    tables.append(faults_table(results, names, titles))
    tables.append(writing_table(results, names, titles))
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
