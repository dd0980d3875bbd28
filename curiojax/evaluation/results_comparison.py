"""Two models on the same questions: what differs, by how much, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from curiojax.errors import ConfigError
from curiojax.evaluation.estimators import Difference, mean_paired_difference, paired_difference
from curiojax.evaluation.results_table import GROUP_TITLES, labels
from curiojax.evaluation.table import Results, Table

_ABSENT = "none"


class Pair(NamedTuple):
    """Two models on the common questions of one benchmark.

    Attributes:
      title, group: of the benchmark.
      first, second: float64 [questions], the share of correct samples of each question.
      largest: how many questions the model with more of them has.
    """

    title: str
    group: str
    first: np.ndarray
    second: np.ndarray
    largest: int


def comparison_tables(a: Results, b: Results, *, seed: int = 0) -> list[Table]:
    """The differences of a and b, in percentage points, with 95 % intervals.

    Only questions that both were scored on count; they are matched by benchmark and id.

    Args:
      a, b: as `results_file.read_results` gives them.
      seed: of the bootstrap.

    Returns:
      one table with a row per benchmark, then the means over benchmarks; a second with the settings
      that differ, if any do.

    Raises:
      ConfigError: the two have no questions in common.
    """
    pairs = paired_scores(a, b)
    names = labels([a, b])
    rows = [_row(p.title, [p], paired_difference(p.first, p.second, seed=seed)) for p in pairs]
    groups = [(GROUP_TITLES.get(g, g), [p for p in pairs if p.group == g]) for g in GROUP_TITLES]
    for title, members in [*groups, ("All", pairs)]:
        if len(members) > 1 and (title != "All" or len({p.group for p in pairs}) > 1):
            mean = mean_paired_difference([(p.first, p.second) for p in members], seed=seed)
            rows.append(_row(f"Mean: {title.partition(' (')[0]}", members, mean))
    columns = ("benchmark", "questions", "A", "B", "A - B", "95 % interval", "only A", "only B")
    notes = [
        f"A: {names[0]}; B: {names[1]}. avg@k in percent; A - B in points, with the 95 % interval "
        "of a bootstrap over questions; only A: questions that A answers correctly at least once "
        "and B never.",
        *_left_out(a, b, pairs),
    ]
    differing = differing_settings(a, b)
    if differing:
        notes.append(f"Settings differ: {', '.join(name for name, _, _ in differing)}.")
    tables = [Table("Differences on the same questions", columns, tuple(rows), " ".join(notes))]
    if differing:
        tables.append(
            Table(
                "Settings that differ",
                ("setting", "A", "B"),
                tuple(differing),
                "A difference in scores may come from these rather than from the models.",
            )
        )
    return tables


def paired_scores(a: Results, b: Results) -> list[Pair]:
    """The benchmarks that both were scored on, with their common questions in the order of a.

    Raises:
      ConfigError: there is none.
    """
    pairs = []
    for name, part in a["benchmarks"].items():
        other = b["benchmarks"].get(name)
        if other is None:
            continue
        first, second = _scores(part), _scores(other)
        common = [id for id in first if id in second]
        if common:
            pairs.append(
                Pair(
                    part["title"],
                    part["group"],
                    np.asarray([first[id] for id in common]),
                    np.asarray([second[id] for id in common]),
                    max(len(first), len(second)),
                )
            )
    if not pairs:
        raise ConfigError(
            f"results: {a['name']} and {b['name']} have no scored questions in common; "
            "evaluate both on the same benchmarks"
        )
    return pairs


def differing_settings(a: Results, b: Results) -> list[tuple[str, str, str]]:
    """Name and both values of what was set differently, apart from the models themselves."""
    one, other = _settings(a), _settings(b)
    for name in [n for n in a["benchmarks"] if n in b["benchmarks"]]:
        for key in ("samples", "questions", "source", "verifier", "strict_verifier"):
            one[f"{name}.{key}"] = a["benchmarks"][name].get(key)
            other[f"{name}.{key}"] = b["benchmarks"][name].get(key)
    return [
        (key, _shown(one.get(key)), _shown(other.get(key)))
        for key in {**one, **other}
        if one.get(key) != other.get(key)
    ]


def _scores(part: Mapping[str, Any]) -> dict[str, float]:
    rows = part["per_question"]
    return {row["id"]: float(np.mean(row["correct"])) for row in rows if row["correct"] is not None}


def _row(title: str, pairs: Sequence[Pair], difference: Difference) -> tuple[Any, ...]:
    questions = sum(len(p.first) for p in pairs)
    largest = sum(p.largest for p in pairs)
    return (
        title,
        str(questions) if questions == largest else f"{questions} of {largest}",
        f"{100 * np.mean([p.first.mean() for p in pairs]):.1f}",
        f"{100 * np.mean([p.second.mean() for p in pairs]):.1f}",
        _points(difference.value),
        f"({_points(difference.low)}, {_points(difference.high)})",
        sum(int(((p.first > 0) & (p.second == 0)).sum()) for p in pairs),
        sum(int(((p.second > 0) & (p.first == 0)).sum()) for p in pairs),
    )


def _points(value: float) -> str:
    return f"{round(100 * value, 1) + 0.0:+.1f}"  # + 0.0: no -0.0


def _left_out(a: Results, b: Results, pairs: Sequence[Pair]) -> list[str]:
    compared = {p.title for p in pairs}
    parts = {**b["benchmarks"], **a["benchmarks"]}.values()
    missing = [part["title"] for part in parts if part["title"] not in compared]
    return [f"Not compared, without common questions: {', '.join(missing)}."] if missing else []


def _settings(results: Results) -> dict[str, Any]:
    return {**_flat(results["settings"]), **_flat(results.get("software") or {})}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _shown(value: Any) -> str:
    text = _ABSENT if value is None else " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:59]}\u2026"
