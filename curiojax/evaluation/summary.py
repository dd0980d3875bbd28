"""What is reported about the samples of a benchmark, as plain values for `results.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np

from curiojax import progress
from curiojax.errors import ConfigError
from curiojax.evaluation.answers_stats import Answers, read_answers
from curiojax.evaluation.diversity import text_diversity
from curiojax.evaluation.estimators import bootstrap_standard_error, mean_of_benchmarks, pass_at_k
from curiojax.evaluation.majority import maj_at_k
from curiojax.evaluation.plain_values import plain
from curiojax.evaluation.questions import Benchmark, Group, Sample
from curiojax.evaluation.writing_stats import (
    count_faults,
    describe_entropy,
    describe_lengths,
    is_written,
    mean_entropy,
    rates,
    sum_entropies,
)

_GROUPS: tuple[Group, ...] = get_args(Group)
_BAR_TOKENS = 4_000_000  # the diversity of fewer takes too little time for a bar


def summarise(
    benchmark: Benchmark, samples: Sequence[Sequence[Sample]], *, available: int, seed: int = 0
) -> dict[str, Any]:
    """One benchmark's part of `results.json`.

    A question is left out of the scores, and counted as `unverifiable`, where the verifier could
    compare nothing with its ground truth. Samples of a prompt that is too long count as wrong; they
    are no completions, so they are in no other count, rate, length or entropy.

    Args:
      benchmark: with the questions that were evaluated.
      samples: for each question the same number of graded samples.
      available: questions that the benchmark has, before a limit.
      seed: of the bootstrap.

    Returns:
      plain JSON values, floats to 10 digits. Scores are fractions with standard errors, lengths
      tokens, entropies nats. None is what is not defined: scores if nothing is verifiable, votes
      and numbers of answers if the verifier does not say what it compared, `strict` without a
      second verifier, `entropy` if it is not known, `diversity` of a single sample.

    Raises:
      ConfigError: if the samples do not fit the questions, or lack entropies or verdicts.
    """
    count = _check(benchmark, samples, available)
    answers = read_answers(benchmark, samples, benchmark.verifier)
    strict = None
    if benchmark.strict_verifier is not None:
        strict = read_answers(benchmark, samples, benchmark.strict_verifier)
    entropies = sum_entropies(samples)
    votes = _votes(answers, count)
    distinct = answers.distinct()
    counts = count_faults(samples, answers.verdicts)
    unverifiable = int((~answers.scored).sum())
    part = {
        "title": benchmark.title,
        "group": benchmark.group,
        "source": benchmark.source,
        "verifier": benchmark.verifier,
        "strict_verifier": benchmark.strict_verifier,
        "questions": len(samples),
        "available": available,
        "samples": count,
        **_scores(answers, count, seed),
        "maj": {str(k): _score(row, answers.scored, seed) for k, row in votes.items()},
        "strict": None if strict is None else _scores(strict, count, seed),
        "counts": {"unverifiable": unverifiable, **counts},
        "rates": rates(counts),
        "length": describe_lengths(
            [len(s.tokens) for row in samples for s in row if is_written(s)]
        ),
        "entropy": describe_entropy(entropies, seed=seed),
        "diversity": _diversity(benchmark.title, samples, answers) if count > 1 else None,
        "per_question": [
            {
                "id": question.id,
                "correct": _row(answers, i),
                "strict": None if strict is None else _row(strict, i),
                "lengths": [len(s.tokens) for s in samples[i]],
                "distinct_answers": None if distinct is None else int(distinct[i]),
                "majority": _majority(votes[count], answers, i),
                "entropy": mean_entropy(entropies[i]),
            }
            for i, question in enumerate(benchmark.questions)
        ],
    }
    return plain(part)


def means(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Unweighted means of avg@k over the benchmarks of each group, and over all.

    Args:
      parts: `summarise`'s results by benchmark.

    Returns:
      for each group that has a benchmark, and for `all`: `avg` as `{"value", "se"}` and the names
      of the `benchmarks` in it. A benchmark without a score is in none.
    """
    names = [name for name, part in parts.items() if part["avg"]["value"] is not None]
    groups = {group: [n for n in names if parts[n]["group"] == group] for group in _GROUPS}
    result = {}
    for group, members in {**groups, "all": names}.items():
        if members:
            scores = [(parts[n]["avg"]["value"], parts[n]["avg"]["se"]) for n in members]
            mean = mean_of_benchmarks(scores)
            result[group] = {
                "avg": {"value": mean.value, "se": mean.error},
                "benchmarks": members,
            }
    return plain(result)


def overall_entropy(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Mean entropy over the tokens, and over the completions, of all benchmarks together.

    Args:
      parts: `summarise`'s results by benchmark.

    Returns:
      `token_mean` and `sequence_mean` in nats; None if no benchmark has entropies.
    """
    known = [part["entropy"] for part in parts.values() if part["entropy"] is not None]
    if not known:
        return None
    return plain(
        {
            mean: float(np.average([e[mean] for e in known], weights=[e[unit] for e in known]))
            for mean, unit in (("token_mean", "tokens"), ("sequence_mean", "sequences"))
        }
    )


def _check(benchmark: Benchmark, samples: Sequence[Sequence[Sample]], available: int) -> int:
    """How many samples each question has."""
    if not samples or len(samples) != len(benchmark.questions):
        raise ConfigError(
            f"samples: {benchmark.name} has {len(benchmark.questions)} questions, and samples of "
            f"{len(samples)}; give every question its samples, and at least one question"
        )
    if available < len(samples):
        raise ConfigError(
            f"available: {benchmark.name} cannot have {available} questions when {len(samples)} "
            "were evaluated; count them before the limit"
        )
    numbers = {len(row) for row in samples}
    if len(numbers) > 1 or 0 in numbers:
        raise ConfigError(
            f"samples: the questions of {benchmark.name} have between {min(numbers)} and "
            f"{max(numbers)} samples; give every question the same number, at least one"
        )
    return numbers.pop()


def _scores(answers: Answers, count: int, seed: int) -> dict[str, Any]:
    """avg@k and pass@k."""
    right = answers.correct.sum(axis=1)
    ks = _ks(count)
    return {
        "avg": _score(right / count, answers.scored, seed),
        "pass": {str(k): _score(pass_at_k(count, right, k), answers.scored, seed) for k in ks},
    }


def _ks(count: int) -> list[int]:
    """The powers of two up to a number of samples, and the number itself."""
    return sorted({2**i for i in range(count.bit_length())} | {count})


def _score(per_question: np.ndarray | None, scored: np.ndarray, seed: int) -> dict[str, Any]:
    if per_question is None or not scored.any():
        return {"value": None, "se": None}
    kept = per_question[scored]
    return {"value": float(kept.mean()), "se": bootstrap_standard_error(kept, seed=seed)}


def _votes(answers: Answers, count: int) -> dict[int, np.ndarray | None]:
    """maj@k of every question by k."""
    given = answers.given
    if given is None:
        return dict.fromkeys(_ks(count))
    return {k: maj_at_k(given, answers.given_correct, k) for k in _ks(count)}


def _diversity(title: str, samples: Sequence[Sequence[Sample]], answers: Answers) -> dict[str, Any]:
    written = [[s for s in row if is_written(s)] for row in samples]
    tokens = [[s.tokens for s in row] for row in written]
    texts = [[s.text for s in row] for row in written]
    if sum(len(t) for row in tokens for t in row) < _BAR_TOKENS:
        measured = text_diversity(tokens, texts)
    else:
        with progress.bar(f"{title}: diversity", len(samples)) as bar:
            measured = text_diversity(tokens, texts, bar)
    for name, correct_only in (("distinct_answers", False), ("distinct_correct", True)):
        distinct = answers.distinct(correct_only=correct_only)
        counted = None if distinct is None else distinct[answers.scored]
        measured[name] = float(counted.mean()) if counted is not None and counted.size else None
    return measured


def _row(answers: Answers, index: int) -> list[int] | None:
    return answers.correct[index].astype(int).tolist() if answers.scored[index] else None


def _majority(votes: np.ndarray | None, answers: Answers, index: int) -> float | None:
    return None if votes is None or not answers.scored[index] else float(votes[index])
