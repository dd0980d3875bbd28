"""Estimators over repeated samples of the same questions: avg@k, pass@k and their errors.

Everything is computed in float64 from whole counts; nothing here is random but the bootstrap, which
takes a seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from curiojax.errors import ConfigError

_BLOCK = 1 << 16  # random numbers drawn at once: what the cache of a processor holds


def avg_at_k(correct: ArrayLike) -> float:
    """Mean over questions of the share of correct samples: avg@k with k samples per question.

    Args:
      correct: [questions, k] of booleans or 0/1.

    Raises:
      ConfigError: without a question or a sample.
    """
    return float(_table(correct).mean(axis=1).mean())


def pass_at_k(num_samples: ArrayLike, num_correct: ArrayLike, k: int) -> np.ndarray:
    """Unbiased estimate, per question, of the chance that one of k fresh samples is correct.

    1 - C(n - c, k) / C(n, k) for c correct of n samples (Chen et al., arXiv 2107.03374, Eq. 1),
    computed as a product so that no factorial appears.

    Args:
      num_samples: n, a whole number or an array of them.
      num_correct: c, the same.
      k: samples one may draw, at least 1.

    Returns:
      float64, the broadcast shape of n and c.

    Raises:
      ConfigError: if k > n for some question (there is no unbiased estimate then), k < 1, or c is
        not between 0 and n.
    """
    samples, correct = np.broadcast_arrays(
        np.asarray(num_samples, np.int64), np.asarray(num_correct, np.int64)
    )
    if k < 1:
        raise ConfigError(f"k: pass@k needs k >= 1, not {k}; ask for at least one sample")
    if samples.size and k > samples.min():
        raise ConfigError(
            f"k: pass@{k} cannot be estimated from {samples.min()} samples per question; "
            f"draw at least {k} samples or ask for a smaller k"
        )
    if np.any(correct < 0) or np.any(correct > samples):
        raise ConfigError("num_correct: must lie between 0 and num_samples; recount the samples")
    draws = np.arange(k)
    left = np.maximum(samples[..., None] - correct[..., None] - draws, 0)
    all_wrong = np.prod(left / (samples[..., None] - draws), axis=-1)
    return 1.0 - all_wrong


def mean_pass_at_k(correct: ArrayLike, k: int) -> float:
    """Mean of `pass_at_k` over questions that all have the same number of samples.

    Args:
      correct: [questions, n] of booleans or 0/1.
      k: samples one may draw, at most n.

    Raises:
      ConfigError: as `pass_at_k`, and without a question or a sample.
    """
    table = _table(correct)
    return float(pass_at_k(table.shape[1], table.sum(axis=1), k).mean())


def bootstrap_means(per_question: ArrayLike, *, draws: int = 1000, seed: int = 0) -> np.ndarray:
    """Means of resamples of the questions, drawn with replacement.

    Args:
      per_question: [questions] or [questions, scores]; the columns share the resamples.
      draws: number of bootstrap resamples.
      seed: of the resampling; the result depends on it and on the number of questions alone.

    Returns:
      float64 [draws] or [draws, scores].

    Raises:
      ConfigError: without a question.
    """
    scores = np.asarray(per_question, np.float64)
    if not scores.size:
        raise ConfigError("per_question: no scores were given; evaluate at least one question")
    columns = scores.reshape(len(scores), -1)
    rng = np.random.default_rng(seed)
    means = np.empty((draws, columns.shape[1]))
    block = max(1, _BLOCK // len(columns))  # the stream of random numbers is the same in any blocks
    for start in range(0, draws, block):
        count = min(block, draws - start)
        chosen = rng.integers(len(columns), size=(count, len(columns)))
        for index, column in enumerate(columns.T):
            means[start : start + count, index] = column[chosen].mean(axis=1)
    return means.reshape(draws, *scores.shape[1:])


def bootstrap_standard_error(per_question: ArrayLike, *, draws: int = 1000, seed: int = 0) -> float:
    """Standard error of the mean of per-question scores, by resampling whole questions.

    Samples of one question are not independent of each other, so questions are the unit. The result
    covers the choice of questions and the sampling noise within each.

    Args:
      per_question: [questions] scores, such as the output of `pass_at_k`.
      draws: number of bootstrap resamples.
      seed: of the resampling.

    Raises:
      ConfigError: without a question.
    """
    scores = np.asarray(per_question, np.float64).ravel()
    return float(np.std(bootstrap_means(scores, draws=draws, seed=seed)))


def ratio_standard_error(
    sums: ArrayLike, counts: ArrayLike, *, draws: int = 1000, seed: int = 0
) -> float:
    """Standard error of sum(sums) / sum(counts), such as a mean over tokens, over questions.

    The tokens of a question are not independent, so questions are resampled, with all their tokens.

    Args:
      sums, counts: [questions]; counts are positive.
      draws, seed: as in `bootstrap_means`.

    Raises:
      ConfigError: without a question.
    """
    means = bootstrap_means(np.stack([sums, counts], axis=-1), draws=draws, seed=seed)
    return float(np.std(means[:, 0] / means[:, 1]))


class Score(NamedTuple):
    """A score and its standard error."""

    value: float
    error: float


def mean_of_benchmarks(scores: Sequence[tuple[float, float]]) -> Score:
    """Unweighted mean of the scores of several benchmarks, each a value and a standard error.

    The benchmarks share no questions, so their errors are independent: sqrt(sum of squares) / B.

    Raises:
      ConfigError: without a benchmark.
    """
    if not scores:
        raise ConfigError("scores: no benchmark was given; evaluate at least one")
    values, errors = np.asarray(scores, np.float64).T
    return Score(float(values.mean()), float(np.sqrt(np.sum(errors**2))) / len(values))


class Difference(NamedTuple):
    """A difference between two models on the same questions.

    Attributes:
      value: mean of first minus second.
      error: its bootstrap standard error.
      low, high: the 95 % percentile interval of the bootstrap.
    """

    value: float
    error: float
    low: float
    high: float


def paired_difference(
    first: ArrayLike, second: ArrayLike, *, draws: int = 2000, seed: int = 0
) -> Difference:
    """Mean difference of the per-question scores of two models, with its uncertainty.

    Hard questions are hard for both, so a difference is known better than the two scores are.

    Args:
      first, second: [questions], the same questions in the same order.
      draws, seed: as in `bootstrap_means`.

    Raises:
      ConfigError: without a question, or if the two have different numbers of them.
    """
    return mean_paired_difference([(first, second)], draws=draws, seed=seed)


def mean_paired_difference(
    pairs: Sequence[tuple[ArrayLike, ArrayLike]], *, draws: int = 2000, seed: int = 0
) -> Difference:
    """Unweighted mean over benchmarks of `paired_difference`.

    Questions are resampled within each benchmark, independently of the other benchmarks.

    Args:
      pairs: for each benchmark the scores of both models, as in `paired_difference`.
      draws, seed: as in `bootstrap_means`.

    Raises:
      ConfigError: without a benchmark, and as `paired_difference`.
    """
    if not pairs:
        raise ConfigError("pairs: no benchmark was given; evaluate at least one")
    differences, means = [], np.zeros(draws)
    for index, (first, second) in enumerate(pairs):
        one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
        if one.shape != other.shape or one.ndim != 1:
            raise ConfigError(
                f"pairs: the models' scores have shapes {one.shape} and {other.shape}; "
                "compare them on the same questions"
            )
        # A seed of its own for each benchmark: equal ones would tie the resamples of two benchmarks
        # of the same size to each other.
        means += bootstrap_means(one - other, draws=draws, seed=seed + index)
        differences.append(np.mean(one - other))
    means /= len(pairs)
    low, high = np.percentile(means, [2.5, 97.5])
    return Difference(float(np.mean(differences)), float(np.std(means)), float(low), float(high))


def _table(correct: ArrayLike) -> np.ndarray:
    table = np.asarray(correct, np.float64)
    if table.ndim != 2 or not table.size:
        raise ConfigError(
            f"correct: expected a table [questions, samples], got shape {table.shape}; "
            "give every question the same number of samples, at least one"
        )
    return table
