"""maj@k: how often the answer that most samples of a question give is right."""

from __future__ import annotations

from functools import lru_cache
from math import comb

import numpy as np
from numpy.typing import ArrayLike

from curiojax.errors import ConfigError

# The largest number of samples whose binomial coefficients fit a float64.
_MAX_SAMPLES = 1024


def maj_at_k(answers: ArrayLike, correct: ArrayLike, k: int) -> np.ndarray:
    """Chance, per question, that the majority of k of its n samples is right.

    The k samples are drawn without replacement, ties are broken uniformly, and samples without an
    answer do not vote; if none of the k has one, the majority is wrong. With n = k this is the
    usual majority vote (Wang et al., arXiv 2203.11171). The result is exact: subsets are counted
    by how many votes each answer gets in them, not enumerated or drawn.

    Args:
      answers: [questions, n], the number of the answer that a sample gives, -1 for none. Equal
        numbers in one row are votes for one answer.
      correct: [questions, n] of booleans or 0/1. An answer is as right as the first of its samples.
      k: samples that vote, at most n.

    Returns:
      float64 [questions].

    Raises:
      ConfigError: if the shapes differ, k is not between 1 and n, or n is over 1024.
    """
    votes, right = np.asarray(answers, np.int64), np.asarray(correct, bool)
    if votes.ndim != 2 or votes.shape != right.shape or not votes.size:
        raise ConfigError(
            f"answers: expected two equal tables [questions, samples], got {votes.shape} and "
            f"{right.shape}; give every question the same number of samples, at least one"
        )
    samples = votes.shape[1]
    if not 1 <= k <= samples <= _MAX_SAMPLES:
        raise ConfigError(
            f"k: maj@{k} cannot be computed from {samples} samples per question; "
            f"k lies between 1 and the number of samples, and that is at most {_MAX_SAMPLES}"
        )
    return np.asarray(
        [_by_votes(samples, _tally(*row))[k] for row in zip(votes, right, strict=True)]
    )


def _tally(votes: np.ndarray, right: np.ndarray) -> tuple[tuple[int, bool], ...]:
    """(votes, right) of every answer; sorted, so that questions of one pattern share a result."""
    counts: dict[int, tuple[int, bool]] = {}
    for answer, is_right in zip(votes.tolist(), right.tolist(), strict=True):
        if answer >= 0:
            count, first = counts.get(answer, (0, is_right))
            counts[answer] = (count + 1, first)
    return tuple(sorted(counts.values()))


@lru_cache(maxsize=65_536)
def _by_votes(samples: int, tally: tuple[tuple[int, bool], ...]) -> np.ndarray:
    """maj@k for k = 0..n of one question, float64 [n + 1].

    A right answer w wins a subset with m votes if no other has more; if t others have m as well, it
    wins one time in t + 1. So sum over w, m and t of C(w, m) / (t + 1) times the number of ways to
    choose the other k - m samples: the coefficients of a product of polynomials, one factor per
    answer. Those with less than m samples in all cannot matter, so they are one factor.
    """
    wins = np.zeros(samples + 1)
    for index, (own, is_right) in enumerate(tally):
        if not is_right:
            continue
        others = [count for i, (count, _) in enumerate(tally) if i != index]
        for most in range(1, own + 1):
            rivals = [count for count in others if count >= most]
            ways = [_binomials(samples - own - sum(rivals))]  # by number of ties
            for count in rivals:
                fewer = _binomials(count)[:most]
                tied = np.zeros(most + 1)
                tied[most] = comb(count, most)
                size = len(ways[0]) + most
                grown = [np.zeros(size) for _ in range(len(ways) + 1)]
                for ties, row in enumerate(ways):
                    grown[ties][: size - 1] += np.convolve(row, fewer)
                    grown[ties + 1] += np.convolve(row, tied)
                ways = grown
            total = np.sum([row / (ties + 1) for ties, row in enumerate(ways)], axis=0)
            end = min(samples + 1, most + len(total))
            wins[most:end] += comb(own, most) * total[: end - most]
    return wins / _binomials(samples)


def _binomials(n: int) -> np.ndarray:
    return np.asarray([comb(n, i) for i in range(n + 1)], np.float64)
