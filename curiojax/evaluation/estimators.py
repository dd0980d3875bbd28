"""Estimators over repeated samples of the same questions: avg@k, pass@k and their errors.

Everything is computed in float64 from whole counts; nothing here is random but the bootstrap, which
takes a seed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from curiojax.errors import ConfigError


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
    if not scores.size:
        raise ConfigError("per_question: no scores were given; evaluate at least one question")
    rng = np.random.default_rng(seed)
    means = [scores[rng.integers(scores.size, size=scores.size)].mean() for _ in range(draws)]
    return float(np.std(means))


def _table(correct: ArrayLike) -> np.ndarray:
    table = np.asarray(correct, np.float64)
    if table.ndim != 2 or not table.size:
        raise ConfigError(
            f"correct: expected a table [questions, samples], got shape {table.shape}; "
            "give every question the same number of samples, at least one"
        )
    return table
