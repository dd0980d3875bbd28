"""The charts of what was measured on held-out questions; see `curiojax.reports.catalogue`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from curiojax.reports.catalogue import Chart, Group, Series

MEASURED = "eval/avg"  # is in a line of metrics.jsonl where there was an evaluation

_CHARTS = (
    Chart(
        "eval_avg",
        "Accuracy",
        "share of completions",
        (Series("eval/avg", "right", smooth=False),),
        "Right answers among the completions of all questions: the unweighted mean over the "
        "benchmarks.",
        scale="percent",
        points=True,
    ),
    Chart(
        "eval_entropy",
        "Entropy",
        "nats",
        (Series("eval/entropy", "entropy", smooth=False),),
        "Mean over the tokens of these completions of the entropy of the model's next-token "
        "distribution, at temperature 1 whatever the temperature of the sampling.",
        points=True,
    ),
    Chart(
        "eval_response_tokens",
        "Length",
        "tokens",
        (Series("eval/response_tokens", "mean", smooth=False),),
        "Tokens of a completion, the end of the sequence included.",
        points=True,
    ),
    Chart(
        "eval_truncated",
        "Cut off",
        "share of completions",
        (Series("eval/truncated", "cut off", smooth=False),),
        "Completions that reached the greatest length allowed without an end.",
        scale="percent",
        points=True,
    ),
)


def groups(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[Group, ...]:
    """The group of these charts, with one of every benchmark where there are several.

    Args:
      runs: the lines of `metrics.jsonl` by run.
    """
    keys = {key for rows in runs.values() for row in rows for key in row}
    if MEASURED not in keys:
        return ()
    names = sorted(key.split("/")[1] for key in keys if key.count("/") == 2 and _is_score(key))
    each = tuple(_benchmark(name) for name in names) if len(names) > 1 else ()
    return (
        Group(
            "held-out",
            "Held-out questions",
            "Answers that the model gives on the way, before the first step and every so often "
            "after it, to questions that it does not learn from. Both stages are measured alike, "
            "so their curves compare.",
            (*_CHARTS[:2], *each, *_CHARTS[2:]),
            only=MEASURED,
        ),
    )


def _is_score(key: str) -> bool:
    return key.startswith("eval/") and key.endswith("/avg")


def _benchmark(name: str) -> Chart:
    return Chart(
        f"eval_{name}_avg",
        name,
        "share of completions",
        (Series(f"eval/{name}/avg", "right", smooth=False),),
        f"Right answers among the completions of the questions of {name}.",
        scale="percent",
        points=True,
    )
