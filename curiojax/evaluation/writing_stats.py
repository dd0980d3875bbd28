"""How samples were written, right or wrong: lengths, entropies, and what was amiss."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from curiojax.errors import ConfigError
from curiojax.evaluation.estimators import ratio_standard_error
from curiojax.evaluation.questions import Sample, Verdict
from curiojax.rewards.answers import THINK_CLOSE, answer_section, last_boxed

# Statuses of `rewards.items` that are counted by completion.
_STATUSES = ("no_answer", "timeout", "memory", "crash", "error", "too_long")
_RATES = ("truncated", "no_think_close", "no_box", "timeout")
_HISTOGRAM_BINS = 40


class EntropySum(NamedTuple):
    """Of the tokens of one completion."""

    nats: float
    tokens: int


def is_written(sample: Sample) -> bool:
    """Whether it is a completion: not so where the prompt was too long to sample one."""
    return sample.finish != "prompt_too_long"


def count_faults(
    samples: Sequence[Sequence[Sample]], verdicts: Sequence[Sequence[Verdict]]
) -> dict[str, int]:
    r"""Counts questions with too long a prompt, completions, and those with something amiss.

    Returns:
      `prompt_too_long`: questions. All others count completions: `truncated`: cut at the limit;
      `no_think_close`: without `</think>`, which says something only of models that reason in such
      a block; `no_box`: nothing in a box after the reasoning; and the statuses of `rewards.items`.
    """
    completions = [s for row in samples for s in row if is_written(s)]
    statuses = Counter(v.status for row in verdicts for v in row)
    return {
        "prompt_too_long": sum(not all(map(is_written, row)) for row in samples),
        "truncated": sum(s.finish == "length" for s in completions),
        "no_think_close": sum(THINK_CLOSE not in s.text for s in completions),
        "no_box": sum(not last_boxed(answer_section(s.text)) for s in completions),
        **{status: statuses[status] for status in _STATUSES},
        "completions": len(completions),
    }


def rates(counts: Mapping[str, int]) -> dict[str, float]:
    """The counts that tables show, as shares of the completions; 0 without any."""
    return {name: counts[name] / max(1, counts["completions"]) for name in _RATES}


def describe_lengths(lengths: Sequence[int]) -> dict[str, Any]:
    """Mean, median, 95th percentile, maximum and a histogram of numbers of tokens.

    The bins of the histogram are [edge, next edge), a power of two wide, so that those of two
    models fit into each other. Without a length everything is 0.
    """
    values = np.asarray(lengths, np.int64)
    longest = int(values.max()) if values.size else 0
    width = 2 ** max(0, math.ceil(math.log2((longest + 1) / _HISTOGRAM_BINS)))
    edges = np.arange(longest // width + 2) * width
    if not values.size:
        values = np.zeros(1, np.int64)
    return {
        "mean": float(values.mean()),
        "median": float(np.median(values)),
        "p95": float(np.percentile(values, 95)),
        "max": longest,
        "histogram": {
            "edges": edges.tolist(),
            "counts": np.histogram(lengths, bins=edges)[0].tolist(),
        },
    }


def sum_entropies(samples: Sequence[Sequence[Sample]]) -> list[list[EntropySum]]:
    """Sum of the entropies of each sample for which they are known, by question.

    Raises:
      ConfigError: not one finite entropy per token.
    """
    sums = []
    for index, row in enumerate(samples):
        known = []
        for entropies, tokens in ((s.entropies, len(s.tokens)) for s in row if s.entropies):
            total = float(np.sum(entropies))
            if len(entropies) != tokens or not math.isfinite(total):
                raise ConfigError(
                    f"entropies: question {index} has a sample of {tokens} tokens and "
                    f"{len(entropies)} entropies with the sum {total}; give one finite entropy "
                    "per token, or None for the sample"
                )
            known.append(EntropySum(total, tokens))
        sums.append(known)
    return sums


def describe_entropy(sums: Sequence[Sequence[EntropySum]], *, seed: int = 0) -> dict | None:
    """Mean entropy over tokens and over completions, in nats.

    Args:
      sums: as from `sum_entropies`.
      seed: of the bootstrap.

    Returns:
      `token_mean`: over all tokens; `token_mean_se`: by resampling questions; `sequence_mean`: of
      the completions' own means; `tokens`, `sequences`: how many were averaged. None if no
      entropies are known.
    """
    known = [row for row in sums if row]
    if not known:
        return None
    by_question = np.asarray([np.sum(row, axis=0) for row in known])
    total, tokens = by_question.sum(axis=0)
    means = [entropy / count for row in known for entropy, count in row]
    return {
        "token_mean": float(total / tokens),
        "token_mean_se": ratio_standard_error(*by_question.T, seed=seed),
        "sequence_mean": float(np.mean(means)),
        "tokens": int(tokens),
        "sequences": len(means),
    }


def mean_entropy(sums: Sequence[EntropySum]) -> float | None:
    """Mean over the tokens of one question's completions; None if none are known."""
    return sum(s.nats for s in sums) / sum(s.tokens for s in sums) if sums else None
